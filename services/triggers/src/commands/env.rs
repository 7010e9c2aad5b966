//! `triggers env`: shell lines that make the local system the default for curl and for every command: `eval "$(triggers
//! env)"`.

use anyhow::Result;
use clap::Args;

use super::print;
use crate::client::TargetArgs;

/// It has no flags of its own.
#[derive(Args)]
pub(crate) struct EnvArgs {}

pub(super) fn run(target: &TargetArgs, EnvArgs {}: EnvArgs) -> Result<()> {
    let dev = target.dev_json()?;
    print::line(&format!("export TRIGGERS_URL={}", quoted(&dev.base_url)))?;
    print::line(&format!("export TRIGGERS_API_KEY={}", quoted(&dev.api_key)))?;
    print::line(&format!("export TRIGGERS_ORGANIZATION={}", quoted(&dev.organization_id)))?;
    // Not `KAFKA_BROKERS`: from the same shell the next `triggers up` would take it for a Kafka that it should use
    // instead of its own.
    print::line(&format!("export TRIGGERS_KAFKA={}", quoted(&dev.kafka_brokers)))
}

/// As one word of a POSIX shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_cannot_break_out() {
        assert_eq!(quoted("a'; rm -rf b"), r"'a'\''; rm -rf b'");
    }
}
