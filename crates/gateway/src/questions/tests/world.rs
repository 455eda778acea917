//! A node with the embedded backplane, and those who use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backplane::{
    AttachRequest, Backplane, ChangeRequest, ChangeResult, Commands, Embedded, MarkRequest, Op, SharedNode, Source,
    Subscription,
};
use connection::{Answer, Input, Question, SendFault};
use delivery::{Ack, Limits, Marked, Registration, record};
use protocol::client::{Body, From};
use protocol::{Address, ConnectionId, Cursor, DeviceId, Encoding, Epoch, GroupId, MessageId, NodeId, Text, UserId};
use routing::Topology;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, RawConfig};
use crate::door::{Door, OutgoingMessage};
use crate::mailbox::{MailboxReceiver, mailbox};
use crate::node::Node;
use crate::questions::Questions;

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub(crate) fn group(name: &str) -> GroupId {
    GroupId::parse(name).unwrap()
}

/// The connection that asks here, of the user `me`.
pub(crate) const CONNECTION: ConnectionId = ConnectionId(1);

pub(crate) struct World {
    pub(crate) node: Arc<Node>,
    pub(crate) commands: Commands,
    /// Nobody hands out what is published: what a test wants to be heard it says itself.
    _subscription: Box<dyn Subscription>,
    _stop: DropGuard,
    count: AtomicU64,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with_inbox_max(10_000).await
    }

    pub(crate) async fn with_inbox_max(inbox_max: u64) -> Self {
        let config = Config::load(RawConfig::default()).unwrap();
        let id = SharedNode::new(NodeId::new("n", 1).unwrap());
        let topology = Topology::new(config.routing()).unwrap();
        let node = crate::lifecycle::node(&config, id.clone(), topology.clone());
        let limits = Limits { retention_ms: 600_000, inbox_max, inbox_bytes: 1 << 24, retry_young_us: 6_000_000 };
        let backplane = Embedded::new(id.get(), limits, 1 << 30, Arc::new(crate::clock::wall_us));
        let (commands, subscription) = backplane.open(&Source::default()).await.unwrap();
        node.current.set(&commands);
        let stop = CancellationToken::new();
        for lane in topology.lanes() {
            tokio::spawn(node.publisher.clone().run_lane(lane, stop.clone()));
        }
        tokio::spawn(crate::joins::run(node.joins.clone(), stop.clone()));
        let count = AtomicU64::new(0);
        Self { node, commands, _subscription: subscription, _stop: stop.drop_guard(), count }
    }

    fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks as a connection does, and waits for the answer.
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, SendFault> {
        let (mailbox, mut receiver) = mailbox();
        let id = MessageId::parse(&self.number().to_string()).unwrap();
        Questions::ask(&self.node, id.clone(), question, CONNECTION, user("me"), mailbox);
        match next(&mut receiver).await {
            Input::Answered { id: answered, result } if answered == id => result,
            other => panic!("{other:?}"),
        }
    }

    /// Sends, and answers the message's name.
    pub(crate) async fn send(&self, from: &str, to: &str) -> String {
        self.try_send(from, to).await.unwrap().expect("it is stored")
    }

    pub(crate) async fn try_send(&self, from: &str, to: &str) -> Result<Option<String>, SendFault> {
        self.try_send_body(from, to, bytes::Bytes::from_static(b"1")).await
    }

    pub(crate) async fn try_send_body(
        &self,
        from: &str,
        to: &str,
        bytes: bytes::Bytes,
    ) -> Result<Option<String>, SendFault> {
        let message = OutgoingMessage {
            to: Address::parse(to).unwrap(),
            from: Address::parse(from).unwrap(),
            id: MessageId::parse(&self.number().to_string()).unwrap(),
            body: Body { encoding: Encoding::Json, bytes },
            ephemeral: false,
            retry_age_ms: None,
            expires_ms: None,
            replicated: false,
        };
        Ok(self.node.send(message).await?.reference)
    }

    pub(crate) async fn send_many(&self, from: &str, to: &str, count: usize) {
        let all = (0..count).map(|_| self.send(from, to));
        futures_util::future::join_all(all).await;
    }

    pub(crate) async fn join(&self, name: &str, member: &str) {
        self.join_all(name, &[member.to_owned()]).await;
    }

    pub(crate) async fn join_all(&self, name: &str, members: &[String]) {
        let of = super::super::record_of(&Address::Group(group(name)));
        let request = |member: &String| ChangeRequest {
            of: of.clone(),
            epoch: Epoch([1; 8]),
            user: user(member),
            op: Op::Join,
            again: None,
        };
        let requests: Vec<_> = members.iter().map(request).collect();
        match self.commands.change(u64::MAX, &requests).await.unwrap() {
            ChangeResult::Answered(answers) => assert!(answers.iter().all(Result::is_ok)),
            ChangeResult::Stale => panic!("too late"),
        }
    }

    /// A device has everything up to this message.
    pub(crate) async fn ack(&self, of: &str, field: Text, reference: &str) {
        let (cursor, _) = Cursor::from_ref(reference).unwrap();
        self.commands.ack(&[Ack { of: of.into(), field, cursor }]).await.unwrap();
    }

    /// Somebody has read up to this message.
    pub(crate) async fn mark(&self, of: &str, field: Text, reference: &str) {
        let (cursor, _) = Cursor::from_ref(reference).unwrap();
        let marked = self.commands.mark(&[MarkRequest { of: of.into(), field, cursor }]).await.unwrap();
        assert_eq!(marked, [Ok(Marked::Moved)]);
    }

    /// A device of a user is there.
    pub(crate) async fn connect(&self, name: &str, device: &str) -> Registration {
        let registration = Registration {
            node: self.node.id.get(),
            connection: ConnectionId(100 + self.number()),
            reg: self.number() + 1,
            device: Some(DeviceId::parse(device).unwrap()),
        };
        let profile = Some(Text::from(format!(r#"{{"name":"{name}"}}"#)));
        let request = record::AttachRequest::of(registration.clone(), Vec::new(), From::Oldest);
        let request = record::AttachRequest { profile, ..request };
        let of = super::super::user_record(&user(name));
        let answers = self.commands.attach(&[AttachRequest { of, epoch: Epoch([2; 8]), request }]).await.unwrap();
        assert!(answers.iter().all(Result::is_ok));
        registration
    }

    /// It is gone.
    pub(crate) async fn disconnect(&self, name: &str, Registration { connection, reg, .. }: Registration) {
        let of = super::super::user_record(&user(name));
        self.commands.detach(&[backplane::DetachRequest { of, connection, reg }]).await.unwrap();
    }

    /// Nobody answers any more, and nobody is expected soon.
    pub(crate) async fn lose_the_backplane(&self) {
        self.node.current.clear(&self.commands);
        let grace = self.node.current.soon(routing::SlotGroup(0)).await;
        assert!(grace.is_none());
    }
}

/// The next input of a mailbox.
pub(crate) async fn next(receiver: &mut MailboxReceiver) -> Input {
    let wait = std::future::poll_fn(|cx| receiver.poll(cx));
    tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.expect("an input in time")
}
