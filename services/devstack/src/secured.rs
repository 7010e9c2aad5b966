//! The files and settings of secured servers: TLS for both, users and rights for Kafka. See `Security`.

use std::path::{Path, PathBuf};

use crate::options::{KafkaUser, Security};
use crate::tools::User;
use crate::{Error, files};

/// Settings of the superuser for Kafka's own tools, in Kafka's folder.
pub(crate) const ADMIN_PROPERTIES: &str = "admin.properties";
const KEYSTORE: &str = "keystore.pem";
const TRUSTSTORE: &str = "ca.pem";

/// Writes what Kafka reads besides its settings.
pub(crate) fn write_kafka_files(security: &Security, folder: &Path, user: Option<&User>) -> Result<(), Error> {
    let keystore = format!("{}{}", security.key, security.certificate);
    let admin = format!(
        "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config={}\n\
         ssl.truststore.type=PEM\nssl.truststore.location={TRUSTSTORE}\n",
        jaas(&security.superuser)
    );
    for (name, content) in [(KEYSTORE, &keystore), (TRUSTSTORE, &security.ca), (ADMIN_PROPERTIES, &admin)] {
        files::write_private(&folder.join(name), content, user)?;
    }
    Ok(())
}

/// Kafka's settings. The controllers talk without TLS on their own loopback port, as the user `ANONYMOUS`, which no
/// client of the other port can be.
pub(crate) fn kafka_settings(security: &Security, port: u16, controller_port: u16) -> String {
    let KafkaUser { name, .. } = &security.superuser;
    format!(
        "listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=SASL_SSL://127.0.0.1:{port}\n\
         listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=SASL_SSL\n\
         sasl.enabled.mechanisms=SCRAM-SHA-512\n\
         sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={}\n\
         ssl.keystore.type=PEM\n\
         ssl.keystore.location={KEYSTORE}\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={TRUSTSTORE}\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:{name};User:ANONYMOUS\n",
        jaas(&security.superuser)
    )
}

/// Arguments of the formatter, which stores the users: later, only a user could add one.
pub(crate) fn format_arguments(security: &Security) -> Vec<String> {
    let users = [&security.superuser].into_iter().chain(&security.users);
    let record = |user: &KafkaUser| format!("SCRAM-SHA-512=[name={},password={}]", user.name, user.password);
    users.flat_map(|user| ["--add-scram".to_owned(), record(user)]).collect()
}

/// Writes PostgreSQL's certificate, and returns the settings that use it.
pub(crate) fn postgres_settings(security: &Security, folder: &Path, user: Option<&User>) -> Result<Vec<String>, Error> {
    let path = |name: &str| -> PathBuf { folder.join(name) };
    let (certificate, key) = (path("server.crt"), path("server.key"));
    files::write_private(&certificate, &security.certificate, user)?;
    files::write_private(&key, &security.key, user)?;
    Ok(vec![
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", certificate.display()),
        format!("ssl_key_file={}", key.display()),
    ])
}

fn jaas(KafkaUser { name, password }: &KafkaUser) -> String {
    format!(
        "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{name}\" password=\"{password}\";"
    )
}
