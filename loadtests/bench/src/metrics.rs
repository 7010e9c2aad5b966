//! Reads one metric of the product.

use anyhow::Context;

use crate::control_client::ControlClient;

/// The value of `name`, with its labels as the product writes them. `client` is for the path of the metrics.
pub(crate) async fn value(client: &ControlClient, name: &str) -> anyhow::Result<f64> {
    let (_, text) = client.get("", "").await?;
    find(&String::from_utf8_lossy(&text), name).with_context(|| format!("no metric {name}"))
}

fn find(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE held gauge\nheld{budget=\"long_polls_by_key\"} 7\nheld{budget=\"long_polls\"} 20\ntotal 3\n";
        assert_eq!(find(text, "held{budget=\"long_polls\"}"), Some(20.0));
        assert_eq!((find(text, "total"), find(text, "tot")), (Some(3.0), None));
    }
}
