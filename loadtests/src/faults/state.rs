//! What a run has done so far, in a file, so that an interrupted run goes on where it was.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::check::Violation;
use super::round::Outcomes;
use crate::machine::Circumstances;

/// How one fault went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Verdict {
    /// Run, with what came of it.
    Run(Box<Outcomes>),
    /// Not run here, and why.
    NotRun(String),
    /// Could not be carried through: nothing is known.
    Broken(String),
}

/// One finished step of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the run, from 0.
    pub number: usize,
    /// The fault's id.
    pub fault: String,
    /// How it went.
    pub verdict: Verdict,
}

/// A run, as far as it is done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// Everything that decides what is run: another plan cannot be resumed.
    pub plan: String,
    /// SHA-256 of the binary under test: another product cannot be resumed either.
    pub product: String,
    /// What was there when the run began.
    pub circumstances: Circumstances,
    /// Finished steps.
    pub done: Vec<Step>,
    /// What was found when the inboxes of all rounds were read again at the end, in any part of the run.
    pub at_the_end: Vec<Violation>,
    /// How many inboxes were read again, in all parts of the run.
    pub read_again: usize,
    /// Whether that was done since the last fault was run. What a killed run left to check is gone with it.
    pub end_checked: bool,
    /// Wall clock over all parts of the run, seconds.
    pub seconds: f64,
}

impl State {
    /// Nothing is done yet.
    pub fn new(plan: String, product: String, circumstances: Circumstances) -> Self {
        Self { plan, product, circumstances, ..Self::default() }
    }

    /// The state in `folder`, if it is of the run that `new` would begin; `new` unless `resume`.
    ///
    /// # Errors
    /// When the file is not there or cannot be read, or is of another plan, commit or binary.
    pub fn open(folder: &Path, new: Self, resume: bool) -> anyhow::Result<Self> {
        if !resume {
            return Ok(new);
        }
        let bytes = match std::fs::read(path(folder)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("there is no run to go on with in {}; begin one without --resume", folder.display())
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path(folder).display())),
        };
        let unreadable = || format!("{} is no state of a run that this program can go on with", path(folder).display());
        let mut state: Self = serde_json::from_slice(&bytes).with_context(unreadable)?;
        if let Some(difference) = state.differs_from(&new) {
            bail!("the run in {} was {difference}; or begin anew without --resume", folder.display());
        }
        state.circumstances.uncommitted_changes |= new.circumstances.uncommitted_changes;
        Ok(state)
    }

    /// Why results of this run say nothing about the other one.
    fn differs_from(&self, other: &Self) -> Option<String> {
        if self.plan != other.plan {
            Some(format!("begun with other words ({}), which are to be said again", self.plan))
        } else if self.circumstances.commit != other.circumstances.commit {
            Some(format!("at commit {}, and this is {}", self.circumstances.commit, other.circumstances.commit))
        } else if self.product != other.product {
            Some("of another build of the binary under test".to_owned())
        } else {
            None
        }
    }

    /// Whether a step is done: run, or not to be run here. A broken one is tried again.
    pub fn has(&self, number: usize) -> bool {
        self.done.iter().any(|step| step.number == number && !matches!(step.verdict, Verdict::Broken(_)))
    }

    /// Whether the check at the end is done, or there is nothing that it could check.
    pub fn is_checked(&self) -> bool {
        self.end_checked || !self.done.iter().any(Step::was_run)
    }

    /// The last step that was run and held.
    pub fn last_held(&self) -> Option<usize> {
        self.done.iter().rev().find(|step| step.was_run() && step.passed()).map(|step| step.number)
    }

    /// Notes a step.
    pub fn note(&mut self, folder: &Path, step: Step) -> anyhow::Result<()> {
        // It leaves inboxes to be read again.
        self.end_checked &= !step.was_run();
        self.done.retain(|known| known.number != step.number);
        self.done.push(step);
        self.done.sort_by_key(|step| step.number);
        self.write(folder)
    }

    /// Writes the file as a whole.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let next = path(folder).with_extension("next");
        let write = || {
            std::fs::write(&next, serde_json::to_vec_pretty(self)?).and_then(|()| std::fs::rename(&next, path(folder)))
        };
        write().with_context(|| format!("writing {}", path(folder).display()))
    }
}

impl Step {
    /// Whether it was carried through.
    pub fn was_run(&self) -> bool {
        matches!(self.verdict, Verdict::Run(_))
    }

    /// Whether nothing is wrong with it.
    pub fn passed(&self) -> bool {
        match &self.verdict {
            Verdict::Run(outcomes) => outcomes.violations.is_empty(),
            Verdict::NotRun(_) => true,
            Verdict::Broken(_) => false,
        }
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("state.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(plan: &str, product: &str, commit: &str) -> State {
        let circumstances = Circumstances { commit: commit.to_owned(), ..Circumstances::default() };
        State::new(plan.to_owned(), product.to_owned(), circumstances)
    }

    fn step(number: usize, verdict: Verdict) -> Step {
        Step { number, fault: "x".to_owned(), verdict }
    }

    #[test]
    fn a_run_is_taken_up_where_it_was_and_no_other_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let open = |plan, product, commit, resume| State::open(folder.path(), begun(plan, product, commit), resume);
        let refused = open("a plan", "a binary", "a commit", true).unwrap_err().to_string();
        assert!(refused.contains("there is no run to go on with"), "{refused}");
        let mut state = open("a plan", "a binary", "a commit", false).unwrap();
        state.note(folder.path(), step(1, Verdict::Run(Box::default()))).unwrap();
        state.note(folder.path(), step(0, Verdict::Broken("why".to_owned()))).unwrap();
        let again = open("a plan", "a binary", "a commit", true).unwrap();
        assert!(again.has(1) && !again.has(0) && !again.has(2));
        assert_eq!(again.done.len(), 2);
        for (plan, product, commit, told) in [
            ("another plan", "a binary", "a commit", "was begun with other words (a plan)"),
            ("a plan", "another binary", "a commit", "another build"),
            ("a plan", "a binary", "another commit", "at commit a commit, and this is another commit"),
        ] {
            let refused = open(plan, product, commit, true).unwrap_err().to_string();
            assert!(refused.contains(told), "{refused}");
        }
        assert!(open("another plan", "a binary", "a commit", false).unwrap().done.is_empty());
    }

    #[test]
    fn what_is_run_after_the_end_check_asks_for_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = begun("a plan", "a binary", "a commit");
        state.note(folder.path(), step(0, Verdict::NotRun("why".to_owned()))).unwrap();
        assert!(state.is_checked() && state.last_held().is_none(), "nothing was run");
        state.note(folder.path(), step(1, Verdict::Run(Box::default()))).unwrap();
        assert!(!state.is_checked());
        assert_eq!(state.last_held(), Some(1));
        state.end_checked = true;
        state.note(folder.path(), step(2, Verdict::NotRun("why".to_owned()))).unwrap();
        assert!(state.is_checked());
        let violated = Outcomes { violations: vec![Violation::new("lost", "an event")], ..Outcomes::default() };
        state.note(folder.path(), step(3, Verdict::Run(Box::new(violated)))).unwrap();
        assert!(!state.is_checked());
        assert_eq!(state.last_held(), Some(1), "a finding is not done over");
    }
}
