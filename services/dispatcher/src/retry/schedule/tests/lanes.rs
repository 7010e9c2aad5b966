//! A claim takes the first row of each lane, at the same cost however many rows wait.

use super::*;
use crate::delivery::{RowState, RowUpdate};
use crate::lane::{EndpointLane, LaneKey};
use crate::retry::schedule::lanes;

const LEASE: Duration = Duration::from_secs(30);

struct Lanes {
    _database: TestDatabase,
    pool: PgPool,
    org_id: OrgId,
    endpoint: EndpointId,
}

impl Lanes {
    async fn new() -> Self {
        let (database, pool) = database().await;
        Self { _database: database, pool, org_id: OrgId::generate(), endpoint: EndpointId::generate() }
    }

    async fn add(&self, lane: &str, offsets: Range<i64>, waits_for: WaitsFor) {
        let row = |offset| {
            let event = OutboundEvent { offset, ..outbound_event(self.org_id) };
            let lane = Some(LaneKey::of(self.org_id, Some(lane)));
            NewRow { delivery: Delivery { lane, ..Delivery::new(self.endpoint, Arc::new(event)) }, waits_for }
        };
        let rows: Vec<NewRow> = offsets.map(row).collect();
        for rows in rows.chunks(5000) {
            insert(&mut self.pool.acquire().await.unwrap(), rows, LIMITS).await.unwrap();
        }
    }

    /// Claims in a transaction of its own, as the retry worker does. Sorted by offset.
    async fn claim(&self, max_rows: usize, before_due: bool) -> Vec<ClaimedRow> {
        let mut transaction = runtime::postgres::begin(&self.pool).await.unwrap();
        let wanted = [Wanted { endpoint: self.endpoint, max_rows, lease: LEASE, before_due }];
        let mut claimed = claim(&mut transaction, &wanted, true).await.unwrap();
        reset(&mut transaction, &[(self.endpoint, NextDue::NotBefore(Duration::ZERO))]).await.unwrap();
        transaction.commit().await.unwrap();
        claimed.sort_unstable_by_key(|row| row.delivery.event.offset);
        claimed
    }

    async fn claimed_offsets(&self, max_rows: usize) -> Vec<i64> {
        offsets(&self.claim(max_rows, false).await)
    }

    async fn finish(&self, row: &ClaimedRow, update: RowUpdate) -> bool {
        let outcome = LeasedOutcome { delivery_id: row.delivery.id, lease: row.lease, update };
        write_outcomes(&mut self.pool.acquire().await.unwrap(), &[outcome]).await.unwrap()
    }

