//! Options of the dispatcher. Each is a flag and an environment variable, checked at start.

mod egress_args;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use runtime::config::{FlagParser, InvalidConfig};

pub use egress_args::EgressArgs;

use self::egress_args::entries;
use crate::attempt::egress::EgressPolicy;
use crate::retry::schedule::OpenLimits;

/// Name of the consumer in `consumer_positions`, and of the health component.
pub const CONSUMER: &str = schemas::role::Role::Dispatcher.name();

const LOOPBACK_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
const LOOPBACK_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);

const DNS_PORT: u16 = 53;
const MEBIBYTE: i64 = 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);

/// What an organization may have open.
#[derive(Args, Clone, Debug)]
pub(crate) struct OpenArgs {
    /// Maximum of deliveries of an organization that are not finished; those beyond it fail at once
    #[arg(long, env = "WEBHOOK_MAX_OPEN_DELIVERIES", default_value_t = 1_000_000)]
    webhook_max_open_deliveries: usize,
    /// Maximum of payloads that are stored for such deliveries of an organization, in MiB; those beyond it fail at once
    #[arg(long, env = "WEBHOOK_MAX_OPEN_MEBIBYTES", default_value_t = 4096)]
    webhook_max_open_mebibytes: usize,
}

impl OpenArgs {
    fn limits(&self) -> Result<OpenLimits, InvalidConfig> {
        let (rows, mebibytes) = (self.webhook_max_open_deliveries, self.webhook_max_open_mebibytes);
        let rows = signed(in_range("WEBHOOK_MAX_OPEN_DELIVERIES", rows, 1_000_000_000)?);
        let bytes = MEBIBYTE * signed(in_range("WEBHOOK_MAX_OPEN_MEBIBYTES", mebibytes, 1_000_000)?);
        Ok(OpenLimits { rows, bytes })
    }
}

fn in_range(option: &'static str, value: usize, max: usize) -> Result<usize, InvalidConfig> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(InvalidConfig { option, reason: format!("must be from 1 to {max}") })
    }
}

/// Endpoints over HTTP.
#[derive(Args, Clone, Debug)]
pub struct EndpointArgs {
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    open: OpenArgs,
    /// Changes of an organization's endpoints per hour, over all instances; further ones get 429
    #[arg(long, env = "WEBHOOK_MAX_ENDPOINT_CHANGES_PER_HOUR", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    webhook_max_endpoint_changes_per_hour: u32,
}

impl EndpointArgs {
    /// Checks the values.
    ///
    /// # Errors
    /// Names the first invalid value.
    pub fn settings(&self) -> Result<EndpointSettings, InvalidConfig> {
        let max_changes_per_hour = self.webhook_max_endpoint_changes_per_hour;
        Ok(EndpointSettings { policy: self.egress.policy()?, max_changes_per_hour, open_limits: self.open.limits()? })
    }
}

/// What the routes of endpoints allow.
#[derive(Debug, Clone)]
pub struct EndpointSettings {
    /// URLs that an endpoint may have. It must be the dispatcher's.
    pub policy: EgressPolicy,
    /// Changes per organization and hour.
    pub max_changes_per_hour: u32,
    /// What an organization may have open. It must be the dispatcher's.
    pub open_limits: OpenLimits,
}

impl EndpointSettings {
    /// With the defaults of the other options.
    #[must_use]
    pub fn new(policy: EgressPolicy) -> Self {
        Self { policy, max_changes_per_hour: 1000, open_limits: OpenLimits::default() }
    }
}

