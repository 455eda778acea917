//! The clients of a run: senders that try until something is known, receivers that come back where they were.

pub(crate) mod groups;
pub(crate) mod link;
mod presence;
mod receiver;
pub(crate) mod roles;
mod sender;
pub(crate) mod shared;
mod streams;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use self::receiver::{Habit, Receiver};
use self::sender::Sender;
pub(crate) use self::shared::{Plan, SENDER_PATIENCE_MS, Shared};

/// For what is still on its way when no new messages come and nothing is hurt: longer than a message may be tried.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// All clients of a run. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
    /// Receivers, visitors, watchers.
    others: Vec<JoinHandle<()>>,
}

impl Load {
    /// Receivers come first, spread over some hundred milliseconds; then the senders begin.
    pub(crate) async fn start(shared: Arc<Shared>) -> Self {
        let mut others = Vec::new();
        for recipient in 0..shared.plan.recipients {
            // Of ten recipients three commute, one has a slow device, and two have a second device.
            let habit = match recipient % 10 {
                1 | 4 | 7 => Habit::Commuter,
                5 => Habit::Slow,
                _ => Habit::Steady,
            };
            let second = (recipient % 5 == 2).then_some(Habit::Commuter);
            for (device, habit) in std::iter::once(habit).chain(second).enumerate() {
                let receiver = Receiver::new(Arc::clone(&shared), recipient, device as u32, habit);
                others.push(tokio::spawn(receiver.run()));
            }
            sleep(Duration::from_millis(2)).await;
        }
        others.extend((0..presence::VISITORS).map(|n| tokio::spawn(presence::visit(Arc::clone(&shared), n))));
        others.extend((0..presence::WATCHERS).map(|n| tokio::spawn(presence::watch(Arc::clone(&shared), n))));
        let senders =
            (0..shared.plan.senders).map(|index| tokio::spawn(Sender::new(Arc::clone(&shared), index).run())).collect();
        Self { shared, senders, others }
    }

    /// Ends the sending: nothing new is sent, and everything on its way is answered or given up. Receivers all come
    /// online.
    ///
    /// # Errors
    /// A sender does not come to an end.
    pub(crate) async fn finish_sending(&mut self) -> Result<()> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.all_online.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            if timeout(LAST_ANSWERS_WITHIN, sender).await.is_err() {
                bail!(
                    "a sender still waits for answers {LAST_ANSWERS_WITHIN:?} after the last fault was over: every request gets one"
                );
            }
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.senders.iter().chain(&self.others).for_each(JoinHandle::abort);
    }
}
