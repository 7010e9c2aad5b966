//! Which records of a batch are written. Skips records of erased organizations, events that were rejected at their
//! first reading, and records below the retention floor. Events of unknown organizations become dead letters. Pure: the
//! caller reads PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::OrgId;
use schemas::native::{Unreadable, organization_named_by};
use schemas::position::LogPosition;

use super::positions::{OwnedPartitions, log_epoch_of};
use crate::metrics::METRICS;
use crate::projector::decode::{Content, DecodedRecord};
use crate::projector::organizations::OrganizationStatus;

/// How long before its event an ack may be on the log: far more than the clocks of two leaders differ.
const ACK_BEFORE_EVENT_MS: i64 = 86_400_000;

/// The organizations whose status is needed.
pub(super) fn organizations_of(items: &[DecodedRecord]) -> BTreeSet<OrgId> {
    items.iter().filter_map(organization_of).collect()
}

/// Turns events of unknown organizations into dead letters, and skips all records of erased organizations.
pub(super) fn apply_statuses(items: &mut [DecodedRecord], statuses: &BTreeMap<OrgId, OrganizationStatus>) {
    for item in items {
        let Some(org) = organization_of(item) else { continue };
        match statuses.get(&org) {
            Some(OrganizationStatus::Active) => {}
            Some(OrganizationStatus::Erased) => {
                METRICS.skipped.inc();
                item.content = Content::Skipped;
            }
            // An ack or attempt of an unknown organization has no event. It stays pending until it is swept; a dead
            // letter would be of no use.
            Some(OrganizationStatus::Unknown) | None if !matches!(item.content, Content::Event(_)) => {}
            Some(OrganizationStatus::Unknown) | None => {
                let message = format!("there is no organization {org}");
                item.content = Content::Dead(Unreadable { class: "unknown_organization", message });
            }
        }
    }
}

/// The events among `items`, with their log positions.
pub(super) fn events_by_position<'a>(
    items: &'a mut [DecodedRecord],
    owned: &OwnedPartitions,
) -> Vec<(LogPosition, &'a mut DecodedRecord)> {
    let events = items.iter_mut().filter(|item| matches!(item.content, Content::Event(_)));
    events
        .map(|item| {
            let (partition, offset) = (item.record.partition, item.record.offset);
            (LogPosition { log_epoch: log_epoch_of(item, owned), partition, offset }, item)
        })
        .collect()
}

/// Append times of the records that need a time partition, milliseconds since the Unix epoch.
pub(super) fn partitioned_times(items: &[DecodedRecord]) -> Vec<i64> {
    let partitioned = items.iter().filter(|item| has_time_partition(&item.content));
    partitioned.map(|item| item.record.timestamp_ms).collect()
}

/// Skips records below the retention floor.
pub(super) fn skip_expired(items: &mut [DecodedRecord], floor_ms: i64) {
    // An ack is kept with its event, which was on the log before it or soon after. An ack that is this much older than
    // the floor would wait for an event that is skipped.
    let least_ms = |content: &Content| match content {
        Content::Acks(_) => floor_ms.saturating_sub(ACK_BEFORE_EVENT_MS),
        content if has_time_partition(content) => floor_ms,
        _ => i64::MIN,
    };
    for item in items.iter_mut().filter(|item| item.record.timestamp_ms < least_ms(&item.content)) {
        METRICS.too_old.inc();
        item.content = match &item.content {
            Content::Event(event) => Content::Expired(event.org_id),
            _ => Content::Skipped,
        };
    }
}

/// Events and attempts are rows of the time partition of their append time; an ack updates the row of its event.
const fn has_time_partition(content: &Content) -> bool {
    matches!(content, Content::Event(_) | Content::Attempt(_))
}

fn organization_of(item: &DecodedRecord) -> Option<OrgId> {
    match &item.content {
        Content::Event(event) => Some(event.org_id),
        // All acks of one record have the organization that is its key.
        Content::Acks(acks) => acks.first().map(|ack| ack.org_id),
        Content::Attempt(attempt) => Some(attempt.org_id),
        Content::Expired(org) => Some(*org),
        // Unreadable records of an erased organization are skipped too.
        Content::Dead(_) => organization_named_by(item.record.key.as_deref()),
        Content::Skipped => None,
    }
}
