//! Watches over a consumer, on a thread and with a client of its own: whether records that are there do not come,
//! whether a log ends before what was read of it, and whether its claims still stand. Whoever finds something ends this
//! consumer; the next one begins where the positions are. Also whether the brokers answer by now for places that were
//! not claimed because they did not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntCounterVec;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use sqlx::postgres::PgPool;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{debug, error, info};
use uuid::Uuid;

use super::assignments::{Assignment, Assignments, Place, Progress};
use super::leaderless::Leaderless;
use super::stall::{Sight, Stall, StallWatch};
use super::undecodable::Undecodable;
use super::{ConsumerEvent, ConsumerSettings, EventSender, KafkaConfig, Shared, base_config, on_thread, topic_ids};
use crate::fence;
use crate::{bounds, undecodable};
use runtime::telemetry::metrics;

/// Short, so that a broker that does not answer does not keep the watch from the places of the others.
const KAFKA_TIMEOUT: Duration = Duration::from_millis(1500);
const ANSWERS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the ids of the topics are asked for: one request for all of them.
const TOPIC_IDS_INTERVAL: Duration = Duration::from_secs(1);
const CLAIMS_TIMEOUT: Duration = Duration::from_secs(3);
/// How often claims are looked at, and how long a lost one may stay: by then the group has said that the place is
/// somebody else's, if it is.
const CLAIMS_INTERVAL: Duration = Duration::from_secs(2);
const LOST_PATIENCE: Duration = Duration::from_secs(4);
const TICK: Duration = Duration::from_millis(100);

struct Watch {
    client: BaseConsumer,
    config: ClientConfig,
    pool: PgPool,
    runtime: Handle,
    settings: ConsumerSettings,
    outlet: EventSender,
    held: Assignments,
    leaderless: Leaderless,
    undecodable: Undecodable,
    readings: [Progress; 2],
    stalls: StallWatch,
    seen: BTreeMap<Place, i64>,
    lost: LostClaims,
}

/// Starts the thread; the receiver resolves when it has ended.
pub(super) fn start(
    kafka: &KafkaConfig,
    pool: PgPool,
    settings: &ConsumerSettings,
    shared: Shared,
    readings: [Progress; 2],
) -> Result<oneshot::Receiver<()>, KafkaError> {
    // What it reads of the brokers must be what the readers see, so it is configured as they are. It is assigned
    // nothing.
    let mut config = base_config(kafka, settings, &format!("{}-watch", settings.consumer));
    config.set("statistics.interval.ms", "0");
    kafka.overlay(&mut config);
    let mut watch = Watch {
        client: config.create()?,
        pool,
        runtime: Handle::current(),
        settings: settings.clone(),
        outlet: shared.outlet.clone(),
        held: shared.held,
        leaderless: shared.leaderless,
        undecodable: shared.undecodable,
        config,
        readings,
        stalls: StallWatch::new(settings.stall_after),
        seen: BTreeMap::new(),
        lost: LostClaims::default(),
    };
    on_thread(format!("{}-watch", settings.consumer), shared.outlet, move || watch.run())
}

impl Watch {
    fn run(&mut self) {
        let stall_interval = (self.settings.stall_after / 6).clamp(TICK, Duration::from_secs(5));
        let (mut next_stalls, mut next_claims) = (Instant::now() + stall_interval, Instant::now() + CLAIMS_INTERVAL);
        let mut next_answers = Instant::now() + ANSWERS_INTERVAL;
        let mut next_topic_ids = Instant::now() + TOPIC_IDS_INTERVAL;
        while !self.outlet.is_stopping() {
            std::thread::sleep(TICK);
            let mut reason = None;
            if Instant::now() >= next_stalls {
                reason = self.look_for_stalls();
                next_stalls = Instant::now() + stall_interval;
            }
            if reason.is_none() && Instant::now() >= next_claims {
                reason = self.look_at_claims();
                next_claims = Instant::now() + CLAIMS_INTERVAL;
            }
            if reason.is_none() && Instant::now() >= next_topic_ids {
                reason = self.look_at_topic_ids();
                next_topic_ids = Instant::now() + TOPIC_IDS_INTERVAL;
            }
            if Instant::now() >= next_answers {
                self.look_for_answers();
                next_answers = Instant::now() + ANSWERS_INTERVAL;
            }
            if let Some(reason) = reason {
                let _told = self.outlet.send(ConsumerEvent::Failed(reason));
                return;
            }
        }
    }

