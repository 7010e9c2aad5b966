//! Options of Kafka, each also an environment variable, validated at start.

use std::time::Duration;

use clap::Args;
use runtime::config::{InvalidConfig, secret};

use crate::KafkaConfig;
use crate::topics::Replication;

const DEFAULT_BROKERS: &str = "127.0.0.1:9092";

/// How to reach Kafka.
#[derive(Args, Clone)]
pub struct KafkaArgs {
    /// Bootstrap brokers, host:port, comma-separated [default: 127.0.0.1:9092]
    // No default of clap, so that a command can see whether it was set.
    #[arg(long, env = "KAFKA_BROKERS", value_name = "HOST:PORT,…")]
    pub kafka_brokers: Option<String>,
    /// A librdkafka property for every client; may be given more than once, and then replaces the whole list of
    /// --kafka-properties. NAME=@FILE takes the value from a file
    #[arg(long = "kafka", value_name = "NAME=VALUE")]
    pub kafka_property: Vec<String>,
    /// librdkafka properties for every client, separated by semicolons. --kafka NAME=VALUE, which may be repeated,
    /// replaces this list and may have semicolons in a value. NAME=@FILE takes the value from a file
    #[arg(long, env = "KAFKA_PROPERTIES", value_name = "NAME=VALUE;…", value_delimiter = ';', hide_env_values = true)]
    pub kafka_properties: Vec<String>,
    /// Prefix of every topic and group name, for a shared cluster
    #[arg(long, env = "TOPIC_PREFIX", default_value = "")]
    pub topic_prefix: String,
    /// Name of this instance, 1 to 64 visible ASCII characters: a restart within the session timeout then keeps its
    /// partitions
    #[arg(long, env = "INSTANCE_NAME")]
    pub instance_name: Option<String>,
    /// Partitions of the keyed topics when they are created
    #[arg(long, env = "TOPIC_PARTITIONS", default_value_t = schemas::topics::DEFAULT_PARTITIONS)]
    pub topic_partitions: i32,
    /// Replicas of each topic: 3 in production
    #[arg(long, env = "TOPIC_REPLICATION_FACTOR", default_value_t = 1)]
    pub topic_replication_factor: i32,
    /// min.insync.replicas of each topic, raised on existing topics too: 2 in production
    #[arg(long, env = "TOPIC_MIN_INSYNC_REPLICAS", default_value_t = 1)]
    pub topic_min_insync_replicas: i32,
}

impl KafkaArgs {
    /// Checks the values and makes the configuration.
    ///
    /// # Errors
    /// Names the first value that cannot be.
    pub fn config(&self) -> Result<KafkaConfig, InvalidConfig> {
        let invalid = |option, reason: &str| Err(InvalidConfig { option, reason: reason.to_owned() });
        let brokers = self.kafka_brokers.as_deref().unwrap_or(DEFAULT_BROKERS).trim();
        if brokers.is_empty() {
            return invalid("KAFKA_BROKERS", "no broker is named");
        }
        if !self.topic_prefix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
            || self.topic_prefix.len() > 100
        {
            return invalid("TOPIC_PREFIX", "at most 100 letters, digits, dots and hyphens");
        }
        if self.topic_partitions < 1 || self.topic_partitions > 1000 {
            return invalid("TOPIC_PARTITIONS", "from 1 to 1000");
        }
        if self.topic_replication_factor < 1 || self.topic_min_insync_replicas < 1 {
            return invalid("TOPIC_REPLICATION_FACTOR", "replicas and in-sync replicas are at least 1");
        }
        if self.topic_min_insync_replicas > self.topic_replication_factor {
            return invalid(
                "TOPIC_MIN_INSYNC_REPLICAS",
                "more than TOPIC_REPLICATION_FACTOR: nothing could ever be written",
            );
        }
        let is_name = |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.instance_name.as_deref().is_none_or(is_name) {
            return invalid("INSTANCE_NAME", "1 to 64 visible ASCII characters");
        }
        let mut config = KafkaConfig::new(brokers, &self.topic_prefix);
        config.instance.clone_from(&self.instance_name);
        let (option, given) = match self.kafka_property.as_slice() {
            [] => ("KAFKA_PROPERTIES", &self.kafka_properties),
            _ => ("--kafka", &self.kafka_property),
        };
        for property in given.iter().filter(|property| !property.trim().is_empty()) {
            match property.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => {
                    let name = name.trim();
                    let value = secret(value)
                        .map_err(|reason| InvalidConfig { option, reason: format!("{name}: {reason}") })?;
                    config.properties.push((name.to_owned(), value));
                }
                // The text is not repeated: it may be half a password.
                _ => return invalid(option, "each property is NAME=VALUE"),
            }
        }
        // One at a time, so that the error can name the property. Its value is not shown, here or in what librdkafka
        // would print later.
        for (name, value) in &config.properties {
            if rdkafka::ClientConfig::new().set(name, value).create_native_config().is_err() {
                let reason = format!("librdkafka does not know the property {name}, or not with this value");
                return Err(InvalidConfig { option, reason });
            }
        }
        Ok(config)
    }

    /// How topics are replicated.
    pub fn replication(&self) -> Replication {
        Replication { factor: self.topic_replication_factor, min_in_sync: self.topic_min_insync_replicas }
    }
}

