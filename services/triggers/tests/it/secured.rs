//! The roles on a Kafka with TLS, users and an authorizer: each role has a user of its own, with exactly the rights
//! that `triggers topics acls` prints.

use std::time::Duration;

use devstack::testing::eventually;
use devstack::{KafkaUser, Options, Security, Signal, Stack};
use schemas::role::Role;
use schemas::topics;
use serde_json::json;
use testkit::certificates::Authority;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::api::Api;
use crate::process::Process;
use crate::system::System;

/// A busy machine shares its processors among many tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// What Kafka's own script `kafka-acls.sh` runs.
const ACL_COMMAND: &str = "org.apache.kafka.tools.AclCommand";
/// Allows webhooks to receivers on this machine.
const LOCAL_WEBHOOKS: [(&str, &str); 2] = [("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")];

/// A secured Kafka, and a PostgreSQL with TLS.
struct Secured {
    stack: Stack,
    security: Security,
    system: System,
}

impl Secured {
    /// With the topics of a system, and no rights for anybody but the superuser.
    async fn start() -> Self {
        let users: Vec<&str> = Role::ALL.map(Role::name).into_iter().chain(["stranger"]).collect();
        let security = Authority::new().security(&["localhost", "127.0.0.1"], &users);
        let options = Options { security: Some(security.clone()), ..Options::test() };
        let stack = Stack::start(options).await.unwrap();
        let mut system = System::without_topics(stack.kafka_brokers(), "");
        std::fs::write(system.folder().join("ca.pem"), &security.ca).unwrap();
        for KafkaUser { name, password } in security.users.iter().chain([&security.superuser]) {
            std::fs::write(system.folder().join(format!("{name}.password")), format!("{password}\n")).unwrap();
        }
        let ca = system.folder().join("ca.pem").display().to_string();
        let verified = format!("sslmode=verify-full&sslrootcert={ca}");
        system.database_url = stack.database_url().replace("sslmode=disable", &verified);
        let secured = Self { stack, security, system };
        secured.run_as_admin(&["migrate"]).await;
        secured.run_as_admin(&["topics", "apply"]).await;
        secured
    }

    /// The value of `KAFKA_PROPERTIES` for a user, whose password is in a file.
    fn properties(&self, user: &str) -> String {
        let folder = self.system.folder().display();
        format!(
            "security.protocol=SASL_SSL;sasl.mechanism=SCRAM-SHA-512;sasl.username={user};\
             sasl.password=@{folder}/{user}.password;ssl.ca.location={folder}/ca.pem"
        )
    }

    async fn run_as_admin(&self, args: &[&str]) -> String {
        let mut command = self.system.command();
        command.env("KAFKA_PROPERTIES", self.properties(&self.security.superuser.name));
        crate::system::finish(command, args).await.expect(0).output
    }

    /// Runs the commands that the binary prints for `role`.
    async fn grant(&self, role: Role) {
        let printed = self.run_as_admin(&["topics", "acls"]).await;
        let principal = format!("User:{}", role.name());
        let arguments = printed.lines().filter(|line| line.contains(&principal)).map(|line| {
            let (command, arguments) = line.split_once(" --add").unwrap();
            assert!(command.starts_with("kafka-acls.sh --bootstrap-server 127.0.0.1:"), "{command}");
            [vec!["--add"], arguments.split_whitespace().collect()].concat()
        });
        for arguments in arguments {
            self.stack.kafka_command(ACL_COMMAND, &arguments).await.unwrap();
        }
    }

