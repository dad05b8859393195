//! A server under load, and what its users would feel.
//!
//! [`Plan`] says what is asked for and when, [`run()`] asks and takes the times, [`Report`] says what they mean.
//!
//! In the closed loop a number of users each wait for an answer before they ask again: a slow server is asked less often.
//! In the open loop requests arrive at random moments whether or not the server keeps up, as they do in the world, and
//! every time is measured from the moment a request *should* have been sent. A request that was sent late because the one
//! before it was slow counts its delay (leaving it out is the error that is called coordinated omission).

mod csv;
mod drive;
mod plan;
mod prompts;
mod sample;
mod statistics;

pub use csv::write as write_csv;
pub use drive::{Progress, run};
pub use plan::{Arrivals, Plan};
pub use prompts::{Dataset, Prompts, RandomTokens};
pub use sample::{Failure, Run, Sample};
pub use statistics::{ErrorCount, Goodput, Report, Slo, Summary};
