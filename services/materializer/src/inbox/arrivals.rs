//! Who waits for events of an organization (long polls), and who wakes them: one task for all, which runs only while
//! somebody waits.
//!
//! The task looks at the view's positions, a dozen rows, and only where one has moved asks which of the waiting
//! organizations got something there. So a waiting client costs nothing until something arrives for it. What it then
//! reads is the reader's business.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::ids::OrgId;
use sqlx::postgres::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::cursor::Mark;

/// Requests that may wait at once in one process.
const MAX_WAITING: usize = 2_000;
/// Pause between two looks; longer when looking itself takes long, so that it never costs more than a fifth of one
/// connection's time.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

/// Where the view stands on the log of events: the next place of each partition.
type Positions = BTreeMap<i32, Mark>;

/// Wakes those who wait. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Arrivals {
    shared: Arc<Shared>,
}

struct Shared {
    pool: PgPool,
    consumer: String,
    events_topic: String,
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    organizations: HashMap<Uuid, Bell>,
    watched: bool,
}

/// Rung when something arrived for an organization.
struct Bell {
    ring: watch::Sender<()>,
    waiters: usize,
}

/// One who waits; leaving is dropping it, however the wait ends.
pub(crate) struct Waiter {
    shared: Arc<Shared>,
    organization: Uuid,
    rung: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

impl Arrivals {
    pub(crate) fn new(pool: PgPool, consumer: &str, events_topic: &str) -> Self {
        let shared = Shared {
            pool,
            consumer: consumer.to_owned(),
            events_topic: events_topic.to_owned(),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            waiting: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins to wait; whatever becomes visible from here on is noticed. `None`: too many wait already.
    pub(crate) fn wait_for(&self, organization: OrgId) -> Option<Waiter> {
        let place = self.shared.places.clone().try_acquire_owned().ok()?;
        let organization = organization.as_uuid();
        let mut waiting = self.shared.waiting();
        let bell = waiting
            .organizations
            .entry(organization)
            .or_insert_with(|| Bell { ring: watch::Sender::new(()), waiters: 0 });
        bell.waiters += 1;
        let rung = bell.ring.subscribe();
        if !waiting.watched {
            waiting.watched = true;
            tokio::spawn(look_out(self.shared.clone()));
        }
        drop(waiting);
        Some(Waiter { shared: self.shared.clone(), organization, rung, _place: place })
    }
}

impl Waiter {
    /// Waits until something may have arrived since the wait began or since the last time.
    pub(crate) async fn rung(&mut self) {
        // The sender lives for as long as we do.
        let _changed = self.rung.changed().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        if let Some(bell) = waiting.organizations.get_mut(&self.organization) {
            bell.waiters -= 1;
            if bell.waiters == 0 {
                waiting.organizations.remove(&self.organization);
            }
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to go on looking; a later waiter starts another watch.
    fn is_waited_for(&self) -> bool {
        let mut waiting = self.waiting();
        waiting.watched = !waiting.organizations.is_empty();
        waiting.watched
    }

    fn waited_for(&self) -> Vec<Uuid> {
        self.waiting().organizations.keys().copied().collect()
    }

    fn wake(&self, organizations: &[Uuid]) {
        let waiting = self.waiting();
        for bell in organizations.iter().filter_map(|organization| waiting.organizations.get(organization)) {
            bell.ring.send_replace(());
        }
    }

    /// Looks once. Who begins to wait after the positions were read will itself read what lies before them; for
    /// everybody else it is asked here. So the positions come first, and nothing slips through between two looks.
    async fn look(&self, known: Option<&Positions>) -> Result<Positions, sqlx::Error> {
        let positions = self.positions().await?;
        let organizations = self.waited_for();
        match known {
            // The first look: who began to wait before it cannot know what came in between.
            None => self.wake(&organizations),
            Some(known) => {
                let moved = moved(known, &positions);
                if !moved.is_empty() {
                    self.wake(&self.receivers(&moved, &organizations).await?);
                }
            }
        }
        Ok(positions)
    }

    async fn positions(&self) -> Result<Positions, sqlx::Error> {
        let query = sqlx::query_as(
            "SELECT partition, log_epoch, next_offset FROM consumer_positions WHERE consumer = $1 AND topic = $2",
        );
        let rows: Vec<(i32, i32, i64)> =
            query.bind(&self.consumer).bind(&self.events_topic).fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|(partition, log_epoch, offset)| (partition, Mark { log_epoch, offset })).collect())
    }

    /// Those of `organizations` that have an event at or after one of `places`.
    async fn receivers(&self, places: &[(i32, Mark)], organizations: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
        let partitions: Vec<i32> = places.iter().map(|(partition, _)| *partition).collect();
        let epochs: Vec<i32> = places.iter().map(|(_, mark)| mark.log_epoch).collect();
        let offsets: Vec<i64> = places.iter().map(|(_, mark)| mark.offset).collect();
        // LIMIT keeps the planner from turning the probes into one join over the whole table.
        sqlx::query_scalar(
            "SELECT DISTINCT o.org_id
             FROM UNNEST($1::uuid[]) AS o (org_id)
             CROSS JOIN UNNEST($2::integer[], $3::integer[], $4::bigint[]) AS p (log_partition, log_epoch, log_offset)
             CROSS JOIN LATERAL (SELECT FROM view.events e
                                 WHERE e.org_id = o.org_id AND e.log_partition = p.log_partition
                                   AND (e.log_epoch, e.log_offset) >= (p.log_epoch, p.log_offset)
                                 LIMIT 1) AS arrived",
        )
        .bind(organizations)
        .bind(partitions)
        .bind(epochs)
        .bind(offsets)
        .fetch_all(&self.pool)
        .await
    }
}

/// Where each partition that has moved stood before; from its beginning for one that is new.
fn moved(known: &Positions, now: &Positions) -> Vec<(i32, Mark)> {
    let before = |partition: &i32| known.get(partition).copied().unwrap_or(Mark { log_epoch: 0, offset: 0 });
    now.iter()
        .map(|(partition, mark)| (*partition, before(partition), *mark))
        .filter(|(_, old, new)| old != new)
        .map(|(p, old, _)| (p, old))
        .collect()
}

async fn look_out(shared: Arc<Shared>) {
    let mut known = None;
    while shared.is_waited_for() {
        let begun = Instant::now();
        let pause = match shared.look(known.as_ref()).await {
            Ok(positions) => {
                known = Some(positions);
                PAUSE.max(begun.elapsed() * 4)
            }
            // Those who wait read once more at their deadline and then hear of it.
            Err(error) => {
                tracing::debug!(%error, "Looking for arrivals failed.");
                PAUSE_AFTER_ERROR
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn so_many_may_wait_and_no_more_until_one_leaves() {
        // Nothing listens there, and nothing needs to.
        let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
        let arrivals = Arrivals::new(pool, crate::projector::CONSUMER, "events");
        let organization = OrgId::generate();
        let mut waiters: Vec<Waiter> = (0..MAX_WAITING).filter_map(|_| arrivals.wait_for(organization)).collect();
        assert_eq!(waiters.len(), MAX_WAITING);
        assert!(arrivals.wait_for(organization).is_none());
        waiters.pop();
        waiters.push(arrivals.wait_for(organization).unwrap());
        drop(waiters);
        assert!(arrivals.shared.waiting().organizations.is_empty(), "nothing is kept of those who left");
    }

    #[test]
    fn a_partition_has_moved_from_where_it_was_seen_last() {
        let mark = |log_epoch, offset| Mark { log_epoch, offset };
        let known = Positions::from([(0, mark(1, 5)), (1, mark(1, 9)), (2, mark(1, 7))]);
        let now = Positions::from([(0, mark(1, 5)), (1, mark(1, 12)), (2, mark(2, 0)), (3, mark(1, 4))]);
        assert_eq!(moved(&known, &now), vec![(1, mark(1, 9)), (2, mark(1, 7)), (3, mark(0, 0))]);
        assert_eq!(moved(&now, &now), vec![]);
    }
}
