//! Registers metrics in the default registry, and renders them.
//!
//! A crate keeps its metrics in one `static METRICS: LazyLock<Metrics>`. Names are
//! `triggers_<part>_<thing>_<unit|total>`; no label is an organization. A lookup by label takes a lock, so hot paths
//! cache the metric of their labels.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, TextEncoder,
};

use super::process;

type MetricsByName = HashMap<String, Box<dyn Any + Send>>;

/// The metrics registered so far. A second call with the same name returns the registered metric.
static REGISTERED: LazyLock<Mutex<MetricsByName>> = LazyLock::new(Mutex::default);

/// A counter of integers.
pub fn counter(name: &str, help: &str) -> IntCounter {
    register(name, |name| IntCounter::new(name, help))
}

/// Counters per label.
pub fn counter_vec(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(name, |name| IntCounterVec::new(Opts::new(name, help), labels))
}

/// A value that goes up and down.
pub fn gauge(name: &str, help: &str) -> Gauge {
    register(name, |name| Gauge::new(name, help))
}

/// Counts one in a gauge until it is dropped.
#[must_use]
pub struct Counted(Gauge);

impl Counted {
    /// Adds one to the gauge.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Values per label.
pub fn gauge_vec(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(name, |name| GaugeVec::new(Opts::new(name, help), labels))
}

/// Integers per label that go up and down.
pub fn int_gauge_vec(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(name, |name| IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A distribution, with the upper bounds of its buckets, ascending.
pub fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(name, |name| Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

/// Distributions per label.
pub fn histogram_vec(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    register(name, |name| HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
}

/// All metrics in Prometheus' text format, those of the process included.
pub fn render() -> String {
    let mut text = String::with_capacity(16 * 1024);
    if let Err(error) = TextEncoder::new().encode_utf8(&prometheus::gather(), &mut text) {
        tracing::error!(%error, "Rendering metrics failed.");
    }
    process::render_into(&mut text);
    text
}

/// Returns the registered metric of that name and type, or builds and registers it.
fn register<M, F>(name: &str, build: F) -> M
where
    M: Collector + Clone + 'static,
    F: Fn(&str) -> prometheus::Result<M>,
{
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(metric) = registered.get(name).and_then(|metric| metric.downcast_ref::<M>()) {
        return metric.clone();
    }
    let metric = build_or_panic(name, build);
    match prometheus::register(Box::new(metric.clone())) {
        Ok(()) => {
            registered.insert(name.to_owned(), Box::new(metric.clone()));
        }
        // The metric works, but it is not rendered.
        Err(error) => tracing::error!(name, %error, "Metric not registered; /metrics will not show it."),
    }
    metric
}

/// Names, labels and buckets are constants in the code. A wrong one is a bug that the first test of the metric shows.
fn build_or_panic<M, F>(name: &str, build: F) -> M
where
    F: Fn(&str) -> prometheus::Result<M>,
{
    build(name).unwrap_or_else(|error| panic!("metric {name} is declared wrongly: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_returns_the_same_metric() {
        let first = counter("triggers_test_twice_total", "Test.");
        let second = counter("triggers_test_twice_total", "Test.");
        first.inc();
        second.inc();
        assert_eq!(first.get(), 2);
        assert!(render().contains("triggers_test_twice_total 2\n"));
    }

    #[test]
    fn a_name_of_another_type_still_returns_a_working_metric() {
        let _counter = counter("triggers_test_kind", "Test.");
        let gauge = gauge("triggers_test_kind", "Test.");
        gauge.set(1.5);
        assert!((gauge.get() - 1.5).abs() < f64::EPSILON);
    }

    #[test]
    fn labels_and_buckets_are_rendered() {
        counter_vec("triggers_test_labelled_total", "Test.", &["kind"]).with_label_values(&["a"]).inc();
        histogram("triggers_test_seconds", "Test.", &[0.1, 1.0]).observe(0.5);
        let text = render();
        assert!(text.contains("triggers_test_labelled_total{kind=\"a\"} 1\n"), "{text}");
        assert!(text.contains("triggers_test_seconds_bucket{le=\"0.1\"} 0\n"), "{text}");
        assert!(text.contains("triggers_test_seconds_bucket{le=\"1\"} 1\n"), "{text}");
    }
}
