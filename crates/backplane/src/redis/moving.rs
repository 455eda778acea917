//! While a slot is on its way from one master to another: each key is on one of the two, and a script runs only where
//! it finds all of its keys. So records are asked one by one, with nothing but meta and inbox: here, or where ASK says.
//!
//! TRYAGAIN means that nothing was executed. Rule: docs/delivery.md, A Cluster.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use delivery::record::Whose;
use delivery::{Attached, OfUser, Place, fields};
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, KeysInterface, SetsInterface};
use fred::types::{ClusterHash, CustomCommand, Value};
use protocol::bundle::Item;
use protocol::{Bundle, Cursor, Entry, Envelope, Ephemeral, Epoch, Live, Stamp, Text};
use tokio::time::{Instant, sleep};

use super::askings::{Asking, as_asked, with_published};
use super::cluster::Asked;
use super::commands::RedisCommands;
use super::requests::{Known, cursor_of, group_of};
use super::scripts::{Script, bytes_of, classify, items_of};
use super::{append, requests};
use crate::api::{AttachRequest, Batch, BatchAnswer, BatchResult, DetachRequest, Group, VerifyRequest};
use crate::error::BackplaneError;

/// The record of everybody's stream.
const EVERYBODY: &str = "all";

/// How long a record may be in two places at once.
const MOVING_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// What a master says of a key that may be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Ask there, this time.
    Ask(String),
    /// Some keys are here and some there.
    TryAgain,
}

/// Reads it from an error's text.
pub(super) fn redirect(error: &BackplaneError) -> Option<Redirect> {
    let BackplaneError::NotRun(text) = error else { return None };
    let (_, details) = text.split_once(": ")?;
    let mut words = details.split(' ');
    match words.next()? {
        "TRYAGAIN" => Some(Redirect::TryAgain),
        "ASK" => words.nth(1).map(|address| Redirect::Ask(address.to_owned())),
        _ => None,
    }
}

type Call = (Vec<String>, Vec<Value>);

/// What to do about a record that is nowhere.
enum Absent<'a> {
    Begin(&'a str, Epoch),
    /// What the script says where there is none.
    Say(Value),
    /// The call names one key only, and runs without it.
    Run,
}

impl RedisCommands {
    /// Runs a script on one record that is on its way; also says whether it ran on the other master.
    async fn run_moving(
        &self,
        script: &Script,
        (keys, args): Call,
        absent: Absent<'_>,
    ) -> Result<(Value, bool), BackplaneError> {
        let until = Instant::now() + MOVING_WITHIN;
        loop {
            let error = match script.run(&self.client, keys.clone(), args.clone()).await {
                Ok(answer) => return Ok((answer, false)),
                Err(error) => error,
            };
            match redirect(&error) {
                None => return self.book(Err(error)),
                Some(Redirect::TryAgain) => {}
                Some(Redirect::Ask(address)) => {
                    let there = self.there(&address).await?;
                    let there = &there.client;
                    match run_asking(there, script, keys.clone(), args.clone()).await {
                        Ok(answer) => return Ok((answer, true)),
                        // It sends us back: only one of the two was told that the slot is on its way.
                        Err(BackplaneError::Elsewhere(_)) => {}
                        Err(error) if redirect(&error).is_none() => return Err(error),
                        Err(_) => match &absent {
                            Absent::Begin(of, epoch) => self.begin_record(there, of, *epoch).await?,
                            Absent::Say(answer) if self.is_nowhere(there, &keys[0]).await? => {
                                return Ok((answer.clone(), true));
                            }
                            Absent::Say(_) | Absent::Run => {}
                        },
                    }
                }
            }
            if Instant::now() >= until {
                return Err(BackplaneError::NotRun("its slot is between two masters".to_owned()));
            }
            sleep(PAUSE).await;
        }
    }

    async fn there(&self, address: &str) -> Result<Arc<Asked>, BackplaneError> {
        match &self.map {
            Some(map) => map.client(address).await,
            None => Err(BackplaneError::NotRun("sent elsewhere by a Redis that is no cluster".to_owned())),
        }
    }

    /// Keys go one way only: one that was not here, and then is not there, was nowhere.
    async fn is_nowhere(&self, there: &Client, key: &str) -> Result<bool, BackplaneError> {
        Ok(self.is_gone(key).await && asking(there, "EXISTS", vec![key.into()]).await?.as_u64() == Some(0))
    }

    /// True if this master sends us to the other one for it.
    async fn is_gone(&self, key: &str) -> bool {
        matches!(self.client.exists::<u64, _>(key).await, Err(error) if error.is_ask())
    }

