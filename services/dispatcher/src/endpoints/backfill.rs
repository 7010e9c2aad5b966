//! `backfill_from` of a new endpoint: a replay of earlier events that starts in the transaction which creates it.

use http_server::{FieldError, JsonObject, Problem, Timestamp};
use runtime::seal::SealingKey;
use schemas::ids::{OrgId, ReplayId};
use sqlx::postgres::PgConnection;
use tenancy::Caller;
use tenancy::audit::Origin;

use super::problems::failed;
use super::store::StoredEndpoint;
use crate::deliveries::replay::{note_start, too_many};
use crate::replays::{self, Only, Selection, Start};

const MEMBER: &str = "backfill_from";

/// Takes the member out of the body of a new endpoint. `null` is the same as absent.
///
/// # Errors
/// It is neither a time nor a position of the organization.
pub(super) fn take(body: &mut JsonObject, key: &SealingKey, organization: OrgId) -> Result<Option<Start>, FieldError> {
    let Some(value) = body.0.remove(MEMBER).filter(|value| !value.is_null()) else { return Ok(None) };
    let invalid = || {
        let reason = "must be a time of RFC 3339, such as 2026-11-21T09:00:00Z, or the position of an event";
        FieldError::new(MEMBER, reason)
    };
    let text = value.as_str().ok_or_else(invalid)?;
    let at = text.parse().map(|Timestamp(at)| Start::at(at)).ok();
    at.or_else(|| Start::of_token(key, organization, text)).map(Some).ok_or_else(invalid)
}

/// Starts the backfill of an endpoint that the transaction has just created: a replay of the events that it has not
/// got. Its entry in the audit log is the last statement of the transaction.
///
/// The replay is seen when the endpoint is. An event that is accepted after that is matched when it is read from the
/// log; the replay takes those before.
pub(super) async fn start(
    connection: &mut PgConnection,
    caller: &Caller,
    origin: &Origin,
    endpoint: &StoredEndpoint,
    from: Start,
) -> Result<ReplayId, Problem> {
    let selection = Selection {
        org_id: endpoint.org_id,
        endpoint: endpoint.id,
        only: Only::Missing,
        from: Some(from),
        before: None,
        event_types: None,
    };
    let id = replays::create(connection, &selection).await.map_err(failed)?.ok_or_else(too_many)?;
    note_start(connection, caller, origin, id, &selection).await.map_err(failed)?;
    Ok(id)
}

/// The other fields of the body and the backfill.
///
/// # Errors
/// Every invalid field.
pub(super) fn both<T>(
    fields: Result<T, Vec<FieldError>>,
    backfill: Result<Option<Start>, FieldError>,
) -> Result<(T, Option<Start>), Vec<FieldError>> {
    match (fields, backfill) {
        (Ok(fields), Ok(backfill)) => Ok((fields, backfill)),
        (fields, backfill) => Err(fields.err().into_iter().flatten().chain(backfill.err()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;

    fn taken(value: Value) -> Result<Option<Start>, FieldError> {
        let Value::Object(members) = json!({"url": "x", "backfill_from": value}) else { unreachable!() };
        let mut body = JsonObject(members);
        let taken = take(&mut body, &SealingKey::from_bytes([3; 32]), OrgId::generate());
        assert_eq!(Value::Object(body.0), json!({"url": "x"}), "the other members stay");
        taken
    }

    #[test]
    fn a_backfill_starts_at_a_time() {
        assert_eq!(taken(json!("2026-11-21T09:00:00Z")), Ok(Some(Start::at(datetime!(2026-11-21 9:00 UTC)))));
        assert_eq!(taken(json!(null)), Ok(None));
    }

    #[test]
    fn what_is_neither_time_nor_position_is_refused_with_the_rest() {
        for wrong in [json!(1), json!(""), json!("yesterday"), json!({})] {
            let refused = taken(wrong.clone());
            assert_eq!(refused.as_ref().unwrap_err().field, "backfill_from", "{wrong}");
            let errors = both::<()>(Err(vec![FieldError::new("url", "is required")]), refused).unwrap_err();
            assert_eq!(errors.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["url", "backfill_from"]);
        }
        assert_eq!(both(Ok(1), Ok(None)), Ok((1, None)));
    }
}
