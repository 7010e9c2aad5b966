//! One round: new organizations, load, a fault in the middle of it, recovery, quiet, and then everything is compared.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit;
use super::check::{
    Repeats, Violation, delivered, delivered_later, empty, equals_the_log, in_order, status, stored,
    tail_missed_nothing, verdicts_are_justified,
};
use super::fault::{Fault, Struck, Times};
use super::fleet::Role;
use super::going_on::goes_on;
use super::ledger::{Counts, Outcome, Sent, Shown};
use super::load::{Ground, Load, Tenant};
use super::positions::Ends;
use super::rebuilt;
use super::settling::{finished, recovered, settled};
use super::system::System;
use super::view;

const POLL: Duration = Duration::from_millis(100);
/// More of one rule say nothing new.
const EXAMPLES: usize = 20;

/// How a round goes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Events a second.
    pub rate: u32,
    /// Load before the fault.
    pub calm: Duration,
    /// Load after it.
    pub after: Duration,
    /// How long recovering, and settling, may take each.
    pub settle: Duration,
    /// How long faults last.
    pub times: Times,
}

/// What came of a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// Requests by outcome.
    pub counts: Counts,
    /// Events in the inboxes.
    pub shown: usize,
    /// Confirmed acknowledgements.
    pub acknowledged: usize,
    /// Webhooks that were answered with success.
    pub delivered: usize,
    /// Of these, repeated ones.
    pub repeated: usize,
    /// How long the fault lasted, seconds.
    pub lasted_seconds: f64,
    /// From its end until everything accepted before was visible, every consumer had passed what was on the log then,
    /// and new requests were taken, seconds.
    pub recovery_seconds: Option<f64>,
    /// What must not be.
    pub violations: Vec<Violation>,
}

/// What a round left of one organization, to be found unchanged at the end of the run.
pub struct Left {
    /// The organization.
    pub org: Uuid,
    /// A key of it.
    pub key: String,
    /// Its inbox, in order.
    pub rows: Vec<Shown>,
    /// Its endpoints.
    pub endpoints: Vec<String>,
    /// So many of their receipts were judged with the round. The receiver keeps them all: what comes later is judged at
    /// the end.
    pub judged: usize,
}

/// Runs a round, and adds to `left` what it leaves. `name` begins all its tags and names.
pub async fn run(
    system: &System,
    fault: &Fault,
    pace: Pace,
    name: &str,
    pick: u64,
    left: &mut Vec<Left>,
) -> anyhow::Result<Outcomes> {
    // What rounds left is judged again at the end.
    if left.is_empty() {
        system.receiver.forget();
    }
    let tenants = Arc::new(system.tenants(name).await.context("making organizations")?);
    let (begun, started) = (OffsetDateTime::now_utc(), Instant::now());
    let begin = system.ends().await?;
    let claims = Claims::now(system).await?;
    let ground = Arc::new(Ground {
        api: Arc::clone(&system.api),
        brokers: system.cluster.kafka_brokers().to_owned(),
        topics: system.topics.clone(),
        tenants: Arc::clone(&tenants),
        ledger: Arc::default(),
        receiver: Arc::clone(&system.receiver),
        rate: pace.rate,
        prefix: name.to_owned(),
    });
    let mut load = Load::start(&ground)?;
    tokio::time::sleep(pace.calm).await;
    let struck = fault.strike(system, &tenants, pace.times, pick).await;
    let back = Instant::now();
    let mut recovery = Err("the fault could not be done".to_owned());
    if let Ok(struck) = &struck {
        recovery = recovered(system, &ground, struck.undone, pace.settle).await;
        tokio::time::sleep(pace.after).await;
    }
    load.stop_sending().await;
    let struck = struck?;
    let mut outcomes = Outcomes {
        counts: ground.ledger.counts(),
        lasted_seconds: struck.undone.duration_since(struck.began).as_secs_f64(),
        ..Outcomes::default()
    };
    match recovery {
        Ok(seconds) => outcomes.recovery_seconds = Some(seconds),
        Err(reason) => outcomes.violations.push(Violation::new("not-recovered", reason)),
    }
    let ends = settled(system, pace.settle, &mut outcomes.violations).await?;
    let round = Round { system, fault, ground: &ground, struck: &struck, claims, started, back, settle: pace.settle };
    left.extend(round.compare(begin, ends, load, &mut outcomes).await?);
    let wrong = fault.clean_up(system).await.context("undoing the fault")?;
    outcomes.violations.extend(wrong.into_iter().map(|told| Violation::new("fault", told)));
    let differs =
        rebuilt::equals_a_rebuild(system, begun, pace.settle).await.context("comparing with a rebuilt view")?;
    outcomes.violations.extend(differs);
    Ok(outcomes)
}

