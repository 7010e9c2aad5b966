//! Rate limits: how many requests an organization, or a key with a limit of its own, may make within a window.
//!
//! All instances share one window per scope, in PostgreSQL, and lease tokens out of it in slices (`leasing`, `store`).
//! `window` and `tokens` are the arithmetic; `scope` has the tokens of this instance; `request` counts requests.
//! docs/operating.md says what happens without PostgreSQL.

mod leasing;
mod queue;
mod request;
mod scope;
mod settings;
mod store;
mod tokens;
mod upkeep;
mod window;

use std::sync::Arc;

use runtime::lifecycle::Supervisor;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use self::queue::LeaseQueue;
pub(crate) use self::request::RequestLimits;
pub(crate) use self::scope::{Scope, ScopeKind};
pub use self::settings::LimitSettings;

/// The limits of this process. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Limits(Arc<LeaseQueue>);

impl Limits {
    pub(crate) fn new(settings: LimitSettings) -> Self {
        Self(Arc::new(LeaseQueue::new(settings)))
    }

    /// Starts the task "rate limits", unless limits are off.
    pub(crate) fn start(&self, supervisor: &mut Supervisor, pool: PgPool) {
        if !self.0.settings.enabled {
            return;
        }
        let leasing = leasing::run(Arc::clone(&self.0), pool.clone(), supervisor.shutdown());
        let upkeep = upkeep::run(Arc::clone(&self.0), pool);
        supervisor.spawn("rate limits", async move {
            tokio::select! {
                () = leasing => {}
                () = upkeep => {}
            }
            Ok(())
        });
    }

    /// A scope without any tokens yet.
    pub(crate) fn scope(&self, id: Uuid, kind: ScopeKind, per_minute: u32) -> Scope {
        Scope::new(id, kind, self.0.shape, per_minute)
    }

    /// The limits of a request; without scopes it is unlimited.
    pub(crate) fn of_request(&self, key: Option<Arc<Scope>>, organization: Option<Arc<Scope>>) -> RequestLimits {
        if self.0.settings.enabled {
            RequestLimits::new(Arc::clone(&self.0), key, organization)
        } else {
            RequestLimits::new(Arc::clone(&self.0), None, None)
        }
    }
}
