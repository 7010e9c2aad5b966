//! Reads the key that signs the system's own events.

use schemas::native::SystemKey;
use sqlx::postgres::PgPool;

/// It never changes.
pub(super) async fn read(pool: &PgPool) -> Result<SystemKey, sqlx::Error> {
    let key: Vec<u8> = sqlx::query_scalar("SELECT key FROM contract.system_event_key").fetch_one(pool).await?;
    let bytes = key.try_into().map_err(|_| sqlx::Error::Decode("the key of system events has not 32 bytes".into()))?;
    Ok(SystemKey::from_bytes(bytes))
}
