//! Many connections that join and leave the same groups when they are told to: for what a membership costs in memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use switchboard_client::Ask;
use switchboard_client::socket::{Incoming, Socket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::fanout::dialect::{Dialect, Said, ask};
use crate::idle::{Opening, user_prefix};
use crate::latency::Latencies;
use crate::link::Target;
use crate::machine::check_files;
use crate::options::Common;

const READ_BUFFER_BYTES: usize = 1_024;

/// Joins or leaves under way.
const AT_ONCE: usize = 100;

/// Before something that was `overloaded` or `unavailable` is asked again.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct CrowdOptions {
    pub url: String,
    /// Each with a user of its own.
    pub connections: usize,
    pub common: Common,
}

/// Open connections. Dropping it closes them.
#[derive(Debug)]
pub struct Crowd {
    orders: Vec<mpsc::UnboundedSender<Order>>,
    answers: mpsc::UnboundedReceiver<Result<(), String>>,
    _tasks: JoinSet<()>,
}

/// What everybody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// For good.
    Join,
    /// For as long as the connection lasts.
    Visit,
    Leave,
}

#[derive(Clone, Debug)]
struct Order {
    act: Act,
    group: Arc<str>,
}

impl Crowd {
    /// Opens all connections.
    ///
    /// # Errors
    /// When not all of them can be opened.
    pub async fn open(options: &CrowdOptions) -> anyhow::Result<Self> {
        check_files(options.connections)?;
        let target = Target::resolve(&options.url, &options.common, READ_BUFFER_BYTES).await?;
        let opening = Opening {
            clock: Clock::start(),
            welcome: Arc::new(Latencies::new()?),
            permits: Arc::new(Semaphore::new(options.common.opening_max.max(1))),
        };
        let prefix = user_prefix(&options.common);
        let (tell, answers) = mpsc::unbounded_channel();
        let mut crowd = Self { orders: Vec::with_capacity(options.connections), answers, _tasks: JoinSet::new() };
        for index in 0..options.connections {
            let (target, opening, tell) = (target.clone(), opening.clone(), tell.clone());
            let user = format!("{prefix}-{index}");
            let (order, orders) = mpsc::unbounded_channel();
            crowd.orders.push(order);
            crowd._tasks.spawn(async move {
                // Boxed, so that a task that holds a connection has only the size of holding.
                match Box::pin(opening.open(&target, &user, index)).await {
                    Ok(socket) => {
                        drop(tell.send(Ok(())));
                        drop((target, user, opening));
                        obey(socket, orders, tell).await;
                    }
                    Err(reason) => drop(tell.send(Err(reason))),
                }
            });
        }
        crowd.all_answered().await.context("opening")?;
        Ok(crowd)
    }

    /// Everybody joins the group or leaves it, a hundred at a time: what so many need at once is not what a member
    /// costs. Returns when all are answered.
    ///
    /// # Errors
    /// When somebody is refused, or is gone.
    pub async fn order(&mut self, act: Act, group: &str) -> anyhow::Result<()> {
        let order = Order { act, group: group.into() };
        for (index, connection) in self.orders.iter().enumerate() {
            if index >= AT_ONCE {
                one_answered(&mut self.answers).await.with_context(|| format!("{order:?}"))?;
            }
            connection.send(order.clone()).ok().context("a connection has ended")?;
        }
        for _ in 0..self.orders.len().min(AT_ONCE) {
            one_answered(&mut self.answers).await.with_context(|| format!("{order:?}"))?;
        }
        Ok(())
    }

    async fn all_answered(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.orders.len() {
            one_answered(&mut self.answers).await?;
        }
        Ok(())
    }
}

async fn one_answered(answers: &mut mpsc::UnboundedReceiver<Result<(), String>>) -> anyhow::Result<()> {
    let answer = answers.recv().await.context("all connections have ended")?;
    ensure!(answer.is_ok(), "{}", answer.err().unwrap_or_default());
    Ok(())
}

/// Holds one connection, reads what comes, and does what it is told, one thing at a time.
async fn obey(
    mut socket: Socket,
    mut orders: mpsc::UnboundedReceiver<Order>,
    tell: mpsc::UnboundedSender<Result<(), String>>,
) {
    let mut under_way: Option<Order> = None;
    loop {
        tokio::select! {
            incoming = socket.drive(true) => {
                let frame = match incoming {
                    Incoming::Frame(frame) => frame,
                    Incoming::Alive => continue,
                    Incoming::Closed { code, reason } => {
                        drop(tell.send(Err(format!("closed with {code:?}: {reason}"))));
                        return;
                    }
                };
                let mut refusal = None;
                let mut is_done = false;
                Dialect::Switchboard.read(&frame, |said| match said {
                    Said::Answered(_) => is_done = true,
                    Said::Refused { code, .. } => refusal = Some(code),
                    _ => {}
                });
                match (refusal, under_way.take()) {
                    (None, Some(order)) if !is_done => under_way = Some(order),
                    (None, Some(_)) => drop(tell.send(Ok(()))),
                    (Some(code), Some(order)) if matches!(&*code, "overloaded" | "unavailable" | "unknown_outcome") => {
                        tokio::time::sleep(AGAIN).await;
                        if let Err(reason) = socket.queue(frame_of(&order)) {
                            drop(tell.send(Err(reason)));
                        }
                        under_way = Some(order);
                    }
                    (Some(code), Some(_)) => drop(tell.send(Err(code))),
                    (_, None) => {}
                }
            }
            Some(order) = orders.recv(), if under_way.is_none() => {
                if let Err(reason) = socket.queue(frame_of(&order)) {
                    drop(tell.send(Err(reason)));
                }
                under_way = Some(order);
            }
        }
    }
}

fn frame_of(order: &Order) -> Vec<u8> {
    let group = order.group.to_string();
    let request = match order.act {
        Act::Leave => Ask::Leave { group },
        act => Ask::Join { group, until_disconnect: act == Act::Visit, cursor: None },
    };
    ask("1", &request)
}
