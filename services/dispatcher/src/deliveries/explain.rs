//! `GET /events/{id}/explain`: why an event did or did not arrive at each endpoint of its organization. The judgement
//! is pure.

use axum::Json;
use axum::extract::State;
use http_server::{PathId, Problem, Timestamp};
use schemas::ids::{DeliveryId, EndpointId, EventId};
use serde::Serialize;
use tenancy::Manager;
use utoipa::ToSchema;

use super::bodies::DeliveryItem;
use super::condition::{self, EndpointCondition};
use super::request::DeliveryState;
use super::rows::ShownEvent;
use super::{DeliveriesState, rows};
use crate::endpoints::event_types::matches;
use crate::endpoints::filter::payload::Payload;
use crate::endpoints::filter::{self, Verdict as ConditionVerdict};
use crate::endpoints::store::{self, StoredEndpoint};

/// Why an event did or did not arrive.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventExplanation, example = json!({
    "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
    "duplicate_of": null,
    "event_type": "order.created",
    "accepted_at": "2026-11-21T09:00:00.123Z",
    "endpoints": [{
        "endpoint_id": "0192f0c1-2345-7abc-8def-0123456789ad",
        "existed": true,
        "enabled": true,
        "changed_since": false,
        "type_matches": true,
        "filter": [{"condition": "", "holds": true}],
        "delivery_id": "0192f0c1-2345-7abc-8def-0123456789ac",
        "status": "retrying",
        "attempts": 1,
        "next_attempt_at": "2026-11-21T09:00:30.500Z",
        "verdict": "retrying",
        "explanation": "the last attempt failed: the endpoint answered 503; the next one follows"
    }]
}))]
pub(super) struct ExplanationBody {
    /// The event that was asked for.
    event_id: EventId,
    /// The original, if the event is a duplicate. Only the original is delivered, and the endpoints are about that.
    duplicate_of: Option<EventId>,
    event_type: String,
    accepted_at: Timestamp,
    /// The endpoints that the organization has now.
    endpoints: Vec<EndpointExplanation>,
}

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct EndpointExplanation {
    endpoint_id: EndpointId,
    /// Whether it existed when the event was accepted.
    existed: bool,
    /// Whether it is enabled now.
    enabled: bool,
    /// It was changed after the event was accepted: it may have had other types, or have been disabled.
    changed_since: bool,
    /// Whether the types that it has now match the event's.
    type_matches: bool,
    /// Whether each condition of the filter that it has now holds. Null: it has no filter.
    filter: Option<Vec<ConditionVerdict>>,
    /// The delivery, if there is one.
    delivery_id: Option<DeliveryId>,
    #[schema(value_type = Option<DeliveryState>)]
    status: Option<String>,
    /// Attempts that were made.
    attempts: i32,
    /// Not before the endpoint gets something again, if its circuit is open or it asked for a pause.
    next_attempt_at: Option<Timestamp>,
    /// For programs.
    verdict: Verdict,
    /// For a person: why, and what happens next.
    explanation: String,
}

/// Why an event did or did not arrive at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The endpoint accepted it.
    Delivered,
    /// It waits for its first attempt.
    Pending,
    /// It waits for its next attempt.
    Retrying,
    /// The endpoint is disabled; the delivery continues when it is enabled.
    Held,
    /// The last attempt failed.
    Failed,
    /// The event was acknowledged, or the endpoint deleted, before an attempt succeeded.
    Cancelled,
    /// The endpoint was created after the event was accepted.
    Newer,
    /// The endpoint wants other types.
    OtherType,
    /// The filter of the endpoint does not hold.
    Filtered,
    /// The endpoint is disabled, and did not get the event.
    Disabled,
    /// It matches and has no delivery: the event is not read yet, or the endpoint was changed since.
    None,
}

/// Explain where an event went
///
/// For each endpoint of the organization: whether it gets the event, what has happened, and what happens next.
#[utoipa::path(
    get, path = "/events/{id}/explain", operation_id = "explain_event", tag = "Webhooks",
    params(("id" = EventId, Path, description = "Id of the event.")),
    responses((status = 200, description = "The explanation.", body = ExplanationBody)),
    security(("key" = ["manage"])),
)]
pub(super) async fn explain(
    Manager(caller): Manager,
    State(state): State<DeliveriesState>,
    PathId(id): PathId<EventId>,
) -> Result<Json<ExplanationBody>, Problem> {
    let org_id = caller.org_id;
    let found = caller
        .shares()
        .read::<_, sqlx::Error>(async {
            let original = rows::original_of(&state.pool, org_id, id).await?;
            let Some(event) = rows::event(&state.pool, org_id, original).await? else { return Ok(None) };
            let endpoints = store::list(&state.pool, org_id).await?;
            let conditions = condition::read_all(&state.pool, &endpoints).await?;
            Ok(Some((original, event, endpoints, conditions, rows::of_event(&state.pool, org_id, original).await?)))
        })
        .await?;
    let found = found.filter(|(_, event, ..)| caller.allows_event_type(&event.event_type));
    let (original, event, endpoints, conditions, deliveries) = found.ok_or_else(Problem::not_found)?;
    let explained = endpoints.iter().zip(&conditions).map(|(endpoint, condition)| {
        let delivery = deliveries.iter().find(|delivery| delivery.endpoint_id == endpoint.id);
        explain_endpoint(endpoint, &event, delivery, condition)
    });
    Ok(Json(ExplanationBody {
        event_id: id,
        duplicate_of: (original != id).then_some(original),
        endpoints: explained.collect(),
        event_type: event.event_type.clone(),
        accepted_at: Timestamp(event.accepted_at),
    }))
}

