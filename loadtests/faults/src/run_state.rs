//! The state of a run in a file, so that an interrupted run can be resumed.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use loadkit::RunEnvironment;
use serde::{Deserialize, Serialize};

use crate::check::Violation;
use crate::round::Outcomes;

/// The result of one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum StepResult {
    /// The round was completed.
    Completed(Box<Outcomes>),
    /// The fault is not available here, and why.
    NotRun(String),
    /// The round failed before its end, and why.
    Failed(String),
}

/// A finished step of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FinishedStep {
    /// Its number in the plan, from 0.
    pub number: usize,
    pub fault: String,
    pub result: StepResult,
}

/// A run and its finished steps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RunState {
    /// Everything that decides the plan. A run with another plan cannot be resumed.
    pub plan: String,
    /// SHA-256 of the binary under test. A run of another binary cannot be resumed.
    pub binary: String,
    /// The environment at the start of the run.
    pub environment: RunEnvironment,
    pub finished: Vec<FinishedStep>,
    /// Violations that the final check found, in any part of the run.
    pub final_violations: Vec<Violation>,
    /// Number of inboxes that the final check read, in all parts of the run.
    pub inboxes_rechecked: usize,
    /// Whether the final check ran after the last completed round. The inboxes of a killed run cannot be checked.
    pub final_check_done: bool,
    /// Duration of all parts of the run, in seconds.
    pub seconds: f64,
}

impl RunState {
    pub(crate) fn new(plan: String, binary: String, environment: RunEnvironment) -> Self {
        Self { plan, binary, environment, ..Self::default() }
    }

    /// The state in `folder` if `resume`, otherwise `new`.
    ///
    /// # Errors
    /// When the file is missing or unreadable, or belongs to a run of another plan, commit or binary.
    pub(crate) fn open(folder: &Path, new: Self, resume: bool) -> anyhow::Result<Self> {
        if !resume {
            return Ok(new);
        }
        let bytes = match std::fs::read(path(folder)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("there is no run to resume in {}; start one without --resume", folder.display())
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path(folder).display())),
        };
        let unreadable = || format!("{} is not a state that this program can resume", path(folder).display());
        let mut state: Self = serde_json::from_slice(&bytes).with_context(unreadable)?;
        if let Some(difference) = state.differs_from(&new) {
            bail!("the run in {} {difference}; start a new one without --resume", folder.display());
        }
        state.environment.uncommitted_changes |= new.environment.uncommitted_changes;
        Ok(state)
    }

    /// Why this run cannot be continued as `other`, as the rest of a sentence.
    fn differs_from(&self, other: &Self) -> Option<String> {
        if self.plan != other.plan {
            Some(format!("was started with other options ({}); repeat them", self.plan))
        } else if self.environment.commit != other.environment.commit {
            Some(format!("was started at commit {}, and this is {}", self.environment.commit, other.environment.commit))
        } else if self.binary != other.binary {
            Some("was started with another build of the binary under test".to_owned())
        } else {
            None
        }
    }

    /// Whether a step is finished. A failed one is run again.
    pub(crate) fn has_finished(&self, number: usize) -> bool {
        self.finished.iter().any(|step| step.number == number && !matches!(step.result, StepResult::Failed(_)))
    }

    /// Whether the final check is done or has nothing to check.
    pub(crate) fn is_checked(&self) -> bool {
        self.final_check_done || !self.finished.iter().any(FinishedStep::is_completed)
    }

    /// The last step that was completed without a violation.
    pub(crate) fn last_passed(&self) -> Option<usize> {
        self.finished.iter().rev().find(|step| step.is_completed() && step.passed()).map(|step| step.number)
    }

    /// Adds a finished step and writes the file.
    pub(crate) fn add(&mut self, folder: &Path, step: FinishedStep) -> anyhow::Result<()> {
        // The inboxes of a completed round need the final check.
        self.final_check_done &= !step.is_completed();
        self.finished.retain(|finished| finished.number != step.number);
        self.finished.push(step);
        self.finished.sort_by_key(|step| step.number);
        self.write(folder)
    }

    /// Replaces the file atomically.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let next = path(folder).with_extension("next");
        let write = || {
            std::fs::write(&next, serde_json::to_vec_pretty(self)?).and_then(|()| std::fs::rename(&next, path(folder)))
        };
        write().with_context(|| format!("writing {}", path(folder).display()))
    }
}

impl FinishedStep {
    /// Whether its round was completed.
    pub(crate) fn is_completed(&self) -> bool {
        matches!(self.result, StepResult::Completed(_))
    }

    /// Whether it is no reason to fail the run.
    pub(crate) fn passed(&self) -> bool {
        match &self.result {
            StepResult::Completed(outcomes) => outcomes.violations.is_empty(),
            StepResult::NotRun(_) => true,
            StepResult::Failed(_) => false,
        }
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("state.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(plan: &str, binary: &str, commit: &str) -> RunState {
        let environment = RunEnvironment { commit: commit.to_owned(), ..RunEnvironment::default() };
        RunState::new(plan.to_owned(), binary.to_owned(), environment)
    }

    fn step(number: usize, result: StepResult) -> FinishedStep {
        FinishedStep { number, fault: "x".to_owned(), result }
    }

    #[test]
    fn only_the_same_run_can_be_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let open = |plan, binary, commit, resume| RunState::open(folder.path(), started(plan, binary, commit), resume);
        let refused = open("a plan", "a binary", "a commit", true).unwrap_err().to_string();
        assert!(refused.contains("there is no run to resume"), "{refused}");
        let mut state = open("a plan", "a binary", "a commit", false).unwrap();
        state.add(folder.path(), step(1, StepResult::Completed(Box::default()))).unwrap();
        state.add(folder.path(), step(0, StepResult::Failed("why".to_owned()))).unwrap();
        let again = open("a plan", "a binary", "a commit", true).unwrap();
        assert!(again.has_finished(1) && !again.has_finished(0) && !again.has_finished(2));
        assert_eq!(again.finished.len(), 2);
        for (plan, binary, commit, message) in [
            ("another plan", "a binary", "a commit", "was started with other options (a plan)"),
            ("a plan", "another binary", "a commit", "another build"),
            ("a plan", "a binary", "another commit", "at commit a commit, and this is another commit"),
        ] {
            let refused = open(plan, binary, commit, true).unwrap_err().to_string();
            assert!(refused.contains(message), "{refused}");
        }
        assert!(open("another plan", "a binary", "a commit", false).unwrap().finished.is_empty());
    }

    #[test]
    fn a_round_after_the_final_check_needs_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = started("a plan", "a binary", "a commit");
        state.add(folder.path(), step(0, StepResult::NotRun("why".to_owned()))).unwrap();
        assert!(state.is_checked() && state.last_passed().is_none(), "no round was completed");
        state.add(folder.path(), step(1, StepResult::Completed(Box::default()))).unwrap();
        assert!(!state.is_checked());
        assert_eq!(state.last_passed(), Some(1));
        state.final_check_done = true;
        state.add(folder.path(), step(2, StepResult::NotRun("why".to_owned()))).unwrap();
        assert!(state.is_checked());
        let violated = Outcomes { violations: vec![Violation::new("lost", "an event")], ..Outcomes::default() };
        state.add(folder.path(), step(3, StepResult::Completed(Box::new(violated)))).unwrap();
        assert!(!state.is_checked());
        assert_eq!(state.last_passed(), Some(1), "a step with a violation is not run again");
    }
}