    /// Asks for the ends of those places only that have not moved since the last look.
    fn look_for_stalls(&mut self) -> Option<String> {
        let held = self.held.all();
        let readings = self.readings.each_ref().map(Progress::reading);
        let mut sights: BTreeMap<Place, Sight> = BTreeMap::new();
        for reading in readings {
            for (place, reached) in reading.reached {
                if held.get(&place).is_some_and(|hold| !hold.is_stopped) {
                    sights.insert(place, Sight { reached, end: None, polled: reading.polled });
                }
            }
        }
        let before = std::mem::replace(
            &mut self.seen,
            sights.iter().map(|(place, sight)| (place.clone(), sight.reached)).collect(),
        );
        let standing: BTreeSet<Place> = sights
            .iter()
            .filter(|(place, sight)| before.get(place) == Some(&sight.reached))
            .map(|(place, _)| place.clone())
            .collect();
        let topics: BTreeSet<&Arc<str>> = standing.iter().map(|(topic, _)| topic).collect();
        for topic in topics {
            let partitions = standing.iter().filter(|(of, _)| of == topic).map(|(_, partition)| *partition);
            for (partition, end) in bounds::ends(&self.client, topic, partitions, KAFKA_TIMEOUT) {
                match end {
                    Ok(end) => drop(sights.entry((topic.clone(), partition)).and_modify(|sight| sight.end = Some(end))),
                    // Brokers that do not answer have no records for anybody.
                    Err(error) => debug!(%error, %topic, partition, "A log's end is not known."),
                }
            }
        }
        let stall = self.stalls.look(Instant::now(), &sights)?;
        if self.is_undecodable(&stall) {
            // Or it would be reported at each look until it is stopped, and no other one with it.
            self.stalls.forget(&stall.place);
            return None;
        }
        stalls_counter().with_label_values(&[&self.settings.consumer]).inc();
        let ((topic, partition), seconds) = (&stall.place, stall.waited.as_secs());
        error!(
            consumer = self.settings.consumer,
            %topic, partition, reached = stall.reached, log_end = stall.end, seconds,
            "Kafka consumer stalled: lag without records, or a log that ends before the position; restarting consumer."
        );
        Some(stall.to_string())
    }

    /// Whether the next batch does not decode. A new consumer would meet it again, so its partition is stopped.
    fn is_undecodable(&self, stall: &Stall) -> bool {
        let (topic, partition) = &stall.place;
        match undecodable::probe(&self.config, topic, *partition, stall.reached) {
            Ok(Some(text)) => {
                self.undecodable.found(stall.place.clone(), stall.reached, text);
                true
            }
            Ok(None) => false,
            Err(error) => {
                debug!(%error, %topic, partition, "Whether the next batch decodes is not known.");
                false
            }
        }
    }

    /// Whether a topic was deleted and created again under its readers. Stores the ids of topics that were claimed while
    /// their id was not known.
    fn look_at_topic_ids(&self) -> Option<String> {
        let claims = self.held.all();
        let read = claims.iter().filter(|(_, hold)| !hold.is_stopped).map(|((topic, _), _)| topic.as_ref());
        let ids = topic_ids::known(&self.client, &read.collect::<BTreeSet<&str>>().into_iter().collect::<Vec<_>>());
        for (topic, id) in topic_ids::learned(&claims, &ids) {
            self.store_topic_id(&topic, id);
        }
        let topic = topic_ids::recreated(&claims, &ids)?;
        error!(consumer = self.settings.consumer, %topic, "Topic was deleted and created again; restarting consumer.");
        Some(format!("{topic} was deleted and created again"))
    }

