//! Replays: deliveries of an endpoint that failed, events that it never got, or all events, are sent to it in bulk,
//! batch by batch, by any dispatcher. The cursor moves in the transaction that schedules a batch, so a replay survives
//! a restart and schedules nothing twice.
//!
//! A replay of events (`missing`, `all`) reads the view: it reaches further than the log. It takes the events before
//! the ends of the log that it notes when it starts; later ones are matched when they are read from the log. It
//! schedules nothing before the dispatcher and the view have reached these ends (`log_ends`): then it is known which
//! events have a delivery. So an event that is sent from the log while an endpoint is created is not sent by its
//! backfill too.
//!
//! `selection` decides which events are taken, `events` (with `time_window`) and `failed` read pages, `count` is the
//! dry run, `rows` has the table. Here: the stages of a replay, and its batches.

mod count;
mod events;
mod failed;
mod log_ends;
mod rows;
mod selection;
mod time_window;

use std::time::Duration;

use kafka::KafkaConfig;
use rdkafka::error::KafkaError;
use schemas::ids::{DeliveryId, EventId};
use schemas::topics::MATERIALIZER;
use sqlx::postgres::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::config::CONSUMER;
use crate::endpoints::store;
use crate::retry::schedule::{self, OpenLimits};

pub(crate) use count::{Count, count};
pub(crate) use rows::{MAX_RUNNING, Replay, cancel, create, forget, get};
pub(crate) use selection::{Only, Selection, Start};

use rows::{Batch, Cursor, Stage};
use selection::{KnownDelivery, Page};

/// Deliveries of one batch.
const BATCH_ROWS: i64 = 500;
/// Time between two batches of a replay for each delivery of the first one: it schedules at most 500 a second.
const INTERVAL_PER_DELIVERY: Duration = Duration::from_millis(2);
/// Time between two batches at least: one may schedule nothing.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// How long a replay waits whose organization has too much open.
const FULL_INTERVAL: Duration = Duration::from_secs(5);
/// How long a replay waits whose endpoint has a filter that cannot be read.
const UNREADABLE_INTERVAL: Duration = Duration::from_secs(60);
/// How often the positions are compared with the ends of the log.
const POSITIONS_INTERVAL: Duration = Duration::from_millis(250);
/// How long one dispatcher may take to read the ends of the log. Then another one tries.
const ENDS_LEASE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Why a step of a replay failed. The next one continues where it stopped.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the ends of the log could not be read: {0}")]
    Log(#[from] KafkaError),
}

/// Schedules the batches of replays.
pub(crate) struct Replayer {
    pool: PgPool,
    kafka: KafkaConfig,
    limits: OpenLimits,
}

/// What a step leaves to do without the lock on the replay.
enum Left {
    Nothing,
    /// Read the ends of a topic and note them for these consumers, then go from the first stage to the second.
    NoteEnds {
        topic: String,
        consumers: &'static [&'static str],
        stages: (Stage, Stage),
    },
}

impl Replayer {
    pub(crate) fn new(pool: PgPool, kafka: KafkaConfig, limits: OpenLimits) -> Self {
        Self { pool, kafka, limits }
    }

