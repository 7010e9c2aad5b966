//! Waits until the system is quiet, and compares everything that was recorded in the round with what the system shows.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use uuid::Uuid;

use super::outcomes::{Outcomes, RoundResult};
use super::rebalances::ClaimCounts;
use crate::check::{
    Redelivery, Violation, delivered, duplicates_justified, in_order, require_activity, status, stored, tail_complete,
    view_matches_log,
};
use crate::fault::{Fault, Injection, RedeliveryPolicy};
use crate::inbox;
use crate::ledger::{AckState, SendOutcome, Sent, ShownEvent};
use crate::load::{Load, RoundContext, Tenant};
use crate::offsets::EndOffsets;
use crate::system::System;
use crate::waiting::{wait_for_consumers, wait_for_deliveries};
use loadkit::Role;

const POLL: Duration = Duration::from_millis(100);

/// What the comparison needs.
pub(super) struct Comparison<'a> {
    pub system: &'a System,
    /// The fault of the round.
    pub fault: &'a dyn Fault,
    /// The context of the round.
    pub context: &'a RoundContext,
    /// What the fault did.
    pub injection: &'a Injection,
    /// Claims of partitions before the round.
    pub claims: ClaimCounts,
    /// Start of the round.
    pub started: Instant,
    /// When the victim of the fault was ready again.
    pub victim_ready: Instant,
    /// Timeout of each wait.
    pub settle: Duration,
}

