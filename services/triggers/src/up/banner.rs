//! What `triggers up` prints once it is ready: URL, key, and commands to copy.

use super::files::DevJson;
use crate::local_system::DEFAULT_DATA_DIR;

/// The commands are those of the README, with this system's URL and key.
pub(super) fn text(dev: &DevJson, folder: &str, ephemeral: bool) -> String {
    let DevJson { base_url, api_key, organization_id, kafka_brokers, .. } = dev;
    let data = if ephemeral { "the data is deleted then" } else { "the data is kept for the next start" };
    // The other commands look in the default folder by themselves.
    let commands = match folder {
        DEFAULT_DATA_DIR => String::new(),
        _ => format!("\nFor the other commands: export TRIGGERS_DATA_DIR={folder}\n"),
    };
    format!(
        "
Triggers is up.

  base URL      {base_url}
  API key       {api_key}
  organization  {organization_id}
  Kafka         {kafka_brokers}
  all settings  {folder}/dev.json
  documents     {base_url}/docs
{commands}
Send an event, read the inbox, acknowledge:

  curl -s {base_url}/v1/events -H 'Authorization: Bearer {api_key}' \\
    -H 'Content-Type: application/json' -d '{{\"event_type\": \"order.created\", \"payload\": {{\"id\": 7}}}}'

  curl -s {base_url}/v1/inbox -H 'Authorization: Bearer {api_key}'

  curl -s -X POST {base_url}/v1/events/EVENT_ID/ack -H 'Authorization: Bearer {api_key}'

Receive webhooks (the response has the secret that verifies their signatures):

  curl -s {base_url}/v1/endpoints -H 'Authorization: Bearer {api_key}' \\
    -H 'Content-Type: application/json' -d '{{\"url\": \"http://127.0.0.1:9000/hook\", \"event_types\": [\"order.*\"]}}'

Ctrl-C stops everything; {data}.
"
    )
}
