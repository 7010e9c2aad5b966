//! Options of a stack.

use std::path::PathBuf;

/// Where the servers keep their data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// This folder; created if missing, and kept after the stop for the next start.
    Folder(PathBuf),
    /// A folder in the system's temporary folder, removed when the stack stops or this process dies.
    Ephemeral,
}

/// What survives a power cut. A killed process loses nothing in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// PostgreSQL syncs each commit to the disk.
    Full,
    /// PostgreSQL never syncs: fast, but a power cut may corrupt the data.
    Test,
}

/// How much memory Kafka's JVM may take, and how it is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heap {
    /// 1 GiB, serial collector, all compilers.
    Full,
    /// 384 MiB, serial collector, first compiler tier only: for a fast start on a small machine.
    Test,
}

/// Certificates and users of secured servers. Kafka then takes only SASL_SSL with SCRAM-SHA-512 and has an authorizer;
/// PostgreSQL takes TLS beside plain connections. For tests: `up` and the shared stack of tests have none.
#[derive(Clone)]
pub struct Security {
    /// Certificate of the CA, PEM.
    pub ca: String,
    /// Certificate of both servers, PEM.
    pub certificate: String,
    /// Its private key, PKCS #8 in PEM.
    pub key: String,
    /// Kafka's superuser.
    pub superuser: KafkaUser,
    /// Kafka's other users. They have no rights but those that `Stack::kafka_command` gives them.
    pub users: Vec<KafkaUser>,
}

/// A user of Kafka.
#[derive(Clone)]
pub struct KafkaUser {
    pub name: String,
    /// Letters and digits, because Kafka's settings have no escapes for others.
    pub password: String,
}

impl Security {
    /// The librdkafka properties of a client that is `user`.
    #[must_use]
    pub fn client_properties(&self, user: &KafkaUser) -> Vec<(String, String)> {
        let properties = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", &user.name),
            ("sasl.password", &user.password),
            ("ssl.ca.pem", &self.ca),
        ];
        properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

// No `Debug` that shows keys and passwords.
impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Security(..)")
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub data: Data,
    pub kafka: bool,
    pub postgres: bool,
    /// Kafka's port on 127.0.0.1; 0 takes a free one.
    pub kafka_port: u16,
    /// PostgreSQL's port on 127.0.0.1; 0 takes a free one.
    pub postgres_port: u16,
    pub durability: Durability,
    pub heap: Heap,
    /// `None`: Kafka and PostgreSQL without TLS, on loopback.
    pub security: Option<Security>,
}

impl Options {
    /// Both servers on free ports, in a temporary folder, tuned for a fast start.
    #[must_use]
    pub fn test() -> Self {
        Self {
            data: Data::Ephemeral,
            durability: Durability::Test,
            heap: Heap::Test,
            ..Self::persistent(PathBuf::new())
        }
    }

    /// Both servers on free ports, with full durability, on a folder that is kept.
    #[must_use]
    pub fn persistent(folder: impl Into<PathBuf>) -> Self {
        Self {
            data: Data::Folder(folder.into()),
            kafka: true,
            postgres: true,
            kafka_port: 0,
            postgres_port: 0,
            durability: Durability::Full,
            heap: Heap::Full,
            security: None,
        }
    }
}
