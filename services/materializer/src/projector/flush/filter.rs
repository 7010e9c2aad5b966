//! Which records of a batch are written: not those of unknown or erased organizations, not those that were refused when
//! they were read first, and not those below the retention floor.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::OrgId;
use schemas::native::Unreadable;
use schemas::position::Place as LogPosition;

use super::{Flusher, log_epoch_of};
use crate::metrics::METRICS;
use crate::projector::Error;
use crate::projector::batch::{Hold, Place};
use crate::projector::decode::{Content, Item};
use crate::projector::organizations::Standing;
use crate::rejected::rows as rejected;

/// How long an ack may be on the log before its event: far more than the clocks of two leaders differ.
const ACK_BEFORE_EVENT_MS: i64 = 86_400_000;

impl Flusher {
    /// Turns events of organizations that do not exist into dead letters, and skips all records of erased ones.
    pub(super) async fn filter_organizations(&self, items: &mut [Item]) -> Result<(), Error> {
        let wanted: BTreeSet<OrgId> = items.iter().filter_map(org_of).collect();
        let standings = self.until_answered(|| self.organizations.standings(&self.pool, wanted.clone())).await?;
        for item in items {
            let Some(org) = org_of(item) else { continue };
            match standings.get(&org) {
                Some(Standing::Active) => {}
                Some(Standing::Erased) => {
                    METRICS.skipped.inc();
                    item.content = Content::Skipped;
                }
                // An ack or attempt of an unknown organization has no event and stays pending until it is swept; a dead
                // letter would be of use to nobody.
                Some(Standing::Unknown) | None if !matches!(item.content, Content::Event(_)) => {}
                Some(Standing::Unknown) | None => {
                    let message = format!("there is no organization {org}");
                    item.content = Content::Dead(Unreadable { class: "unknown_organization", message });
                }
            }
        }
        Ok(())
    }

    /// Skips events that were refused when they were read first, whatever they look like now: they come back by being
    /// redriven.
    pub(super) async fn skip_refused(&self, items: &mut [Item], holds: &BTreeMap<Place, Hold>) -> Result<(), Error> {
        let mut events: Vec<(LogPosition, &mut Item)> = items
            .iter_mut()
            .filter(|item| matches!(item.content, Content::Event(_)))
            .map(|item| (position_of(item, holds), item))
            .collect();
        let positions: Vec<LogPosition> = events.iter().map(|(position, _)| *position).collect();
        let refused = self.until_answered(|| rejected::refused(&self.pool, &self.topics.events, &positions)).await?;
        for (_, item) in events.iter_mut().filter(|(position, _)| refused.contains(position)) {
            item.content = Content::Skipped;
        }
        Ok(())
    }

    /// Makes time partitions for the records that need one, and skips those below the retention floor.
    pub(super) async fn make_room(&self, part: &mut [Item]) -> Result<(), Error> {
        let times: Vec<i64> =
            part.iter().filter(|item| has_time_partition(&item.content)).map(|item| item.record.timestamp_ms).collect();
        let floor_ms = self.until_answered(|| self.time_partitions.make_room(times.iter().copied())).await?;
        // An ack is kept with its event, which was on the log before it, or soon after: one as old as this would wait
        // for an event that is skipped.
        let least_ms = |content: &Content| match content {
            Content::Acks(_) => floor_ms.saturating_sub(ACK_BEFORE_EVENT_MS),
            content if has_time_partition(content) => floor_ms,
            _ => i64::MIN,
        };
        for item in part.iter_mut().filter(|item| item.record.timestamp_ms < least_ms(&item.content)) {
            METRICS.too_old.inc();
            item.content = match &item.content {
                Content::Event(event) => Content::Expired(event.org_id),
                _ => Content::Skipped,
            };
        }
        Ok(())
    }
}

/// Events and attempts are rows of the time partition of their append time; an ack changes a row that is there.
const fn has_time_partition(content: &Content) -> bool {
    matches!(content, Content::Event(_) | Content::Attempt(_))
}

fn position_of(item: &Item, holds: &BTreeMap<Place, Hold>) -> LogPosition {
    let log_epoch = log_epoch_of(item, holds);
    LogPosition { log_epoch, partition: item.record.partition, offset: item.record.offset }
}

fn org_of(item: &Item) -> Option<OrgId> {
    match &item.content {
        Content::Event(event) => Some(event.org_id),
        // All of one record have the organization that is its key.
        Content::Acks(acks) => acks.first().map(|ack| ack.org_id),
        Content::Attempt(attempt) => Some(attempt.org_id),
        Content::Expired(org) => Some(*org),
        // Unreadable records of an erased organization are skipped too.
        Content::Dead(_) => std::str::from_utf8(item.record.key.as_deref()?).ok()?.parse().ok(),
        Content::Skipped => None,
    }
}