fn explain_endpoint(
    endpoint: &StoredEndpoint,
    event: &ShownEvent,
    delivery: Option<&DeliveryItem>,
    condition: &EndpointCondition,
) -> EndpointExplanation {
    let (event_type, accepted_at) = (event.event_type.as_str(), event.accepted_at);
    let existed = endpoint.created_at <= accepted_at;
    let changed_since = existed && endpoint.updated_at > accepted_at;
    let type_matches = matches(&endpoint.event_types, event_type);
    let payload = Payload::new(&event.payload, event.is_encoded);
    // A filter of the database is valid.
    let filter = endpoint.filter.as_ref().and_then(|filter| filter::read(filter, "filter").ok());
    let filter_holds = filter.as_ref().is_none_or(|filter| filter.holds(&payload));
    let (verdict, explanation) = match delivery {
        Some(delivery) => of_delivery(delivery, endpoint.enabled, condition),
        None if !existed => (Verdict::Newer, "the endpoint was created after the event was accepted".to_owned()),
        None if !type_matches => (
            Verdict::OtherType,
            format!("the endpoint wants {}, which does not match {event_type}", endpoint.event_types.join(", ")),
        ),
        None if !filter_holds => {
            (Verdict::Filtered, "the filter of the endpoint does not hold for the payload".to_owned())
        }
        None if !endpoint.enabled => {
            (Verdict::Disabled, "the endpoint is disabled: it gets no events that are accepted meanwhile".to_owned())
        }
        None if changed_since => (
            Verdict::None,
            "there is no delivery: the endpoint was changed after the event was accepted, and did not want it before"
                .to_owned(),
        ),
        None => (
            Verdict::None,
            "there is no delivery yet: the first attempt is in flight, or the event is not read yet".to_owned(),
        ),
    };
    let due_at = delivery.and_then(|delivery| delivery.next_attempt_at).map(|Timestamp(at)| at);
    let next_attempt_at = due_at.map(|due_at| condition.retry_at.map_or(due_at, |retry_at| retry_at.max(due_at)));
    EndpointExplanation {
        endpoint_id: endpoint.id,
        existed,
        enabled: endpoint.enabled,
        changed_since,
        type_matches,
        filter: filter.map(|filter| filter.verdicts(&payload)),
        delivery_id: delivery.map(|delivery| delivery.delivery_id),
        status: delivery.map(|delivery| delivery.status.clone()),
        attempts: delivery.map_or(0, |delivery| delivery.attempts),
        next_attempt_at: next_attempt_at.filter(|_| endpoint.enabled).map(Timestamp),
        verdict,
        explanation,
    }
}

fn of_delivery(delivery: &DeliveryItem, enabled: bool, condition: &EndpointCondition) -> (Verdict, String) {
    let because = match (condition.circuit.as_str(), condition.retry_at) {
        ("open", _) => {
            "; the circuit of the endpoint is open, since too many attempts failed; one tries it at next_attempt_at"
        }
        (_, Some(_)) => "; the endpoint asked for a pause with Retry-After",
        (_, None) => "",
    };
    let error = delivery.last_error.as_deref().unwrap_or("no reason was reported");
    match delivery.status.as_str() {
        "delivered" => (Verdict::Delivered, format!("the endpoint accepted attempt {}", delivery.attempts)),
        "failed" => (Verdict::Failed, format!("attempt {} failed and was the last one: {error}", delivery.attempts)),
        "cancelled" => (Verdict::Cancelled, format!("it was cancelled before an attempt succeeded: {error}")),
        _ if !enabled => {
            (Verdict::Held, "the endpoint is disabled; the delivery continues when it is enabled".to_owned())
        }
        "retrying" => (Verdict::Retrying, format!("the last attempt failed: {error}; the next one follows{because}")),
        _ => (Verdict::Pending, format!("the delivery waits for its first attempt{because}")),
    }
}

#[cfg(test)]
mod tests {
    use schemas::ids::OrgId;
    use time::OffsetDateTime;
    use time::macros::datetime;

    use super::*;
    use crate::endpoints::credentials::StoredCredentials;

    const ACCEPTED: OffsetDateTime = datetime!(2026-11-21 9:00 UTC);