/// Webhook delivery.
#[derive(Args, Clone, Debug)]
pub struct WebhookArgs {
    #[command(flatten)]
    egress: EgressArgs,
    /// Name servers for the host names of endpoints, such as 10.0.0.2 or 10.0.0.2:5353; comma-separated. Without it
    /// those of /etc/resolv.conf
    #[arg(long, env = "WEBHOOK_NAME_SERVERS", value_name = "ADDRESS,…", value_delimiter = ',')]
    webhook_name_servers: Vec<String>,
    /// Send no webhooks. Positions do not move; delivery continues from them when this option is removed
    #[arg(long, env = "DISABLE_WEBHOOK_DELIVERY", value_parser = FlagParser)]
    pub disable_webhook_delivery: bool,
    /// Maximum of first attempts in flight
    #[arg(long, env = "WEBHOOK_MAX_IN_FLIGHT", default_value_t = 1000)]
    pub webhook_max_in_flight: usize,
    /// Maximum of retries in flight
    #[arg(long, env = "WEBHOOK_MAX_RETRIES_IN_FLIGHT", default_value_t = 500)]
    pub webhook_max_retries_in_flight: usize,
    /// Maximum of attempts in flight per endpoint, if the endpoint has no max_in_flight of its own
    #[arg(long, env = "WEBHOOK_MAX_IN_FLIGHT_PER_ENDPOINT", default_value_t = 16)]
    pub webhook_max_in_flight_per_endpoint: usize,
    /// Maximum of batches in flight, in MiB; an organization has a quarter of it. Batches are an option of endpoints
    #[arg(long, env = "WEBHOOK_MAX_BATCH_MEBIBYTES", default_value_t = 256)]
    pub webhook_max_batch_mebibytes: usize,
    #[command(flatten)]
    open: OpenArgs,
    /// How long a delivery is retried, in hours. Then it fails, whatever is left of its retry schedule
    #[arg(long, env = "WEBHOOK_MAX_RETRY_HOURS", default_value_t = 72)]
    pub webhook_max_retry_hours: usize,
    /// After how many hours of nothing but failures an endpoint is disabled; 0: never
    #[arg(long, env = "WEBHOOK_DISABLE_AFTER_HOURS", default_value_t = 120,
          value_parser = clap::value_parser!(u32).range(0..=8760))]
    pub webhook_disable_after_hours: u32,
}

impl WebhookArgs {
    /// Checks the values.
    ///
    /// # Errors
    /// Names the first invalid value.
    pub fn config(&self) -> Result<DispatcherConfig, InvalidConfig> {
        Ok(DispatcherConfig {
            delivers: !self.disable_webhook_delivery,
            egress: self.egress.policy()?,
            name_servers: entries(&self.webhook_name_servers).map(name_server).collect::<Result<_, _>>()?,
            max_in_flight: in_range("WEBHOOK_MAX_IN_FLIGHT", self.webhook_max_in_flight, 20_000)?,
            max_retries_in_flight: in_range(
                "WEBHOOK_MAX_RETRIES_IN_FLIGHT",
                self.webhook_max_retries_in_flight,
                20_000,
            )?,
            max_in_flight_per_endpoint: in_range(
                "WEBHOOK_MAX_IN_FLIGHT_PER_ENDPOINT",
                self.webhook_max_in_flight_per_endpoint,
                1000,
            )?,
            max_batch_bytes: MEBIBYTE.unsigned_abs() * self.max_batch_mebibytes()? as u64,
            open_limits: self.open.limits()?,
            max_retry_time: HOUR * in_range("WEBHOOK_MAX_RETRY_HOURS", self.webhook_max_retry_hours, 720)? as u32,
            disable_after: Some(self.webhook_disable_after_hours).filter(|hours| *hours > 0).map(|hours| HOUR * hours),
            ..DispatcherConfig::default()
        })
    }

    fn max_batch_mebibytes(&self) -> Result<usize, InvalidConfig> {
        let (option, value) = ("WEBHOOK_MAX_BATCH_MEBIBYTES", self.webhook_max_batch_mebibytes);
        // A quarter of less has no room for the largest batch.
        let is_valid = (32..=65_536).contains(&value);
        is_valid.then_some(value).ok_or(InvalidConfig { option, reason: "must be from 32 to 65536".to_owned() })
    }
}

fn name_server(text: &str) -> Result<SocketAddr, InvalidConfig> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    address.or_else(|_| text.parse()).map_err(|_| InvalidConfig {
        option: "WEBHOOK_NAME_SERVERS",
        reason: format!("{text} is not an address such as 10.0.0.2 or 10.0.0.2:5353"),
    })
}

/// Of a number that is checked to be small.
fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[derive(Debug, Clone)]
pub struct DispatcherConfig {
    /// `false`: no webhooks are sent.
    pub delivers: bool,
    pub egress: EgressPolicy,
    /// Name servers for the host names of endpoints; none: those of `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// First attempts in flight.
    pub max_in_flight: usize,
    /// Retries in flight.
    pub max_retries_in_flight: usize,
    /// Attempts in flight per endpoint, unless the endpoint has a limit of its own.
    pub max_in_flight_per_endpoint: usize,
    /// Batches in flight.
    pub max_batch_bytes: u64,
    /// What an organization may have open.
    pub open_limits: OpenLimits,
    /// How long a delivery is retried.
    pub max_retry_time: Duration,
    /// An endpoint is disabled after so long with nothing but failures; `None`: never.
    pub disable_after: Option<Duration>,
    /// First attempts that wait per endpoint.
    pub queue_capacity: usize,
    /// A delivery that is not finished so long after its record was read is spilled to the schedule.
    pub spill_after: Duration,
    /// Time between two commits of positions.
    pub commit_interval: Duration,
    /// How long the shutdown waits for attempts in flight.
    pub drain: Duration,
    /// Shutdown deadline of the process; half of it is for leaving the group.
    pub shutdown_deadline: Duration,
    /// How long an instance that sends no heartbeat keeps its partitions.
    pub session_timeout: Duration,
    /// The consumer is restarted after so long with lag and without records.
    pub stall_after: Duration,
}

