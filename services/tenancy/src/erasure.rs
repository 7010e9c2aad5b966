//! Progress of one consumer with the erasure of organizations: which organizations are being erased, where the log ended
//! when every instance knew of the tombstone, and whether the positions of the consumer have reached that end.
//!
//! An instance may read records of an organization before it knows of the tombstone, and may write their rows at any
//! later time. Such records lie before the end of the log as it was some seconds after the tombstone. Once the positions
//! have reached that end, those rows are written or the fence rejects them, so nothing is added any more. Which rows a
//! consumer holds and how it deletes them lives in its slice.

use platform::kafka::{KafkaConfig, log_reader};
use rdkafka::error::KafkaError;
use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

/// Organizations that one call of [`Erasure::open`] returns at most.
const AT_ONCE: i64 = 1000;

/// The erasures that one consumer has to take part in.
#[derive(Clone)]
pub struct Erasure {
    pool: PgPool,
    kafka: KafkaConfig,
    consumer: &'static str,
    topics: Vec<String>,
}

/// Why [`Erasure::open`] failed. Calling it again continues where it stopped.
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

    /// Organizations that are being erased and that this consumer is not done with. Stores the end of the log for those
    /// whose tombstone every instance knows by now.
    ///
    /// # Errors
    /// See [`ErasureError`].
    pub async fn open(&self) -> Result<Vec<OrgId>, ErasureError> {
        // Five seconds: no instance takes an organization for active for that long without asking again.
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
            // A partition without records has no end to reach.
            for (partition, _, high) in
                log_reader::bounds(&self.kafka, topic).await?.into_iter().filter(|(_, low, high)| low < high)
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

    /// Whether the positions have reached the stored ends: from now on no row of the organization is added.
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

    /// Stores that this consumer holds nothing of the organization any more. A trigger sets the organization to `erased`
    /// when the last consumer is done.
    pub async fn done(&self, connection: &mut PgConnection, org_id: OrgId) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE erasures SET done_at = now() WHERE org_id = $1 AND consumer = $2 AND done_at IS NULL")
            .bind(org_id.as_uuid())
            .bind(self.consumer)
            .execute(connection)
            .await?;
        Ok(())
    }
}