/// How the log is read.
#[derive(Args, Clone)]
pub struct ConsumerArgs {
    /// Kafka's session.timeout.ms: how long a silent instance keeps its partitions, milliseconds; brokers accept 6000
    /// or more by default
    #[arg(
        long,
        env = "CONSUMER_SESSION_TIMEOUT_MS",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1_000..=300_000),
    )]
    pub consumer_session_timeout_ms: u64,
    /// How long a partition may have lag without a record being read before the consumer is restarted, milliseconds
    #[arg(
        long,
        env = "CONSUMER_STALL_AFTER_MS",
        default_value_t = 30_000,
        value_parser = clap::value_parser!(u64).range(5_000..=3_600_000),
    )]
    pub consumer_stall_after_ms: u64,
}

impl ConsumerArgs {
    /// How long a silent instance keeps its partitions.
    pub fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.consumer_session_timeout_ms)
    }

    /// How long records may be there without one being read.
    pub fn stall_after(&self) -> Duration {
        Duration::from_millis(self.consumer_stall_after_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        kafka: KafkaArgs,
        #[command(flatten)]
        consumer: ConsumerArgs,
    }

    #[test]
    fn how_the_log_is_read_has_defaults_and_bounds() {
        let parse =
            |arguments: &[&str]| <Cli as clap::Parser>::try_parse_from(std::iter::once(&"triggers").chain(arguments));
        let consumer = parse(&[]).ok().unwrap().consumer;
        assert_eq!(
            (consumer.session_timeout(), consumer.stall_after()),
            (Duration::from_secs(10), Duration::from_secs(30))
        );
        for wrong in [
            ["--consumer-stall-after-ms", "4999"],
            ["--consumer-session-timeout-ms", "999"],
            ["--consumer-stall-after-ms", "30s"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }

    fn parse(arguments: &[&str]) -> Result<KafkaConfig, InvalidConfig> {
        <Cli as clap::Parser>::parse_from(std::iter::once(&"triggers").chain(arguments)).kafka.config()
    }

    #[test]
    fn properties_pass_through_and_their_values_are_not_printed() {
        let config = parse(&["--kafka", "linger.ms=7", "--kafka", "client.rack=a=b"]).unwrap();
        assert_eq!(config.properties[1], ("client.rack".to_owned(), "a=b".to_owned()));
        let printed = format!("{config:?}");
        assert!(printed.contains("client.rack") && !printed.contains("a=b"), "{printed}");
    }

    #[test]
    fn only_the_list_is_split_and_the_single_properties_replace_it() {
        let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let list = ["--kafka-properties", "linger.ms=7;client.rack=a"];
        assert_eq!(parse(&list).unwrap().properties, [property("linger.ms", "7"), property("client.rack", "a")]);
        let single = ["--kafka", "sasl.password=a;b=c"];
        assert_eq!(parse(&single).unwrap().properties, [property("sasl.password", "a;b=c")]);
        assert_eq!(parse(&[list, single].concat()).unwrap().properties, [property("sasl.password", "a;b=c")]);
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        let refused = |arguments: &[&str]| parse(arguments).unwrap_err().option;
        assert_eq!(refused(&["--kafka", "no-equals-sign"]), "--kafka");
        let typo = parse(&["--kafka", "sasl.pasword=s3cret"]).unwrap_err().to_string();
        assert!(typo.contains("sasl.pasword") && !typo.contains("s3cret"), "{typo}");
        assert_eq!(refused(&["--topic-prefix", "a_b"]), "TOPIC_PREFIX");
        for name in ["", "a\nb", "a b", "ä", &"a".repeat(65)] {
            assert_eq!(refused(&["--instance-name", name]), "INSTANCE_NAME", "{name:?}");
        }
        assert_eq!(parse(&["--instance-name", &"a".repeat(64)]).unwrap().instance, Some("a".repeat(64)));
        assert_eq!(refused(&["--topic-min-insync-replicas", "2"]), "TOPIC_MIN_INSYNC_REPLICAS");
        assert_eq!(refused(&["--topic-partitions", "0"]), "TOPIC_PARTITIONS");
    }
}
