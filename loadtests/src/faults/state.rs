//! What a run has done so far, in a file, so that an interrupted run goes on where it was.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::check::Violation;
use super::round::Outcomes;

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
    /// Finished steps.
    pub done: Vec<Step>,
    /// What was found when the inboxes of all rounds were read again at the end, in any part of the run.
    #[serde(default)]
    pub at_the_end: Vec<Violation>,
    /// Wall clock over all parts of the run, seconds.
    pub seconds: f64,
}

impl State {
    /// The state of `plan` in `folder`; a new one unless `resume`, or when there is none.
    ///
    /// # Errors
    /// When the file cannot be read, or is of another plan.
    pub fn open(folder: &Path, plan: &str, resume: bool) -> anyhow::Result<Self> {
        let new = Self { plan: plan.to_owned(), ..Self::default() };
        if !resume {
            return Ok(new);
        }
        let bytes = match std::fs::read(path(folder)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(new),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path(folder).display())),
        };
        let state: Self = serde_json::from_slice(&bytes).with_context(|| format!("{} is no state of a run", path(folder).display()))?;
        anyhow::ensure!(
            state.plan == plan,
            "the run in {} was another one ({}); begin anew without --resume",
            folder.display(),
            state.plan
        );
        Ok(state)
    }

    /// Whether a step is done: run, or not to be run here. A broken one is tried again.
    pub fn has(&self, number: usize) -> bool {
        self.done.iter().any(|step| step.number == number && !matches!(step.verdict, Verdict::Broken(_)))
    }

    /// Notes a step.
    pub fn note(&mut self, folder: &Path, step: Step) -> anyhow::Result<()> {
        self.done.retain(|known| known.number != step.number);
        self.done.push(step);
        self.done.sort_by_key(|step| step.number);
        self.write(folder)
    }

    /// Writes the file as a whole.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let next = path(folder).with_extension("next");
        let write = || std::fs::write(&next, serde_json::to_vec_pretty(self)?).and_then(|()| std::fs::rename(&next, path(folder)));
        write().with_context(|| format!("writing {}", path(folder).display()))
    }
}

impl Step {
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

    #[test]
    fn a_run_is_taken_up_where_it_was_and_no_other_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path(), "a plan", true).unwrap();
        let step = |number, verdict| Step { number, fault: "x".to_owned(), verdict };
        state.note(folder.path(), step(1, Verdict::Run(Box::default()))).unwrap();
        state.note(folder.path(), step(0, Verdict::Broken("why".to_owned()))).unwrap();
        let again = State::open(folder.path(), "a plan", true).unwrap();
        assert!(again.has(1) && !again.has(0) && !again.has(2));
        assert_eq!(again.done.len(), 2);
        assert!(State::open(folder.path(), "another plan", true).is_err());
        assert!(State::open(folder.path(), "another plan", false).unwrap().done.is_empty());
    }
}
