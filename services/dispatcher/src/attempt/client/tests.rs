use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use schemas::ids::{EndpointId, OrgId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::attempt::egress::Refusal;
use crate::attempt::sign::Secret;
use crate::delivery::outbound_event;
use crate::endpoints::matching::Secrets;

/// A server that accepts connections, counts them, and serves each with `serve`.
struct Server {
    port: u16,
    accepted: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = accepted.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream));
            }
        });
        Self { port, accepted, _task: AbortOnDropHandle::new(task) }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Reads until the end of the request's body, whose last byte is `}`.
async fn read_request(stream: &mut TcpStream) -> Option<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"}") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        id: EndpointId::generate(),
        url: url.parse().unwrap(),
        org_id: OrgId::generate(),
        secrets: Secrets { all: vec![Secret::generate()], previous_expires_at: None },
        headers: Vec::new(),
        authorization: None,
        compat_signer: None,
        max_in_flight: 1,
        rate_limit_per_second: None,
        timeout: Duration::from_secs(5),
        retry_delays_seconds: Vec::new(),
        batch: None,
    }
}

fn with_loopback() -> EgressPolicy {
    let allowed_networks = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    EgressPolicy { allowed_networks, allow_http: true, ..EgressPolicy::default() }
}

#[test]
fn an_excerpt_is_short_text_without_nul() {
    assert_eq!(text(b"a\0b"), "a\u{fffd}b");
    assert_eq!(text(&[0xff; 3]), "\u{fffd}\u{fffd}\u{fffd}");
    let long = text(&[0xff; EXCERPT_BYTES]);
    assert!(long.len() <= EXCERPT_BYTES && long.len() > EXCERPT_BYTES - 4);
}

