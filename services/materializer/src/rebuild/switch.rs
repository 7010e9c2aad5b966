//! The moment in which the next generation takes the live one's place: with the live positions held still, it is
//! brought to exactly them, compared, and given the name. Every materializer's claims are overtaken by it, so that each
//! begins anew and finds the new tables.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use schemas::topics::TopicNames;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::time::timeout;
use tracing::warn;

use super::compare::{Difference, compare};
use super::course::{Course, Goals, Progress};
use super::{REBUILD, RebuildError};
use crate::projector::generation::Generation;
use crate::projector::reconcile;

/// How long the live view may be held while what is left is read. It goes on after that, and the rebuild can be run
/// again.
const LONGEST_HOLD: Duration = Duration::from_secs(120);
/// Begins the transaction that holds it. The bounds are PostgreSQL's to keep: whoever holds may be halted or cut off,
/// and the live view must go on all the same. A silence is longer than [`LONGEST_HOLD`], in which this connection has
/// nothing to say; a statement (the comparison reads both generations) has ten minutes, and ends with its client.
const BEGIN_HOLD: &str = "BEGIN; SET LOCAL lock_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '150s'; \
                          SET LOCAL statement_timeout = '10min'; SET LOCAL client_connection_check_interval = '1s'";

/// A position of the live view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LivePlace {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) log_epoch: i32,
    pub(super) next_offset: i64,
}

pub(super) struct Switch<'a> {
    pub(super) pool: &'a PgPool,
    pub(super) accept_differences: bool,
    pub(super) dry_run: bool,
}

pub(super) struct Switched {
    pub(super) records: u64,
    pub(super) held: Duration,
    pub(super) differences: Vec<Difference>,
    pub(super) switched: bool,
}

impl Switch<'_> {
    pub(super) async fn run(
        &self,
        course: &mut Course,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<Switched, RebuildError> {
        let mut transaction = self.pool.begin_with(BEGIN_HOLD).await?;
        let live = lock_live(&mut transaction).await?;
        let held = Instant::now();
        // An error or a time-out from here on ends the transaction, and the live view goes on.
        let goals = goals(&live);
        let caught_up = async {
            let records = course.run_to(&goals, progress).await?;
            // Effects whose event was written by another transaction; the live view looks for them all the time.
            reconcile::all(self.pool, Generation::Live).await?;
            reconcile::all(self.pool, Generation::Next).await?;
            Ok::<_, RebuildError>(records)
        };
        let Ok(records) = timeout(LONGEST_HOLD, caught_up).await else {
            return Err(RebuildError::Unsuitable("what was left could not be read in time; run it again".to_owned()));
        };
        let records = records?;
        self.same_epochs(&mut transaction, &live).await?;
        forget_expired(&mut transaction).await?;
        let differences = compare(&mut transaction).await?;
        let switched = !self.dry_run && (differences.is_empty() || self.accept_differences);
        if switched {
            sqlx::query("SELECT view_switch()").execute(&mut *transaction).await?;
            // Who writes the view is overtaken, and learns of the new tables with its next claim.
            sqlx::query("UPDATE consumer_positions SET epoch = epoch + 1 WHERE consumer = $1")
                .bind(crate::projector::CONSUMER)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("DELETE FROM consumer_positions WHERE consumer = $1")
                .bind(REBUILD)
                .execute(&mut *transaction)
                .await?;
            // Nobody holds a partition that was added meanwhile back: what was written of it went into the old tables.
            if places(&mut transaction, crate::projector::CONSUMER).await? != live {
                return Err(RebuildError::Unsuitable("a partition was added meanwhile; run it again".to_owned()));
            }
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        let held = held.elapsed();
        if switched && let Err(error) = drop_retired(self.pool).await {
            // It is done; what is left takes room until the next rebuild or erasure, or until it is abandoned.
            warn!(%error, "The tables of the old view could not be dropped; triggers view abandon does it.");
        }
        Ok(Switched { records, held, differences, switched })
    }

    /// An operator's decision about the log in the middle of a rebuild makes what was read of it another log's.
    async fn same_epochs(&self, connection: &mut PgConnection, live: &[LivePlace]) -> Result<(), RebuildError> {
        let mine = places(connection, REBUILD).await?;
        for place in live {
            if !mine.contains(place) {
                let message = format!(
                    "{}[{}] stands elsewhere than the live view; begin anew with --restart",
                    place.topic, place.partition
                );
                return Err(RebuildError::Unsuitable(message));
            }
        }
        Ok(())
    }
}

/// Where the live view stands.
pub(super) async fn live_places(pool: &PgPool, topics: &TopicNames) -> Result<Vec<LivePlace>, RebuildError> {
    let live = places(&mut *pool.acquire().await?, crate::projector::CONSUMER).await?;
    // With other topics than the view's a rebuild would read nothing, and that would look like a log without events.
    let ours = [&topics.events, &topics.acks, &topics.deliveries];
    match live.iter().find(|place| !ours.contains(&&place.topic)) {
        None => Ok(live),
        Some(place) => {
            let told = format!(
                "the view is of {} and not only of {}, {} and {}; is the topic prefix right? If that topic was given up, stop the materializers \
                 and: DELETE FROM consumer_positions WHERE consumer = '{}' AND topic = '{}'",
                place.topic,
                ours[0],
                ours[1],
                ours[2],
                crate::projector::CONSUMER,
                place.topic
            );
            Err(RebuildError::Unsuitable(told))
        }
    }
}

/// The same as goals of a reading.
pub(super) async fn live_positions(pool: &PgPool, topics: &TopicNames) -> Result<Goals, RebuildError> {
    Ok(goals(&live_places(pool, topics).await?))
}

fn goals(places: &[LivePlace]) -> Goals {
    places
        .iter()
        .map(|place| ((place.topic.as_str().into(), place.partition), place.next_offset))
        .collect::<BTreeMap<_, _>>()
}

async fn places(connection: &mut PgConnection, consumer: &str) -> Result<Vec<LivePlace>, sqlx::Error> {
    let rows: Vec<(String, i32, i32, i64)> = sqlx::query_as(
        "SELECT topic, partition, log_epoch, next_offset FROM consumer_positions WHERE consumer = $1
         ORDER BY topic, partition",
    )
    .bind(consumer)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(place).collect())
}

