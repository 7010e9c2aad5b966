//! Who may do what: organizations, API keys, roles, the operator.
//!
//! Lives here: the form and storage of keys, the cache that tells a key's organization on the hot path and forgets
//! revoked keys at once, the rule that a key makes no key with more rights than its own, development keys, the
//! progress of erasures ([`erasure`]), and the routes for all this. Does not live here: what a right is asked for (each
//! slice asks [`Caller::require`] itself) and the rows that a slice holds of an organization.

mod auth;
mod bad_keys;
mod cache;
mod caller;
mod dev_keys;
pub mod erasure;
mod grant;
pub mod key;
mod keys;
mod metrics;
mod operator;
mod organizations;
mod refusal;
mod role;
mod routes;
mod tier;
mod watch;

use platform::lifecycle::Supervisor;
use schemas::ids::OrgId;
use sqlx::postgres::PgPool;

pub use auth::{AuthSettings, Authenticator};
pub use cache::CacheSettings;
pub use caller::{Caller, Presented};
pub use dev_keys::DevKeysError;
pub use operator::{Operator, OperatorToken};
pub use refusal::Refusal;
pub use role::{Right, Role};
pub use routes::routes;

/// Knobs of this slice.
#[derive(Debug, Clone)]
pub struct TenancyConfig {
    pub operator_token: OperatorToken,
    /// Whether anybody may make an organization.
    pub open_signup: bool,
    /// Of the authenticator and its cache.
    pub auth: AuthSettings,
}

impl TenancyConfig {
    /// Defaults for the rest. No token, or a blank one: the operator's routes are closed.
    pub fn new(operator_token: Option<String>, open_signup: bool) -> Self {
        Self { operator_token: OperatorToken::new(operator_token), open_signup, auth: AuthSettings::default() }
    }
}

/// The slice at work. Cloning shares it.
#[derive(Clone)]
pub struct Tenancy {
    authenticator: Authenticator,
    operator_token: OperatorToken,
    open_signup: bool,
    pool: PgPool,
}

impl Tenancy {
    /// Starts the task "key watch", which learns of revoked keys. Comes up whether or not PostgreSQL does; to be called
    /// within a runtime.
    pub fn start(supervisor: &mut Supervisor, pool: PgPool, config: TenancyConfig) -> Self {
        let authenticator = Authenticator::new(pool.clone(), &config.auth);
        let watching = watch::run(authenticator.clone(), supervisor.shutdown());
        supervisor.spawn("key watch", async move {
            watching.await;
            Ok(())
        });
        Self { authenticator, operator_token: config.operator_token, open_signup: config.open_signup, pool }
    }

    /// What tells who calls; for the state of every slice that has routes.
    pub fn authenticator(&self) -> Authenticator {
        self.authenticator.clone()
    }

    /// Takes development keys, `KEY[=ORGANIZATION NAME][,…]`, and makes what is absent. Answers the first one's
    /// organization. `everything_on_loopback`: whether no other machine can reach any listener of this process.
    ///
    /// # Errors
    /// When they are refused, unreadable, or the database does not answer.
    pub async fn apply_dev_keys(
        &self,
        text: &str,
        everything_on_loopback: bool,
    ) -> Result<Option<OrgId>, DevKeysError> {
        let dev_keys = dev_keys::parse(text, everything_on_loopback)?;
        if dev_keys.is_empty() {
            return Ok(None);
        }
        let organizations = dev_keys::apply(&self.pool, &dev_keys).await?;
        self.authenticator.allow_development(dev_keys.iter().map(dev_keys::DevKey::hash));
        Ok(organizations.first().copied())
    }
}
