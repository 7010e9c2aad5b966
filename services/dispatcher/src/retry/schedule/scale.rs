//! What a claim costs does not depend on how many rows wait, and churn leaves no bloat.
//!
//! `CLAIM_ROWS=5000000 cargo test -p dispatcher scale -- --nocapture` prints the time of claims at that size, as
//! `make scale` does. The tests count what PostgreSQL reads, and compare no times.
#![cfg(test)]

use std::time::{Duration, Instant};

use schemas::ids::EndpointId;
use sqlx::postgres::{PgConnection, PgPool};
use testkit::setup;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::*;

const ENDPOINTS: usize = 1_000;
const FEW: i64 = 10_000;
const ROWS_OF_A_CLAIM: usize = 10;
const CLAIMS: usize = 50;

/// A snapshot that is kept in one test keeps a vacuum in the other from removing anything.
static SNAPSHOTS: Mutex<()> = Mutex::const_new(());

/// How many rows the large table has.
pub(crate) fn many() -> i64 {
    std::env::var("CLAIM_ROWS").ok().map_or(40_000, |rows| rows.parse().expect("CLAIM_ROWS is a number"))
}

/// Whether times are of interest, because the size was chosen.
pub(crate) fn is_measured() -> bool {
    std::env::var_os("CLAIM_ROWS").is_some()
}

/// A connection for statements that take as long as they do.
pub(crate) async fn unhurried(pool: &PgPool) -> PgConnection {
    let mut connection = pool.acquire().await.unwrap().detach();
    sqlx::query("SET statement_timeout = 0").execute(&mut connection).await.unwrap();
    connection
}

/// Fills the schedule up to so many rows, spread over the endpoints. One in ten is due.
async fn fill(pool: &PgPool, endpoints: &[EndpointId], rows: i64) {
    let mut connection = unhurried(pool).await;
    let ids: Vec<Uuid> = endpoints.iter().map(|endpoint| endpoint.as_uuid()).collect();
    sqlx::query(
        "INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, log_epoch,
                                        log_partition, log_offset, state, due_at)
         SELECT gen_random_uuid(), ($2::uuid[])[1], gen_random_uuid(), ($2::uuid[])[1 + n % $3], 'n', now(), 1, 0, n,
                'pending', now() + CASE WHEN n / $3 % 10 = 0 THEN -1 ELSE n % 3600 END * interval '1 second'
         FROM generate_series((SELECT count(*) FROM delivery_schedule), $1 - 1) AS n",
    )
    .bind(rows)
    .bind(ids)
    .bind(i64::try_from(ENDPOINTS).unwrap())
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO delivery_events (log_partition, log_epoch, log_offset, org_id, payload)
         SELECT log_partition, log_epoch, log_offset, org_id, repeat('x', 100) FROM delivery_schedule
         ON CONFLICT DO NOTHING",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO endpoint_queues (endpoint_id, org_id, next_due_at)
         SELECT DISTINCT endpoint_id, org_id, now() FROM delivery_schedule ON CONFLICT DO NOTHING",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::query("VACUUM ANALYZE delivery_schedule, delivery_events").execute(&mut connection).await.unwrap();
    // What it has read is counted now, and not when its session has ended.
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut connection).await.unwrap();
}

