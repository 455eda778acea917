//! The generation in use, for everybody who asks the backplane.

use std::time::Duration;

use backplane::Commands;
use parking_lot::RwLock;
use tokio::sync::watch;

/// The commands of the present generation; none between two.
#[derive(Debug)]
pub(crate) struct Current {
    commands: RwLock<Option<Commands>>,
    /// Counts the generations that began.
    began: watch::Sender<u64>,
}

impl Default for Current {
    fn default() -> Self {
        Self { commands: RwLock::default(), began: watch::Sender::new(0) }
    }
}

impl Current {
    pub(crate) fn get(&self) -> Option<Commands> {
        self.commands.read().clone()
    }

    pub(crate) fn set(&self, commands: Commands) {
        *self.commands.write() = Some(commands);
        self.began.send_modify(|count| *count += 1);
    }

    pub(crate) fn clear(&self) {
        *self.commands.write() = None;
    }

    pub(crate) fn is_up(&self) -> bool {
        self.commands.read().is_some()
    }

    /// The backplane's clock, by the last generation that there was.
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