    /// Whether the queue of the endpoint is due.
    async fn is_due(&self) -> bool {
        sqlx::query_scalar("SELECT next_due_at <= now() FROM endpoint_queues WHERE endpoint_id = $1")
            .bind(self.endpoint.as_uuid())
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

fn offsets(claimed: &[ClaimedRow]) -> Vec<i64> {
    claimed.iter().map(|row| row.delivery.event.offset).collect()
}

fn delivered() -> RowUpdate {
    RowUpdate::finished(RowState::Delivered, 1)
}

#[tokio::test]
async fn one_row_of_each_lane_is_claimed_in_its_order() {
    let lanes = Lanes::new().await;
    // In another order than that of the log.
    lanes.add("a", 5..7, DUE).await;
    lanes.add("a", 1..3, DUE).await;
    lanes.add("b", 3..5, DUE).await;
    let claimed = lanes.claim(10, false).await;
    assert_eq!(offsets(&claimed), [1, 3]);
    assert!(lanes.claimed_offsets(10).await.is_empty() && !lanes.is_due().await, "both lanes have one in flight");
    assert!(lanes.finish(&claimed[0], delivered()).await && lanes.is_due().await);
    let second = lanes.claim(10, false).await;
    assert_eq!(offsets(&second), [2]);
    let retry = RowUpdate::pending(1, Duration::from_secs(3600));
    assert!(!lanes.finish(&second[0], retry).await);
    assert!(lanes.claimed_offsets(10).await.is_empty() && !lanes.is_due().await, "the lane waits for the retry");
    assert!(lanes.finish(&claimed[1], delivered()).await);
    assert_eq!(lanes.claimed_offsets(1).await, [4]);
}

#[tokio::test]
async fn a_row_that_comes_late_waits_for_the_one_in_flight() {
    let lanes = Lanes::new().await;
    lanes.add("a", 5..6, DUE).await;
    let claimed = lanes.claim(10, false).await;
    lanes.add("a", 1..2, DUE).await;
    assert_eq!((lanes.claimed_offsets(10).await, lanes.is_due().await), (vec![], false));
    lanes.finish(&claimed[0], delivered()).await;
    assert_eq!(lanes.claimed_offsets(10).await, [1]);
}

#[tokio::test]
async fn a_lane_without_rows_is_deleted_and_made_again() {
    let lanes = Lanes::new().await;
    for offset in 0..2 {
        lanes.add("a", offset..offset + 1, DUE).await;
        let claimed = lanes.claim(10, false).await;
        assert_eq!(offsets(&claimed), [offset]);
        lanes.finish(&claimed[0], delivered()).await;
        assert_eq!((lanes.claimed_offsets(10).await, count(&lanes.pool, "ordered_lanes").await), (vec![], 0));
    }
}

#[tokio::test]
async fn a_lane_waits_for_an_open_duplicate_decision() {
    let lanes = Lanes::new().await;
    lanes.add("a", 0..1, WaitsFor::Dedup).await;
    lanes.add("a", 1..2, DUE).await;
    lanes.add("b", 2..3, DUE).await;
    lanes.add("b", 3..4, WaitsFor::Dedup).await;
    assert_eq!(lanes.claimed_offsets(10).await, [2], "what is undecided holds back only what is after it");
    assert!(!lanes.is_due().await);
    // The view shows none of the events: they were erased.
    assert!(!release_decided(&lanes.pool, "materializer", TOPIC).await.unwrap() && lanes.is_due().await);
    assert_eq!(lanes.claimed_offsets(10).await, [1]);
}

#[tokio::test]
async fn a_lane_goes_on_when_its_schedule_ends() {
    let lanes = Lanes::new().await;
    let later = WaitsFor::Attempt { attempts: 1, due_after: Duration::from_secs(3600), lease: None, batch_limit: None };
    lanes.add("a", 0..1, later).await;
    lanes.add("a", 1..2, DUE).await;
    assert!(lanes.claimed_offsets(10).await.is_empty() && !lanes.is_due().await);
    execute(&lanes.pool, "UPDATE delivery_schedule SET created_at = now() - interval '1 hour' WHERE log_offset = 0")
        .await;
    end_schedules(&lanes.pool, Duration::from_secs(60), None).await.unwrap();
    assert!(lanes.is_due().await);
    assert_eq!(lanes.claimed_offsets(10).await, [1]);
}

#[tokio::test]
async fn rows_of_a_deleted_endpoint_are_claimed_in_any_order() {
    let lanes = Lanes::new().await;
    lanes.add("a", 0..20, DUE).await;
    assert_eq!(lanes.claim(8, true).await.len(), 8);
    assert_eq!(lanes.claim(20, true).await.len(), 12, "those in flight are not claimed again");
}

#[tokio::test]
async fn a_claim_reads_only_the_first_row_of_a_lane() {
    let lanes = Lanes::new().await;
    // The statistics are those of a nearly empty table.
    lanes.add("a", 0..1, DUE).await;
    lanes.add("a", 1..2, WaitsFor::Dedup).await;
    execute(&lanes.pool, "ANALYZE delivery_schedule, deliveries_awaiting_dedup, ordered_lanes").await;
    lanes.add("a", 2..20_000, DUE).await;
    lanes.add("a", 20_000..30_000, WaitsFor::Dedup).await;
    for statistics in ["old", "new"] {
        let plan = plan(&lanes).await;
        let has = |text: &str| plan.contains(text);
        assert!(
            has("delivery_schedule_lane ")
                && has("delivery_schedule_lane_in_flight ")
                && has("deliveries_awaiting_dedup_lane"),
            "{statistics}: {plan}"
        );
        assert!(!has("Sort") && !has("Seq Scan"), "{statistics}: {plan}");
        execute(&lanes.pool, "ANALYZE delivery_schedule, deliveries_awaiting_dedup, ordered_lanes").await;
    }
    assert_eq!(lanes.claimed_offsets(10).await, [0]);
}

/// The plan of the statement that claims the first rows.
async fn plan(lanes: &Lanes) -> String {
    let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN {}", lanes::CLAIM_LOCKED)))
        .persistent(false)
        .bind(vec![lanes.endpoint.as_uuid()])
        .bind(vec![LaneKey::of(lanes.org_id, Some("a")).as_uuid()])
        .bind(vec![LEASE.as_secs_f64()])
        .fetch_all(&lanes.pool)
        .await
        .unwrap();
    rows.join("\n")
}

#[tokio::test]
async fn a_lane_is_free_when_nothing_of_it_waits() {
    let lanes = Lanes::new().await;
    let lane = |key| EndpointLane { endpoint: lanes.endpoint, key: LaneKey::of(lanes.org_id, Some(key)) };
    lanes.add("a", 0..1, DUE).await;
    lanes.add("b", 1..2, WaitsFor::Dedup).await;
    let all = ["a", "b", "c"].map(lane);
    assert_eq!(free_lanes(&lanes.pool, &all).await.unwrap(), [lane("c")].into());
    let claimed = lanes.claim(10, false).await;
    assert_eq!(free_lanes(&lanes.pool, &all).await.unwrap().len(), 1, "its attempt is in flight");
    lanes.finish(&claimed[0], delivered()).await;
    assert_eq!(free_lanes(&lanes.pool, &all).await.unwrap(), [lane("a"), lane("c")].into());
}
