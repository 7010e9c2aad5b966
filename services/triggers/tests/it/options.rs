//! Invalid options: the error names the option, and comes before Kafka or PostgreSQL is contacted or started.

use crate::process::triggers;
use crate::system::finish;

/// Nobody listens there.
const AWAY: [(&str, &str); 2] =
    [("KAFKA_BROKERS", "127.0.0.1:1"), ("DATABASE_URL", "postgres://triggers@127.0.0.1:1/triggers")];
const SEALING_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// `triggers ROLE OPTION` fails with an error that has `named`, and contacts no server.
async fn refused(role: &str, option: &str, named: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = triggers(folder.path());
    if role != "up" {
        command.envs(AWAY).env("LISTEN", "127.0.0.1:0").env("METRICS_LISTEN", "127.0.0.1:0");
        if role != "materializer" && !option.starts_with("--sealing-key") {
            command.env("SEALING_KEY", SEALING_KEY);
        }
    }
    let log = finish(command, &[role, option]).await.expect(1).log;
    assert!(log.lines().any(|line| line.starts_with("triggers: ") && line.contains(named)), "{role} {option}: {log}");
    let contacts = ["Cannot check the topics", "Component is unhealthy", "Starting Kafka"];
    assert!(!contacts.iter().any(|text| log.contains(text)), "{role} {option} contacted a server: {log}");
}

#[tokio::test]
async fn an_invalid_option_of_a_role_is_named_before_a_server_is_contacted() {
    for role in ["ingest", "dispatcher"] {
        refused(role, "--sealing-key=abc", "SEALING_KEY (--sealing-key): ").await;
        refused(role, "--sealing-key-file=/nonexistent/x", "SEALING_KEY_FILE (--sealing-key-file").await;
        refused(role, "--webhook-allowed-networks=10.1", "WEBHOOK_ALLOWED_NETWORKS: ").await;
    }
    refused("ingest", "--dev-api-keys=a,a", "DEV_API_KEYS: ").await;
    for role in ["ingest", "materializer", "dispatcher"] {
        refused(role, "--instance-name=a\nb", "INSTANCE_NAME: ").await;
        refused(role, "--database-url=postgres://127.0.0.1:none/x", "DATABASE_URL: ").await;
    }
}

#[tokio::test]
async fn an_invalid_option_of_up_is_named_before_servers_are_started() {
    refused("up", "--database-url=foo", "DATABASE_URL: must start with postgres://").await;
    refused("up", "--dev-api-keys=", "DEV_API_KEYS has no key").await;
    refused("up", "--dev-api-keys=a,a", "DEV_API_KEYS: entry 2").await;
    refused("up", "--kafka-brokers= ", "KAFKA_BROKERS: ").await;
}

#[tokio::test]
async fn sign_up_beyond_loopback_needs_a_second_option() {
    let start = async |listen: &str, options: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = triggers(folder.path());
        command.envs(AWAY).env("LISTEN", listen).env("METRICS_LISTEN", "127.0.0.1:0").env("SEALING_KEY", SEALING_KEY);
        // The last option to be read: an error there shows that all before it were accepted.
        command.env("WEBHOOK_ALLOWED_NETWORKS", "10.1");
        finish(command, &[&["ingest", "--open-signup"], options].concat()).await.expect(1).log
    };
    let refused = start("0.0.0.0:0", &[]).await;
    assert!(refused.contains("set OPEN_SIGNUP_PUBLIC as well"), "{refused}");
    assert!(!refused.contains("Cannot check the topics"), "refused before a server is contacted: {refused}");
    for (listen, options) in [("127.0.0.1:0", &[][..]), ("0.0.0.0:0", &["--open-signup-public"][..])] {
        let accepted = start(listen, options).await;
        assert!(
            !accepted.contains("OPEN_SIGNUP_PUBLIC") && accepted.contains("WEBHOOK_ALLOWED_NETWORKS: "),
            "{accepted}"
        );
    }
}
