//! `triggers env`: shell lines that export URL and key of the local system, for `eval "$(triggers env)"`.

use anyhow::Result;
use clap::Args;

use super::print;
use crate::client::TargetArgs;

/// Options of `triggers env`: none.
#[derive(Args)]
pub(crate) struct EnvArgs {}

pub(super) fn run(target: &TargetArgs, EnvArgs {}: EnvArgs) -> Result<()> {
    let dev = target.dev_json()?;
    print::line(&format!("export TRIGGERS_URL={}", quoted(&dev.base_url)))?;
    print::line(&format!("export TRIGGERS_API_KEY={}", quoted(&dev.api_key)))?;
    print::line(&format!("export TRIGGERS_ORGANIZATION={}", quoted(&dev.organization_id)))?;
    // Not `KAFKA_BROKERS`: the next `triggers up` from the same shell would use that Kafka instead of starting its own.
    print::line(&format!("export TRIGGERS_KAFKA={}", quoted(&dev.kafka_brokers)))
}

/// Quotes `text` as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_value_stays_inside_the_quotes() {
        assert_eq!(quoted("a'; rm -rf b"), r"'a'\''; rm -rf b'");
    }
}