/// Holds every flush of the live view back until the transaction ends.
async fn lock_live(connection: &mut PgConnection) -> Result<Vec<LivePlace>, sqlx::Error> {
    let rows: Vec<(String, i32, i32, i64)> = sqlx::query_as(
        "SELECT topic, partition, log_epoch, next_offset FROM consumer_positions WHERE consumer = $1
         ORDER BY topic, partition FOR UPDATE",
    )
    .bind(crate::projector::CONSUMER)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(place).collect())
}

fn place((topic, partition, log_epoch, next_offset): (String, i32, i32, i64)) -> LivePlace {
    LivePlace { topic, partition, log_epoch, next_offset }
}

/// What the live view has dropped since, or still has although it is below the floor. Readers are told of the latter
/// here: it goes with the old tables.
async fn forget_expired(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for statement in [
        "SELECT view_record_gaps_before('view.events', (SELECT floor FROM retention_floor))",
        "DELETE FROM view_next.events WHERE accepted_at < (SELECT floor FROM retention_floor)",
        "DELETE FROM view_next.delivery_attempts WHERE appended_at < (SELECT floor FROM retention_floor)",
        "DELETE FROM view_next.deliveries d
         WHERE NOT EXISTS (SELECT FROM view_next.delivery_attempts a
                           WHERE a.org_id = d.org_id AND a.delivery_id = d.delivery_id)",
        // Of events that were passed over.
        "DELETE FROM view_next.pending_effects
         WHERE effect = 'attempt' AND log_offset = -1 AND appended_at < (SELECT floor FROM retention_floor)",
        // Begun below the floor and tried again above it: the first attempt, which says when it began, is read no more.
        "UPDATE view_next.deliveries n SET created_at = l.created_at FROM view.deliveries l
         WHERE l.org_id = n.org_id AND l.delivery_id = n.delivery_id AND l.created_at < n.created_at
               AND NOT EXISTS (SELECT FROM view_next.delivery_attempts a
                               WHERE a.org_id = n.org_id AND a.delivery_id = n.delivery_id AND a.attempt = 1)",
    ] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Drops the tables of the generation that was live before, if they are left.
pub(crate) async fn drop_retired(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin_with("BEGIN; SET LOCAL statement_timeout = 0").await?;
    sqlx::query("DROP SCHEMA IF EXISTS view_retired CASCADE").execute(&mut *transaction).await?;
    transaction.commit().await
}
