//! The generation in use, for everybody who asks the backplane.

use std::time::Duration;

use backplane::Commands;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long nobody is told that the backplane is away: most generations are followed by the next within milliseconds.
const GRACE: Duration = Duration::from_millis(1_000);

/// The commands of the present generation; none between two.
#[derive(Debug)]
pub(crate) struct Current {
    commands: RwLock<Option<Commands>>,
    /// Since when there are none.
    down_since: Mutex<Option<Instant>>,
    /// Counts the generations that began.
    began: watch::Sender<u64>,
}

impl Default for Current {
    fn default() -> Self {
        Self { commands: RwLock::default(), down_since: Mutex::default(), began: watch::Sender::new(0) }
    }
}

impl Current {
    pub(crate) fn get(&self) -> Option<Commands> {
        self.commands.read().clone()
    }

    pub(crate) fn set(&self, commands: Commands) {
        *self.down_since.lock() = None;
        *self.commands.write() = Some(commands);
        self.began.send_modify(|count| *count += 1);
    }

    pub(crate) fn clear(&self) {
        *self.down_since.lock() = Some(Instant::now());
        *self.commands.write() = None;
    }

    /// How much of the grace is left while there are no commands.
    fn grace(&self) -> Duration {
        self.down_since.lock().map_or(Duration::ZERO, |since| GRACE.saturating_sub(since.elapsed()))
    }

    /// True unless the backplane has been away for longer than a moment.
    pub(crate) fn is_near(&self) -> bool {
        self.is_up() || !self.grace().is_zero()
    }

    /// The commands; between two generations that follow each other closely, those of the next.
    pub(crate) async fn soon(&self) -> Option<Commands> {
        match self.get() {
            Some(commands) => Some(commands),
            None => self.wait(self.grace()).await,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.commands.read().is_some()
    }

    /// The backplane's clock; none between two generations.
    pub(crate) fn now_us(&self) -> Option<u64> {
        self.commands.read().as_ref().map(|c| c.now_us())
    }

    /// Waits until there are commands, at most so long.
    pub(crate) async fn wait(&self, within: Duration) -> Option<Commands> {
        let mut began = self.began.subscribe();
        let wait = async {
            loop {
                if let Some(commands) = self.get() {
                    return commands;
                }
                if began.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(within, wait).await.ok()
    }
}
