//! Options of the HTTP server of the API: what clients may hold, proxies, and headers for browsers.

use anyhow::{Context, Result, ensure};
use clap::Args;
use http_server::{
    AllowedHosts, Budgets, CorsOrigins, ForwardedHeader, MountOptions, ServerLimits, ServerSettings, TrustedProxies,
};
use runtime::config::FlagParser;
use tenancy::{BudgetSettings, OrganizationBudgets};

pub(super) const MIB: u64 = 1024 * 1024;

/// What clients may hold at once. Over a bound of all: 503; over that of an organization or address: 429.
#[derive(Args, Clone)]
pub(crate) struct HttpArgs {
    /// Open connections; further ones get 503. Lowered to what the limit on file descriptors allows
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    max_connections: u32,
    /// Open connections of one address (IPv6: of one /64); further ones get 429. Trusted proxies have no such bound
    #[arg(long, env = "MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 2_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections_per_address: u32,
    /// Memory for request bodies that are not complete, MiB
    #[arg(long, env = "MAX_BODIES_MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(8..=65_536))]
    max_bodies_mib: u64,
    /// The part of it that one organization may use (an address, while no key is known), MiB
    #[arg(long, env = "MAX_BODIES_PER_ORGANIZATION_MIB", default_value_t = 24,
          value_parser = clap::value_parser!(u64).range(8..=65_536))]
    max_bodies_per_organization_mib: u64,
    /// Memory for responses that are not read yet, MiB
    #[arg(long, env = "MAX_RESPONSES_MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(8..=65_536))]
    max_responses_mib: u64,
    /// The part of it that one organization may use, MiB
    #[arg(long, env = "MAX_RESPONSES_PER_ORGANIZATION_MIB", default_value_t = 24,
          value_parser = clap::value_parser!(u64).range(8..=65_536))]
    max_responses_per_organization_mib: u64,
    /// Requests that are being handled
    #[arg(long, env = "MAX_REQUESTS", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    max_requests: u64,
    /// Requests of one organization
    #[arg(long, env = "MAX_REQUESTS_PER_ORGANIZATION", default_value_t = 4_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    max_requests_per_organization: u64,
    /// Long polls that wait for events; one by status counts as 50
    #[arg(long, env = "MAX_LONG_POLLS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    max_long_polls: u64,
    /// Long polls of one organization
    #[arg(long, env = "MAX_LONG_POLLS_PER_ORGANIZATION", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    max_long_polls_per_organization: u64,
    /// Long polls of one key
    #[arg(long, env = "MAX_LONG_POLLS_PER_KEY", default_value_t = 500,
          value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    max_long_polls_per_key: u64,
    /// Reads of one organization in the database; further ones wait
    #[arg(long, env = "MAX_READS_PER_ORGANIZATION", default_value_t = 4,
          value_parser = clap::value_parser!(u64).range(1..=1_000))]
    max_reads_per_organization: u64,
    /// Addresses and networks of proxies that name the client's address, such as 10.0.0.0/8; comma-separated
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", hide_default_value = true)]
    trusted_proxies: String,
    /// The header in which they name it: x-forwarded-for or forwarded. They must set it themselves
    #[arg(long, env = "TRUSTED_PROXY_HEADER", default_value = "x-forwarded-for")]
    trusted_proxy_header: ForwardedHeader,
    /// Names of this server that a Host header may have, such as api.example.com, without ports; comma-separated. None:
    /// local names if it listens on loopback, else all
    #[arg(long, env = "ALLOWED_HOSTS", default_value = "", hide_default_value = true)]
    allowed_hosts: String,
    /// Origins whose pages may use the API in a browser, such as https://app.example.com, or *; comma-separated
    #[arg(long, env = "CORS_ALLOWED_ORIGINS", default_value = "", hide_default_value = true)]
    cors_allowed_origins: String,
    /// max-age of Strict-Transport-Security, seconds; 0: the header is not sent
    #[arg(long, env = "HSTS_MAX_AGE_SECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(0..=63_072_000))]
    hsts_max_age_seconds: u64,
    /// Serve the description of the API at /openapi.json and /docs
    #[arg(long, env = "DOCS_ENABLED", default_value_t = true, value_parser = FlagParser,
          action = clap::ArgAction::Set, value_name = "true|false")]
    docs_enabled: bool,
}

/// The checked options.
pub(crate) struct HttpOptions {
    pub server: ServerSettings,
    pub mount: MountOptions,
    pub budgets: OrganizationBudgets,
    /// Whether the API describes itself.
    pub docs: bool,
}

impl HttpArgs {
    /// Checks the options, and raises the process's limit on file descriptors.
    pub(crate) fn options(&self) -> Result<HttpOptions> {
        ensure!(
            self.max_bodies_per_organization_mib <= self.max_bodies_mib,
            "MAX_BODIES_PER_ORGANIZATION_MIB must not exceed MAX_BODIES_MIB"
        );
        ensure!(
            self.max_responses_per_organization_mib <= self.max_responses_mib,
            "MAX_RESPONSES_PER_ORGANIZATION_MIB must not exceed MAX_RESPONSES_MIB"
        );
        let proxies = TrustedProxies::parse(&self.trusted_proxies, self.trusted_proxy_header);
        let trusted_proxies = proxies.map_err(anyhow::Error::msg).context("TRUSTED_PROXIES")?;
        let cors = CorsOrigins::parse(&self.cors_allowed_origins).map_err(anyhow::Error::msg);
        let allowed_hosts = AllowedHosts::parse(&self.allowed_hosts).map_err(anyhow::Error::msg);
        let limits = self.limits(http_server::connections_that_fit(self.max_connections as usize));
        let http = Budgets::new(&limits);
        Ok(HttpOptions {
            budgets: OrganizationBudgets::new(&self.budget_settings(), http.clone()),
            server: ServerSettings {
                limits,
                budgets: http,
                trusted_proxies,
                allowed_hosts: allowed_hosts.context("ALLOWED_HOSTS")?,
            },
            mount: MountOptions {
                hsts_max_age_seconds: self.hsts_max_age_seconds,
                cors: cors.context("CORS_ALLOWED_ORIGINS")?,
                ..MountOptions::default()
            },
            docs: self.docs_enabled,
        })
    }

    fn limits(&self, max_connections: usize) -> ServerLimits {
        ServerLimits {
            max_connections,
            max_connections_per_peer: self.max_connections_per_address as usize,
            max_body_bytes: self.max_bodies_mib * MIB,
            max_body_bytes_per_holder: self.max_bodies_per_organization_mib * MIB,
            max_response_bytes: self.max_responses_mib * MIB,
            max_response_bytes_per_holder: self.max_responses_per_organization_mib * MIB,
            ..ServerLimits::default()
        }
    }

    fn budget_settings(&self) -> BudgetSettings {
        BudgetSettings {
            max_requests: self.max_requests,
            max_requests_per_organization: self.max_requests_per_organization,
            max_long_polls: self.max_long_polls,
            max_long_polls_per_organization: self.max_long_polls_per_organization,
            max_long_polls_per_key: self.max_long_polls_per_key,
            max_reads_per_organization: self.max_reads_per_organization,
        }
    }
}
