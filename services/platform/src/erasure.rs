//! How far one consumer of the log is with erasing organizations: which there are, where the log ended when all
//! instances knew of it, and whether the consumer's positions have come there.
//!
//! An instance may have read records of an organization, and taken it for an active one, before it knew of the
//! tombstone, and write what it made of them at any time later, held up by whatever. Such records lie before the end of
//! the log as it was some seconds after the tombstone; with the positions there, they were written or the fence forbids
//! it. What is left after that is all that ever will be. Which rows those are, and taking them away, is each slice's
//! own business.

use rdkafka::error::KafkaError;
use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use crate::kafka::{KafkaConfig, range};

/// Organizations that one look tells of.
const AT_ONCE: i64 = 1000;

/// Erasures as one consumer sees them.
#[derive(Clone)]
pub struct Erasure {
    pool: PgPool,
    kafka: KafkaConfig,
    consumer: &'static str,
    topics: Vec<String>,
}

/// Why a look was cut short. The next one does what this one did not.
#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    /// As PostgreSQL has it.
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    /// The end of the log could not be read.
    #[error("the end of the log could not be read: {0}")]
    Log(#[from] KafkaError),
}

impl Erasure {
    /// For `consumer`, which keeps positions of `topics` (full names) in `consumer_positions`.
    pub fn new(pool: PgPool, kafka: KafkaConfig, consumer: &'static str, topics: Vec<String>) -> Self {
        Self { pool, kafka, consumer, topics }
    }

    /// Organizations that are being erased and of which this consumer has something left to do. Notes where the log
    /// ends for those whose time has come for it.
    ///
    /// # Errors
    /// See [`ErasureError`].
    pub async fn open(&self) -> Result<Vec<OrgId>, ErasureError> {
        // Five seconds: longer than any instance takes an organization for active without asking.
        let open: Vec<(Uuid, bool, Option<bool>)> = sqlx::query_as(
            "SELECT o.id, e.org_id IS NULL, e.ends IS NULL AND e.seen_at < now() - interval '5 seconds'
             FROM contract.organizations o LEFT JOIN erasures e ON e.org_id = o.id AND e.consumer = $1
             WHERE o.status = 'erasing' AND e.done_at IS NULL ORDER BY o.id LIMIT $2",
        )
        .bind(self.consumer)
        .bind(AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        let chosen = |wanted: fn(&(Uuid, bool, Option<bool>)) -> bool| -> Vec<Uuid> {
            open.iter().filter(|row| wanted(row)).map(|(id, ..)| *id).collect()
        };
        let (new, due) = (chosen(|(_, is_new, _)| *is_new), chosen(|(.., is_due)| *is_due == Some(true)));
        if !new.is_empty() {
            sqlx::query("INSERT INTO erasures (org_id, consumer) SELECT UNNEST($1::uuid[]), $2 ON CONFLICT DO NOTHING")
                .bind(new)
                .bind(self.consumer)
                .execute(&self.pool)
                .await?;
        }
        if !due.is_empty() {
            self.note_ends(&due).await?;
        }
        Ok(open.into_iter().map(|(id, ..)| OrgId::from_uuid(id)).collect())
    }

    async fn note_ends(&self, due: &[Uuid]) -> Result<(), ErasureError> {
        let (mut topics, mut partitions, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for topic in &self.topics {
            // Of a partition without records there is nothing to pass.
            for (partition, _, high) in
                range::bounds(&self.kafka, topic).await?.into_iter().filter(|(_, low, high)| low < high)
            {
                topics.push(topic.as_str());
                partitions.push(partition);
                ends.push(high);
            }
        }
        sqlx::query(
            "UPDATE erasures SET topics = $3, partitions = $4, ends = $5,
                    log_epochs = ARRAY(SELECT COALESCE(p.log_epoch, 1)
                                       FROM UNNEST($3::text[], $4::integer[]) WITH ORDINALITY AS t (topic, partition, nth)
                                       LEFT JOIN consumer_positions p ON p.consumer = $2 AND p.topic = t.topic AND p.partition = t.partition
                                       ORDER BY t.nth)
             WHERE org_id = ANY ($1) AND consumer = $2 AND ends IS NULL",
        )
        .bind(due)
        .bind(self.consumer)
        .bind(topics)
        .bind(partitions)
        .bind(ends)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Whether the positions have come to the noted ends: from now on nothing of the organization is written that is
    /// not there yet.
    ///
    /// # Errors
    /// As PostgreSQL has them.
    pub async fn is_passed(&self, connection: &mut PgConnection, org_id: OrgId) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM erasures WHERE org_id = $1 AND consumer = $2 AND ends IS NOT NULL)
                    AND NOT EXISTS (
                        SELECT FROM erasures e
                        CROSS JOIN LATERAL UNNEST(e.topics, e.partitions, e.log_epochs, e.ends) AS t (topic, partition, log_epoch, log_end)
                        WHERE e.org_id = $1 AND e.consumer = $2 AND NOT EXISTS (
                            SELECT FROM consumer_positions p WHERE p.consumer = $2 AND p.topic = t.topic AND p.partition = t.partition
                                   AND (p.log_epoch, p.next_offset) >= (t.log_epoch, t.log_end)))",
        )
        .bind(org_id.as_uuid())
        .bind(self.consumer)
        .fetch_one(connection)
        .await
    }

    /// Nothing is left of the organization here. With the last consumer's end it is `erased`.
    ///
    /// # Errors
    /// As PostgreSQL has them.
    pub async fn done(&self, connection: &mut PgConnection, org_id: OrgId) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE erasures SET done_at = now() WHERE org_id = $1 AND consumer = $2 AND done_at IS NULL")
            .bind(org_id.as_uuid())
            .bind(self.consumer)
            .execute(connection)
            .await?;
        Ok(())
    }
}
