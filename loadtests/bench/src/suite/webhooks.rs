//! The steps with webhooks: from the log (S10), after acceptance (S11), and beside hanging endpoints (S17).

use std::time::Duration;

use loadkit::{Failure, Role};

use super::Suite;
use crate::deliver::endpoints::{Bad, Behaviour, EndpointOptions};
use crate::deliver::report::{DeliverReport, LEAST_RATIO, most_added_ms};
use crate::deliver::{self, from_log};
use crate::report::write_json;
use crate::results::Target;
use crate::scenario::{Load, Pace};
use crate::schedule::Schedule;
use crate::spread::Spread;

/// Events of one request while the log is filled, and requests a second.
const BATCH_EVENTS: usize = 100;
const BATCHES_PER_SECOND: u64 = 400;
/// Seconds that the webhooks on the log take at the target, so that the start weighs little.
const WAITING_SECONDS: u64 = 30;
/// How long accepted events may take to arrive.
const SETTLE: Duration = Duration::from_secs(300);

impl Suite<'_> {
    /// S10.
    pub(super) async fn webhooks_from_the_log(&mut self) -> Result<(), Failure> {
        let many = self.options.load.organizations;
        for (name, what, organizations, answer_after, in_flight, target) in [
            ("s10-fast", "webhooks from the log, one fast receiver", 1, 0, 64, 20_000),
            ("s10-slow", "webhooks from the log, receivers that take 50 ms", many, 50, 1_000, 12_000),
        ] {
            let events = target * WAITING_SECONDS;
            let hold = Duration::from_millis(events * 1_000 / (BATCHES_PER_SECOND * BATCH_EVENTS as u64));
            let pace = Pace::Open(Schedule::new(BATCHES_PER_SECOND, Duration::ZERO, hold));
            let options = deliver::Options {
                answer_after: Duration::from_millis(answer_after),
                bare_in_flight: Some(in_flight),
                ..self.deliver_options(Load {
                    pace,
                    measured: hold,
                    batch_events: BATCH_EVENTS,
                    organizations,
                    stops: false,
                    ..self.options.load
                })
            };
            let report = from_log::run(&mut self.turns.system, &options).await?;
            self.keep_deliveries(name, &report)?;
            let bare = Spread::of(report.bare.iter().map(|run| run.per_second));
            let target = Target::at_least(target as f64).ratio_at_least(LEAST_RATIO);
            let product = report.of_side(false, |seen| seen.per_second);
            self.add("S10", what, "/s", product, Some(bare), target);
        }
        Ok(())
    }

    /// S11.
    pub(super) async fn webhooks_after_acceptance(&mut self) -> Result<(), Failure> {
        let options = self.deliver_options(Load { organizations: 1, ..self.open(2_000) });
        let report = self.delivered("s11", options).await?;
        let p95 = report.of_side(false, |seen| seen.latency.p95_ms);
        self.add("S11", "webhook p95 after acceptance at 2,000/s", "ms", p95, None, Target::at_most(50.0));
        Ok(())
    }

    /// S17.
    pub(super) async fn webhooks_beside_hanging_endpoints(&mut self) -> Result<(), Failure> {
        let options = deliver::Options {
            bad: Some(Bad { behaviour: Behaviour::Hang, count: 100 }),
            ..self.deliver_options(Load { organizations: 1, ..self.open(10) })
        };
        let report = self.delivered("s17", options).await?;
        let alone = report.of_side(false, |seen| seen.latency.p95_ms);
        let beside = report.of_side(true, |seen| seen.latency.p95_ms);
        self.add("S17", "webhook p95 of one good endpoint", "ms", alone, None, Target::default());
        let most = alone.median + most_added_ms(alone.median);
        let target = Target::at_most((most * 10.0).round() / 10.0);
        self.add("S17", "the same beside 100 hanging endpoints", "ms", beside, None, target);
        Ok(())
    }

    async fn delivered(&mut self, name: &str, options: deliver::Options) -> Result<DeliverReport, Failure> {
        self.turns.system.run_and_catch_up(&Role::ALL).await?;
        let options = deliver::Options { components: self.turns.system.components(), ..options };
        let report = deliver::measure_in_turns(&self.turns.system.target, &options).await?;
        self.turns.system.keep_only(&[]).await?;
        self.keep_deliveries(name, &report)?;
        Ok(report)
    }

    fn keep_deliveries(&mut self, name: &str, report: &DeliverReport) -> Result<(), Failure> {
        self.turns.all_passed &= report.is_complete();
        Ok(write_json(&self.turns.folder.join(name), report)?)
    }

    fn deliver_options(&self, load: Load) -> deliver::Options {
        deliver::Options {
            rounds: self.options.turns.rounds,
            load,
            answer_after: Duration::ZERO,
            endpoints: EndpointOptions { max_in_flight: 100, batch_events: 1 },
            bad: None,
            bad_events_per_second: 20,
            keyed_beside_per_second: None,
            bare_in_flight: None,
            settle: SETTLE,
            components: Vec::new(),
        }
    }
}
