//! Training runs: the loop, the optimiser, checkpoints of a run, and what a run tells its user.
//!
//! [`pretrain::Run`] is the road from a recipe to trained weights; [`step`] is one step of it.

mod error;
pub mod guard;
pub mod optimizer;
pub mod plan;
mod prepare;
pub mod pretrain;
pub mod report;
mod run_dir;
pub mod save;
pub mod speed;
pub mod step;

pub use error::{Error, Result};
pub use pretrain::{End, Run};
pub use run_dir::RunDir;
