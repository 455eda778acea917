//! Where connections live: on one work-stealing runtime, or each on a worker of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The runtimes of connections. Connections are handed round in turn.
#[derive(Debug)]
pub(crate) struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Workers {
    /// Everything on the present runtime.
    pub(crate) fn shared() -> Self {
        Self {
            handles: vec![Handle::current()],
            next: AtomicUsize::new(0),
            threads: Vec::new(),
            stop: CancellationToken::new(),
        }
    }

    /// `count` threads with a runtime each: what lives on one never moves to another.
    ///
    /// # Errors
    /// The system gave no thread or no event queue.
    pub(crate) fn pinned(count: usize) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for index in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let stop = stop.clone();
            let run = move || runtime.block_on(stop.cancelled());
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
        }
        Ok(Self { handles, next: AtomicUsize::new(0), threads, stop })
    }

    /// The worker for the next connection.
    pub(crate) fn pick(&self) -> &Handle {
        &self.handles[self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len()]
    }

    /// Ends the workers, and what still runs on them.
    pub(crate) fn stop(self) {
        self.stop.cancel();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
