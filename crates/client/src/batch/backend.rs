use serde_json::Value;

use crate::api::{Api, Reply};
use crate::error::Error;

/// Whoever answers requests: a server, or an engine in this process.
pub trait Backend: Send + Sync + 'static {
    /// Answers `body` as a server would that got it at `path`, such as `/v1/chat/completions`. A status of failure is an
    /// answer too.
    ///
    /// # Errors
    /// There is no answer. Something that works in this process always has one.
    fn call(&self, path: &str, body: &Value) -> impl Future<Output = Result<Reply, Error>> + Send;
}

impl Backend for Api {
    async fn call(&self, path: &str, body: &Value) -> Result<Reply, Error> {
        self.post(path, body).await
    }
}
