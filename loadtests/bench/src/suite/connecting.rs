//! The steps with many connections: S12 and S18. `ingest` is restarted before each measurement, because memory that was
//! used once is not given back at once.

use anyhow::Context;
use loadkit::{Failure, Role};

use super::Suite;
use crate::connections::{Answered, Connections, MOST_GROWTH_MIB, MOST_IDLE_KIB, Sizes};
use crate::report::write_json;
use crate::results::Target;
use crate::spread::Spread;

impl Suite<'_> {
    /// S12, and the idle connections of S18.
    pub(super) async fn many_connections(&mut self) -> Result<(), Failure> {
        let sizes = Sizes::new(self.options.idle_connections);
        let mut runs = Vec::new();
        for round in 1..=self.options.turns.rounds {
            let answered = self.connections(sizes).await?.answered().await?;
            println!("s12: {answered:?}");
            write_json(&self.turns.folder.join(format!("s12-{round}")), &answered)?;
            self.turns.all_passed &= answered.is_complete();
            runs.push(answered);
        }
        let (idle, at_once) = (sizes.idle, sizes.at_once);
        let of = |figure: fn(&Answered) -> f64| Spread::of(runs.iter().map(figure));
        for (what, count, all) in [
            (format!("of {at_once} requests at once, answered"), of(|run| run.requests as f64), at_once),
            (format!("of {at_once} long polls, answered"), of(|run| run.polls as f64), at_once),
            (format!("of {idle} idle connections, answered again"), of(|run| run.idle_again as f64), idle),
        ] {
            self.add("S12", &what, "", count, None, Target::at_least(all as f64));
        }
        let slowest = of(|run| run.slowest_request_ms);
        self.add("S12", &format!("the slowest of {at_once} requests at once"), "ms", slowest, None, Target::default());
        let kib = of(Answered::idle_kib);
        self.add("S12", "memory of an idle connection", "KiB", kib, None, Target::at_most(MOST_IDLE_KIB));
        let what = format!("memory, {idle} idle connections");
        let growth = of(|run| run.idle_growth_mib);
        self.add("S18", &what, "MiB", growth, None, Target::at_most(MOST_GROWTH_MIB));
        Ok(())
    }

    /// S18.
    pub(super) async fn held_memory(&mut self) -> Result<(), Failure> {
        let sizes = Sizes::new(self.options.idle_connections);
        let (mut half_sent, mut slow) = (Vec::new(), Vec::new());
        for _ in 0..self.options.turns.rounds {
            half_sent.push(self.connections(sizes).await?.half_sent().await?);
            slow.push(self.connections(sizes).await?.slow_readers().await?);
        }
        for (what, growth) in [
            (format!("memory, {} half-sent bodies", sizes.at_once), half_sent),
            (format!("memory, {} slow readers of 2 MiB", sizes.slow_readers), slow),
        ] {
            self.add("S18", &what, "MiB", Spread::of(growth), None, Target::at_most(MOST_GROWTH_MIB));
        }
        Ok(())
    }

    async fn connections(&mut self, sizes: Sizes) -> Result<Connections, Failure> {
        let system = &mut self.turns.system;
        system.keep_only(&[]).await?;
        system.run_and_catch_up(&[Role::Ingest, Role::Materializer]).await?;
        let server = system.components().into_iter().find(|component| component.name == Role::Ingest.name());
        Connections::new(&system.target, server.context("ingest does not run")?, sizes).await
    }
}
