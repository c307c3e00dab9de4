//! The one tokio runtime of this process.

use crate::tls::Failure;
use std::sync::{Mutex, OnceLock, PoisonError};
use tokio::runtime::{Builder, Runtime};

/// Threads that encrypt and copy; the machine's other cores belong to the app.
const WORKERS: usize = 2;
/// An appraiser that waits occupies a thread, so there must be room for one per connection of a full listener, lest
/// waiting appraisers hold up the copying of others. Threads are made only when needed.
const BLOCKING_THREADS: usize = 2_048;

struct Owned {
    runtime: Runtime,
    process: u32,
}

/// The runtime, started at first use. It is never dropped: its threads end with the process.
pub(crate) fn runtime() -> Result<&'static Runtime, Failure> {
    static RUNTIME: OnceLock<Owned> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    if RUNTIME.get().is_none() {
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        if RUNTIME.get().is_none() {
            let runtime = Builder::new_multi_thread()
                .worker_threads(WORKERS)
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_name("mesatee-channel")
                .enable_all()
                .build()
                .map_err(|error| Failure::Local(format!("no channel threads: {error}")))?;
            let process = std::process::id();
            let _ = RUNTIME.set(Owned { runtime, process });
        }
    }
    match RUNTIME.get() {
        // A forked child has the memory of the runtime without its threads: everything would wait for ever.
        Some(owned) if owned.process == std::process::id() => Ok(&owned.runtime),
        _ => Err(Failure::Local(
            "the process was forked after it used channels".into(),
        )),
    }
}