/// At the end of a run, after rebuilds and replays: what each round left is as it was left, the view is still what the
/// log, read from its begin, says, no webhook was sent again, and the system goes on.
pub async fn unchanged(
    system: &System,
    left: &[Left],
    begun: OffsetDateTime,
    settle: Duration,
) -> anyhow::Result<Vec<Violation>> {
    let mut outcomes = Outcomes::default();
    let ends = settled(system, settle, &mut outcomes.violations).await?;
    outcomes.violations.extend(rebuilt::rebuild_and_replay(system, begun, settle).await?);
    outcomes.violations.extend(goes_on(system, settle).await);
    let orgs: Vec<Uuid> = left.iter().map(|left| left.org).collect();
    outcomes.violations.extend(finished(system, &orgs, settle).await);
    let log = system.read_log(None, ends).await.context("reading the whole log")?;
    let verdicts = view::verdicts(&system.pool).await?;
    let mut found = Vec::new();
    for Left { org, key, rows, endpoints, judged } in left {
        let now = view::inbox(&system.api, key, Instant::now() + settle).await.context("reading an inbox")?;
        if now != *rows {
            let differs =
                rows.iter().zip(&now).find(|(before, now)| before != now).map_or(Uuid::nil(), |(before, _)| before.id);
            let told = format!(
                "the inbox of {org} had {} events after its round and has {} now; the first that differs is {differs}",
                rows.len(),
                now.len()
            );
            found.push(Violation::new("changed-later", told));
        }
        found.extend(equals_the_log(*org, &log.events, &log.acked, &verdicts, &now));
        found.extend(verdicts_are_justified(*org, &log.events, &verdicts));
        found.extend(delivered_later(endpoints, rows, &system.receiver.receipts(endpoints), *judged));
    }
    found.extend(misdeeds(system).await?);
    keep_examples(found, &mut outcomes);
    Ok(outcomes.violations)
}

/// Positions that were moved by somebody who did not hold them, and processes that ended by themselves.
async fn misdeeds(system: &System) -> anyhow::Result<Vec<Violation>> {
    let mut found = audit::offences(&system.pool).await?;
    found.extend(
        system
            .fleet
            .ended_alone()
            .into_iter()
            .map(|name| Violation::new("ended-alone", format!("{name} ended by itself"))),
    );
    Ok(found)
}

/// How often each kind of consumer has claimed partitions so far.
struct Claims(HashMap<&'static str, i64>);

impl Claims {
    async fn now(system: &System) -> anyhow::Result<Self> {
        let mut claims = HashMap::new();
        for role in [Role::Materializer, Role::Dispatcher] {
            claims.insert(role.name(), audit::claims(&system.pool, role.name()).await?);
        }
        Ok(Self(claims))
    }

    fn of(&self, role: Role) -> i64 {
        self.0.get(role.name()).copied().unwrap_or_default()
    }
}

/// What the comparison needs.
struct Round<'a> {
    system: &'a System,
    fault: &'a Fault,
    ground: &'a Ground,
    struck: &'a Struck,
    /// Before it began.
    claims: Claims,
    started: Instant,
    /// When what was struck was up again.
    back: Instant,
    settle: Duration,
}