#[tokio::test]
async fn the_parts_of_a_request_are_measured() {
    const THINKING: Duration = Duration::from_millis(50);
    let server = Server::start(|mut stream| async move {
        while read_request(&mut stream).await.is_some() {
            tokio::time::sleep(THINKING).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let client = WebhookClient::new(Arc::new(with_loopback()), &[]).unwrap();
    let (endpoint, event) =
        (endpoint(&format!("http://localhost:{}/", server.port)), outbound_event(OrgId::generate()));
    let first = client.send(&endpoint, &Message::single(&event)).await.unwrap();
    assert_eq!((first.answer.status, first.reused), (Some(200), false), "{first:?}");
    assert_eq!(first.remote.unwrap().port(), server.port);
    assert!(first.timings.connect > Duration::ZERO && first.timings.wait >= THINKING, "{first:?}");
    assert!(first.timings.connect + first.timings.send + first.timings.wait <= first.latency, "{first:?}");
    assert!(first.timings.send < THINKING, "{first:?}");
    let second = client.send(&endpoint, &Message::single(&event)).await.unwrap();
    assert_eq!((second.answer.status, second.reused, second.timings.connect), (Some(200), true, Duration::ZERO));
    assert!(second.timings.wait >= THINKING, "{second:?}");
    let other = client.send(&endpoint, &Message::single(&outbound_event(OrgId::generate()))).await.unwrap();
    assert!(!other.reused, "a connection of another organization");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_time_out_has_the_parts_until_then() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let client = WebhookClient::new(Arc::new(with_loopback()), &[]).unwrap();
    let mut endpoint = endpoint(&format!("http://127.0.0.1:{}/", server.port));
    endpoint.timeout = Duration::from_secs(1);
    let result = client.send(&endpoint, &Message::single(&outbound_event(OrgId::generate()))).await.unwrap();
    assert_eq!(result.error.as_deref(), Some("no response within 1 s"));
    assert!(result.timings.wait > Duration::from_millis(700) && result.remote.is_some(), "{result:?}");
}

#[tokio::test]
async fn what_the_policy_refuses_opens_no_connection() {
    let server = Server::start(|stream| async move { drop(stream) }).await;
    let (org_id, other) = (OrgId::generate(), OrgId::generate());
    let loopback: ipnet::IpNet = "127.0.0.0/8".parse().unwrap();
    let closed = EgressPolicy { allow_http: true, ..EgressPolicy::default() };
    let of_another =
        EgressPolicy { organization_networks: vec![(other, loopback)], allow_http: true, ..EgressPolicy::default() };
    let denied = EgressPolicy { denied_networks: vec![loopback], ..with_loopback() };
    let denied_host = EgressPolicy { denied_hosts: vec!["localhost".to_owned()], ..with_loopback() };
    let https_only = EgressPolicy { allow_http: false, ..with_loopback() };
    for (policy, host, refusal) in [
        (&closed, "127.0.0.1", Refusal::Address),
        (&closed, "127.0.0.2", Refusal::Address),
        (&closed, "localhost", Refusal::Address),
        (&closed, "[::1]", Refusal::Address),
        (&closed, "[::ffff:127.0.0.1]", Refusal::Address),
        (&closed, "0.0.0.0", Refusal::Address),
        (&of_another, "127.0.0.1", Refusal::Address),
        (&denied, "127.0.0.1", Refusal::Address),
        (&denied, "[::ffff:127.0.0.1]", Refusal::Address),
        (&denied_host, "localhost", Refusal::Host),
        (&https_only, "127.0.0.1", Refusal::PlainHttp),
    ] {
        let client = WebhookClient::new(Arc::new(policy.clone()), &[]).unwrap();
        let result = client
            .send(&endpoint(&format!("http://{host}:{}/", server.port)), &Message::single(&outbound_event(org_id)))
            .await
            .unwrap();
        assert_eq!(result.error, Some(refusal.to_string()), "{host}");
        assert_eq!(result.remote, None, "{host}");
    }
    assert_eq!(server.accepted(), 0);
    let client = WebhookClient::new(Arc::new(of_another), &[]).unwrap();
    let endpoint = endpoint(&format!("http://127.0.0.1:{}/", server.port));
    assert!(
        client.send(&endpoint, &Message::single(&outbound_event(other))).await.unwrap().remote.is_some(),
        "the organization that may"
    );
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_name_is_refused_after_its_look_up() {
    // `localhost` is refused by its name; the connector sees what it resolves to.
    let server = Server::start(|stream| async move { drop(stream) }).await;
    let connector = Connector::new(Resolver::new(&[]).unwrap(), connector::tls_config().unwrap());
    let origin = Origin {
        org_id: OrgId::generate(),
        is_tls: false,
        host: "localhost".to_owned(),
        port: server.port,
        certificate: None,
    };
    let refused = connector.connect(&origin, &EgressPolicy::default()).await.err();
    assert_eq!(refused, Some(Failure::Refused(Refusal::Address)));
    assert_eq!(server.accepted(), 0);
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server with a certificate for `name` that was valid until a year.
    fn acceptor(&self, name: &str, until: i32) -> TlsAcceptor {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[tokio::test]
async fn tls_errors_are_fixed_words() {
    let (known, unknown) = (Authority::new("known"), Authority::new("unknown"));
    let mut roots = RootCertStore::empty();
    roots.add(known.0.der().clone()).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = Connector::new(Resolver::new(&[]).unwrap(), tls);
    for (acceptor, failure) in [
        (Some(known.acceptor("localhost", 2100)), None),
        (Some(known.acceptor("localhost", 2001)), Some("TLS failed: certificate expired")),
        (Some(known.acceptor("internal.example", 2100)), Some("TLS failed: certificate not valid for this name")),
        (Some(unknown.acceptor("localhost", 2100)), Some("TLS failed: unknown certificate authority")),
        (None, Some("TLS failed: TLS handshake failed")),
    ] {
        let server = Server::start(move |mut stream| {
            let acceptor = acceptor.clone();
            async move {
                match acceptor {
                    Some(acceptor) => drop(acceptor.accept(stream).await),
                    None => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap(),
                }
            }
        })
        .await;
        let origin = Origin {
            org_id: OrgId::generate(),
            is_tls: true,
            host: "localhost".to_owned(),
            port: server.port,
            certificate: None,
        };
        let outcome = connector.connect(&origin, &with_loopback()).await;
        assert_eq!(outcome.err().map(|failure| failure.to_string()).as_deref(), failure);
    }
}
