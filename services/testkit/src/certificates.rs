//! A CA of one test, and the certificates that it signs.

use devstack::{KafkaUser, Security};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// A CA that nobody but the test knows.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A CA with a key of its own.
    #[expect(clippy::new_without_default, reason = "each call makes another one")]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "CA of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Servers whose certificate is for `names` (host names and addresses), with a superuser `admin` and these users.
    /// Each password is the user's name and `-password`.
    pub fn security(&self, names: &[&str], users: &[&str]) -> Security {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "server of a test");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let user = |name: &str| KafkaUser { name: name.to_owned(), password: format!("{name}-password") };
        Security {
            ca: self.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            superuser: user("admin"),
            users: users.iter().map(|&name| user(name)).collect(),
        }
    }
}
