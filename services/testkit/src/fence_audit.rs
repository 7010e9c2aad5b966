//! Audits the fence inside the database: a trigger records who claims a partition and who changes its position, also in
//! transactions whose rows would be harmless.
//!
//! An instance is known by the setting `triggers.instance` of its connection, or else by its database user.

use std::collections::BTreeMap;

use sqlx::{PgPool, Row as _};

/// Topic partitions are those of a consumer: consumer, topic, partition.
const AUDIT: &str = "
    CREATE SCHEMA IF NOT EXISTS fence_audit;
    CREATE TABLE IF NOT EXISTS fence_audit.claims (
        consumer text, topic text, partition integer, epoch bigint, holder text,
        PRIMARY KEY (consumer, topic, partition, epoch));
    CREATE TABLE IF NOT EXISTS fence_audit.moves (
        id bigserial PRIMARY KEY, consumer text, topic text, partition integer, epoch bigint, epoch_before bigint,
        from_offset bigint, to_offset bigint, holder text);
    CREATE OR REPLACE FUNCTION fence_audit.record_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        holder text := COALESCE(current_setting('triggers.instance', true), session_user);
    BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO fence_audit.moves (consumer, topic, partition, epoch, epoch_before, from_offset, holder)
            VALUES (OLD.consumer, OLD.topic, OLD.partition, OLD.epoch, OLD.epoch, OLD.next_offset, holder);
            RETURN NULL;
        END IF;
        IF TG_OP = 'INSERT' OR NEW.epoch > OLD.epoch THEN
            INSERT INTO fence_audit.claims (consumer, topic, partition, epoch, holder)
            VALUES (NEW.consumer, NEW.topic, NEW.partition, NEW.epoch, holder) ON CONFLICT DO NOTHING;
        END IF;
        IF TG_OP = 'UPDATE' AND (NEW.epoch < OLD.epoch OR NEW.next_offset <> OLD.next_offset) THEN
            INSERT INTO fence_audit.moves
                (consumer, topic, partition, epoch, epoch_before, from_offset, to_offset, holder)
            VALUES (NEW.consumer, NEW.topic, NEW.partition, NEW.epoch, OLD.epoch, OLD.next_offset, NEW.next_offset,
                    holder);
        END IF;
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER fence_audit AFTER INSERT OR UPDATE OR DELETE ON consumer_positions
        FOR EACH ROW EXECUTE FUNCTION fence_audit.record_change();";

/// An instance raised the epoch of a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub consumer: String,
    pub topic: String,
    pub partition: i32,
    pub epoch: i64,
    pub holder: String,
}

/// An instance changed a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub consumer: String,
    pub topic: String,
    pub partition: i32,
    pub epoch: i64,
    pub epoch_before: i64,
    pub from_offset: i64,
    /// `None` when the position was deleted.
    pub to_offset: Option<i64>,
    pub holder: String,
}

/// Installs the trigger. The tables of the product must exist.
pub async fn install(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::raw_sql(AUDIT).execute(pool).await.map(drop)
}

/// All claims so far. Read them after the moves: then each move's claim is among them.
pub async fn claims(pool: &PgPool) -> sqlx::Result<Vec<Claim>> {
    let rows = sqlx::query("SELECT * FROM fence_audit.claims").fetch_all(pool).await?;
    let claim = |row: &sqlx::postgres::PgRow| {
        Ok(Claim {
            consumer: row.try_get("consumer")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            epoch: row.try_get("epoch")?,
            holder: row.try_get("holder")?,
        })
    };
    rows.iter().map(claim).collect()
}

/// All moves so far, in their order.
pub async fn moves(pool: &PgPool) -> sqlx::Result<Vec<Move>> {
    let rows = sqlx::query("SELECT * FROM fence_audit.moves ORDER BY id").fetch_all(pool).await?;
    let change = |row: &sqlx::postgres::PgRow| {
        Ok(Move {
            consumer: row.try_get("consumer")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            epoch: row.try_get("epoch")?,
            epoch_before: row.try_get("epoch_before")?,
            from_offset: row.try_get("from_offset")?,
            to_offset: row.try_get("to_offset")?,
            holder: row.try_get("holder")?,
        })
    };
    rows.iter().map(change).collect()
}

/// For each position of a consumer, its topic and the holder of its present epoch.
pub async fn current_owners(pool: &PgPool, consumer: &str) -> sqlx::Result<Vec<(String, Option<String>)>> {
    let owners = "SELECT p.topic, c.holder FROM consumer_positions p
                  LEFT JOIN fence_audit.claims c USING (consumer, topic, partition, epoch) WHERE p.consumer = $1";
    sqlx::query_as(owners).bind(consumer).fetch_all(pool).await
}

/// What broke the fence: a move by another instance than the one that claimed the epoch, a move together with a claim,
/// a move back, or a deletion.
pub fn violations(claims: &[Claim], moves: &[Move]) -> Vec<String> {
    let holders: BTreeMap<_, &str> = claims
        .iter()
        .map(|claim| ((&*claim.consumer, &*claim.topic, claim.partition, claim.epoch), &*claim.holder))
        .collect();
    moves.iter().filter_map(|change| Some(format!("{}: {change:?}", broken_rule(&holders, change)?))).collect()
}

fn broken_rule(holders: &BTreeMap<(&str, &str, i32, i64), &str>, change: &Move) -> Option<&'static str> {
    let holder = holders.get(&(&*change.consumer, &*change.topic, change.partition, change.epoch));
    match change.to_offset {
        None => Some("position was deleted"),
        Some(_) if change.epoch > change.epoch_before => Some("position was moved with a claim"),
        Some(to) if to < change.from_offset || change.epoch < change.epoch_before => Some("position was moved back"),
        Some(_) if holder != Some(&&*change.holder) => Some("position was moved by another than its holder"),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_moves_a_position_and_only_forward() {
        let (consumer, topic) = ("materializer".to_owned(), "events".to_owned());
        let claim = |epoch, holder: &str| Claim {
            consumer: consumer.clone(),
            topic: topic.clone(),
            partition: 0,
            epoch,
            holder: holder.to_owned(),
        };
        let claims = [claim(1, "first"), claim(2, "second")];
        let fine = Move {
            consumer: consumer.clone(),
            topic: topic.clone(),
            partition: 0,
            epoch: 2,
            epoch_before: 2,
            from_offset: 5,
            to_offset: Some(7),
            holder: "second".to_owned(),
        };
        assert_eq!(violations(&claims, std::slice::from_ref(&fine)), [""; 0]);
        let broken = [
            Move { holder: "first".to_owned(), ..fine.clone() },
            Move { epoch: 3, epoch_before: 3, ..fine.clone() },
            Move { to_offset: Some(4), ..fine.clone() },
            Move { to_offset: None, ..fine.clone() },
            Move { epoch: 1, holder: "first".to_owned(), ..fine.clone() },
            Move { epoch_before: 1, ..fine.clone() },
            Move { partition: 1, ..fine },
        ];
        assert_eq!(violations(&claims, &broken).len(), broken.len());
    }
}
