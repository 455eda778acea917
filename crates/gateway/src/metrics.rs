//! All metrics: one table of names, units, labels and help, from which come the handles and docs/metrics.md.
//!
//! Handles are looked up once, here; the hot path adds to an atomic. No label ever carries a user, group or connection:
//! each has a closed set of values, written below. A recorder belongs to its node, not to the process, so that several
//! nodes can live in one test.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use backplane::Loss;
use connection::PullCause;
use delivery::Reason;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label as Pair, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use protocol::CloseCode;
use tokio_util::sync::CancellationToken;

pub use crate::asker::Class;

/// Bounds of histograms of seconds: a delivery on one machine takes 0.2 ms, one that waits for a failover 10 s.
const SECONDS: [f64; 15] =
    [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Bounds of histograms of messages: a batch has at most 1,000.
const MESSAGES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_000.0];

/// Samples of a histogram wait in a list until they are counted. 5 s of a busy node are a few megabytes.
const UPKEEP: Duration = Duration::from_secs(5);

/// A label: its name and all values that it can have.
pub trait Label: Copy {
    const NAME: &'static str;
    fn values() -> Vec<String>;
    /// The place in [`Label::values`].
    fn index(self) -> usize;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident, $label:literal { $($(#[$why:meta])* $variant:ident = $value:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$why])* $variant,)* }

        impl Label for $name {
            const NAME: &'static str = $label;
            fn values() -> Vec<String> {
                vec![$($value.to_owned(),)*]
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}

labels! {
    /// Which promise a message has.
    MessageKind, "kind" { Durable = "durable", Ephemeral = "ephemeral", }
    /// Why a message was not delivered, and will not be.
    DropReason, "reason" {
        /// The queue for the socket was full: an ephemeral message.
        QueueFull = "queue_full",
        /// The same, of a notice that a group has other members, or of a read mark.
        ChangeQueueFull = "change_queue_full",
        /// The connection's mailbox was full: an ephemeral message.
        MailboxFull = "mailbox_full",
        /// Its `expires_ms` had passed.
        Expired = "expired",
    }
    /// Why a request did not become a WebSocket.
    UpgradeRefusal, "reason" {
        Origin = "origin",
        NotUpgrade = "not_upgrade",
        Handshake = "handshake",
        Query = "query",
        /// Too many connections had not finished their request.
        TooMany = "too_many",
    }
    /// What became of a membership that lasts.
    MembershipChange, "change" { Join = "join", Leave = "leave", }
    /// What a connection asked about people and streams.
    QuestionKind, "kind" {
        Counts = "counts",
        Receipts = "receipts",
        Presence = "presence",
        Watch = "watch",
        Unwatch = "unwatch",
        Members = "members",
    }
}

/// Sets of values that another crate keeps, each with `ALL` and `as_str`.
macro_rules! labels_of {
    ($($name:ty, $label:literal;)*) => {$(
        impl Label for $name {
            const NAME: &'static str = $label;
            fn values() -> Vec<String> {
                Self::ALL.into_iter().map(|value| value.as_str().to_owned()).collect()
            }
            fn index(self) -> usize {
                Self::ALL.into_iter().position(|value| value == self).unwrap_or_default()
            }
        }
    )*};
}

labels_of! {
    PullCause, "cause";
    Reason, "reason";
    Class, "class";
}

/// What ended the generation before; `None`: it is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(pub Option<Loss>);

impl Label for Begun {
    const NAME: &'static str = "cause";
    fn values() -> Vec<String> {
        Loss::ALL.into_iter().map(Loss::as_str).chain(["start"]).map(ToOwned::to_owned).collect()
    }
    fn index(self) -> usize {
        Loss::ALL.into_iter().position(|loss| Some(loss) == self.0).unwrap_or(Loss::ALL.len())
    }
}

/// How a connection ended: the close code that was sent or received; `None`: the socket was just gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed(pub Option<CloseCode>);

impl Label for Closed {
    const NAME: &'static str = "code";
    fn values() -> Vec<String> {
        let numbers = CloseCode::ALL.into_iter().map(|code| code.number().to_string());
        numbers.chain(["none".to_owned()]).collect()
    }
    fn index(self) -> usize {
        CloseCode::ALL.into_iter().position(|code| Some(code) == self.0).unwrap_or(CloseCode::ALL.len())
    }
}

/// The status of an answer of the server API. One that is not in the list counts as 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    const ALL: [u16; 11] = [200, 400, 401, 403, 404, 405, 408, 409, 413, 429, 503];
}

impl Label for Status {
    const NAME: &'static str = "code";
    fn values() -> Vec<String> {
        Self::ALL.into_iter().chain([500]).map(|status| status.to_string()).collect()
    }
    fn index(self) -> usize {
        Self::ALL.into_iter().position(|status| status == self.0).unwrap_or(Self::ALL.len())
    }
}

/// Counters of one name, one for each value of its label.
pub struct Family<L> {
    counters: Vec<Counter>,
    label: PhantomData<fn(L)>,
}

impl<L: Label> Family<L> {
    pub fn of(&self, label: L) -> &Counter {
        &self.counters[label.index()]
    }
}

impl<L> fmt::Debug for Family<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Family({})", self.counters.len())
    }
}

/// Gauges of one name, one for each value of its label.
#[derive(Clone)]
pub struct Gauges<L> {
    gauges: Vec<Gauge>,
    label: PhantomData<fn(L)>,
}

impl<L: Label> Gauges<L> {
    pub fn of(&self, label: L) -> &Gauge {
        &self.gauges[label.index()]
    }
}

impl<L> fmt::Debug for Gauges<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gauges({})", self.gauges.len())
    }
}

