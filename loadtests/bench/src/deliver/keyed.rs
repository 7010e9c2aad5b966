//! Keyed events beside the measured ones, of the same organizations. While no materializer runs, their webhooks wait
//! for the decision whether they are duplicates; the measured events have no key and must not wait with them.

use std::time::Duration;

use crate::generator::Generator;
use crate::organizations::Organization;
use crate::request::Requests;
use crate::scenario::{Load, Pace};
use crate::schedule::Schedule;
use crate::target::Target;

/// The load that runs beside.
pub(crate) struct KeyedLoad(Generator);

impl KeyedLoad {
    /// Starts sending `per_second` keyed events, for as long as `beside` lasts.
    pub(crate) async fn start(
        target: &Target,
        organizations: &[Organization],
        beside: &Load,
        per_second: u32,
        run_tag: &str,
    ) -> anyhow::Result<Self> {
        let total = beside.pace.measured_from() + beside.measured;
        let pace = Pace::Open(Schedule::new(per_second.into(), Duration::ZERO, total));
        let load = Load { pace, measured: total, batch_events: 1, keyed: true, ..*beside };
        let requests = Requests::new(&target.address, organizations, &load, &format!("{run_tag}-keyed"));
        Ok(Self(Generator::start(load, target.addresses(), requests, None).await?))
    }

    /// Ends it.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        self.0.stop();
        let recorder = self.0.into_recorder()?;
        println!("  beside, with keys: {:?}", recorder.all);
        Ok(())
    }
}
