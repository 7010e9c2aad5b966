//! The service: the authenticator, the task that invalidates its cache, and the settings.

use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use schemas::ids::OrgId;
use sqlx::postgres::PgPool;

use crate::audit::AUDIT_ENTRIES;
use crate::auth::{AuthSettings, Authenticator};
use crate::budgets::OrganizationBudgets;
use crate::default_endpoint::SetDefaultEndpoint;
use crate::dev_keys::{self, DevKeysError};
use crate::limits::LimitSettings;
use crate::operator::OperatorToken;
use crate::signups::Signups;
use crate::{audit, noisy, watch};

/// Default of sign-ups per address and hour.
pub const SIGNUPS_PER_HOUR: u32 = 5;

/// Settings of tenancy.
#[derive(Clone)]
pub struct TenancyConfig {
    pub operator_token: OperatorToken,
    /// Whether any client may create an organization.
    pub open_signup: bool,
    /// Sign-ups per address and hour before 429; loopback is not limited.
    pub signups_per_hour: u32,
    /// Whether the API listens on loopback only: then a sign-up gets the tier that it asks for.
    pub on_loopback: bool,
    pub auth: AuthSettings,
    /// What one organization may hold at once.
    pub budgets: OrganizationBudgets,
    pub limits: LimitSettings,
    /// Entries of the audit log that an organization keeps, 1,000 at least: of its keys, and as many of all others.
    pub audit_entries: u32,
    /// Sets `webhook_url` of an organization; `None`: requests with it are refused.
    pub set_default_endpoint: Option<SetDefaultEndpoint>,
}

impl TenancyConfig {
    /// Default settings for authentication. Without a token, or with a blank one, the operator's routes are closed.
    pub fn new(operator_token: Option<String>, open_signup: bool) -> Self {
        Self {
            operator_token: OperatorToken::new(operator_token),
            open_signup,
            signups_per_hour: SIGNUPS_PER_HOUR,
            on_loopback: false,
            auth: AuthSettings::default(),
            budgets: OrganizationBudgets::default(),
            limits: LimitSettings::default(),
            audit_entries: AUDIT_ENTRIES,
            set_default_endpoint: None,
        }
    }
}

/// The running service. Cloning shares it.
#[derive(Clone)]
pub struct Tenancy {
    pub(crate) authenticator: Authenticator,
    pub(crate) operator_token: OperatorToken,
    pub(crate) open_signup: bool,
    pub(crate) signups: Signups,
    pub(crate) on_loopback: bool,
    pub(crate) set_default_endpoint: Option<SetDefaultEndpoint>,
    pub(crate) sealing: SealingKey,
    pub(crate) pool: PgPool,
}

impl Tenancy {
    /// Starts the tasks "key watch", which invalidates revoked keys, "key lookups", which finds
    /// keys from addresses with too many unknown ones, "rate limits", which leases tokens, and "audit
    /// sweep", which deletes old entries. Does not need PostgreSQL to be up. Must be called within a Tokio runtime.
    ///
    /// `sealing` seals the cursors of clients.
    pub fn start(supervisor: &mut Supervisor, pool: PgPool, sealing: SealingKey, config: TenancyConfig) -> Self {
        let authenticator = Authenticator::new(pool.clone(), &config.auth, config.limits, config.budgets);
        authenticator.limits().start(supervisor, pool.clone());
        let watching = watch::run(authenticator.clone(), supervisor.shutdown());
        supervisor.spawn("key watch", async move {
            watching.await;
            Ok(())
        });
        let noisy = noisy::run(authenticator.clone(), supervisor.shutdown());
        supervisor.spawn("key lookups", async move {
            noisy.await;
            Ok(())
        });
        let (sweep_pool, shutdown) = (pool.clone(), supervisor.shutdown());
        supervisor.spawn("audit sweep", async move {
            audit::sweep_until(&sweep_pool, config.audit_entries, shutdown).await;
            Ok(())
        });
        Self {
            authenticator,
            operator_token: config.operator_token,
            open_signup: config.open_signup,
            signups: Signups::new(config.signups_per_hour),
            on_loopback: config.on_loopback,
            set_default_endpoint: config.set_default_endpoint,
            sealing,
            pool,
        }
    }

    /// For the state of every slice that has routes.
    pub fn authenticator(&self) -> Authenticator {
        self.authenticator.clone()
    }

    /// Accepts development keys, `KEY[=ORGANIZATION NAME][,…]`, and creates missing ones. Returns the organization of
    /// the first. `everything_on_loopback`: whether all listeners of this process are on loopback.
    ///
    /// # Errors
    /// When they are refused or malformed, or when the database does not answer.
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