    /// A new record on the master that is getting the slot: two calls with one key each, each only if it is absent. A key
    /// that is still here is not absent, and is waited for.
    async fn begin_record(&self, there: &Client, of: &str, epoch: Epoch) -> Result<(), BackplaneError> {
        let record = self.settings.topology.keys().record(of);
        for key in [&record.meta, &record.inbox] {
            if !self.is_gone(key).await {
                return Ok(());
            }
        }
        let retention = requests::number(self.settings.limits.retention_ms);
        let script = &self.scripts.begin_inbox;
        let stamp = run_asking(there, script, vec![record.inbox], vec![retention.clone()]).await?;
        let epoch = Value::Bytes(Bytes::copy_from_slice(&epoch.0));
        let args = vec![retention, epoch, Value::Bytes(bytes_of(stamp)), requests::text(of)];
        run_asking(there, &self.scripts.begin_meta, vec![record.meta], args).await.map(drop)
    }

    /// Appends address by address, without the ledger. Asked again, every message is a retry, for it may have been stored
    /// by an asking before, and ephemeral ones are not published again. Then nobody may be told that it was not stored.
    pub(super) async fn append_moving(&self, batch: &Batch, asking: Asking) -> Result<BatchResult, BackplaneError> {
        if let Some(map) = &self.map {
            map.askings.moves(batch);
        }
        let (mut groups, mut is_elsewhere) = (Vec::with_capacity(batch.groups.len()), false);
        for whole in &batch.groups {
            let overdue_us = self.clock.now_us().saturating_sub(batch.deadline_us);
            let messages = whole.messages.iter().filter_map(|m| as_asked(m, asking, overdue_us)).collect::<Vec<_>>();
            if messages.is_empty() {
                groups.push(Ok(with_published(whole, Vec::new(), self.clock.now_us())));
                continue;
            }
            let group = Group { messages, ..whole.clone() };
            // A deadline of its own: a copy of it that comes later than the search reaches would store it again.
            let deadline_us = self.clock.now_us() + 2 * micros(self.settings.command_timeout);
            let one = Batch { lane: batch.lane, number: None, deadline_us, epoch: batch.epoch, groups: vec![group] };
            let (mut keys, args) = append::call(&self.settings, &one);
            // Ledger, meta, inbox, cursors: the first is not touched, and the last only has its expiry moved.
            keys[0] = keys[1].clone();
            keys[3] = keys[1].clone();
            let of = &one.groups[0].record;
            let absent = Absent::Begin(of, batch.epoch);
            let answered = match self.run_moving(&self.scripts.append, (keys, args), absent).await {
                Ok((reply, there)) => append::answer(&one, bytes_of(reply)).map(|(result, _)| (result, there)),
                Err(error) => Err(error),
            };
            match answered {
                Ok((BatchResult::Answered(answer), there)) => {
                    if there {
                        is_elsewhere = true;
                        self.forward(&one, &answer).await;
                    }
                    let now_us = self.clock.now_us();
                    let placed = answer.groups.into_iter().map(|one| one.map(|p| with_published(whole, p, now_us)));
                    groups.extend(placed);
                }
                // It may have been stored by the asking before, so that nobody may be told that it was not.
                Ok((BatchResult::Stale, _)) => return Err(BackplaneError::Unknown("asked too late".to_owned())),
                Err(BackplaneError::Unknown(why)) => return Err(BackplaneError::Unknown(why)),
                // Arrived meanwhile: all of it goes there, as long as nothing of it has run.
                Err(BackplaneError::Elsewhere(why)) if groups.is_empty() => return Err(BackplaneError::Elsewhere(why)),
                Err(error) if asking.is_repeated => return Err(BackplaneError::Unknown(error.to_string())),
                Err(error) => groups.push(Err(error.to_string())),
            }
        }
        Ok(BatchResult::Answered(BatchAnswer { groups, receivers: Vec::new(), is_elsewhere }))
    }

