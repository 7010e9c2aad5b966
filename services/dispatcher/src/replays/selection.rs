//! What a replay selects. Pure.

use runtime::seal::SealingKey;
use schemas::ids::{EndpointId, EventId, OrgId};
use schemas::position::{LogPosition, RecordPosition, TOKEN_PURPOSE};
use schemas::unix_time::to_millis;
use time::{Duration, OffsetDateTime};

use crate::endpoints::event_types::matches;
use crate::endpoints::filter::Filter;

/// By how much append times of one partition may decrease: the clocks of brokers differ, and leaders change.
const CLOCKS_DIFFER: Duration = Duration::minutes(1);

/// Which events or deliveries a replay takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Only {
    /// Deliveries that failed.
    Failed,
    /// Events without a delivery to the endpoint.
    Missing,
    /// All events.
    All,
}

impl Only {
    /// The name in the database and in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::All => "all",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Failed, Self::Missing, Self::All].into_iter().find(|one| one.as_str() == text)
    }

    /// Whether it takes events, and not deliveries.
    pub(crate) fn is_of_events(self) -> bool {
        self != Self::Failed
    }
}

/// Where a replay of events starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// Acceptance time.
    pub at: OffsetDateTime,
    /// Partition and offset of the record that was accepted then. `None`: the time alone counts.
    pub record: Option<(i32, i64)>,
}

impl Start {
    pub(crate) fn at(at: OffsetDateTime) -> Self {
        Self { at, record: None }
    }

    /// Opens a position token that this organization was given; `None` if it is none.
    pub(crate) fn of_token(key: &SealingKey, organization: OrgId, token: &str) -> Option<Self> {
        let plain = key.open_stable_token(TOKEN_PURPOSE, organization.as_uuid().as_bytes(), token)?;
        let position = RecordPosition::from_bytes(&plain)?;
        let nanoseconds = i128::from(position.appended_at_ms) * 1_000_000;
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?;
        Some(Self { at, record: Some((position.partition, position.offset)) })
    }

    /// No event is taken that was accepted before this time.
    pub(super) fn earliest(&self) -> OffsetDateTime {
        if self.record.is_some() { self.at.saturating_sub(CLOCKS_DIFFER) } else { self.at }
    }

    /// Whether an event is the one that it starts from, or a later one. Within a partition, offsets decide between
    /// records whose times are close; the times tell records of different logs apart, and partitions.
    pub(super) fn takes(&self, accepted_at: OffsetDateTime, position: LogPosition) -> bool {
        let later_by = accepted_at - self.at;
        match self.record {
            Some((partition, offset)) if partition == position.partition && later_by.abs() <= CLOCKS_DIFFER => {
                position.offset >= offset
            }
            // Tokens have milliseconds.
            Some(_) => to_millis(accepted_at) >= to_millis(self.at),
            None => !later_by.is_negative(),
        }
    }
}

/// Which events or deliveries of an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub org_id: OrgId,
    pub endpoint: EndpointId,
    pub only: Only,
    /// `None`: from the oldest on.
    pub from: Option<Start>,
    /// Events that were accepted, or deliveries that were created, before this time. `None`: until the replay started.
    pub before: Option<OffsetDateTime>,
    /// `None`: all.
    pub event_types: Option<Vec<String>>,
}

/// What the endpoint of a replay subscribes to.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub event_types: Vec<String>,
    pub filter: Option<Filter>,
}

/// An event of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShownEvent {
    pub id: EventId,
    pub event_type: String,
    pub accepted_at: OffsetDateTime,
    /// As the view counts log epochs.
    pub position: LogPosition,
}

/// What is known of the delivery of an event to the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownDelivery {
    /// There is none.
    Missing,
    /// An attempt is due or in flight, or its end is not shown yet.
    Open,
    /// The view shows its end.
    Finished,
}

impl Selection {
    /// Whether the type and the position of an event are wanted.
    pub(super) fn wants(&self, event: &ShownEvent, subscribed: &Subscribed) -> bool {
        matches(&subscribed.event_types, &event.event_type)
            && self.event_types.as_ref().is_none_or(|types| types.contains(&event.event_type))
            && self.from.is_none_or(|start| start.takes(event.accepted_at, event.position))
    }

    /// Whether an event with such a delivery is wanted.
    pub(super) fn wants_known(&self, known: KnownDelivery) -> bool {
        self.only == Only::All || known == KnownDelivery::Missing
    }
}

/// A page of events that a replay has looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub matched: Vec<(ShownEvent, KnownDelivery)>,
    /// Position and acceptance time of the last event that was looked at. `None`: there was none.
    pub last: Option<(LogPosition, OffsetDateTime)>,
    /// There is none after it.
    pub is_end: bool,
}

/// An event of a page that is wanted if its payload is.
pub(super) struct Candidate {
    pub event: ShownEvent,
    pub known: KnownDelivery,
    /// `None`: its payload was not looked at.
    pub holds: Option<bool>,
}

/// Makes a page of at most `max_matched` matches. It ends at the last match that has room, and before the first
/// candidate whose payload was not looked at; else at `last`, the last event that was read.
pub(super) fn page(
    candidates: Vec<Candidate>,
    last: Option<(LogPosition, OffsetDateTime)>,
    is_full: bool,
    max_matched: usize,
) -> Page {
    let mut matched = Vec::new();
    let mut seen = None;
    for Candidate { event, known, holds } in candidates {
        let Some(holds) = holds else { return Page { matched, last: seen, is_end: false } };
        seen = Some((event.position, event.accepted_at));
        if holds {
            matched.push((event, known));
            if matched.len() >= max_matched {
                return Page { matched, last: seen, is_end: false };
            }
        }
    }
    Page { matched, last, is_end: !is_full }
}

#[cfg(test)]
mod tests;
