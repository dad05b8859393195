//! A gateway that listens.

use std::net::SocketAddr;
use std::time::Duration;

use gateway::{Gateway, HealthTask, Options};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::{ask, get};
use crate::scripted::Backend;

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) gateway: Gateway,
    pub(crate) health: Option<HealthTask>,
    server: JoinHandle<()>,
}

impl Running {
    /// In front of these backends, with short times; returns when it has seen all of them.
    pub(crate) async fn start(backends: &[&Backend], change: impl FnOnce(&mut Options)) -> Self {
        let running = Self::unwatched(backends.iter().map(|backend| backend.url()).collect(), change).await;
        let all = format!("\"backends_up\":{}", backends.len());
        running.until_ready(&all).await;
        running
    }

    /// The same, without waiting.
    pub(crate) async fn unwatched(urls: Vec<String>, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(urls.iter().map(|url| url.parse().expect("an address")).collect());
        options.health_interval = Duration::from_millis(20);
        options.health_timeout = Duration::from_secs(2);
        change(&mut options);
        let gateway = Gateway::new(options).expect("good options");
        let health = Some(gateway.watch());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let app = gateway.router().into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("a listener accepts") });
        Self { address, gateway, health, server }
    }

    /// Waits until `/readyz` says this.
    pub(crate) async fn until_ready(&self, text: &str) {
        self.until("/readyz", text).await;
    }

    /// Waits until the metrics have this line.
    pub(crate) async fn until_metric(&self, line: &str) {
        self.until("/metrics", &format!("{line}\n")).await;
    }

    async fn until(&self, path: &str, text: &str) {
        let mut last = String::new();
        let wait = async {
            loop {
                last = ask(self.address, &get(path)).await.body;
                if last.contains(text) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(Duration::from_secs(5), wait).await.is_ok(), "{path} never said '{text}' but\n{last}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What should happen at once, with time for a busy machine.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}
