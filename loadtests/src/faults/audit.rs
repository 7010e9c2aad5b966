//! Watches the fence from inside the database: each instance connects as a user of its own, and a trigger on the stored
//! positions notes every move that is not the holder's, or that goes back. So a broken fence shows although the rows
//! that a zombie writes may be harmless.

use anyhow::Context;
use sqlx::{AssertSqlSafe, PgPool, Row};

use super::check::Violation;

/// The holder of a claim is who raised the epoch. Those who are no instance (an operator, a command) may do what they
/// like.
const AUDIT: &str = "
    CREATE SCHEMA IF NOT EXISTS fault_audit;
    CREATE TABLE IF NOT EXISTS fault_audit.claims (
        consumer text, topic text, partition integer, epoch bigint, holder text, claimed_at timestamptz DEFAULT clock_timestamp(),
        PRIMARY KEY (consumer, topic, partition, epoch)
    );
    CREATE TABLE IF NOT EXISTS fault_audit.offences (at timestamptz DEFAULT clock_timestamp(), offence text);
    CREATE OR REPLACE FUNCTION fault_audit.watch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        holding text;
        place text;
    BEGIN
        IF session_user NOT LIKE 'instance\\_%' THEN
            RETURN NULL;
        END IF;
        IF TG_OP = 'DELETE' THEN
            INSERT INTO fault_audit.offences (offence)
            VALUES (format('%s %s/%s was deleted by %s', OLD.consumer, OLD.topic, OLD.partition, session_user));
            RETURN NULL;
        END IF;
        place := NEW.consumer || ' ' || NEW.topic || '/' || NEW.partition;
        IF TG_OP = 'UPDATE' AND NEW.epoch > OLD.epoch AND NEW.next_offset <> OLD.next_offset THEN
            INSERT INTO fault_audit.offences (offence)
            VALUES (format('%s was moved from %s to %s with a claim by %s', place, OLD.next_offset, NEW.next_offset, session_user));
        END IF;
        IF TG_OP = 'INSERT' OR NEW.epoch > OLD.epoch THEN
            INSERT INTO fault_audit.claims (consumer, topic, partition, epoch, holder)
            VALUES (NEW.consumer, NEW.topic, NEW.partition, NEW.epoch, session_user) ON CONFLICT DO NOTHING;
            RETURN NULL;
        END IF;
        SELECT holder INTO holding FROM fault_audit.claims c
        WHERE c.consumer = NEW.consumer AND c.topic = NEW.topic AND c.partition = NEW.partition AND c.epoch = NEW.epoch;
        IF holding IS DISTINCT FROM session_user THEN
            INSERT INTO fault_audit.offences (offence)
            VALUES (format('%s was moved from %s to %s by %s, while %s held epoch %s',
                           place, OLD.next_offset, NEW.next_offset, session_user, holding, NEW.epoch));
        END IF;
        IF NEW.next_offset < OLD.next_offset OR NEW.epoch < OLD.epoch THEN
            INSERT INTO fault_audit.offences (offence)
            VALUES (format('%s went back from %s to %s by %s', place, OLD.next_offset, NEW.next_offset, session_user));
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE OR REPLACE TRIGGER fault_audit AFTER INSERT OR UPDATE OR DELETE ON consumer_positions
        FOR EACH ROW EXECUTE FUNCTION fault_audit.watch();
";

/// Puts the watch in place. The schema of the product must be there.
pub async fn install(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql(AUDIT).execute(pool).await.context("installing the audit of positions")?;
    Ok(())
}

/// The user that an instance connects as; made when it is not there.
pub async fn user(pool: &PgPool, instance: &str, password: &str) -> anyhow::Result<String> {
    let user = format!("instance_{}", instance.replace('-', "_"));
    // Names of our own making: letters, digits and underscores, and a password of hexadecimal digits.
    let statement = format!("CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(pool).await.with_context(|| format!("making the user {user}"))?;
    Ok(user)
}

/// What was noted since the last call.
pub async fn offences(pool: &PgPool) -> anyhow::Result<Vec<Violation>> {
    let rows = sqlx::query("DELETE FROM fault_audit.offences RETURNING offence").fetch_all(pool).await?;
    let offence = |row: &sqlx::postgres::PgRow| Ok(Violation::new("fence", row.try_get::<String, _>("offence")?));
    rows.iter().map(offence).collect()
}

/// How often partitions were claimed so far, by one consumer: when this grows, somebody lost what it held.
pub async fn claims(pool: &PgPool, consumer: &str) -> anyhow::Result<i64> {
    let count = sqlx::query_scalar("SELECT count(*) FROM fault_audit.claims WHERE consumer = $1").bind(consumer);
    Ok(count.fetch_one(pool).await?)
}
