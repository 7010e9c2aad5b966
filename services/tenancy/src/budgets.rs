//! What one organization may hold of this process at once: requests, long polls (each of its keys only a part of them),
//! places in the database, and the bytes of its bodies and responses (`http_server::Budgets`).

use std::sync::Arc;
use std::time::Duration;

use http_server::{Budgets, Holder, Problem, ServerLimits, refusal};
use runtime::budget::{Budget, KeyedShares, Permit, Share};
use schemas::ids::KeyId;

/// How long a read waits for a place in the database when its organization uses all of its own.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// The bounds, each in all and for one organization.
#[derive(Debug, Clone, Copy)]
pub struct BudgetSettings {
    /// Requests that are being handled. Default 20,000.
    pub max_requests: u64,
    /// Default 4,000.
    pub max_requests_per_organization: u64,
    /// Long polls that wait for events. Default 10,000.
    pub max_long_polls: u64,
    /// Default 1,000.
    pub max_long_polls_per_organization: u64,
    /// Default 500: one key of an organization cannot take all of its places.
    pub max_long_polls_per_key: u64,
    /// Reads of one organization in the database. Default 4: a quarter of the connections.
    pub max_reads_per_organization: u64,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            max_requests: 20_000,
            max_requests_per_organization: 4_000,
            max_long_polls: 10_000,
            max_long_polls_per_organization: 1_000,
            max_long_polls_per_key: 500,
            max_reads_per_organization: 4,
        }
    }
}

/// The budgets of all organizations in this process. Cloning shares them.
#[derive(Clone)]
pub struct OrganizationBudgets {
    http: Budgets,
    requests: Budget,
    long_polls: Budget,
    long_polls_by_key: Arc<KeyedShares<KeyId>>,
    reads: Budget,
}

impl OrganizationBudgets {
    /// `http`: the budgets of the server that serves the routes.
    pub fn new(settings: &BudgetSettings, http: Budgets) -> Self {
        let of = |name, in_all, per_organization| Budget::new(name, in_all, per_organization);
        let by_key = of("long_polls_by_key", settings.max_long_polls, settings.max_long_polls_per_key);
        Self {
            http,
            requests: of("requests", settings.max_requests, settings.max_requests_per_organization),
            long_polls: of("long_polls", settings.max_long_polls, settings.max_long_polls_per_organization),
            long_polls_by_key: Arc::new(KeyedShares::new(by_key)),
            // The pool of connections is the bound in all.
            reads: of("database_reads", u64::MAX / 2, settings.max_reads_per_organization),
        }
    }

    /// The shares of one more organization.
    pub(crate) fn shares(&self) -> OrganizationShares {
        OrganizationShares(Arc::new(SharesState {
            http: self.http.holder(),
            requests: self.requests.share(),
            long_polls: self.long_polls.share(),
            long_polls_by_key: self.long_polls_by_key.clone(),
            reads: self.reads.share(),
        }))
    }
}

impl Default for OrganizationBudgets {
    fn default() -> Self {
        Self::new(&BudgetSettings::default(), Budgets::new(&ServerLimits::default()))
    }
}

/// What one organization holds, by all of its keys. Cloning shares it.
#[derive(Clone)]
pub struct OrganizationShares(Arc<SharesState>);

struct SharesState {
    http: Holder,
    requests: Share,
    long_polls: Share,
    /// Of all keys, also of other organizations.
    long_polls_by_key: Arc<KeyedShares<KeyId>>,
    reads: Share,
}

impl OrganizationShares {
    /// Whose bytes the bodies and responses of its requests are.
    pub fn holder(&self) -> Holder {
        self.0.http.clone()
    }

    /// Counts a request until the permit is dropped.
    ///
    /// # Errors
    /// 429 when the organization has too many, 503 when all together have.
    pub(crate) fn take_request(&self) -> Result<Permit, Problem> {
        self.0.requests.take(1).map_err(|exhausted| refusal(exhausted, "too many requests are open"))
    }

    /// Counts a request that waits for events, for its organization and for the key, until the permits are dropped.
    /// `places`: as how many.
    ///
    /// # Errors
    /// 429 when the key or the organization has too many, 503 when all together have.
    pub fn take_long_poll(&self, key: KeyId, places: u64) -> Result<[Permit; 2], Problem> {
        let take = |share: &Share, what| share.take(places).map_err(|exhausted| refusal(exhausted, what));
        let of_key = take(&self.0.long_polls_by_key.of(key), "too many requests of this key are waiting for events")?;
        Ok([of_key, take(&self.0.long_polls, "too many requests are waiting for events")?])
    }

    /// A place in the database for a read of this organization; waits for one a little.
    ///
    /// # Errors
    /// 503 when its other reads take too long: the database is slow, or this organization asks too much of it.
    pub async fn take_read(&self) -> Result<Permit, Problem> {
        let taken = self.0.reads.take_when_free(1, READ_PATIENCE).await;
        taken.map_err(|_| Problem::unavailable("the reads of this organization take too long at the moment", 1))
    }
}

impl std::fmt::Debug for OrganizationShares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OrganizationShares(..)")
    }
}