    fn role(&self, role: Role, user: &str) -> Process {
        let properties = self.properties(user);
        let settings = [&[("KAFKA_PROPERTIES", properties.as_str())][..], &LOCAL_WEBHOOKS].concat();
        let settings = if role == Role::Materializer { &settings[..1] } else { &settings };
        self.system.role(role.name(), settings)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_works_with_exactly_its_documented_rights() {
    let secured = Secured::start().await;
    for role in Role::ALL {
        secured.grant(role).await;
    }
    let ingest = secured.role(Role::Ingest, "ingest");
    let base_url = ingest.ready().await;
    let (materializer, dispatcher) =
        (secured.role(Role::Materializer, "materializer"), secured.role(Role::Dispatcher, "dispatcher"));
    tokio::join!(materializer.ready(), dispatcher.ready());

    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let api = Api::of_new_organization(&base_url, &secured.system.operator_token, "Test").await;
    let endpoint = json!({"url": receiver.url()});
    api.post("/v1/endpoints", &endpoint).await.expect(201);
    let id = api.accept("order.created", &json!({"n": 1})).await;
    api.shown(&id, PATIENCE).await;
    eventually(PATIENCE, "the webhook is received", || async { (!receiver.received().is_empty()).then_some(()) }).await;
    // The report of the attempt: the dispatcher writes it, and the materializer reads it.
    eventually(PATIENCE, "the inbox shows the delivery", || async {
        let event = api.get(&format!("/v1/events/{id}")).await.expect(200).json();
        (event["delivery_status"] == "delivered" || event["status"] == "delivered").then_some(())
    })
    .await;
    api.post(&format!("/v1/events/{id}/ack"), &json!({})).await.expect(200);
    eventually(PATIENCE, "the inbox is empty", || async { api.inbox(10).await.is_empty().then_some(()) }).await;

    // A dead letter: the materializer writes it, and its tenant sees it.
    let admin = secured.security.client_properties(&secured.security.superuser);
    let writer = crate::log::Writer::with_properties(&secured.system.brokers, &admin);
    writer.write(&secured.system.topic(topics::EVENTS), None, &api.org_id, b"garbage", &[]).await;
    eventually(PATIENCE, "the dead letter is there", || async {
        let page = api.get("/v1/rejected").await.expect(200).json();
        (!page["rejected"].as_array()?.is_empty()).then_some(())
    })
    .await;
    for role in [&ingest, &materializer, &dispatcher] {
        let log = role.log();
        let refused = log.contains("refuses") || log.to_lowercase().contains("authorization");
        assert!(!refused, "no right is missing: {log}");
        assert!(!log.contains("-password"), "no password is logged: {log}");
    }
    for mut role in [ingest, materializer, dispatcher] {
        role.signal(Signal::TERM);
        assert!(role.ended().await.success(), "a role that may do its work also stops: {}", role.log());
    }
    // The processes' folder goes with the system.
    secured.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_named_with_what_to_do() {
    let secured = Secured::start().await;
    for (role, user) in [(Role::Ingest, "stranger"), (Role::Materializer, "stranger"), (Role::Dispatcher, "stranger")] {
        let process = secured.role(role, user);
        eventually(PATIENCE, "the log names the right and the command", || async {
            let log = process.log();
            (log.contains("Kafka refuses this user a right on") && log.contains("triggers topics acls")).then_some(())
        })
        .await;
        assert!(!process.log().contains("Kafka does not answer"), "{}", process.log());
    }
    // The group alone is missing.
    secured.grant(Role::Dispatcher).await;
    let dispatcher = secured.role(Role::Dispatcher, "dispatcher");
    dispatcher.ready().await;
    let group = secured.system.topic(topics::GROUP_DISPATCHER);
    let remove = ["--remove", "--force", "--group", &group];
    secured.stack.kafka_command(ACL_COMMAND, &remove).await.unwrap();
    eventually(PATIENCE, "a right that is taken away is named", || async {
        let log = dispatcher.log();
        (log.contains("right on a topic or group") && log.contains("Group authorization failed")).then_some(())
    })
    .await;
    drop(dispatcher);
    secured.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_another_ca_are_refused() {
    let secured = Secured::start().await;
    let plan = async |properties: String| {
        let mut command = secured.system.command();
        command.env("KAFKA_PROPERTIES", properties);
        crate::system::finish(command, &["topics", "plan"]).await.expect(1).log
    };
    let right = secured.properties("admin");
    let log = plan(right.replace("sasl.username=admin", "sasl.username=ingest")).await;
    assert!(log.contains("uthentication"), "a password of another user: {log}");
    std::fs::write(secured.system.folder().join("ca.pem"), Authority::new().pem()).unwrap();
    let log = plan(right).await;
    assert!(log.contains("certificate"), "a certificate of another CA: {log}");
    secured.stack.stop().await;
}