    /// What was published on the other master reached nobody: nodes still listen here. The link is not known here, so that
    /// who gets an entry reads it from the inbox.
    async fn forward(&self, batch: &Batch, answer: &BatchAnswer) {
        let mut bundle = Bundle::default();
        for (group, placed) in batch.groups.iter().zip(&answer.groups) {
            for (message, placed) in group.messages.iter().zip(placed.iter().flatten()) {
                let Ok(envelope) = Envelope::decode(&message.envelope) else { continue };
                let live = match placed.place {
                    Place::Stored(cursor) => Live::Entry(Entry {
                        cursor,
                        link: Stamp(0),
                        tag: message.tag,
                        mseq: None,
                        envelope: envelope.into(),
                    }),
                    Place::Published => Live::Ephemeral(Ephemeral { at: placed.at, envelope: envelope.into() }),
                    Place::Found(_) | Place::Unprovable => continue,
                };
                bundle.items.push(Item { record: group.record.clone(), live, version: 0 });
            }
        }
        let payload = Value::Bytes(Bytes::from(bundle.encode()));
        let topology = &self.settings.topology;
        let (layout, group) = (topology.layout(), topology.group_of_lane(batch.lane));
        let mut channels: Vec<_> = answer.receivers.iter().map(|(node, _)| topology.channel(node, group).0).collect();
        if channels.is_empty() && bundle.items.iter().any(|item| &*item.record == EVERYBODY) {
            // It is at so many nodes that it was published to all of them at once.
            channels.push(topology.everybody(group).0);
        }
        for channel in channels {
            // A hint only: who does not hear it finds it by his next check.
            let _ = self.book(super::subscription::publish(&self.client, layout, &channel, payload.clone()).await);
        }
    }

    /// What one hash of a record that is on its way has under a name; with `None` all its names.
    async fn stored_moving(&self, key: String, name: Option<&str>) -> Result<Value, BackplaneError> {
        let call = (vec![key], name.map(requests::text).into_iter().collect());
        Ok(self.run_moving(&self.scripts.stored, call, Absent::Run).await?.0)
    }

    /// One attach on a record that is on its way. What has a key of its own is asked for by itself: the stored cursor, the
    /// members of a group, the groups of a user. Whether he is here is left to the next verify, which looks.
    pub(super) async fn attach_moving(&self, request: &AttachRequest) -> Result<Option<Attached>, BackplaneError> {
        let names = self.settings.topology.keys();
        let mut request = request.clone();
        if let Some(field) = &request.request.stored {
            let stored = self.stored_moving(names.record(&request.of).cursors, Some(field)).await?;
            if let Some(cursor) = cursor_of(&bytes_of(stored)) {
                insert(&mut request.request.cursors, cursor);
            }
        }
        let mut known = Known::Nothing;
        if let Some(member) = &request.request.member {
            let joined = bytes_of(self.stored_moving(names.members(&request.of), Some(member.as_str())).await?);
            known = Known::Joined(joined.first_chunk().map(|number| u64::from_be_bytes(*number)));
        }
        let (mut keys, args) = requests::attach_call(&self.settings, std::slice::from_ref(&request), known);
        let meta = keys[0].clone();
        let located = std::mem::replace(&mut keys[3], meta.clone());
        keys[2..].fill(meta);
        let is_registered = request.request.registration.is_some();
        let absent = if is_registered {
            Absent::Begin(&request.of, request.epoch)
        } else {
            Absent::Say(Value::Array(vec![requests::no_record()]))
        };
        let answers = self.run_moving(&self.scripts.attach, (keys, args), absent).await?.0;
        if is_registered {
            // Only for cleaning up after a crash: where it fails, the next generation's attach writes it.
            let _ = self.client.sadd::<Value, _, _>(located, request.of.as_str()).await;
        }
        let Some(mut attached) = requests::attached(only(answers))? else { return Ok(None) };
        let is_wanted = request.request.groups_known.is_some_and(|known| known == 0 || known != attached.version);
        if is_wanted && Whose::of(&request.of) == Whose::User {
            attached.user = Some(self.of_user_moving(&request).await?);
        }
        Ok(Some(attached))
    }

    async fn of_user_moving(&self, request: &AttachRequest) -> Result<OfUser, BackplaneError> {
        let names = self.settings.topology.keys();
        let groups = items_of(self.stored_moving(names.members(&request.of), None).await?);
        let mut user = OfUser { groups: groups.into_iter().map(bytes_of).filter_map(group_of).collect(), all: None };
        if let Some(device) = request.request.registration.as_ref().and_then(|r| r.device.as_ref()) {
            let field: Text = fields::all_device(device);
            let stored = self.stored_moving(names.record(&request.of).cursors, Some(&field)).await?;
            user.all = cursor_of(&bytes_of(stored));
        }
        Ok(user)
    }

    pub(super) async fn verify_moving(&self, request: &VerifyRequest) -> Result<Value, BackplaneError> {
        let (mut keys, args) = requests::verify_call(&self.settings, std::slice::from_ref(request));
        let meta = keys[0].clone();
        keys[2..].fill(meta);
        let gone = Absent::Say(Value::Array(vec![requests::gone()]));
        Ok(only(self.run_moving(&self.scripts.verify, (keys, args), gone).await?.0))
    }

