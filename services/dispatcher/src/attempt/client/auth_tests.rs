//! Requests that authenticate: certificates and tokens, without a dispatcher around them.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use schemas::ids::{EndpointId, OrgId};
use testkit::certificates::Authority;
use testkit::tls_receiver::TlsReceiver;
use tokio::net::TcpListener;

use super::*;
use crate::attempt::authorization::tests::credentials;
use crate::attempt::egress::Refusal;
use crate::attempt::sign::Secret;
use crate::delivery::outbound_event;
use crate::endpoints::matching::Secrets;
use crate::endpoints::matching::tests::endpoint_of;
use crate::endpoints::receiver_auth::ReceiverAuth;

const NOT_ACCEPTED: &str = "TLS failed: the receiver does not accept the certificate of the client";
const BROKEN: &str = "the connection broke before the response";

fn loopback() -> EgressPolicy {
    EgressPolicy { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], allow_http: true, ..Default::default() }
}

/// A client that trusts this CA only.
fn client_of(ca: &str) -> WebhookClient {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    WebhookClient::with(Connector::new(Resolver::new(&[]).unwrap(), tls), Arc::new(loopback()))
}

fn endpoint(org_id: OrgId, url: &str, auth: Option<&ReceiverAuth>) -> Endpoint {
    let id = EndpointId::generate();
    Endpoint {
        id,
        url: url.parse().unwrap(),
        secrets: Secrets { all: vec![Secret::generate()], previous_expires_at: None },
        authorization: auth.map(|auth| Authorization::of(id, auth).unwrap()),
        timeout: Duration::from_secs(5),
        ..endpoint_of(org_id)
    }
}

#[tokio::test]
async fn a_certificate_is_shown_on_connections_of_its_endpoint_only() {
    let authority = Authority::new();
    let receiver = TlsReceiver::start(&authority.security(&["localhost"], &[])).await;
    let ours = authority.security(&["client.example"], &[]);
    let foreign = Authority::new().security(&["client.example"], &[]);
    let mtls = |of: &devstack::Security| ReceiverAuth::Mtls {
        certificate: of.certificate.clone(),
        private_key: of.key.clone(),
    };
    let client = client_of(&ours.ca);
    let org_id = OrgId::generate();
    let at = |path: &str, auth: Option<&ReceiverAuth>| endpoint(org_id, &receiver.url("localhost", path), auth);
    let (one, two) = (at("one", Some(&mtls(&ours))), at("two", Some(&mtls(&ours))));
    let (none, other) = (at("none", None), at("other", Some(&mtls(&foreign))));
    for _ in 0..3 {
        for (endpoint, is_accepted) in [(&one, true), (&none, false), (&two, true), (&other, false)] {
            let result = client.send(endpoint, &Message::single(&outbound_event(org_id))).await.unwrap();
            let error = result.error.as_deref();
            // The receiver says why, but the connection may be reset before that is read.
            let fits = if is_accepted { error.is_none() } else { matches!(error, Some(NOT_ACCEPTED | BROKEN)) };
            assert!(fits, "{}: {error:?}", endpoint.url);
        }
    }
    let requests = receiver.requests();
    let by_connection: std::collections::BTreeSet<_> =
        requests.iter().map(|request| (request.connection, request.path.as_str())).collect();
    let paths: Vec<_> = by_connection.iter().map(|(_, path)| *path).collect();
    assert_eq!((requests.len(), paths), (6, vec!["/one", "/two"]), "a connection for each endpoint, used three times");
    assert_eq!(receiver.refused(), 6);
}

#[tokio::test]
async fn a_token_is_fetched_only_where_the_policy_allows() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, counted) = (listener.local_addr().unwrap().port(), accepted.clone());
    let server = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let org_id = OrgId::generate();
    for (policy, host, reason) in [
        (EgressPolicy { allow_http: true, ..Default::default() }, "127.0.0.1", Refusal::Address),
        (EgressPolicy { allow_http: true, ..Default::default() }, "localhost", Refusal::Address),
        (EgressPolicy { denied_hosts: vec!["localhost".to_owned()], ..loopback() }, "localhost", Refusal::Host),
        (EgressPolicy { allow_http: false, ..loopback() }, "127.0.0.1", Refusal::PlainHttp),
    ] {
        let client = WebhookClient::new(Arc::new(policy), &[]).unwrap();
        let auth = credentials(&format!("http://{host}:{port}/token"), "s");
        let endpoint = endpoint(org_id, "https://example.com/", Some(&auth));
        let result = client.send(&endpoint, &Message::single(&outbound_event(org_id))).await.unwrap();
        let wanted = format!("the token endpoint could not be used: {reason}");
        assert_eq!((result.error, result.remote), (Some(wanted), None), "{host}");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 0);
    server.abort();
}
