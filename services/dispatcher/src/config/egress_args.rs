//! Options for what webhooks may reach.

use clap::Args;
use ipnet::IpNet;
use runtime::config::{FlagParser, InvalidConfig};
use url::Host;

use crate::attempt::egress::{self, EgressPolicy};

/// Which URLs webhooks may have: checked when an endpoint is created and at each attempt.
#[derive(Args, Clone, Debug)]
pub struct EgressArgs {
    /// Networks that are not public and that webhooks may reach, such as 10.1.0.0/16, or ORG_ID=10.1.0.0/16 for those
    /// of one organization; comma-separated
    #[arg(long, env = "WEBHOOK_ALLOWED_NETWORKS", value_name = "CIDR,…", value_delimiter = ',')]
    pub webhook_allowed_networks: Vec<String>,
    /// Networks that webhooks never reach, public or allowed ones too; comma-separated
    #[arg(long, env = "WEBHOOK_DENIED_NETWORKS", value_name = "CIDR,…", value_delimiter = ',')]
    pub webhook_denied_networks: Vec<String>,
    /// Host names that webhooks never reach, such as the public name of this service; *.example.com is for all names
    /// below; comma-separated
    #[arg(long, env = "WEBHOOK_DENIED_HOSTS", value_name = "NAME,…", value_delimiter = ',')]
    pub webhook_denied_hosts: Vec<String>,
    /// Ports that webhooks reach only in allowed networks, besides all below 1024 but 80 and 443; replaces the default
    #[arg(
        long, env = "WEBHOOK_DENIED_PORTS", value_name = "PORT,…", value_delimiter = ',',
        default_value = egress::DENIED_PORTS
    )]
    pub webhook_denied_ports: Vec<String>,
    /// Allow endpoints with plain http URLs
    #[arg(long, env = "WEBHOOK_ALLOW_HTTP", value_parser = FlagParser)]
    pub webhook_allow_http: bool,
}

impl EgressArgs {
    /// Checks the values.
    ///
    /// # Errors
    /// Names the first value that cannot be parsed.
    pub fn policy(&self) -> Result<EgressPolicy, InvalidConfig> {
        let mut policy = EgressPolicy {
            denied_networks: Vec::new(),
            denied_hosts: Vec::new(),
            denied_ports: Vec::new(),
            allow_http: self.webhook_allow_http,
            ..EgressPolicy::default()
        };
        for text in entries(&self.webhook_allowed_networks) {
            let option = "WEBHOOK_ALLOWED_NETWORKS";
            match text.split_once('=') {
                None => policy.allowed_networks.push(network(option, text)?),
                Some((org_id, of_organization)) => {
                    let reason = || format!("{text} does not start with the id of an organization");
                    let org_id = org_id.trim().parse().map_err(|_| InvalidConfig { option, reason: reason() })?;
                    policy.organization_networks.push((org_id, network(option, of_organization.trim())?));
                }
            }
        }
        for text in entries(&self.webhook_denied_networks) {
            policy.denied_networks.push(network("WEBHOOK_DENIED_NETWORKS", text)?);
        }
        for text in entries(&self.webhook_denied_hosts) {
            policy.denied_hosts.push(denied_host(text)?);
        }
        for text in entries(&self.webhook_denied_ports) {
            let reason = || format!("{text} is neither a port nor a range such as 6000-6063");
            let range = egress::port_range(text);
            let invalid = || InvalidConfig { option: "WEBHOOK_DENIED_PORTS", reason: reason() };
            policy.denied_ports.push(range.ok_or_else(invalid)?);
        }
        Ok(policy)
    }
}

/// The parts of a list, without blanks and empty ones.
pub(super) fn entries(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter().map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn network(option: &'static str, text: &str) -> Result<IpNet, InvalidConfig> {
    text.parse().map_err(|_| InvalidConfig { option, reason: format!("{text} is not a network such as 10.1.0.0/16") })
}

/// A name as URLs have it: lower case, Punycode, without a dot at its end.
fn denied_host(text: &str) -> Result<String, InvalidConfig> {
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    let name = name.strip_suffix('.').unwrap_or(name);
    match Host::parse(name) {
        Ok(Host::Domain(name)) => Ok(format!("{star}{name}")),
        _ => Err(InvalidConfig {
            option: "WEBHOOK_DENIED_HOSTS",
            reason: format!("{text} is not a host name; addresses belong into WEBHOOK_DENIED_NETWORKS"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use schemas::ids::OrgId;

    use super::*;
    use crate::attempt::egress::AddressClass;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        egress: EgressArgs,
    }

    fn parse(arguments: &[&str]) -> Result<EgressPolicy, InvalidConfig> {
        <Cli as clap::Parser>::parse_from(std::iter::once(&"triggers").chain(arguments)).egress.policy()
    }

    #[test]
    fn networks_are_parsed_and_invalid_options_are_named() {
        let policy = parse(&["--webhook-allowed-networks", "10.1.0.0/16, fd00::/8", "--webhook-allow-http"]).unwrap();
        let reach = |address: &str| policy.classify(address.parse::<IpAddr>().unwrap());
        assert_eq!(
            [reach("10.1.2.3"), reach("10.2.0.1"), reach("fd00::1")],
            [AddressClass::Listed, AddressClass::Refused, AddressClass::Listed]
        );
        for (flag, value, option) in [
            ("--webhook-allowed-networks", "10.1.0.0", "WEBHOOK_ALLOWED_NETWORKS"),
            ("--webhook-allowed-networks", "shop=10.1.0.0/16", "WEBHOOK_ALLOWED_NETWORKS"),
            ("--webhook-denied-networks", "10.1", "WEBHOOK_DENIED_NETWORKS"),
            ("--webhook-denied-hosts", "10.1.2.3", "WEBHOOK_DENIED_HOSTS"),
            ("--webhook-denied-hosts", "a b", "WEBHOOK_DENIED_HOSTS"),
            ("--webhook-denied-ports", "70000", "WEBHOOK_DENIED_PORTS"),
            ("--webhook-denied-ports", "9-8", "WEBHOOK_DENIED_PORTS"),
        ] {
            assert_eq!(parse(&[flag, value]).unwrap_err().option, option, "{value}");
        }
    }

    #[test]
    fn what_is_denied_is_parsed() {
        let org_id = OrgId::generate();
        let policy = parse(&[
            "--webhook-allowed-networks",
            &format!("{org_id}=10.1.0.0/16"),
            "--webhook-denied-networks",
            "10.1.9.0/24",
            "--webhook-denied-hosts",
            "Hooks.Example., *.b\u{fc}cher.example",
            "--webhook-denied-ports",
            "8000-8001, 9000",
        ])
        .unwrap();
        assert_eq!(policy.denied_hosts, ["hooks.example", "*.xn--bcher-kva.example"]);
        assert_eq!(policy.denied_ports, [8000..=8001, 9000..=9000]);
        let own = policy.of(org_id);
        let reach = |address: &str| own.classify(address.parse::<IpAddr>().unwrap());
        assert_eq!([reach("10.1.2.3"), reach("10.1.9.3")], [AddressClass::Listed, AddressClass::Refused]);
        assert_eq!(parse(&[]).unwrap().denied_ports, EgressPolicy::default().denied_ports);
    }
}