    /// Schedules batches until `shutdown`. Every dispatcher may run this.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let working = async {
            loop {
                match self.step().await {
                    Ok(true) => {}
                    Ok(false) => tokio::time::sleep(POLL_INTERVAL).await,
                    Err(error) => {
                        warn!(%error, "Step of a replay failed; trying again.");
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(working).await;
    }

    /// Does the next step of the replay that is due for longest. `false`: none is due.
    async fn step(&self) -> Result<bool, StepError> {
        let mut transaction = runtime::postgres::begin(&self.pool).await?;
        let Some(replay) = rows::lock_due(&mut transaction).await? else { return Ok(false) };
        let left = self.take(&mut transaction, &replay).await?;
        transaction.commit().await?;
        match left {
            Left::Nothing => {}
            Left::NoteEnds { topic, consumers, stages } => {
                let ends = log_ends::read(&self.kafka, &topic).await?;
                let mut transaction = runtime::postgres::begin(&self.pool).await?;
                if rows::enter(&mut transaction, replay.id, stages.0, stages.1).await? {
                    log_ends::note(&mut transaction, replay.id, consumers, &topic, &ends).await?;
                }
                transaction.commit().await?;
            }
        }
        Ok(true)
    }

    /// Does what a step does while it has the lock.
    async fn take(&self, connection: &mut PgConnection, replay: &Replay) -> Result<Left, sqlx::Error> {
        let (org_id, endpoint) = (replay.selection.org_id, replay.selection.endpoint);
        let has_endpoint = store::exists(connection, org_id, endpoint).await?;
        if !has_endpoint || store::is_erased(connection, org_id).await? {
            cancel(connection, org_id, replay.id).await?;
            return Ok(Left::Nothing);
        }
        let topics = &self.kafka.topics;
        match replay.stage {
            Stage::Scheduling => {
                self.schedule(connection, replay).await?;
                return Ok(Left::Nothing);
            }
            Stage::Starting => {
                rows::postpone(connection, replay.id, ENDS_LEASE, false).await?;
                let (topic, stages) = (topics.events.clone(), (Stage::Starting, Stage::Log));
                return Ok(Left::NoteEnds { topic, consumers: &[CONSUMER, MATERIALIZER], stages });
            }
            Stage::Log | Stage::Reports if !log_ends::are_reached(connection, replay.id).await? => {
                rows::postpone(connection, replay.id, POSITIONS_INTERVAL, false).await?;
            }
            Stage::Log => {
                rows::postpone(connection, replay.id, ENDS_LEASE, false).await?;
                let (topic, stages) = (topics.deliveries.clone(), (Stage::Log, Stage::Reports));
                return Ok(Left::NoteEnds { topic, consumers: &[MATERIALIZER], stages });
            }
            Stage::Reports => {
                rows::enter(connection, replay.id, Stage::Reports, Stage::Scheduling).await?;
            }
        }
        Ok(Left::Nothing)
    }

    /// Schedules a batch, unless the organization has too much open.
    async fn schedule(&self, connection: &mut PgConnection, replay: &Replay) -> Result<(), sqlx::Error> {
        let rows = BATCH_ROWS.min(self.limits.rows);
        if schedule::beyond(connection, replay.selection.org_id, rows, self.limits).await?.is_some() {
            return rows::postpone(connection, replay.id, FULL_INTERVAL, true).await;
        }
        let batch = match replay.selection.only {
            Only::Failed => schedule_failed(connection, replay, rows).await?,
            Only::Missing | Only::All => match self.schedule_events(connection, replay, rows).await? {
                Some(batch) => batch,
                None => return rows::postpone(connection, replay.id, UNREADABLE_INTERVAL, false).await,
            },
        };
        let scheduled = u32::try_from(batch.scheduled).unwrap_or(u32::MAX);
        let due_after = INTERVAL_PER_DELIVERY.saturating_mul(scheduled).max(MIN_INTERVAL);
        rows::advance(connection, replay.id, batch, due_after).await
    }

    /// `None`: the filter of the endpoint cannot be read.
    async fn schedule_events(
        &self,
        connection: &mut PgConnection,
        replay: &Replay,
        rows: i64,
    ) -> Result<Option<Batch>, sqlx::Error> {
        let selection = &replay.selection;
        let subscribed = match events::subscribed(connection, selection).await? {
            Some(Ok(subscribed)) => subscribed,
            Some(Err(reason)) => {
                let endpoint_id = selection.endpoint;
                error!(%endpoint_id, reason, "Stored filter of the endpoint cannot be read; its replay waits.");
                return Ok(None);
            }
            None => return Ok(None),
        };
        let topic = &self.kafka.topics.events;
        let ranges = log_ends::ranges(connection, replay.id, topic, replay.cursor.event).await?;
        let max_matched = usize::try_from(rows).unwrap_or(1).max(1);
        let page = events::next_page(connection, selection, &subscribed, ranges, max_matched).await?;
        let scheduled = schedule_page(connection, replay, &page).await?;
        let last = page.last.map(|(position, at)| Cursor { at: Some(at), delivery: None, event: Some(position) });
        Ok(Some(Batch {
            matched: page.matched.len(),
            scheduled,
            cursor: last.unwrap_or(replay.cursor),
            is_end: page.is_end,
        }))
    }
}

async fn schedule_failed(connection: &mut PgConnection, replay: &Replay, rows: i64) -> Result<Batch, sqlx::Error> {
    let page = failed::next_page(connection, &replay.selection, replay.cursor, rows).await?;
    let ids: Vec<DeliveryId> = page.iter().map(|(_, id)| *id).collect();
    let scheduled = schedule::start_rounds(connection, (replay.selection.org_id, replay.id), &ids).await?;
    let last = page.last().map(|(at, id)| Cursor { at: Some(*at), delivery: Some(*id), event: None });
    Ok(Batch {
        matched: page.len(),
        scheduled,
        cursor: last.unwrap_or(replay.cursor),
        is_end: (page.len() as u64) < rows.unsigned_abs(),
    })
}

/// Schedules what is missing, and a new round of what is finished. What is open is sent anyway.
async fn schedule_page(connection: &mut PgConnection, replay: &Replay, page: &Page) -> Result<usize, sqlx::Error> {
    let selection = &replay.selection;
    let of = |wanted: KnownDelivery| page.matched.iter().filter(move |(_, known)| *known == wanted);
    let missing: Vec<EventId> = of(KnownDelivery::Missing).map(|(event, _)| event.id).collect();
    let finished: Vec<DeliveryId> =
        of(KnownDelivery::Finished).map(|(event, _)| DeliveryId::of(selection.endpoint, event.id)).collect();
    let place = (selection.org_id, selection.endpoint, replay.id);
    schedule::start_replayed(connection, place, &missing, &finished).await
}
