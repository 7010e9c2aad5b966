//! Authentication and authorization: organizations, API keys, roles, the operator.
//!
//! Here: the format and the table of keys, the cache that authenticates keys and drops revoked ones at once, the rule
//! that a key creates no key with more rights than its own, development keys, the progress of erasures ([`erasure`]),
//! and the routes for all this. Elsewhere: each slice checks the rights of its routes with [`Caller::require`], and
//! deletes its own rows of an erased organization.

pub mod audit;
mod auth;
mod bad_keys;
mod budgets;
mod cache;
mod caller;
mod default_endpoint;
mod dev_keys;
pub mod erasure;
mod extract;
mod grant;
pub mod key;
mod keys;
mod limits;
mod metrics;
mod noisy;
mod operator;
mod organizations;
mod reads;
pub mod record;
mod refusal;
mod role;
mod routes;
mod service;
mod signups;
mod tenant;
mod tier;
mod watch;

pub use auth::{AuthSettings, Authenticator};
pub use budgets::{BudgetSettings, OrganizationBudgets, OrganizationShares};
pub use cache::CacheSettings;
pub use caller::Caller;
pub use default_endpoint::{DefaultEndpoint, SetDefaultEndpoint, SettingDefaultEndpoint};
pub use dev_keys::{DevKeysError, check_dev_keys};
pub use extract::{Consumer, Manager, PresentedKey};
pub use limits::LimitSettings;
pub use operator::{Operator, OperatorToken, ShortTokenError, check_operator_token};
pub use reads::{READ_SETTINGS, ReadError};
pub use refusal::Refusal;
pub use role::{Right, Role};
pub use routes::{openapi, routes};
pub use service::{SIGNUPS_PER_HOUR, Tenancy, TenancyConfig};
pub use tenant::Tenant;
