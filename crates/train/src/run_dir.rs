//! Where a run keeps what.
//!
//! ```text
//! recipe.toml             resolved
//! tokenizer/              the files every checkpoint copies
//! data/                   token shards, unless the recipe says elsewhere
//! metrics.jsonl  events.out.tfevents.*  report.html
//! checkpoints/step-N/     a model directory, and state/ beside the weights
//! checkpoints/latest      a link to the newest
//! ```

use std::path::{Path, PathBuf};

use config::Recipe;

use crate::error::{Error, Result};

/// The directory of a run.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

const RECIPE: &str = "recipe.toml";

impl RunDir {
    /// Makes the directory of a new run and stores the resolved recipe in it.
    ///
    /// # Errors
    /// When it holds a run already, or cannot be written.
    pub fn create(recipe: &Recipe) -> Result<Self> {
        let dir = Self { root: recipe.out.clone() };
        if fs_err::exists(dir.recipe())? {
            return Err(Error::RunExists { dir: dir.root });
        }
        fs_err::create_dir_all(dir.checkpoints())?;
        checkpoint::write_file_atomically(dir.recipe(), recipe.to_toml().as_bytes())?;
        Ok(dir)
    }

    /// The directory of an existing run, cleared of what an interrupted save left, and its recipe.
    ///
    /// # Errors
    /// When there is no run, or its recipe is refused.
    pub fn open(root: &Path) -> Result<(Self, Recipe)> {
        let dir = Self { root: root.to_owned() };
        if !fs_err::exists(dir.recipe())? {
            return Err(Error::NoRun { dir: dir.root, missing: RECIPE });
        }
        let mut recipe = Recipe::load(dir.recipe(), &[])?;
        // The directory may have been moved since; what the recipe says of it is where it was made.
        recipe.out.clone_from(&dir.root);
        fs_err::create_dir_all(dir.checkpoints())?;
        checkpoint::clean_leftovers(dir.checkpoints())?;
        Ok((dir, recipe))
    }

    /// Takes back what [`RunDir::create`] and the preparation made, so that a recipe that failed can be mended and started
    /// again. Token shards stay: they are checked before they are used.
    pub(crate) fn abandon(&self) {
        // The error that led here is the one to tell; what cannot be removed is refused by the next start.
        let _ = fs_err::remove_dir_all(self.tokenizer());
        let _ = fs_err::remove_dir(self.checkpoints());
        let _ = fs_err::remove_file(self.recipe());
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved recipe.
    pub fn recipe(&self) -> PathBuf {
        self.root.join(RECIPE)
    }

    /// The tokenizer's files.
    pub fn tokenizer(&self) -> PathBuf {
        self.root.join("tokenizer")
    }

    /// One JSON object per line.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The page with the curves.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The model directory saved after `step` steps.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step}"))
    }

    /// The same, relative to the run.
    pub fn checkpoint_name(step: u64) -> String {
        format!("checkpoints/step-{step}")
    }

    /// The steps of all checkpoints on disk, ascending. A directory of that name is complete: saves are atomic.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn saved_steps(&self) -> Result<Vec<u64>> {
        let mut steps = Vec::new();
        for entry in fs_err::read_dir(self.checkpoints())? {
            let name = entry?.file_name();
            steps.extend(name.to_str().and_then(|n| n.strip_prefix("step-")).and_then(|n| n.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes the checkpoints that the policy does not keep, oldest first, and lets `latest` point to the newest.
    ///
    /// # Errors
    /// When a directory cannot be removed or the link not be written.
    pub fn settle(&self, policy: &config::recipe::Checkpoint) -> Result<()> {
        let steps = self.saved_steps()?;
        let Some(newest) = steps.last() else { return Ok(()) };
        #[cfg(unix)]
        {
            // A link cannot be replaced in place, but renaming one over another is atomic.
            let partial = self.checkpoints().join(".latest.tmp");
            if fs_err::symlink_metadata(&partial).is_ok() {
                fs_err::remove_file(&partial)?;
            }
            fs_err::os::unix::fs::symlink(format!("step-{newest}"), &partial)?;
            fs_err::rename(partial, self.checkpoints().join("latest"))?;
        }
        for step in kept_not(&steps, policy) {
            // Renamed first: a directory half removed must not look like a checkpoint.
            let doomed = self.checkpoints().join(format!(".step-{step}.partial"));
            fs_err::rename(self.checkpoint(step), &doomed)?;
            fs_err::remove_dir_all(doomed)?;
        }
        Ok(())
    }
}

/// The steps to remove: all but the newest `keep_last` and the multiples of `keep_every_steps`.
fn kept_not(steps: &[u64], policy: &config::recipe::Checkpoint) -> Vec<u64> {
    let old = steps.len().saturating_sub(policy.keep_last.max(1));
    let kept = |step: &u64| policy.keep_every_steps.is_some_and(|every| every > 0 && step.is_multiple_of(every));
    steps[..old].iter().filter(|step| !kept(step)).copied().collect()
}

#[cfg(test)]
mod tests {
    use config::recipe::{Checkpoint, FloatType};

    use super::kept_not;

    #[test]
    fn the_newest_and_the_multiples_are_kept() {
        let policy = Checkpoint { every_steps: 10, keep_last: 2, keep_every_steps: Some(30), dtype: FloatType::F32 };
        assert_eq!(kept_not(&[10, 20, 30, 40, 50, 60], &policy), [10, 20, 40]);
        let policy = Checkpoint { keep_last: 1, keep_every_steps: None, ..policy };
        assert_eq!(kept_not(&[10, 20], &policy), [10]);
        assert!(kept_not(&[10], &policy).is_empty());
    }
}
