//! One address in front of a few servers of ours.
//!
//! A [`Gateway`] hands each request to one of its backends and passes the answer back as it comes. It counts what runs
//! where and gives work to those that have least, keeps conversations where their beginning is cached, watches which
//! backends are ready, and tries another one as long as no byte of an answer has been sent.
//!
//! Absent on purpose: models, tokens and keys. A gateway reads no more of a body than it needs to choose a backend, and
//! who may ask for what is decided by the backends. It opens connections to its backends and to nothing else, whatever
//! a request says.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let backends = vec!["http://127.0.0.1:8001".parse()?, "http://127.0.0.1:8002".parse()?];
//! let gateway = gateway::Gateway::new(gateway::Options::new(backends))?;
//! let health = gateway.watch();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! let app = gateway.router().into_make_service_with_connect_info::<std::net::SocketAddr>();
//! axum::serve(listener, app).await?;
//! health.stop().await;
//! # Ok(())
//! # }
//! ```

mod address;
mod answer;
mod balance;
mod buffer;
mod error;
mod fleet;
mod forward;
mod gateway;
mod headers;
mod health;
mod key;
mod metrics;
mod options;
mod refusal;

pub use address::Address;
pub use error::{AddressError, Error};
pub use gateway::Gateway;
pub use health::HealthTask;
pub use options::Options;
