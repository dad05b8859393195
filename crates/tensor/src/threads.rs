//! The compute threads: a fixed crew that starts on a job within about a microsecond.
//!
//! A token of a model is hundreds of short jobs, one after the other. A worker that has just finished one therefore looks
//! out for the next for some microseconds before it goes to sleep, and the thread that brings a job works on it itself.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::{hint, io};

/// How often a worker looks for a job before it sleeps: some tens of microseconds.
const LOOKS: u32 = 1 << 12;
/// How often the thread that brought a job looks whether all have left it before it lets others run: a worker may have
/// lost its core to another program.
const LOOKS_AT_END: u32 = 1 << 14;

/// The crew: the thread that brings a job and `len() - 1` workers.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    turn: Mutex<()>,
}

struct Shared {
    state: Line<AtomicU64>,
    /// The number of the next task that nobody has taken.
    next: Line<AtomicUsize>,
    job: UnsafeCell<Job>,
    /// For each worker, whether it sleeps or is about to.
    asleep: Vec<Line<AtomicBool>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A value with a cache line, or the pair that is fetched together, to itself.
#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

/// Tasks `0..n` of one job.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    n: usize,
}

// The state is one word: the number of the job in the upper half, whether it may be entered, whether the crew is
// dismissed, and how many workers are in it.
const NUMBER: u64 = 1 << 32;
const OPEN: u64 = 1 << 31;
const DISMISSED: u64 = 1 << 30;
const INSIDE: u64 = DISMISSED - 1;

// SAFETY: `job` is written only by the thread that holds `turn`, while the state is closed and no worker is inside; it is
// read only by workers that have entered an open state, which orders the write before the read. The pointer in it is
// valid until the job is closed and all have left (`Threads::run`), and what it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is not tied to the thread that made it.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread is working on a job: a job within a job runs where it is.
    static WORKING: Cell<bool> = const { Cell::new(false) };
}

impl Threads {
    /// `n` threads, of which the caller of [`Threads::run`] is one.
    pub(crate) fn new(n: usize) -> io::Result<Self> {
        static NOTHING: fn(usize) = |_| {};
        let shared = Arc::new(Shared {
            state: Line::default(),
            next: Line::default(),
            job: UnsafeCell::new(Job { task: &raw const NOTHING, n: 0 }),
            asleep: (1..n).map(|_| Line::default()).collect(),
            panic: Mutex::new(None),
        });
        let mut crew = Self { shared, workers: Vec::with_capacity(n - 1), turn: Mutex::new(()) };
        for i in 1..n {
            let shared = Arc::clone(&crew.shared);
            // If one cannot be had, dropping `crew` dismisses those before it.
            let worker = thread::Builder::new().name(format!("hadal-{i}")).spawn(move || work(&shared, i - 1))?;
            crew.workers.push(worker);
        }
        Ok(crew)
    }

    /// The number of threads.
    pub(crate) fn len(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` to `task(n - 1)`, each once, and returns when all are done. A panic of a task is passed on after
    /// that.
    pub(crate) fn run(&self, n: usize, task: &(dyn Fn(usize) + Sync)) {
        if n <= 1 || self.workers.is_empty() || WORKING.get() {
            return (0..n).for_each(task);
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { state, next, job, .. } = &*self.shared;
        // SAFETY: only the lifetime is taken away; nobody uses the pointer after this function, see `Shared`.
        let task: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
        // SAFETY: the last job was closed and all have left it, and `turn` keeps others from bringing one.
        unsafe { *job.get() = Job { task, n } };
        next.0.store(0, Ordering::Relaxed);
        let number = (state.0.load(Ordering::Relaxed) & !(NUMBER - 1)).wrapping_add(NUMBER);
        // Sequentially consistent with the worker's `asleep`: either it sees the job, or it is seen to sleep.
        state.0.store(number | OPEN, Ordering::SeqCst);
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers).take(n - 1) {
            wake(&asleep.0, worker.thread());
        }
        WORKING.set(true);
        take_tasks(&self.shared, Job { task, n });
        WORKING.set(false);
        // Nobody enters any more; those inside are on their last tasks.
        let mut inside = state.0.fetch_and(!OPEN, Ordering::AcqRel) & INSIDE;
        let mut looks = 0;
        while inside > 0 {
            if looks < LOOKS_AT_END {
                looks += 1;
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
            inside = state.0.load(Ordering::Acquire) & INSIDE;
        }
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.state.0.fetch_or(DISMISSED, Ordering::SeqCst);
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers) {
            wake(&asleep.0, worker.thread());
        }
        for worker in self.workers.drain(..) {
            // Tasks do not unwind through a worker, so there is nothing to learn from its end.
            let _ = worker.join();
        }
    }
}

fn wake(asleep: &AtomicBool, worker: &Thread) {
    // The plain load keeps the line shared while workers are awake, which is nearly always.
    if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
        worker.unpark();
    }
}

/// The life of a worker.
fn work(shared: &Shared, me: usize) {
    WORKING.set(true);
    let state = &shared.state.0;
    let mut last = 0;
    let mut looks = 0;
    loop {
        let now = state.load(Ordering::Acquire);
        if now & DISMISSED != 0 {
            return;
        }
        let number = now & !(NUMBER - 1);
        if now & OPEN != 0 && number != last {
            if state.compare_exchange_weak(now, now + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                // SAFETY: the job was written before the state was opened, and stays while this worker is inside.
                let job = unsafe { *shared.job.get() };
                take_tasks(shared, job);
                state.fetch_sub(1, Ordering::Release);
                last = number;
                looks = 0;
            }
        } else if looks < LOOKS {
            looks += 1;
            hint::spin_loop();
        } else {
            shared.asleep[me].0.store(true, Ordering::SeqCst);
            let now = state.load(Ordering::SeqCst);
            let nothing_new = now & OPEN == 0 || now & !(NUMBER - 1) == last;
            while now & DISMISSED == 0 && nothing_new && shared.asleep[me].0.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.asleep[me].0.store(false, Ordering::SeqCst);
            looks = 0;
        }
    }
}

/// Takes tasks until none is left. A panic ends neither the job nor the thread.
fn take_tasks(shared: &Shared, Job { task, n }: Job) {
    loop {
        let i = shared.next.0.fetch_add(1, Ordering::Relaxed);
        if i >= n {
            return;
        }
        // SAFETY: the caller of `run` keeps the closure alive until everybody has left the job.
        let task = unsafe { &*task };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(i))) {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_many_jobs_in_a_row() {
        for threads in [1, 2, 5] {
            let crew = Threads::new(threads).unwrap();
            for n in (0..200).chain([1000]) {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                crew.run(n, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {n} tasks");
            }
        }
    }

    #[test]
    fn sleepers_are_woken_and_a_job_within_a_job_runs() {
        let crew = Threads::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..20 {
            thread::sleep(std::time::Duration::from_millis(2));
            crew.run(4, &|_| {
                crew.run(5, &|j| {
                    sum.fetch_add(j, Ordering::Relaxed);
                });
            });
        }
        assert_eq!(sum.into_inner(), 20 * 4 * 10);
    }

    #[test]
    fn jobs_from_several_threads_take_turns() {
        let crew = Threads::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        crew.run(3, &|_| {
                            sum.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 500 * 3);
    }

    #[test]
    fn a_panic_is_passed_on_and_the_crew_works_on() {
        let crew = Threads::new(2).unwrap();
        let done = AtomicUsize::new(0);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            crew.run(10, &|i| {
                assert!(i != 3, "task three");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "task three");
        assert_eq!(done.load(Ordering::Relaxed), 9);
        crew.run(5, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 14);
    }
}
