//! The stack that tests share.

use devstack::testing;
use rdkafka::Message as _;
use sqlx::{Connection as _, PgConnection};

use crate::traffic;

#[tokio::test]
async fn a_record_makes_the_round_trip() {
    let shared = testing::shared().await;
    let topic = format!("{}events", shared.topic_prefix());
    traffic::create_topic(shared.brokers(), &topic).await;
    traffic::produce(shared.brokers(), &topic, "hello").await;
    assert_eq!(traffic::consume(shared.brokers(), &topic).await, "hello");
}

#[tokio::test]
async fn a_topic_is_read_to_its_end() {
    let shared = testing::shared().await;
    let topic = format!("{}events", shared.topic_prefix());
    traffic::create_topic(shared.brokers(), &topic).await;
    assert!(testing::read_topic(shared.brokers(), &topic).await.is_empty());
    for payload in ["one", "two"] {
        traffic::produce(shared.brokers(), &topic, payload).await;
    }
    let records = testing::read_topic(shared.brokers(), &topic).await;
    let payloads: Vec<_> = records.iter().map(|record| record.payload().unwrap()).collect();
    assert_eq!(payloads, [b"one", b"two"]);
}

#[tokio::test]
#[should_panic(expected = "cannot read")]
async fn reading_a_missing_topic_fails() {
    let shared = testing::shared().await;
    testing::read_topic(shared.brokers(), &format!("{}events", shared.topic_prefix())).await;
}

#[tokio::test]
async fn each_test_has_its_own_database_which_is_dropped_with_it() {
    let shared = testing::shared().await;
    let (one, two) = (shared.database().await, shared.database().await);
    traffic::insert_row(&one.url, "one").await;
    traffic::insert_row(&two.url, "two").await;
    assert_eq!(traffic::read_rows(&one.url).await, ["one"]);
    assert_eq!(traffic::read_rows(&two.url).await, ["two"]);

    // An open connection does not prevent the drop.
    let _open = PgConnection::connect(&one.url).await.unwrap();
    let url = one.url.clone();
    drop(one);
    let error = PgConnection::connect(&url).await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let database = testing::shared().await.database().await;
    let wrong = database.url.replacen("triggers:", "triggers:x", 1);
    let error = PgConnection::connect(&wrong).await.unwrap_err();
    assert!(error.to_string().contains("password authentication failed"), "{error}");
}

#[tokio::test]
async fn prefixes_differ() {
    let shared = testing::shared().await;
    assert_ne!(shared.topic_prefix(), shared.topic_prefix());
}