impl Round<'_> {
    async fn compare(&self, begin: Ends, ends: Ends, load: Load, outcomes: &mut Outcomes) -> anyhow::Result<Vec<Left>> {
        let Self { system, ground, struck, .. } = self;
        let (mut found, mut left) = (Vec::new(), Vec::new());
        let ends = self.quiet(ends, load, outcomes).await?;
        let log = system.read_log(Some(begin), ends).await.context("reading the log")?;
        let verdicts = view::verdicts(&system.pool).await?;
        let lost_leases = Claims::now(system).await?.of(Role::Dispatcher) > self.claims.of(Role::Dispatcher);
        let repeats = self.repeats(lost_leases);
        let (sent, acks) = (ground.ledger.sent(), ground.ledger.acks());
        for (number, tenant) in ground.tenants.iter().enumerate() {
            let rows = view::inbox(&system.api, &tenant.key, Instant::now() + self.settle)
                .await
                .context("reading an inbox")?;
            let of_tenant: Vec<&Sent> = sent.iter().filter(|sent| sent.tenant == number).collect();
            let own_acks = acks.iter().filter(|((of, _), _)| *of == number).map(|((_, id), ack)| (*id, *ack)).collect();
            let receipts = system.receiver.receipts(&tenant.endpoints);
            let (wrong, repeated) = delivered(&tenant.endpoints, &rows, &receipts, repeats);
            found.extend(wrong);
            found.extend(status(&tenant.endpoints, &rows, &receipts, repeats));
            found.extend(stored(tenant.org, &of_tenant, &own_acks, &rows, &verdicts));
            found.extend(in_order(&of_tenant, &rows));
            found.extend(tail_missed_nothing(tenant.org, &ground.ledger.seen(number), &rows));
            found.extend(equals_the_log(tenant.org, &log.events, &log.acked, &verdicts, &rows));
            found.extend(verdicts_are_justified(tenant.org, &log.events, &verdicts));
            found.extend(self.resolves(tenant, &of_tenant, &rows).await?);
            outcomes.shown += rows.len();
            outcomes.repeated += repeated;
            outcomes.delivered += receipts.iter().filter(|receipt| receipt.answered).count();
            let (endpoints, judged) = (tenant.endpoints.clone(), receipts.len());
            left.push(Left { org: tenant.org, key: tenant.key.clone(), rows, endpoints, judged });
        }
        outcomes.acknowledged = acks.values().filter(|ack| **ack == super::ledger::Ack::Confirmed).count();
        found.extend(self.floors(outcomes));
        found.extend(log.unreadable.into_iter().map(|told| Violation::new("unreadable", told)));
        found.extend(ground.ledger.complaints().into_iter().map(|told| Violation::new("wrong-answer", told)));
        found.extend(struck.wrong.iter().map(|told| Violation::new("fault", told)));
        found.extend(struck.missed.iter().map(|told| Violation::new("did-not-strike", told)));
        found.extend(self.kept_its_seats().await?);
        found.extend(self.accepted_in_silence(&sent));
        found.extend(misdeeds(system).await?);
        if outcomes.repeated > 0 && repeats != self.repeats(false) {
            println!(
                "          {} webhooks were repeated because dispatchers lost partitions, which this fault does not strike",
                outcomes.repeated
            );
        }
        keep_examples(found, outcomes);
        Ok(left)
    }

    /// Waits until nothing more comes of itself, and ends the reading; answers where the log ends then.
    async fn quiet(&self, ends: Ends, load: Load, outcomes: &mut Outcomes) -> anyhow::Result<Ends> {
        let Self { system, ground, .. } = self;
        let deadline = Instant::now() + self.settle;
        let mut inboxes = Vec::new();
        for tenant in ground.tenants.iter() {
            inboxes.push(view::inbox(&system.api, &tenant.key, deadline).await.context("reading an inbox")?);
        }
        self.until_delivered(&inboxes).await;
        let orgs: Vec<Uuid> = ground.tenants.iter().map(|tenant| tenant.org).collect();
        outcomes.violations.extend(finished(system, &orgs, self.settle).await);
        self.until_followed(&inboxes).await;
        load.stop_reading().await;
        // What the readers acknowledged last is on the log by now, and is passed soon.
        if self.acknowledged_since(&ends).await {
            settled(system, self.settle, &mut outcomes.violations).await
        } else {
            Ok(ends)
        }
    }

    /// A consumer that was struck and from whom nobody took anything over, nor it from itself, shows nothing.
    async fn kept_its_seats(&self) -> anyhow::Result<Option<Violation>> {
        let Some(role) = self.fault.unseats() else { return Ok(None) };
        let claimed = Claims::now(self.system).await?.of(role) > self.claims.of(role);
        Ok((!claimed).then(|| {
            Violation::new("did-not-strike", format!("no {} claimed a partition in all of the round", role.name()))
        }))
    }

    /// A round in which nothing happened has shown nothing.
    fn floors(&self, outcomes: &Outcomes) -> Vec<Violation> {
        let Outcomes { counts, shown, acknowledged, delivered, .. } = outcomes;
        let mut counts = vec![("accepted", counts.accepted), ("shown", *shown), ("acknowledged", *acknowledged)];
        if self.ground.tenants.iter().any(|tenant| !tenant.endpoints.is_empty()) {
            counts.push(("delivered", *delivered));
        }
        empty(&counts)
    }

    /// What may be delivered again; `lost_leases`: dispatchers claimed partitions in this round.
    fn repeats(&self, lost_leases: bool) -> Repeats {
        let session = Duration::from_millis(u64::from(self.system.shape.session_ms));
        self.fault.repeats(self.struck.began, self.back, session, lost_leases.then_some(self.started))
    }

    /// Waits for the webhooks of all that is listed; what does not come is found by the comparison.
    async fn until_delivered(&self, inboxes: &[Vec<Shown>]) {
        let begun = Instant::now();
        let all_came = || {
            self.ground.tenants.iter().zip(inboxes).all(|(tenant, rows)| {
                tenant
                    .endpoints
                    .iter()
                    .all(|endpoint| rows.iter().all(|row| self.system.receiver.has_answered(endpoint, row.id)))
            })
        };
        while !all_came() && begun.elapsed() < self.settle {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the tails have shown what is listed.
    async fn until_followed(&self, inboxes: &[Vec<Shown>]) {
        let begun = Instant::now();
        let all_seen =
            || inboxes.iter().enumerate().all(|(number, rows)| self.ground.ledger.seen(number).len() >= rows.len());
        while !all_seen() && begun.elapsed() < self.settle {
            tokio::time::sleep(POLL).await;
        }
    }

    async fn acknowledged_since(&self, ends: &Ends) -> bool {
        self.system.ends().await.map_or(true, |now| now != *ends)
    }

    /// An id that was given out and is not listed is answered with the original.
    async fn resolves(&self, tenant: &Tenant, sent: &[&Sent], rows: &[Shown]) -> anyhow::Result<Vec<Violation>> {
        let by_tag: HashMap<&str, Uuid> = rows.iter().map(|row| (row.tag.as_str(), row.id)).collect();
        let mut found = Vec::new();
        for request in sent {
            let Outcome::Accepted { id: Some(id), .. } = request.outcome else { continue };
            let Some(listed) = by_tag.get(request.tag.as_str()).filter(|listed| **listed != id) else { continue };
            let answered = view::resolved(&self.system.api, &tenant.key, id).await?;
            if answered != Some(*listed) {
                let answered = answered.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
                found.push(Violation::new(
                    "unresolved",
                    format!(
                        "{id} was given out for {}, {listed} is listed, and the id answers {answered}",
                        request.tag
                    ),
                ));
            }
        }
        Ok(found)
    }

    /// A success code that was given while it could not be: for a request that began and ended in the silence, and
    /// wrote something.
    fn accepted_in_silence(&self, sent: &[Sent]) -> Vec<Violation> {
        let Some((from, to)) = self.struck.silence else { return Vec::new() };
        let wrote = |sent: &&Sent| matches!(sent.outcome, Outcome::Accepted { replayed: false, .. });
        let mut before = std::collections::HashSet::new();
        let mut found = Vec::new();
        for sent in sent.iter().filter(wrote) {
            // A repeat of what was accepted before may be answered from memory.
            if before.insert(&sent.tag) && sent.begun >= from && sent.ended <= to {
                found.push(Violation::new(
                    "accepted-in-silence",
                    format!("{} was accepted while too few brokers were up", sent.tag),
                ));
            }
        }
        found
    }
}

/// Keeps the first of each rule, and says how many there were.
fn keep_examples(found: Vec<Violation>, outcomes: &mut Outcomes) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for violation in found {
        let count = counts.entry(violation.rule.clone()).or_default();
        *count += 1;
        if *count <= EXAMPLES {
            outcomes.violations.push(violation);
        }
    }
    for (rule, count) in counts.into_iter().filter(|(_, count)| *count > EXAMPLES) {
        outcomes.violations.push(Violation::new(&rule, format!("and {} more", count - EXAMPLES)));
    }
}
