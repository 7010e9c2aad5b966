//! The health of a process: the components that it depends on, and whether each is healthy.
//!
//! Components report their state; nothing here polls them. The health routes are in `http`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use prometheus::{Gauge, GaugeVec};

use crate::telemetry::metrics;

static HEALTHY: LazyLock<GaugeVec> = LazyLock::new(|| {
    metrics::gauge_vec(
        "triggers_component_healthy",
        "1 while the component is healthy, 0 while it is not.",
        &["component"],
    )
});

/// The health of a process. Clones share it.
#[derive(Clone, Default)]
pub struct Health(Arc<HealthState>);

#[derive(Default)]
struct HealthState {
    components: Mutex<BTreeMap<String, Component>>,
    draining: AtomicBool,
}

impl Health {
    /// A process without components, which is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The required component of that name, unhealthy ("starting") until it reports otherwise. A second call returns
    /// the same component.
    pub fn component(&self, name: &str) -> Component {
        self.named(name, true)
    }

    /// Like [`Health::component`], for a component that the process does not need for its main work: reported, but not
    /// counted for readiness.
    pub fn optional(&self, name: &str) -> Component {
        self.named(name, false)
    }

    fn named(&self, name: &str, required: bool) -> Component {
        self.lock().entry(name.to_owned()).or_insert_with(|| Component::starting(name, required)).clone()
    }

    /// Whether every required component is healthy and the process is not draining.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.lock().values().all(|component| component.is_healthy() || !component.0.required)
    }

    /// Whether every component is healthy, optional ones included, and the process is not draining.
    pub fn is_fully_healthy(&self) -> bool {
        !self.is_draining() && self.lock().values().all(Component::is_healthy)
    }

    /// The process shuts down: from now on it is not ready, so that it gets no new work.
    pub fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the process shuts down.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Each component by name, and whether it is healthy.
    pub fn components(&self) -> Vec<(String, bool)> {
        self.lock().iter().map(|(name, component)| (name.clone(), component.is_healthy())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Component>> {
        self.0.components.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part that a process depends on. Clones share its state.
#[derive(Clone)]
pub struct Component(Arc<ComponentState>);

struct ComponentState {
    name: String,
    required: bool,
    healthy: AtomicBool,
    /// Why the component is unhealthy. A change of the reason is logged.
    reason: Mutex<String>,
    gauge: Gauge,
}

impl Component {
    fn starting(name: &str, required: bool) -> Self {
        let gauge = HEALTHY.with_label_values(&[name]);
        gauge.set(0.0);
        let reason = Mutex::new("starting".to_owned());
        Self(Arc::new(ComponentState {
            name: name.to_owned(),
            required,
            healthy: AtomicBool::new(false),
            reason,
            gauge,
        }))
    }

    /// Reports that the component works. Cheap when it was healthy before.
    pub fn report_healthy(&self) {
        if self.is_healthy() {
            return;
        }
        let mut reason = self.reason();
        if !self.0.healthy.swap(true, Ordering::Relaxed) {
            reason.clear();
            self.0.gauge.set(1.0);
            tracing::info!(component = %self.0.name, "Component is healthy.");
        }
    }

    /// Reports that the component does not work. `reason` is only logged, and only when it changed.
    pub fn report_unhealthy(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let mut last_reason = self.reason();
        if self.0.healthy.swap(false, Ordering::Relaxed) || *last_reason != reason {
            self.0.gauge.set(0.0);
            tracing::warn!(component = %self.0.name, reason, "Component is unhealthy.");
            *last_reason = reason;
        }
    }

    /// What the component reported last.
    pub fn is_healthy(&self) -> bool {
        self.0.healthy.load(Ordering::Relaxed)
    }

    fn reason(&self) -> MutexGuard<'_, String> {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_its_components_are_healthy() {
        let health = Health::new();
        assert!(health.is_ready());
        let (kafka, postgres) = (health.component("kafka"), health.component("postgres"));
        assert!(!health.is_ready());
        kafka.report_healthy();
        assert!(!health.is_ready());
        postgres.report_healthy();
        assert!(health.is_ready());
        health.component("kafka").report_unhealthy("gone");
        assert!(!health.is_ready());
        assert_eq!(health.components(), [("kafka".to_owned(), false), ("postgres".to_owned(), true)]);
        kafka.report_healthy();
        assert!(health.is_ready());
    }

    #[test]
    fn an_optional_component_does_not_count_for_readiness() {
        let health = Health::new();
        let postgres = health.optional("postgres");
        assert!(health.is_ready() && !health.is_fully_healthy());
        assert_eq!(health.components(), [("postgres".to_owned(), false)]);
        postgres.report_healthy();
        assert!(health.is_fully_healthy());
    }

    #[test]
    fn a_draining_process_is_not_ready() {
        let health = Health::new();
        health.component("kafka").report_healthy();
        health.set_draining();
        assert!(!health.is_ready());
    }
}
