//! The port of each role that has its metrics.

use std::time::Duration;

use devstack::testing::eventually;

use crate::api::http;
use crate::process::Process;
use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(20);

/// Starts each role, and waits until it is ready. The dispatcher needs the sealing key that ingest creates.
async fn roles(system: &System, settings: &[(&str, &str)]) -> Vec<Process> {
    let mut roles = Vec::new();
    for role in ["ingest", "materializer", "dispatcher"] {
        let role = system.role(role, settings);
        role.ready().await;
        roles.push(role);
    }
    roles
}

/// Where the role answers probes, and metrics if it has them: for ingest beside the port of the API.
async fn operational(role: &Process, number: usize) -> String {
    eventually(PATIENCE, "it listens", || async { role.listens_at().get(number).cloned() }).await
}

async fn get(url: &str) -> (u16, String) {
    let answer = http().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_a_port_of_their_own_and_can_be_off() {
    let system = System::shared().await;
    for (setting, expected) in [("on", 200), ("off", 404)] {
        let roles = roles(&system, &[("PROMETHEUS_ENABLED", setting)]).await;
        for (role, number) in roles.iter().zip([1, 0, 0]) {
            let url = operational(role, number).await;
            let (status, text) = get(&format!("{url}/metrics")).await;
            assert_eq!((status, text.contains("\nprocess_cpu_seconds_total ")), (expected, expected == 200), "{text}");
            assert_eq!(get(&format!("{url}/health/ready")).await.0, 200, "{setting}");
        }
        assert_eq!(get(&format!("{}/metrics", operational(&roles[0], 0).await)).await.0, 404, "on the port of the API");
    }
}