    fn store_topic_id(&self, topic: &Arc<str>, id: Uuid) {
        // A timeout must be made within the runtime, whose timer it uses.
        let _within = self.runtime.enter();
        let stored = fence::store_topic_id(&self.pool, &self.settings.consumer, topic, id);
        // Without an answer of the database it is stored the next time.
        if let Ok(Ok(())) = self.runtime.block_on(tokio::time::timeout(CLAIMS_TIMEOUT, stored)) {
            self.held.learned_topic_id(topic, id);
        }
    }

    /// Whether the brokers answer by now for what could not be claimed.
    fn look_for_answers(&self) {
        for (topic, partitions) in self.leaderless.all() {
            let ends = bounds::ends(&self.client, &topic, partitions.into_iter(), KAFKA_TIMEOUT);
            for (partition, _) in ends.into_iter().filter(|(_, end)| end.is_ok()) {
                self.leaderless.answers(&(topic.clone(), partition));
            }
        }
    }

    /// Whether somebody moved an epoch of ours although the group still gives us the place, or a position back under
    /// it: an operator who repaired or skipped, a database that was restored from a backup, or another instance in an
    /// error.
    fn look_at_claims(&mut self) -> Option<String> {
        // A timeout must be made within the runtime, whose timer it uses.
        let _within = self.runtime.enter();
        let stored = self.runtime.block_on(tokio::time::timeout(
            CLAIMS_TIMEOUT,
            fence::current_positions(&self.pool, &self.settings.consumer),
        ));
        let stored: BTreeMap<Place, Stand> = match stored {
            Ok(Ok(stored)) => stored
                .into_iter()
                .map(|(topic, partition, epoch, next_offset)| {
                    ((Arc::from(topic), partition), Stand { epoch, next_offset })
                })
                .collect(),
            // What a database that does not answer has in it will be seen later.
            _ => return None,
        };
        // Read after the database was: a claim made meanwhile is newer than what was read, never older.
        let (topic, partition) = self.lost.look(Instant::now(), &self.held.all(), &stored)?;
        info!(consumer = self.settings.consumer, %topic, partition, "Claim lost; restarting consumer.");
        Some(format!(
            "{topic}[{partition}] was claimed, repaired, skipped or restored, and Kafka still gives it to this instance"
        ))
    }
}

fn stalls_counter() -> IntCounterVec {
    metrics::counter_vec(
        "triggers_consumer_stalls_total",
        "Restarts of a Kafka consumer that stalled (lag without records), or whose log ended before its position.",
        &["consumer"],
    )
}

/// What PostgreSQL has of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stand {
    epoch: i64,
    next_offset: i64,
}

/// Claims that do not stand. Pure.
#[derive(Debug, Default)]
struct LostClaims {
    /// Under which epoch each was held, and since when it does not stand.
    suspects: BTreeMap<Place, (i64, Instant)>,
    /// The furthest that was seen under the epoch that is held. Under one epoch a position only grows: one that went
    /// back is of a backup.
    furthest: BTreeMap<Place, Stand>,
}

impl LostClaims {
    /// A place that has not been stored as it is held for a while.
    fn look(
        &mut self,
        now: Instant,
        held: &BTreeMap<Place, Assignment>,
        stored: &BTreeMap<Place, Stand>,
    ) -> Option<Place> {
        self.furthest.retain(|place, seen| held.get(place).is_some_and(|hold| hold.epoch == seen.epoch));
        let mut suspects = BTreeMap::new();
        for (place, hold) in held.iter().filter(|(place, hold)| !self.stands(place, hold, stored.get(*place))) {
            let since =
                self.suspects.get(place).filter(|(epoch, _)| *epoch == hold.epoch).map_or(now, |(_, since)| *since);
            suspects.insert(place.clone(), (hold.epoch, since));
        }
        for (place, stand) in
            stored.iter().filter(|(place, _)| held.contains_key(*place) && !suspects.contains_key(*place))
        {
            self.furthest.insert(place.clone(), *stand);
        }
        self.suspects = suspects;
        let is_over = |since: &Instant| now.saturating_duration_since(*since) >= LOST_PATIENCE;
        self.suspects.iter().find(|(_, (_, since))| is_over(since)).map(|(place, _)| place.clone())
    }

