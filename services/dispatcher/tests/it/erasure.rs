//! Erasure of an organization: nothing is sent after the tombstone, and its endpoints and rows are deleted.

use std::time::Duration;

use serde_json::json;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::System;

async fn set_tombstone(system: &System) {
    sqlx::query("UPDATE organizations SET status = 'erasing' WHERE id = $1")
        .bind(system.org.as_uuid())
        .execute(&system.pool)
        .await
        .unwrap();
}

async fn emptied_endpoints(system: &System) -> i64 {
    let sql = "SELECT count(*) FROM endpoints
               WHERE url = '' AND sealed_secret IS NULL AND sealed_headers IS NULL AND deleted_at IS NOT NULL
                     AND num_nulls(auth, sealed_auth, compat_signature, sealed_compat_signature) = 4";
    sqlx::query_scalar(sql).fetch_one(&system.pool).await.unwrap()
}

#[tokio::test]
async fn nothing_is_sent_after_the_tombstone() {
    let system = System::start().await;
    let (fine, failing) =
        (Receiver::start(ReceiverBehavior::Status(200)).await, Receiver::start(ReceiverBehavior::Status(500)).await);
    let credentials = json!({"auth": {"type": "bearer", "token": "t"},
                             "compat_signature": {"format": "sha256-hex", "header": "x-sig"}});
    system.endpoint(&fine, credentials).await;
    system.endpoint(&failing, json!({"retry_schedule": [1, 3600]})).await;
    let plain = system.publish(&system.event("plain")).await;
    let keyed = system.keyed_event("k");
    let keyed_at = system.publish(&keyed).await;
    failing.wait_for(1).await;
    system.wait_until_passed(&plain).await;
    system.wait_until_passed(&keyed_at).await;
    // The endpoints are locked, so only the tombstone stops the dispatcher.
    let mut locking = PgConnection::connect(&system.database_url()).await.unwrap();
    let mut lock = locking.begin().await.unwrap();
    sqlx::query("SELECT FROM endpoints FOR UPDATE").execute(&mut *lock).await.unwrap();
    set_tombstone(&system).await;
    let before = (fine.received().len(), failing.received().len());
    assert_eq!(before.0, 1);
    // First attempts from the log, a retry, and a row that gets its duplicate decision now.
    for _ in 0..5 {
        system.publish(&system.event("late")).await;
    }
    system.show(&keyed, &keyed_at, false).await;
    system.pass_view(&keyed_at).await;
    system.make_all_due().await;
    let last = system.publish(&system.event("late")).await;
    system.wait_until_passed(&last).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((fine.received().len(), failing.received().len()), before, "nothing is sent after the tombstone");
    assert_eq!(emptied_endpoints(&system).await, 0, "the endpoints are not deleted yet");
    lock.rollback().await.unwrap();
    system.wait_for_schedule("all rows are deleted", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn an_erased_organizations_endpoints_and_rows_are_deleted() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    system.endpoint(&receiver, json!({"retry_schedule": [3600], "event_types": ["fails"]})).await;
    let deleted = system.endpoint(&receiver, json!({"event_types": ["keyed"]})).await;
    system.publish(&system.event("fails")).await;
    let keyed = system.publish(&system.keyed_event("k")).await;
    system.wait_until_passed(&keyed).await;
    system.wait_for_schedule("one row waits for its retry, one for its decision", |rows| rows.len() == 2).await;
    let path = format!("/endpoints/{}", deleted["id"].as_str().unwrap());
    system.call(reqwest::Method::DELETE, &path, crate::system::KEY, None).await;
    set_tombstone(&system).await;
    system.wait_for_schedule("all rows are deleted", |rows| rows.is_empty()).await;
    assert_eq!(emptied_endpoints(&system).await, 2, "a deleted endpoint is emptied too");
    devstack::testing::eventually(crate::system::PATIENCE, "the dispatcher has erased the organization", || async {
        let done = "SELECT EXISTS (SELECT FROM erasures WHERE consumer = 'dispatcher' AND done_at IS NOT NULL)";
        sqlx::query_scalar::<_, bool>(done).fetch_one(&system.pool).await.unwrap().then_some(())
    })
    .await;
    assert_eq!(receiver.received().len(), 1);
}