    fn endpoint(event_types: &[&str]) -> StoredEndpoint {
        StoredEndpoint {
            id: EndpointId::generate(),
            org_id: OrgId::generate(),
            url: "https://shop.example/hook".to_owned(),
            event_types: event_types.iter().map(|name| (*name).to_owned()).collect(),
            filter: None,
            description: None,
            sealed_headers: None,
            ordered: false,
            ack_on_success: false,
            sealed_secret: None,
            sealed_previous_secret: None,
            previous_expires_at: None,
            credentials: StoredCredentials::default(),
            max_in_flight: None,
            rate_limit_per_second: None,
            timeout_seconds: 10,
            retry_schedule: Vec::new(),
            enabled: true,
            disabled_reason: None,
            disabled_at: None,
            is_default: false,
            batch: None,
            version: 1,
            created_at: datetime!(2026-11-20 9:00 UTC),
            updated_at: datetime!(2026-11-20 9:00 UTC),
            deleted_at: None,
        }
    }

    fn event() -> ShownEvent {
        ShownEvent {
            event_type: "order.created".to_owned(),
            accepted_at: ACCEPTED,
            payload: r#"{"total": 5}"#.to_owned(),
            is_encoded: false,
        }
    }

    fn verdict(endpoint: &StoredEndpoint, delivery: Option<&DeliveryItem>) -> Verdict {
        explain_endpoint(endpoint, &event(), delivery, &condition("closed", None)).verdict
    }

    fn condition(circuit: &str, retry_at: Option<OffsetDateTime>) -> EndpointCondition {
        EndpointCondition { circuit: circuit.to_owned(), retry_at, rate: None, max_in_flight: 16 }
    }

    fn delivery(status: &str) -> DeliveryItem {
        DeliveryItem {
            delivery_id: DeliveryId::generate(),
            event_id: EventId::generate(),
            endpoint_id: EndpointId::generate(),
            event_type: "order.created".to_owned(),
            status: status.to_owned(),
            attempts: 1,
            next_attempt_at: Some(Timestamp(ACCEPTED)),
            last_status_code: None,
            last_error: None,
            created_at: Timestamp(ACCEPTED),
            attempts_log: None,
        }
    }

    #[test]
    fn without_a_delivery_the_reason_is_named() {
        let now = datetime!(2026-11-22 9:00 UTC);
        assert_eq!(verdict(&endpoint(&["order.*"]), None), Verdict::None);
        let filtered = |total| StoredEndpoint {
            filter: Some(serde_json::json!({"path": "total", "equals": total})),
            ..endpoint(&["order.*"])
        };
        assert_eq!(verdict(&filtered(5), None), Verdict::None);
        let explained = explain_endpoint(&filtered(6), &event(), None, &condition("closed", None));
        assert_eq!(explained.verdict, Verdict::Filtered);
        assert!(explained.filter.is_some_and(|conditions| conditions.len() == 1 && !conditions[0].holds));
        assert_eq!(verdict(&endpoint(&["refund.*"]), None), Verdict::OtherType);
        let newer = StoredEndpoint { created_at: now, updated_at: now, ..endpoint(&[]) };
        assert_eq!(verdict(&newer, None), Verdict::Newer);
        assert_eq!(verdict(&StoredEndpoint { enabled: false, ..endpoint(&[]) }, None), Verdict::Disabled);
        let changed = explain_endpoint(
            &StoredEndpoint { updated_at: now, ..endpoint(&[]) },
            &event(),
            None,
            &condition("closed", None),
        );
        assert!(changed.changed_since && changed.verdict == Verdict::None);
    }

    #[test]
    fn a_delivery_says_more_than_the_endpoint_as_it_is_now() {
        let now = datetime!(2026-11-22 9:00 UTC);
        let other = StoredEndpoint { updated_at: now, ..endpoint(&["refund.*"]) };
        for (status, expected) in [
            ("delivered", Verdict::Delivered),
            ("retrying", Verdict::Retrying),
            ("pending", Verdict::Pending),
            ("failed", Verdict::Failed),
            ("cancelled", Verdict::Cancelled),
        ] {
            assert_eq!(verdict(&other, Some(&delivery(status))), expected, "{status}");
        }
        let disabled = StoredEndpoint { enabled: false, ..endpoint(&[]) };
        let held = explain_endpoint(&disabled, &event(), Some(&delivery("retrying")), &condition("closed", None));
        assert_eq!((held.verdict, held.next_attempt_at), (Verdict::Held, None));
        assert_eq!(verdict(&disabled, Some(&delivery("delivered"))), Verdict::Delivered);
    }

    #[test]
    fn an_endpoint_that_gets_nothing_now_is_named_as_the_reason() {
        let until = ACCEPTED + time::Duration::minutes(5);
        for (circuit, reason) in [("open", "the circuit of the endpoint is open"), ("closed", "asked for a pause")] {
            let condition = condition(circuit, Some(until));
            for status in ["retrying", "pending"] {
                let explained = explain_endpoint(&endpoint(&[]), &event(), Some(&delivery(status)), &condition);
                assert!(explained.explanation.contains(reason), "{}", explained.explanation);
                assert_eq!(explained.next_attempt_at, Some(Timestamp(until)), "not before");
            }
        }
    }
}
