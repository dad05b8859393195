//! The backends, and what each has to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::address::Address;
use crate::balance;
use crate::health::Judge;

/// All backends of a gateway.
pub(crate) struct Fleet {
    pub(crate) backends: Vec<Backend>,
    loads: Mutex<Loads>,
    /// [`Options::affinity_factor`](crate::Options::affinity_factor).
    factor: f64,
}

/// One of them.
pub(crate) struct Backend {
    pub(crate) address: Address,
    /// The address as text: in metrics, in logs, and for the hash that places conversations.
    pub(crate) name: String,
    judge: Mutex<Judge>,
    /// Asks for its readiness without waiting for the end of the pause.
    pub(crate) wake: Notify,
}

struct Loads {
    /// Requests that a backend has been given and that have not ended, for each.
    in_flight: Vec<usize>,
    /// Who is next among equals.
    turn: usize,
}

/// A request in flight at a backend. It counts until this is dropped.
pub(crate) struct Place {
    fleet: Arc<Fleet>,
    pub(crate) at: usize,
}

impl Fleet {
    pub(crate) fn new(addresses: &[Address], factor: f64) -> Self {
        let backends: Vec<Backend> = addresses
            .iter()
            .map(|address| Backend {
                address: address.clone(),
                name: address.to_string(),
                judge: Mutex::default(),
                wake: Notify::new(),
            })
            .collect();
        let loads = Loads { in_flight: vec![0; backends.len()], turn: 0 };
        Self { backends, loads: Mutex::new(loads), factor }
    }

    /// Chooses a backend that is up and has not been tried, and counts a request there. Choosing and counting are one
    /// step, or else requests that come together would all see the same one idle.
    pub(crate) fn take(self: &Arc<Self>, key: Option<u64>, tried: &[bool]) -> Option<Place> {
        let names = self.backends.iter().map(|backend| backend.name.as_str());
        let scores = key.map(|key| balance::scores(names, key));
        let open: Vec<bool> = self.backends.iter().zip(tried).map(|(b, tried)| !tried && b.judge().is_up()).collect();
        let mut loads = lock(&self.loads);
        let at = balance::choose(&loads.in_flight, &open, scores.as_deref(), loads.turn, self.factor)?;
        loads.in_flight[at] += 1;
        loads.turn = (at + 1) % self.backends.len();
        Some(Place { fleet: self.clone(), at })
    }

    /// Requests in flight at each backend.
    pub(crate) fn in_flight(&self) -> Vec<usize> {
        lock(&self.loads).in_flight.clone()
    }

    /// How many backends are up.
    pub(crate) fn up(&self) -> usize {
        self.backends.iter().filter(|backend| backend.judge().is_up()).count()
    }
}

impl Backend {
    /// What is known of its health.
    pub(crate) fn judge(&self) -> MutexGuard<'_, Judge> {
        lock(&self.judge)
    }
}

impl Place {
    pub(crate) fn backend(&self) -> &Backend {
        &self.fleet.backends[self.at]
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.fleet.loads).in_flight[self.at] -= 1;
    }
}

/// What is behind a lock is always whole: nobody panics while he writes it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