    pub(super) async fn detach_moving(&self, request: &DetachRequest) -> Result<Value, BackplaneError> {
        let (mut keys, args) = requests::detach_call(&self.settings, &self.node, std::slice::from_ref(request));
        let meta = keys[0].clone();
        keys[1..].fill(meta);
        Ok(only(self.run_moving(&self.scripts.detach, (keys, args), Absent::Run).await?.0))
    }

    /// Read and history: meta and inbox are all they need. `none`: what the script says where there is no record.
    pub(super) async fn read_moving(
        &self,
        script: &Script,
        (mut keys, args): Call,
        none: Value,
    ) -> Result<Value, BackplaneError> {
        for key in 2..keys.len() {
            keys[key] = keys[0].clone();
        }
        Ok(self.run_moving(script, (keys, args), Absent::Say(none)).await?.0)
    }
}

/// Puts a device's stored cursor among those that the client named, newest first, so that the newest that holds is taken
/// as attach.lua would. The first alone says how the stream starts.
fn insert(cursors: &mut Vec<Option<Cursor>>, stored: Cursor) {
    let is_older = |cursor: &Option<Cursor>| cursor.is_some_and(|c| c.epoch == stored.epoch && c.seq <= stored.seq);
    let place = cursors.iter().skip(1).position(is_older).map_or(cursors.len(), |place| place + 1);
    cursors.insert(place, Some(stored));
}

/// Runs a script on the master that is getting the slot.
async fn run_asking(
    client: &Client,
    script: &Script,
    keys: Vec<String>,
    args: Vec<Value>,
) -> Result<Value, BackplaneError> {
    let mut words = vec![Value::from(script.hash()), requests::number(keys.len() as u64)];
    words.extend(keys.into_iter().map(Value::from));
    words.extend(args);
    match asking(client, "EVALSHA", words.clone()).await {
        Err(BackplaneError::NotRun(why)) if why.contains("NOSCRIPT") => {
            script.load(client).await?;
            asking(client, "EVALSHA", words).await
        }
        answer => answer,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The answer to the one request of a call.
fn only(answers: Value) -> Value {
    items_of(answers).pop().unwrap_or(Value::Null)
}

/// ASKING lets one command through, and it is the next one on that connection.
async fn asking(client: &Client, name: &'static str, words: Vec<Value>) -> Result<Value, BackplaneError> {
    let command = |name| CustomCommand::new_static(name, ClusterHash::FirstKey, false);
    let pipeline = client.pipeline();
    let _: () = pipeline.custom(command("ASKING"), Vec::<Value>::new()).await.map_err(classify)?;
    let _: () = pipeline.custom(command(name), words).await.map_err(classify)?;
    let last = pipeline.try_all::<Value>().await.pop();
    last.unwrap_or_else(|| Err(Error::new(ErrorKind::Unknown, "no answer behind ASKING"))).map_err(classify)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_is_read_from_what_redis_says() {
        let of = |text: &str| redirect(&BackplaneError::NotRun(text.to_owned()));
        assert_eq!(of("Cluster: ASK 866 127.0.0.1:7002"), Some(Redirect::Ask("127.0.0.1:7002".to_owned())));
        assert_eq!(of("Unknown: TRYAGAIN Multiple keys request during rehashing of slot"), Some(Redirect::TryAgain));
        assert_eq!(of("Cluster: MOVED 866 127.0.0.1:7002"), None);
        assert_eq!(of("Unknown: OOM command not allowed"), None);
        assert_eq!(of("ASK"), None);
    }

    #[test]
    fn a_stored_cursor_stands_where_the_newest_that_holds_is_found_first() {
        let cursor = |seq| Cursor { epoch: Epoch([1; 8]), seq, stamp: Stamp(seq) };
        let with = |seqs: &[u64], stored| {
            let mut cursors: Vec<_> = seqs.iter().map(|&seq| Some(cursor(seq))).collect();
            insert(&mut cursors, cursor(stored));
            cursors.into_iter().flatten().map(|cursor| cursor.seq).collect::<Vec<_>>()
        };
        assert_eq!(with(&[], 5), [5]);
        assert_eq!(with(&[9], 5), [9, 5]);
        assert_eq!(with(&[9, 7, 3], 5), [9, 7, 5, 3]);
        assert_eq!(with(&[3, 2], 5), [3, 5, 2], "the first is the client's own");
    }
}