/// A gauge that is always 1: what it says is in its label.
#[derive(Debug)]
pub struct BuildInfo;

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    pub kind: &'static str,
    pub unit: &'static str,
    /// The label's name and its values.
    pub label: Option<(&'static str, Vec<String>)>,
    pub help: &'static str,
}

/// What a row's handle is made of.
trait Handle: Sized {
    const KIND: &'static str;
    fn label() -> Option<(&'static str, Vec<String>)> {
        None
    }
    fn register(recorder: &PrometheusRecorder, row: &Row) -> Self;
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl Handle for Counter {
    const KIND: &'static str = "counter";
    fn register(recorder: &PrometheusRecorder, row: &Row) -> Self {
        recorder.describe_counter(KeyName::from(row.name), None, SharedString::const_str(row.help));
        recorder.register_counter(&Key::from_static_name(row.name), &METADATA)
    }
}

impl Handle for Gauge {
    const KIND: &'static str = "gauge";
    fn register(recorder: &PrometheusRecorder, row: &Row) -> Self {
        recorder.describe_gauge(KeyName::from(row.name), None, SharedString::const_str(row.help));
        recorder.register_gauge(&Key::from_static_name(row.name), &METADATA)
    }
}

impl Handle for Histogram {
    const KIND: &'static str = "histogram";
    fn register(recorder: &PrometheusRecorder, row: &Row) -> Self {
        recorder.describe_histogram(KeyName::from(row.name), None, SharedString::const_str(row.help));
        recorder.register_histogram(&Key::from_static_name(row.name), &METADATA)
    }
}

impl<L: Label> Handle for Family<L> {
    const KIND: &'static str = "counter";
    fn label() -> Option<(&'static str, Vec<String>)> {
        Some((L::NAME, L::values()))
    }
    fn register(recorder: &PrometheusRecorder, row: &Row) -> Self {
        recorder.describe_counter(KeyName::from(row.name), None, SharedString::const_str(row.help));
        let one = |value: String| {
            let key = Key::from_parts(row.name, vec![Pair::new(L::NAME, value)]);
            recorder.register_counter(&key, &METADATA)
        };
        Self { counters: L::values().into_iter().map(one).collect(), label: PhantomData }
    }
}

impl<L: Label> Handle for Gauges<L> {
    const KIND: &'static str = "gauge";
    fn label() -> Option<(&'static str, Vec<String>)> {
        Some((L::NAME, L::values()))
    }
    fn register(recorder: &PrometheusRecorder, row: &Row) -> Self {
        recorder.describe_gauge(KeyName::from(row.name), None, SharedString::const_str(row.help));
        let one = |value: String| {
            let key = Key::from_parts(row.name, vec![Pair::new(L::NAME, value)]);
            recorder.register_gauge(&key, &METADATA)
        };
        Self { gauges: L::values().into_iter().map(one).collect(), label: PhantomData }
    }
}

impl Handle for BuildInfo {
    const KIND: &'static str = "gauge";
    fn label() -> Option<(&'static str, Vec<String>)> {
        Some(("version", Vec::new()))
    }
    fn register(recorder: &PrometheusRecorder, row: &Row) -> Self {
        recorder.describe_gauge(KeyName::from(row.name), None, SharedString::const_str(row.help));
        let key = Key::from_parts(row.name, vec![Pair::new("version", env!("CARGO_PKG_VERSION"))]);
        recorder.register_gauge(&key, &METADATA).set(1.0);
        Self
    }
}

macro_rules! table {
    ($($field:ident: $handle:ty, $name:literal, $unit:literal, $help:literal;)*) => {
        /// The handles of one node.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $handle,)*
            exporter: PrometheusHandle,
        }

        /// All metrics, in the order of the documentation.
        pub fn table() -> Vec<Row> {
            vec![$(Row {
                name: $name,
                kind: <$handle as Handle>::KIND,
                unit: $unit,
                label: <$handle as Handle>::label(),
                help: $help,
            },)*]
        }

        impl Metrics {
            fn register(recorder: &PrometheusRecorder) -> Self {
                let mut rows = table().into_iter();
                Self {
                    // One row a field, in the same order: both come from this macro.
                    $($field: <$handle as Handle>::register(recorder, &rows.next().expect("a row a field")),)*
                    exporter: recorder.handle(),
                }
            }
        }
    };
}

