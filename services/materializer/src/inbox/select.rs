//! The text of the statement that reads events of one partition for a page. Pure.
//!
//! An index has either open or acknowledged events, in log order, or by type and then in log order. The text holds only
//! the conditions of the request: PostgreSQL uses a partial index only if the text implies its predicate.

use sqlx::QueryBuilder;
use sqlx::postgres::Postgres;

use super::cursor::{EpochOffset, UnreadRange};
use super::item::event_columns;
use super::query::PartitionQuery;
use super::request::{DeliveryStatus, Filter};

/// Reads at most `limit` events and one more, which shows that there are more. One statement per log epoch: the planner
/// estimates a row comparison by its first column alone, expects no rows and picks any index.
pub(super) fn select(query: &PartitionQuery<'_>, log_epoch: i32, limit: usize) -> QueryBuilder<Postgres> {
    let order = match query.range {
        UnreadRange::After(_) => " ORDER BY log_offset LIMIT ",
        UnreadRange::Before(_) | UnreadRange::UpTo(_) => " ORDER BY log_offset DESC LIMIT ",
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let part = Part { query, log_epoch, order, limit };
    let mut statement = QueryBuilder::new("");
    match predicates(query.filter) {
        [predicate] => part.push(&mut statement, predicate),
        // PostgreSQL merges two indexes if each half has its own order and limit.
        halves => {
            for (number, predicate) in halves.iter().enumerate() {
                statement.push(if number == 0 { "(" } else { " UNION ALL (" });
                part.push(&mut statement, predicate);
                statement.push(")");
            }
            statement.push(order).push_bind(limit);
        }
    }
    statement
}

/// The predicates of the indexes that have the events.
const fn predicates(filter: &Filter) -> &'static [&'static str] {
    const OPEN: &str = " AND acknowledged_at IS NULL";
    const ACKNOWLEDGED: &str = " AND acknowledged_at IS NOT NULL";
    match filter.status {
        _ if !filter.include_acknowledged => &[OPEN],
        _ if has_status_index(filter) => &[""],
        _ => &[OPEN, ACKNOWLEDGED],
    }
}

/// Retrying and failed events are few, and have an index of their own, acknowledged or not.
const fn has_status_index(filter: &Filter) -> bool {
    matches!(filter.status, Some(DeliveryStatus::Retrying | DeliveryStatus::Failed))
}

/// What one index has of a page.
struct Part<'a> {
    query: &'a PartitionQuery<'a>,
    log_epoch: i32,
    order: &'static str,
    limit: i64,
}

impl Part<'_> {
    fn push(&self, statement: &mut QueryBuilder<Postgres>, predicate: &str) {
        let filter = self.query.filter;
        let mut types = filter.event_types.clone().unwrap_or_default();
        types.sort_unstable();
        types.dedup();
        if types.len() > 1 && !has_status_index(filter) {
            return self.push_types(statement, predicate, types);
        }
        statement.push(concat!("SELECT ", event_columns!(), " FROM view.events WHERE "));
        self.push_partition(statement);
        match types.as_slice() {
            [] => {}
            [event_type] => drop(statement.push(" AND event_type = ").push_bind(event_type.clone())),
            _ => drop(statement.push(" AND event_type = ANY(").push_bind(types).push(")")),
        }
        self.push_conditions(statement);
        self.push_end(statement, predicate);
    }

    /// The index has the events of one type in log order. The first offsets of each type are read from it, without the
    /// events; then the events at the first of these.
    fn push_types(&self, statement: &mut QueryBuilder<Postgres>, predicate: &str, types: Vec<String>) {
        statement.push("SELECT e.* FROM (SELECT of_type.log_offset FROM UNNEST(").push_bind(types);
        statement.push(
            "::text[]) AS asked (event_type) CROSS JOIN LATERAL (
                SELECT e.log_offset FROM view.events e WHERE e.event_type = asked.event_type AND ",
        );
        self.push_partition(statement);
        self.push_conditions(statement);
        self.push_end(statement, predicate);
        self.push_end(statement.push(") AS of_type"), "");
        statement.push(concat!(
            ") AS found CROSS JOIN LATERAL (SELECT ",
            event_columns!(),
            " FROM view.events WHERE log_offset = found.log_offset AND "
        ));
        self.push_partition(statement);
        self.push_end(statement.push(predicate).push(" LIMIT 1) AS e"), "");
    }

    fn push_partition(&self, statement: &mut QueryBuilder<Postgres>) {
        statement.push("org_id = ").push_bind(self.query.organization.as_uuid());
        statement.push(" AND log_partition = ").push_bind(self.query.bounds.partition);
        statement.push(" AND log_epoch = ").push_bind(self.log_epoch);
    }

    fn push_end(&self, statement: &mut QueryBuilder<Postgres>, predicate: &str) {
        statement.push(predicate).push(self.order).push_bind(self.limit);
    }

    /// The range of offsets, and the filter without its types.
    fn push_conditions(&self, statement: &mut QueryBuilder<Postgres>) {
        let (query, log_epoch) = (self.query, self.log_epoch);
        let mut bound = |comparison: &'static str, epoch_offset: EpochOffset| {
            if epoch_offset.log_epoch == log_epoch {
                statement.push(" AND log_offset ").push(comparison).push(" ").push_bind(epoch_offset.offset);
            } else if (comparison.starts_with('>') && epoch_offset.log_epoch > log_epoch)
                || (comparison.starts_with('<') && epoch_offset.log_epoch < log_epoch)
            {
                statement.push(" AND false");
            }
        };
        match query.range {
            UnreadRange::After(None) => {}
            UnreadRange::After(Some(epoch_offset)) => bound(">", epoch_offset),
            UnreadRange::Before(epoch_offset) => bound("<", epoch_offset),
            UnreadRange::UpTo(epoch_offset) => bound("<=", epoch_offset),
        }
        if let Some(floor) = query.window.floor {
            bound(">=", floor);
        }
        if let Some(ceiling) = query.window.ceiling {
            bound("<", ceiling);
        }
        if let Some(since) = query.filter.since {
            statement.push(" AND accepted_at >= ").push_bind(since);
        }
        if let Some(until) = query.filter.until {
            statement.push(" AND accepted_at < ").push_bind(until);
        }
        match query.filter.status {
            None => {}
            // As text, not as parameters: the index on retrying and failed events is partial.
            Some(DeliveryStatus::Pending) => drop(statement.push(" AND delivery_status = 'pending'")),
            Some(DeliveryStatus::Retrying) => drop(statement.push(" AND delivery_status = 'retrying'")),
            Some(DeliveryStatus::Delivered) => drop(statement.push(" AND delivery_status = 'delivered'")),
            Some(DeliveryStatus::Failed) => drop(statement.push(" AND delivery_status = 'failed'")),
        }
    }
}
