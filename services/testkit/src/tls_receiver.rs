//! A webhook receiver that asks for the certificate of its client, and serves nobody without one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use devstack::Security;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRequest {
    /// Number of its connection, from 0.
    pub connection: usize,
    pub path: String,
    /// Its `webhook-id`.
    pub id: String,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<TlsRequest>>,
    refused: AtomicUsize,
}

/// Serves until it is dropped.
pub struct TlsReceiver {
    shared: Arc<Shared>,
    port: u16,
    server: JoinHandle<()>,
}

impl Drop for TlsReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl TlsReceiver {
    /// With the certificate of `security`, for clients with a certificate of its CA.
    pub async fn start(security: &Security) -> Self {
        let acceptor = acceptor(security);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared: Arc<Shared> = Arc::default();
        let serving = shared.clone();
        let server = tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), serving.clone());
                tokio::spawn(async move {
                    match acceptor.accept(stream).await {
                        Ok(stream) => serve(stream, connection, &shared).await,
                        Err(_) => drop(shared.refused.fetch_add(1, Ordering::SeqCst)),
                    }
                });
            }
        });
        Self { shared, port, server }
    }

    /// The name of the host must be in the certificate.
    pub fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}/{path}", self.port)
    }

    pub fn requests(&self) -> Vec<TlsRequest> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Connections of clients without a certificate that is accepted.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::SeqCst)
    }
}

fn acceptor(security: &Security) -> TlsAcceptor {
    let certificates = |pem: &str| {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|certificate| certificate.unwrap()).collect::<Vec<_>>()
    };
    let mut roots = RootCertStore::empty();
    certificates(&security.ca).into_iter().for_each(|ca| roots.add(ca).unwrap());
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring.clone()).build().unwrap();
    let key = PrivateKeyDer::from_pem_slice(security.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&security.certificate), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(mut stream: TlsStream<TcpStream>, connection: usize, shared: &Shared) {
    while let Some((path, id)) = read_request(&mut stream).await {
        shared.requests.lock().unwrap().push(TlsRequest { connection, path, id });
        if stream.write_all(OK).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// Path and `webhook-id` of the next request; `None`: the connection is closed.
async fn read_request(stream: &mut TlsStream<TcpStream>) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        if body.len() >= header("content-length:").parse::<usize>().unwrap() {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            return Some((path, header("webhook-id:")));
        }
    }
}
