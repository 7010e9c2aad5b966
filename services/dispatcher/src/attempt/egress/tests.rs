use proptest::prelude::*;

use super::*;

fn open() -> EgressPolicy {
    EgressPolicy { allow_http: true, ..EgressPolicy::default() }
}

fn with_loopback() -> EgressPolicy {
    EgressPolicy { allowed_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()], ..open() }
}

#[test]
fn addresses_outside_the_public_internet_are_refused() {
    let refused = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ];
    for address in refused {
        assert_eq!(open().classify(address.parse().unwrap()), AddressClass::Refused, "{address}");
    }
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "2606:4700::1111",
        "2a00:1450::1",
    ] {
        assert_eq!(open().classify(address.parse().unwrap()), AddressClass::Public, "{address}");
    }
}

#[test]
fn only_listed_networks_are_allowed() {
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(with_loopback().classify(address.parse().unwrap()), AddressClass::Listed, "{address}");
    }
    for address in ["10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"] {
        assert_eq!(with_loopback().classify(address.parse().unwrap()), AddressClass::Refused, "{address}");
    }
}

#[test]
fn every_spelling_of_a_refused_address_is_refused() {
    let spellings = [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::ffff:7f00:1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://%31%32%37.0.0.1/",
        "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
        "http://127.0.0.1./",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost:80/",
        "http://169.254.169.254/latest/meta-data",
        "http://0/",
        "http://[fd00:ec2::254]/",
    ];
    for spelling in spellings {
        assert_eq!(open().check_url(spelling), Err(Refusal::Address.into()), "{spelling}");
    }
    let numeric = ["2130706433:8080", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "%31%32%37.0.0.1", "127.0.0.1."];
    for host in numeric.into_iter().chain(["\u{ff11}\u{ff12}\u{ff17}.0.0.1"]) {
        let problem = with_loopback().check_url(&format!("http://{host}/")).unwrap_err();
        assert_eq!(problem, UrlProblem::Ambiguous, "{host}: allowed, but not as it would be shown");
    }
    assert!(with_loopback().check_url("http://[0:0:0:0:0:0:0:1]:80/x").is_ok());
    assert!(with_loopback().check_url("http://localhost:8080/x").is_ok());
}

#[test]
fn a_url_is_http_without_user_name() {
    let problem = |text: &str| open().check_url(text).unwrap_err();
    for text in ["", "example.com", "/hook", "http://", "https://:80/", "https://a b/"] {
        assert_eq!(problem(text), UrlProblem::Malformed, "{text}");
    }
    for text in ["ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)", "gopher://example.com/"] {
        assert_eq!(problem(text), UrlProblem::Scheme, "{text}");
    }
    assert_eq!(problem("https://user@example.com/"), UrlProblem::UserInfo);
    assert_eq!(problem("https://user:word@example.com/"), UrlProblem::UserInfo);
    assert_eq!(problem(&format!("https://example.com/{}", "x".repeat(2048))), UrlProblem::TooLong);
    assert_eq!(EgressPolicy::default().check_url("http://example.com/").unwrap_err(), Refusal::PlainHttp.into());
    assert_eq!(open().check_url("https://example.com/a?b=c#d").unwrap().as_str(), "https://example.com/a?b=c");
}

#[test]
fn a_url_that_the_parser_repairs_is_refused() {
    for text in [
        "https:example.com",
        "https:/example.com",
        "https:///example.com",
        "https:\\\\example.com",
        "https://example.com\\@other.example/",
        "https://@example.com/",
        " https://example.com/",
        "https://example.com/a b",
        "https://exam\tple.com/",
        "https://example.com/\n",
        "https://example.com/\u{a0}",
        "https://example.com/\u{7f}",
        "https://a.b%2ec/",
        "https://exa\u{ad}mple.com/",
        "https://\u{ff45}xample.com/",
        "https://example\u{3002}com/",
        "https://1.1/",
        "https://0x8.8.8.8/",
        "https://8.8.8.8./",
    ] {
        assert_eq!(open().check_url(text), Err(UrlProblem::Ambiguous), "{text:?}");
    }
    for text in [
        "https://example.com",
        "HTTPS://example.com/a@b?c=@#@",
        "https://b\u{fc}cher.example/",
        "https://B\u{fc}cher.EXAMPLE.:8443/",
    ] {
        assert!(open().check_url(text).is_ok(), "{text:?}");
    }
}

fn networks(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|network| network.parse().unwrap()).collect()
}

