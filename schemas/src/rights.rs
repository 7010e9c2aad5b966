//! The rights of each role on Kafka: no more than it uses. `triggers topics acls` prints them as commands, and a test
//! gives each role exactly these.

use crate::role::Role;
use crate::topics::TopicNames;

/// Operations on resources of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// `--topic` or `--group`.
    pub kind: &'static str,
    /// Full names, prefix included.
    pub names: Vec<String>,
    /// Operations, as `kafka-acls` names them. Read and Write include Describe.
    pub operations: &'static [&'static str],
}

impl Right {
    /// The arguments of `kafka-acls` that give this right to `principal`.
    pub fn arguments(&self, principal: &str) -> String {
        let mut arguments = format!("--add --allow-principal {principal}");
        for name in &self.names {
            arguments += &format!(" {} {name}", self.kind);
        }
        for operation in self.operations {
            arguments += &format!(" --operation {operation}");
        }
        arguments
    }
}

impl TopicNames {
    /// The rights of a role.
    pub fn rights(&self, role: Role) -> Vec<Right> {
        let right = |kind: &'static str, operations: &'static [&'static str], names: &[&String]| Right {
            kind,
            names: names.iter().map(|&name| name.clone()).collect(),
            operations,
        };
        let topics = |operations, names: &[&String]| right("--topic", operations, names);
        // The check at start compares all topics with the manifest.
        let all = [&self.events, &self.acks, &self.deliveries, &self.dead_letters];
        let check = topics(&["Describe", "DescribeConfigs"], &all);
        let mut rights = match role {
            Role::Ingest => vec![topics(&["Write"], &[&self.events, &self.acks])],
            Role::Materializer => vec![
                topics(&["Read"], &[&self.events, &self.acks, &self.deliveries]),
                topics(&["Write"], &[&self.dead_letters]),
                right("--group", &["Read"], &[&self.group_materializer]),
            ],
            Role::Dispatcher => vec![
                topics(&["Read"], &[&self.events, &self.acks]),
                topics(&["Write"], &[&self.deliveries, &self.acks]),
                right("--group", &["Read"], &[&self.group_dispatcher]),
            ],
        };
        rights.push(check);
        rights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_is_arguments_of_kafka_acls() {
        let rights = TopicNames::with_prefix("p.").rights(Role::Ingest);
        assert_eq!(
            rights[0].arguments("User:i"),
            "--add --allow-principal User:i --topic p.triggers.events.v1 --topic p.triggers.acks.v1 --operation Write"
        );
    }

    #[test]
    fn only_ingest_writes_events_and_only_the_materializer_dead_letters() {
        let names = TopicNames::with_prefix("");
        let writers = |topic: &String| -> Vec<&str> {
            let writes = |role: &Role| {
                let rights = names.rights(*role);
                rights.iter().any(|right| right.operations.contains(&"Write") && right.names.contains(topic))
            };
            Role::ALL.into_iter().filter(writes).map(Role::name).collect()
        };
        assert_eq!(writers(&names.events), ["ingest"]);
        assert_eq!(writers(&names.dead_letters), ["materializer"]);
        assert_eq!(writers(&names.deliveries), ["dispatcher"]);
    }
}