impl Comparison<'_> {
    /// Compares; adds to `outcomes` and returns the results of all organizations.
    pub(super) async fn run(
        &self,
        log_start: EndOffsets,
        log_end: EndOffsets,
        load: Load,
        outcomes: &mut Outcomes,
    ) -> anyhow::Result<Vec<RoundResult>> {
        let Self { system, context, injection, .. } = self;
        let (mut found, mut results) = (Vec::new(), Vec::new());
        let log_end = self.wait_until_quiet(log_end, load, outcomes).await?;
        let log = system.read_log(Some(log_start), log_end).await.context("reading the log")?;
        let duplicates = inbox::duplicates(&system.pool).await?;
        let redelivery = self.redelivery(self.claims.was_rebalanced(system, Role::Dispatcher).await?);
        let (sent, acks) = (context.ledger.sent(), context.ledger.acks());
        for (number, tenant) in context.tenants.iter().enumerate() {
            let deadline = Instant::now() + self.settle;
            let rows = inbox::read(&system.api, &tenant.key, deadline).await.context("reading an inbox")?;
            let requests: Vec<&Sent> = sent.iter().filter(|sent| sent.tenant == number).collect();
            let own_acks = acks.iter().filter(|((of, _), _)| *of == number).map(|((_, id), ack)| (*id, *ack)).collect();
            let receipts = system.receiver.receipts(&tenant.endpoints);
            let (wrong, repeated) = delivered(&tenant.endpoints, &rows, &receipts, redelivery);
            found.extend(wrong);
            found.extend(status(&tenant.endpoints, &rows, &receipts, redelivery));
            found.extend(stored(tenant.org, &requests, &own_acks, &rows, &duplicates));
            found.extend(in_order(&requests, &rows));
            found.extend(tail_complete(tenant.org, &context.ledger.tail(number), &rows));
            found.extend(view_matches_log(tenant.org, &log.events, &log.acked, &duplicates, &rows));
            found.extend(duplicates_justified(tenant.org, &log.events, &duplicates));
            found.extend(self.unresolved(tenant, &requests, &rows).await?);
            outcomes.shown += rows.len();
            outcomes.repeated += repeated;
            outcomes.delivered += receipts.iter().filter(|receipt| receipt.succeeded).count();
            let (endpoints, receipts_checked) = (tenant.endpoints.clone(), receipts.len());
            results.push(RoundResult { org: tenant.org, key: tenant.key.clone(), rows, endpoints, receipts_checked });
        }
        outcomes.acknowledged = acks.values().filter(|ack| **ack == AckState::Confirmed).count();
        found.extend(self.inactivity(outcomes));
        let violations_of = |rule: &'static str, messages: Vec<String>| {
            messages.into_iter().map(move |message| Violation::new(rule, message))
        };
        found.extend(violations_of("undecodable", log.undecodable));
        found.extend(violations_of("wrong-answer", context.ledger.unexpected_answers()));
        found.extend(violations_of("fault", injection.failures.clone()));
        found.extend(violations_of("no-effect", injection.no_effect.clone()));
        found.extend(self.not_rebalanced().await?);
        found.extend(self.accepted_without_quorum(&sent));
        found.extend(system.background_violations().await?);
        if outcomes.repeated > 0 && redelivery != self.redelivery(false) {
            println!(
                "          {} webhooks were repeated: the fault does not hit dispatchers, but they were rebalanced",
                outcomes.repeated
            );
        }
        outcomes.add_violations(found);
        Ok(results)
    }

    /// Waits until nothing happens any more, and stops the readers. Returns the end offsets of the log.
    async fn wait_until_quiet(
        &self,
        log_end: EndOffsets,
        load: Load,
        outcomes: &mut Outcomes,
    ) -> anyhow::Result<EndOffsets> {
        let Self { system, context, .. } = self;
        let deadline = Instant::now() + self.settle;
        let mut inboxes = Vec::new();
        for tenant in context.tenants.iter() {
            inboxes.push(inbox::read(&system.api, &tenant.key, deadline).await.context("reading an inbox")?);
        }
        self.wait_for_webhooks(&inboxes).await;
        let orgs: Vec<Uuid> = context.tenants.iter().map(|tenant| tenant.org).collect();
        outcomes.violations.extend(wait_for_deliveries(system, &orgs, self.settle).await);
        self.wait_for_tails(&inboxes).await;
        load.stop_reading().await;
        // The last acknowledgements of the readers are on the log now, and are consumed soon.
        let has_grown = system.end_offsets().await.map_or(true, |now| now != log_end);
        if has_grown { wait_for_consumers(system, self.settle, &mut outcomes.violations).await } else { Ok(log_end) }
    }

    /// A violation if the fault must cause a rebalance and did not: then it had no effect.
    async fn not_rebalanced(&self) -> anyhow::Result<Option<Violation>> {
        let Some(role) = self.fault.rebalances() else { return Ok(None) };
        let was_rebalanced = self.claims.was_rebalanced(self.system, role).await?;
        let violation = || Violation::new("no-effect", format!("no {} claimed a partition in the round", role.name()));
        Ok((!was_rebalanced).then(violation))
    }

    /// Violations for activities that never happened in the round.
    fn inactivity(&self, outcomes: &Outcomes) -> Vec<Violation> {
        let Outcomes { counts, shown, acknowledged, delivered, .. } = outcomes;
        let mut counts = vec![("accepted", counts.accepted), ("shown", *shown), ("acknowledged", *acknowledged)];
        if self.context.tenants.iter().any(|tenant| !tenant.endpoints.is_empty()) {
            counts.push(("delivered", *delivered));
        }
        require_activity(&counts)
    }

    /// Which deliveries may be repeated.
    fn redelivery(&self, dispatchers_rebalanced: bool) -> Redelivery {
        match self.fault.redelivery_allowed(self.injection) {
            RedeliveryPolicy::WhileInjected { margin } => {
                Redelivery::Around { started: self.injection.started, until: self.victim_ready + margin }
            }
            RedeliveryPolicy::IfDispatchersRebalanced if dispatchers_rebalanced => {
                Redelivery::Around { started: self.started, until: Instant::now() }
            }
            RedeliveryPolicy::IfDispatchersRebalanced | RedeliveryPolicy::Never => Redelivery::Never,
        }
    }

    /// Waits for the webhooks of all listed events. The rules report those that do not come.
    async fn wait_for_webhooks(&self, inboxes: &[Vec<ShownEvent>]) {
        let started = Instant::now();
        let receiver = &self.system.receiver;
        let all_delivered = || {
            self.context.tenants.iter().zip(inboxes).all(|(tenant, rows)| {
                let has_all = |endpoint: &String| rows.iter().all(|row| receiver.has_succeeded(endpoint, row.id));
                tenant.endpoints.iter().all(has_all)
            })
        };
        while !all_delivered() && started.elapsed() < self.settle {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the tails have shown all listed events. The rules report those that they do not show.
    async fn wait_for_tails(&self, inboxes: &[Vec<ShownEvent>]) {
        let started = Instant::now();
        let ledger = &self.context.ledger;
        let all_shown = || inboxes.iter().enumerate().all(|(number, rows)| ledger.tail(number).len() >= rows.len());
        while !all_shown() && started.elapsed() < self.settle {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Violations for accepted ids that are not listed and for which the API does not return the original.
    async fn unresolved(&self, tenant: &Tenant, sent: &[&Sent], rows: &[ShownEvent]) -> anyhow::Result<Vec<Violation>> {
        let by_tag: HashMap<&str, Uuid> = rows.iter().map(|row| (row.tag.as_str(), row.id)).collect();
        let mut found = Vec::new();
        for request in sent {
            let SendOutcome::Accepted { id: Some(id), .. } = request.outcome else { continue };
            let Some(listed) = by_tag.get(request.tag.as_str()).filter(|listed| **listed != id) else { continue };
            let resolved = inbox::resolve(&self.system.api, &tenant.key, id).await?;
            if resolved != Some(*listed) {
                let resolved = resolved.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
                let tag = &request.tag;
                let message =
                    format!("{tag} was accepted as {id} and is listed as {listed}, and {id} gives {resolved}");
                found.push(Violation::new("unresolved", message));
            }
        }
        Ok(found)
    }

    /// Violations for requests that were started and accepted while too few brokers were up, and wrote something.
    fn accepted_without_quorum(&self, sent: &[Sent]) -> Vec<Violation> {
        let Some((from, to)) = self.injection.without_quorum else { return Vec::new() };
        let has_written = |sent: &&Sent| matches!(sent.outcome, SendOutcome::Accepted { replayed: false, .. });
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for sent in sent.iter().filter(has_written) {
            // A repetition of an accepted event may be answered from a cache.
            if seen.insert(&sent.tag) && sent.started >= from && sent.finished <= to {
                let message = format!("{} was accepted while too few brokers were up", sent.tag);
                found.push(Violation::new("accepted-without-quorum", message));
            }
        }
        found
    }
}