#[test]
fn a_network_of_one_organization_is_closed_to_others() {
    let (a, b) = (OrgId::generate(), OrgId::generate());
    let policy = EgressPolicy {
        allowed_networks: networks(&["192.168.0.0/24"]),
        organization_networks: vec![(a, "10.1.0.0/16".parse().unwrap())],
        ..open()
    };
    let classes = |org_id, list: [&str; 2]| list.map(|text| policy.of(org_id).classify(text.parse().unwrap()));
    assert_eq!(classes(a, ["10.1.2.3", "192.168.0.1"]), [AddressClass::Listed; 2]);
    assert_eq!(classes(b, ["10.1.2.3", "192.168.0.1"]), [AddressClass::Refused, AddressClass::Listed]);
    assert_eq!(policy.classify("10.1.2.3".parse().unwrap()), AddressClass::Refused);
    assert!(policy.of(a).check_url("http://10.1.2.3:22/").is_ok());
    assert_eq!(policy.of(b).check_url("http://10.1.2.3:22/"), Err(Refusal::Address.into()));
}

#[test]
fn denied_networks_and_hosts_win_over_everything() {
    let policy = EgressPolicy {
        allowed_networks: networks(&["10.0.0.0/8"]),
        denied_networks: networks(&["10.9.0.0/16", "161.26.0.0/16", "2606:4700::/32"]),
        denied_hosts: vec!["hooks.example".to_owned(), "*.internal.example".to_owned()],
        ..open()
    };
    for address in ["10.9.1.1", "::ffff:10.9.1.1", "161.26.0.7", "2606:4700::1111"] {
        assert_eq!(policy.check_address(address.parse().unwrap(), 443), Err(Refusal::Address), "{address}");
    }
    assert_eq!(policy.check_address("10.8.1.1".parse().unwrap(), 443), Ok(AddressClass::Listed));
    for host in ["hooks.example", "HOOKS.example.", "a.internal.example", "a.b.internal.example"] {
        assert_eq!(policy.check_url(&format!("https://{host}/v1/events")), Err(Refusal::Host.into()), "{host}");
    }
    for host in ["a.hooks.example", "internal.example", "xinternal.example", "161.27.0.1"] {
        assert!(policy.check_url(&format!("https://{host}/")).is_ok(), "{host}");
    }
}

#[test]
fn ports_of_internal_services_are_refused() {
    let refused = [1, 22, 25, 53, 81, 442, 444, 1023, 2375, 2379, 3306, 5432, 6379, 9092, 9200, 11211, 27017];
    for port in refused {
        assert_eq!(open().check_url(&format!("http://8.8.8.8:{port}/")), Err(Refusal::Port.into()), "{port}");
        assert_eq!(open().check_url(&format!("http://a.example:{port}/")), Err(Refusal::Port.into()), "{port}");
        assert!(with_loopback().check_url(&format!("http://127.0.0.1:{port}/")).is_ok(), "{port}: listed");
        let may_be_listed = with_loopback().check_url(&format!("http://a.example:{port}/"));
        assert!(may_be_listed.is_ok(), "{port}: the name may lead into a listed network");
        let public = "8.8.8.8".parse().unwrap();
        assert_eq!(with_loopback().check_address(public, port), Err(Refusal::Port), "{port}: but it did not");
    }
    for port in [80, 443, 1024, 8080, 8443, 65535] {
        assert!(open().check_url(&format!("http://8.8.8.8:{port}/")).is_ok(), "{port}");
    }
    let replaced = EgressPolicy { denied_ports: vec![8000..=8100], ..open() };
    assert_eq!(replaced.check_url("http://8.8.8.8:8080/"), Err(Refusal::Port.into()));
    assert!(replaced.check_url("http://8.8.8.8:6379/").is_ok());
}

#[test]
fn a_stored_http_url_is_refused_when_http_no_longer_is_allowed() {
    let url = open().check_url("http://example.com/").unwrap();
    assert_eq!((open().check_host(&url), EgressPolicy::default().check_host(&url)), (Ok(()), Err(Refusal::PlainHttp)));
}

proptest! {
    #[test]
    fn embedded_ipv4_addresses_are_refused(octets in any::<[u8; 4]>()) {
        let [a, b, c, d] = octets.map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        for embedded in [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low),
        ] {
            prop_assert_eq!(open().classify(IpAddr::V6(embedded)), AddressClass::Refused);
        }
    }

    #[test]
    fn no_url_panics_and_accepted_urls_are_http(text in "\\PC{0,60}") {
        if let Ok(url) = open().check_url(&text) {
            prop_assert!(matches!(url.scheme(), "http" | "https"));
        }
    }
}