/// What the claims of a connection have read: sequential scans, and rows through indexes.
async fn reads(connection: &mut PgConnection) -> (i64, i64) {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    sqlx::query_as(
        "SELECT seq_scan::bigint, idx_tup_fetch::bigint FROM pg_stat_user_tables WHERE relname = 'delivery_schedule'",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

/// The rows that claims of ten endpoints each have read, and the median of their times. Claims are undone.
async fn measure(pool: &PgPool, endpoints: &[EndpointId]) -> (i64, Duration) {
    let mut connection = pool.acquire().await.unwrap();
    let before = reads(&mut connection).await;
    let mut times = Vec::new();
    for nth in 0..CLAIMS {
        let of = endpoints.iter().skip(nth * 10).take(10);
        let lease = Duration::from_secs(30);
        let wanted: Vec<Wanted> =
            of.map(|endpoint| Wanted { endpoint: *endpoint, max_rows: 1, lease, before_due: false }).collect();
        let start = Instant::now();
        sqlx::query("BEGIN").execute(&mut *connection).await.unwrap();
        let claimed = claim(&mut connection, &wanted, true).await.unwrap();
        times.push(start.elapsed());
        sqlx::query("ROLLBACK").execute(&mut *connection).await.unwrap();
        assert_eq!(claimed.len(), ROWS_OF_A_CLAIM);
    }
    let after = reads(&mut connection).await;
    assert_eq!(after.0, before.0, "a claim reads the whole table");
    times.sort();
    (after.1 - before.1, times[CLAIMS / 2])
}

#[tokio::test]
async fn claims_read_as_much_of_many_rows_as_of_few() {
    let (_database, pool) = setup::database().await;
    let endpoints: Vec<EndpointId> = (0..ENDPOINTS).map(|_| EndpointId::generate()).collect();
    let rows = many();
    let mut measured = Vec::new();
    for rows in [FEW, rows] {
        fill(&pool, &endpoints, rows).await;
        measure(&pool, &endpoints).await;
        let (read, median) = measure(&pool, &endpoints).await;
        eprintln!("{rows} rows: a claim of {ROWS_OF_A_CLAIM} takes {median:?}, and {CLAIMS} of them read {read} rows");
        measured.push(read);
    }
    let [few, many] = measured[..] else { panic!("two sizes") };
    assert!(many <= few * 2, "{few} rows are read of {FEW}, and {many} of {rows}");
}

/// The claims of one endpoint whose rows are finished one after the other, while a snapshot keeps all that was.
#[tokio::test]
async fn a_snapshot_that_is_kept_does_not_make_claims_slower() {
    const ROUNDS: usize = 60;
    let _alone = SNAPSHOTS.lock().await;
    let (_database, pool) = setup::database().await;
    let endpoints: Vec<EndpointId> = (0..ENDPOINTS).map(|_| EndpointId::generate()).collect();
    fill(&pool, &endpoints, FEW).await;
    sqlx::query("UPDATE delivery_schedule SET endpoint_id = $1, due_at = now() - log_offset * interval '1 ms'")
        .bind(endpoints[0].as_uuid())
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("VACUUM ANALYZE delivery_schedule").execute(&pool).await.unwrap();
    let mut backup = runtime::postgres::begin_with(&pool, "BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    sqlx::query("SELECT FROM delivery_schedule LIMIT 1").execute(&mut *backup).await.unwrap();
    let mut read = Vec::new();
    let mut connection = pool.acquire().await.unwrap();
    for _ in 0..ROUNDS {
        let wanted = Wanted { endpoint: endpoints[0], max_rows: 64, lease: Duration::from_secs(30), before_due: false };
        let before = blocks(&mut connection).await;
        let claimed = claim(&mut connection, &[wanted], true).await.unwrap();
        reset(&mut connection, &[(endpoints[0], NextDue::NotBefore(Duration::ZERO))]).await.unwrap();
        read.push(blocks(&mut connection).await - before);
        assert_eq!(claimed.len(), 64);
        sqlx::query("UPDATE delivery_schedule SET state = 'delivered', finished_at = now() WHERE lease_id IS NOT NULL")
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    drop(backup);
    let (first, last) = (read[1..6].iter().sum::<i64>(), read[ROUNDS - 5..].iter().sum::<i64>());
    assert!(last <= first * 2, "the first claims read {first} blocks, the last ones {last}: {read:?}");
}

/// Blocks of the table that were looked at so far.
async fn blocks(connection: &mut PgConnection) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    sqlx::query_scalar(
        "SELECT (heap_blks_read + heap_blks_hit)::bigint FROM pg_statio_user_tables
         WHERE relname = 'delivery_schedule'",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn churn_leaves_no_bloat() {
    let _alone = SNAPSHOTS.lock().await;
    let (_database, pool) = setup::database().await;
    let endpoints: Vec<EndpointId> = (0..ENDPOINTS).map(|_| EndpointId::generate()).collect();
    let mut sizes = Vec::new();
    // Each turn is an outage: rows come, are claimed, fail twice, are delivered, and are swept.
    for _ in 0..10 {
        fill(&pool, &endpoints, FEW).await;
        for change in [
            "UPDATE delivery_schedule SET lease_id = gen_random_uuid(), due_at = now() + interval '30 s'",
            "UPDATE delivery_schedule SET lease_id = NULL, attempts = 1, due_at = now() + interval '2 min'",
            "UPDATE delivery_schedule SET lease_id = gen_random_uuid(), due_at = now() + interval '30 s'",
            "UPDATE delivery_schedule SET state = 'delivered', finished_at = now(), lease_id = NULL, attempts = 2",
            "DELETE FROM delivery_schedule WHERE finished_at IS NOT NULL",
        ] {
            sqlx::query(change).execute(&pool).await.unwrap();
            // As autovacuum does, which is set to run after a fiftieth of the rows has changed.
            sqlx::query("VACUUM delivery_schedule").execute(&pool).await.unwrap();
        }
        let size: i64 =
            sqlx::query_scalar("SELECT pg_total_relation_size('delivery_schedule')").fetch_one(&pool).await.unwrap();
        sizes.push(size / 1024);
    }
    eprintln!("KiB after each turn: {sizes:?}");
    let most = sizes.iter().max().unwrap();
    assert!(*most <= sizes[1] * 2, "the table grows: {sizes:?} KiB");
}