    fn stands(&self, place: &Place, hold: &Assignment, stored: Option<&Stand>) -> bool {
        let went_back =
            |stand: &Stand| self.furthest.get(place).is_some_and(|furthest| stand.next_offset < furthest.next_offset);
        stored.is_some_and(|stand| stand.epoch == hold.epoch && !went_back(stand))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_state::LogIdentity;

    fn place(partition: i32) -> Place {
        (Arc::from("events"), partition)
    }

    /// Each as (epoch, next offset).
    fn stored<const N: usize>(stands: [(i64, i64); N]) -> BTreeMap<Place, Stand> {
        (0..)
            .zip(stands)
            .map(|(partition, (epoch, next_offset))| (place(partition), Stand { epoch, next_offset }))
            .collect()
    }

    fn hold(epoch: i64, is_stopped: bool) -> Assignment {
        Assignment { epoch, identity: LogIdentity::default(), read_epoch: None, is_stopped }
    }

    fn held(epoch: i64) -> BTreeMap<Place, Assignment> {
        BTreeMap::from([(place(0), hold(epoch, false)), (place(1), hold(1, true))])
    }

    #[test]
    fn a_claim_that_was_overtaken_is_told_after_a_while_also_when_its_place_is_stopped() {
        let (mut lost, now) = (LostClaims::default(), Instant::now());
        let standing = stored([(5, 0), (1, 0)]);
        assert_eq!(lost.look(now, &held(5), &standing), None);
        assert_eq!(lost.look(now + LOST_PATIENCE, &held(5), &standing), None, "it stands");
        let repaired = stored([(5, 0), (2, 0)]);
        assert_eq!(lost.look(now, &held(5), &repaired), None);
        assert_eq!(lost.look(now + LOST_PATIENCE, &held(5), &repaired), Some(place(1)));
    }

    #[test]
    fn a_claim_of_our_own_made_meanwhile_or_a_place_given_up_is_no_loss() {
        let (mut lost, now) = (LostClaims::default(), Instant::now());
        let claimed = stored([(6, 0), (1, 0)]);
        assert_eq!(lost.look(now, &held(5), &claimed), None);
        assert_eq!(lost.look(now + LOST_PATIENCE, &held(6), &claimed), None, "claimed again");
        assert_eq!(lost.look(now, &held(5), &claimed), None);
        assert_eq!(lost.look(now + LOST_PATIENCE, &BTreeMap::new(), &claimed), None, "given up");
    }

    #[test]
    fn a_claim_that_is_gone_or_of_an_older_epoch_is_a_loss() {
        for stored in [BTreeMap::new(), stored([(4, 0), (1, 0)])] {
            let (mut lost, now) = (LostClaims::default(), Instant::now());
            assert_eq!(lost.look(now, &held(5), &stored), None);
            assert_eq!(lost.look(now + LOST_PATIENCE, &held(5), &stored), Some(place(0)));
        }
    }

    #[test]
    fn a_position_that_went_back_under_its_epoch_is_a_loss_and_one_under_a_later_epoch_is_not() {
        let (mut lost, now) = (LostClaims::default(), Instant::now());
        for next_offset in [500, 1_000] {
            assert_eq!(lost.look(now, &held(5), &stored([(5, next_offset), (1, 0)])), None);
        }
        let restored = stored([(5, 500), (1, 0)]);
        assert_eq!(lost.look(now, &held(5), &restored), None);
        assert_eq!(lost.look(now + LOST_PATIENCE / 2, &held(5), &restored), None, "not forgotten either");
        assert_eq!(lost.look(now + LOST_PATIENCE, &held(5), &restored), Some(place(0)));
        let claimed = stored([(6, 500), (1, 0)]);
        assert_eq!(lost.look(now, &held(6), &claimed), None);
        assert_eq!(lost.look(now + LOST_PATIENCE, &held(6), &claimed), None, "claimed where it stands");
    }
}
