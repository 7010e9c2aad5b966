//! Audits the fence inside the database: each instance connects as its own user, and a trigger on the stored positions
//! records each change that does not come from the owner, or that decreases an offset. So a broken fence is found even
//! if the rows of the fenced instance are harmless.

use anyhow::Context;
use sqlx::{AssertSqlSafe, PgPool, Row};

use crate::check::Violation;

/// The holder of a claim is the user that raised the epoch. Users that are no instance (an operator, a command) are not
/// audited.
const AUDIT: &str = "
    CREATE SCHEMA IF NOT EXISTS fault_audit;
    CREATE TABLE IF NOT EXISTS fault_audit.claims (
        consumer text, topic text, partition integer, epoch bigint, holder text,
        claimed_at timestamptz DEFAULT clock_timestamp(),
        PRIMARY KEY (consumer, topic, partition, epoch)
    );
    CREATE TABLE IF NOT EXISTS fault_audit.violations (at timestamptz DEFAULT clock_timestamp(), found text);
    CREATE OR REPLACE FUNCTION fault_audit.check_position() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        holding text;
        partition_name text;
    BEGIN
        IF session_user NOT LIKE 'instance\\_%' THEN
            RETURN NULL;
        END IF;
        IF TG_OP = 'DELETE' THEN
            INSERT INTO fault_audit.violations (found)
            VALUES (format('%s %s/%s was deleted by %s', OLD.consumer, OLD.topic, OLD.partition, session_user));
            RETURN NULL;
        END IF;
        partition_name := NEW.consumer || ' ' || NEW.topic || '/' || NEW.partition;
        IF TG_OP = 'UPDATE' AND NEW.epoch > OLD.epoch AND NEW.next_offset <> OLD.next_offset THEN
            INSERT INTO fault_audit.violations (found)
            VALUES (format('%s was moved from %s to %s with a claim by %s',
                           partition_name, OLD.next_offset, NEW.next_offset, session_user));
        END IF;
        IF TG_OP = 'INSERT' OR NEW.epoch > OLD.epoch THEN
            INSERT INTO fault_audit.claims (consumer, topic, partition, epoch, holder)
            VALUES (NEW.consumer, NEW.topic, NEW.partition, NEW.epoch, session_user) ON CONFLICT DO NOTHING;
            RETURN NULL;
        END IF;
        SELECT holder INTO holding FROM fault_audit.claims c
        WHERE c.consumer = NEW.consumer AND c.topic = NEW.topic AND c.partition = NEW.partition AND c.epoch = NEW.epoch;
        IF holding IS DISTINCT FROM session_user THEN
            INSERT INTO fault_audit.violations (found)
            VALUES (format('%s was moved from %s to %s by %s, while %s held epoch %s',
                           partition_name, OLD.next_offset, NEW.next_offset, session_user, holding, NEW.epoch));
        END IF;
        IF NEW.next_offset < OLD.next_offset OR NEW.epoch < OLD.epoch THEN
            INSERT INTO fault_audit.violations (found)
            VALUES (format('%s was moved back from %s to %s by %s',
                           partition_name, OLD.next_offset, NEW.next_offset, session_user));
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE OR REPLACE TRIGGER fault_audit AFTER INSERT OR UPDATE OR DELETE ON consumer_positions
        FOR EACH ROW EXECUTE FUNCTION fault_audit.check_position();
";

/// Installs the trigger. The schema of the product must exist.
pub(crate) async fn install(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql(AUDIT).execute(pool).await.context("installing the audit of positions")?;
    Ok(())
}

/// Creates the database user of an instance.
pub(crate) async fn create_user(pool: &PgPool, user: &str, password: &str) -> anyhow::Result<()> {
    // Both are generated: letters, digits and underscores, and a password of hexadecimal digits.
    let statement = format!("CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(pool).await.with_context(|| format!("creating the user {user}"))?;
    Ok(())
}

/// The violations of the fence since the last call.
pub(crate) async fn take_violations(pool: &PgPool) -> anyhow::Result<Vec<Violation>> {
    let rows = sqlx::query("DELETE FROM fault_audit.violations RETURNING found").fetch_all(pool).await?;
    let violation = |row: &sqlx::postgres::PgRow| Ok(Violation::new("fence", row.try_get::<String, _>("found")?));
    rows.iter().map(violation).collect()
}

/// Number of claims of partitions by one consumer so far. It grows with every rebalance.
pub(crate) async fn count_claims(pool: &PgPool, consumer: &str) -> anyhow::Result<i64> {
    let count = sqlx::query_scalar("SELECT count(*) FROM fault_audit.claims WHERE consumer = $1").bind(consumer);
    Ok(count.fetch_one(pool).await?)
}