impl Default for DispatcherConfig {
    /// The defaults of the options: only public addresses, only https.
    fn default() -> Self {
        Self {
            delivers: true,
            egress: EgressPolicy::default(),
            name_servers: Vec::new(),
            max_in_flight: 1000,
            max_retries_in_flight: 500,
            max_in_flight_per_endpoint: 16,
            max_batch_bytes: 256 * MEBIBYTE.unsigned_abs(),
            open_limits: OpenLimits::default(),
            max_retry_time: 72 * HOUR,
            disable_after: Some(120 * HOUR),
            queue_capacity: 2000,
            spill_after: Duration::from_secs(1),
            commit_interval: Duration::from_millis(100),
            // Shorter than the default shutdown deadline of a process.
            drain: Duration::from_secs(8),
            shutdown_deadline: Duration::from_secs(10),
            session_timeout: Duration::from_secs(10),
            stall_after: Duration::from_secs(30),
        }
    }
}

impl DispatcherConfig {
    /// For `triggers up` and tests: allows receivers on loopback addresses, by plain http.
    #[must_use]
    pub fn on_this_machine(mut self) -> Self {
        let loopback = [IpNet::V4(LOOPBACK_V4), IpNet::V6(LOOPBACK_V6)];
        self.egress.allowed_networks.extend(loopback);
        self.egress.allow_http = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::egress::AddressClass;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        webhooks: WebhookArgs,
    }

    fn parse(arguments: &[&str]) -> Result<DispatcherConfig, InvalidConfig> {
        <Cli as clap::Parser>::parse_from(std::iter::once(&"triggers").chain(arguments)).webhooks.config()
    }

    #[test]
    fn by_default_only_public_addresses_are_allowed() {
        let config = parse(&[]).unwrap();
        assert!(config.delivers && !config.egress.allow_http && config.egress.allowed_networks.is_empty());
    }

    #[test]
    fn invalid_options_are_named() {
        for (flag, value, option) in [
            ("--webhook-allowed-networks", "10.1.0.0", "WEBHOOK_ALLOWED_NETWORKS"),
            ("--webhook-name-servers", "dns.example", "WEBHOOK_NAME_SERVERS"),
            ("--webhook-max-in-flight", "0", "WEBHOOK_MAX_IN_FLIGHT"),
            ("--webhook-max-batch-mebibytes", "31", "WEBHOOK_MAX_BATCH_MEBIBYTES"),
        ] {
            assert_eq!(parse(&[flag, value]).unwrap_err().option, option, "{value}");
        }
    }

    #[test]
    fn name_servers_are_addresses_with_or_without_a_port() {
        let config = parse(&["--webhook-name-servers", "10.0.0.2, [::1]:5353, fd00::2"]).unwrap();
        assert_eq!(
            config.name_servers,
            ["10.0.0.2:53", "[::1]:5353", "[fd00::2]:53"].map(|text| text.parse().unwrap())
        );
    }

    #[test]
    fn zero_hours_of_failures_disable_nothing() {
        let after = |hours: &str| parse(&["--webhook-disable-after-hours", hours]).unwrap().disable_after;
        assert_eq!((after("0"), after("2")), (None, Some(2 * HOUR)));
        assert_eq!(parse(&[]).unwrap().disable_after, Some(120 * HOUR));
    }

    #[test]
    fn on_this_machine_allows_loopback_only() {
        let config = DispatcherConfig::default().on_this_machine();
        let reach = |address: &str| config.egress.classify(address.parse::<IpAddr>().unwrap());
        assert_eq!([reach("127.0.0.1"), reach("127.9.9.9"), reach("::1")], [AddressClass::Listed; 3]);
        assert_eq!([reach("10.0.0.1"), reach("169.254.169.254"), reach("::2")], [AddressClass::Refused; 3]);
    }
}
