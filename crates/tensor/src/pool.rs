use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers of finished tensors, kept for the next tensor of the same length.
///
/// A training step allocates the same lengths again and again; handing them round keeps the kernel from unmapping and
/// zeroing gigabytes of pages a second.
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: HashMap<usize, Vec<Vec<f32>>>,
    free_len: usize,
    live_len: usize,
    peak_live_len: usize,
}

/// A buffer that returns to its pool when dropped.
pub(crate) struct Buffer {
    data: Vec<f32>,
    pool: Option<Arc<Pool>>,
}

impl Pool {
    /// A buffer of `len` elements with unspecified content (NaN with debug assertions).
    pub(crate) fn take(this: &Arc<Self>, len: usize) -> Buffer {
        let mut state = this.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.live_len += len;
        state.peak_live_len = state.peak_live_len.max(state.live_len);
        let reused = state.free.get_mut(&len).and_then(Vec::pop);
        if reused.is_some() {
            state.free_len -= len;
        }
        drop(state);
        let mut data = reused.unwrap_or_else(|| vec![0.0; len]);
        if cfg!(debug_assertions) {
            data.fill(f32::NAN);
        }
        Buffer { data, pool: Some(Arc::clone(this)) }
    }

    /// Keeps `data`. A step needs buffers of many lengths that are not in use at once, so the pool may hold twice of what
    /// ever was; beyond that it lets everything go, since lengths that do not come back (a prompt of another length) must
    /// not pile up.
    fn give_back(&self, data: Vec<f32>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.live_len -= data.len();
        if state.free_len + data.len() > 2 * state.peak_live_len {
            state.free.clear();
            state.free_len = 0;
        }
        state.free_len += data.len();
        state.free.entry(data.len()).or_default().push(data);
    }
}

impl Buffer {
    /// A buffer that belongs to no pool.
    pub(crate) fn owned(data: Vec<f32>) -> Self {
        Self { data, pool: None }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.data));
        }
    }
}
