//! Events of the system itself: only a signed record may have a reserved type.

use schemas::codec::encode_event;
use schemas::headers::SYSTEM_SIGNATURE;
use schemas::native::SystemKey;
use schemas::records::Event;

use super::harness::{Bench, event};

const AVRO: (&str, &[u8]) = ("content-type", b"application/avro");

#[tokio::test(flavor = "multi_thread")]
async fn only_a_signed_record_has_a_reserved_type() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let key: Vec<u8> = sqlx::query_scalar("SELECT key FROM system_event_key").fetch_one(&bench.pool).await.unwrap();
    let key = SystemKey::from_bytes(key.try_into().unwrap());
    let disabled = || Event { event_type: "triggers.endpoint.disabled".to_owned(), ..event(org) };
    let append = async |event: &Event, signature: Option<String>| {
        let value = encode_event(event).unwrap();
        let signature = signature.map(|text| text.into_bytes());
        let mut headers = vec![AVRO];
        headers.extend(signature.as_deref().map(|text| (SYSTEM_SIGNATURE, text)));
        bench.append(&bench.topics().events, Some(org.to_string().as_bytes()), Some(&value), &headers).await;
    };
    let (real, forged, bare) = (disabled(), disabled(), disabled());
    let signature = key.sign(&encode_event(&real).unwrap());
    append(&real, Some(signature.clone())).await;
    append(&forged, Some(signature.clone())).await;
    append(&bare, None).await;
    // As after a crash between the record and the deletion of its row.
    append(&real, Some(signature)).await;

    let projecting = bench.project();
    bench.all_applied().await;
    let shown: Vec<_> = bench.in_log_order().await.into_iter().map(|(.., id)| id).collect();
    assert_eq!(shown, [real.event_id], "the signed one, once");
    let dead_letters = bench.dead_letters().await;
    assert_eq!(dead_letters.len(), 2);
    assert!(dead_letters.iter().all(|dead| dead.header("triggers-dlq-error-message").contains("reserved")));
    projecting.stop().await;
}