table! {
    connections: Gauge, "switchboard_connections", "connections", "WebSockets that are open now.";
    connections_opened: Counter, "switchboard_connections_opened_total", "connections", "WebSockets opened.";
    connections_closed: Family<Closed>, "switchboard_connections_closed_total", "connections",
        "WebSockets closed, by close code; none: the socket was just gone.";
    upgrades_refused: Family<UpgradeRefusal>, "switchboard_upgrades_refused_total", "requests",
        "Requests that did not become a WebSocket.";
    messages_received: Family<MessageKind>, "switchboard_messages_received_total", "messages",
        "Messages that clients and the server API asked to send.";
    messages_delivered: Family<MessageKind>, "switchboard_messages_delivered_total", "messages",
        "Messages queued for a client's socket.";
    messages_dropped: Family<DropReason>, "switchboard_messages_dropped_total", "messages",
        "Messages that are not delivered to one connection: ephemeral ones under pressure, and expired ones.";
    delivery_seconds: Histogram, "switchboard_delivery_seconds", "seconds",
        "From stored, by the clock of the backplane, to queued for the socket; live messages, one sample a turn.";
    append_seconds: Histogram, "switchboard_append_seconds", "seconds", "One batch, from asked to answered.";
    append_batch_size: Histogram, "switchboard_append_batch_size", "messages", "Messages of one batch.";
    queue_bytes: Gauge, "switchboard_queue_bytes", "bytes", "Waiting for the sockets of all connections.";
    pulls: Family<PullCause>, "switchboard_pulls_total", "reads", "Inboxes read again for a connection.";
    heads: Gauge, "switchboard_heads", "groups", "Groups, and everybody's stream, that this node follows.";
    members: Gauge, "switchboard_members", "members",
        "Seats of this node's connections in groups and in everybody's stream.";
    membership_changes: Family<MembershipChange>, "switchboard_membership_changes_total", "changes",
        "Changes of lasting memberships that this node wrote; a removal by the server API counts also for who was no member.";
    watched_users: Gauge, "switchboard_watched_users", "users", "Users whose coming and going this node is told of.";
    presence_changes: Counter, "switchboard_presence_changes_total", "changes",
        "Comings and goings of watched users, handed to connections.";
    questions: Family<QuestionKind>, "switchboard_questions_total", "questions",
        "What connections asked about people and streams.";
    resets: Family<Reason>, "switchboard_resets_total", "resets",
        "Streams that could not be continued where the client was.";
    appended_again: Counter, "switchboard_appended_again_total", "messages",
        "Messages that another master lacked and this node appended again.";
    unconfirmed: Counter, "switchboard_unconfirmed_total", "messages",
        "Acknowledged messages that were let go before every replica was known to have them.";
    nodes_buried: Counter, "switchboard_nodes_buried_total", "nodes",
        "Nodes that this one declared dead, and whose locations it removed.";
    generations: Family<Begun>, "switchboard_generations_total", "generations",
        "Subscriptions of this node that began, by what ended the one before.";
    backplane_up: Gauge, "switchboard_backplane_up", "0 to 1",
        "Share of the backplane that is connected and heard: 1 is all of it; in a Cluster, of the partitions.";
    backplane_waiting: Gauges<Class>, "switchboard_backplane_waiting", "requests",
        "Requests of connections that wait to be asked of the backplane, by who waits for them.";
    checks_late: Counter, "switchboard_checks_late_total", "requests",
        "Position checks, and new registrations of quiet connections, that waited longer than a check's period.";
    api_requests: Family<Status>, "switchboard_api_requests_total", "requests", "Calls of the server API, by status.";
    build_info: BuildInfo, "switchboard_build_info", "1", "Always 1; the version is in the label.";
}

impl Metrics {
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for row in table().iter().filter(|row| row.kind == Histogram::KIND) {
            let bounds: &[f64] = if row.unit == "seconds" { &SECONDS } else { &MESSAGES };
            let matcher = Matcher::Full(row.name.to_owned());
            builder =
                builder.set_buckets_for_metric(matcher, bounds).expect("bounds are constants, and there are some");
        }
        Self::register(&builder.build_recorder())
    }

    /// The page that Prometheus reads.
    pub fn render(&self) -> String {
        self.exporter.render()
    }

    /// Counts the samples of histograms. Nobody else does, and they would pile up for ever on a node without a scraper.
    pub fn upkeep(&self) {
        self.exporter.run_upkeep();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Keeps histograms small until `stop`. One task a node.
pub async fn run_upkeep(metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        metrics.upkeep();
    }
}

#[cfg(test)]
mod tests;
