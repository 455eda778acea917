//! How users are, who watches them, and what nodes tell each other beside messages.

use delivery::PresenceOf;
use fred::types::Value;
use protocol::{Address, Notice, Text, UnixMillis, UserId};

use super::commands::RedisCommands;
use super::moving::redirect;
use super::requests::{self, number, text};
use super::scripts::{bytes_of, items_of};
use crate::api::{Answer, Presence, record_of};
use crate::error::BackplaneError;

impl RedisCommands {
    async fn run_presence(
        &self,
        users: &[UserId],
        watch_ms: Option<u64>,
    ) -> Result<Vec<Result<PresenceOf, BackplaneError>>, BackplaneError> {
        let names = self.settings.topology.keys();
        let records: Vec<Text> = users.iter().map(|user| record_of(&Address::User(user.clone()))).collect();
        let keys_of = |of: &Text| [names.record(of).meta, names.presence(of), names.watchers(of)];
        let keys = records.iter().flat_map(keys_of).collect();
        let watcher = if watch_ms.is_some() { self.node.as_str() } else { "" };
        let mut args = Vec::from(requests::channel_args(&self.settings, records.first().map(Text::as_str)));
        args.extend([text(watcher), number(watch_ms.unwrap_or(0))]);
        args.extend(records.iter().map(|of| text(of)));
        let answers = items_of(self.book(self.scripts.presence.run(&self.client, keys, args).await)?);
        Ok(answers.into_iter().map(presence_of).collect())
    }
}

impl Presence for RedisCommands {
    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
        watch_ms: Option<u64>,
    ) -> Answer<'a, Result<Vec<Result<PresenceOf, BackplaneError>>, BackplaneError>> {
        Box::pin(self.run_presence(users, watch_ms))
    }

    fn unwatch<'a>(&'a self, users: &'a [UserId]) -> Answer<'a, Result<(), BackplaneError>> {
        Box::pin(async move {
            let names = self.settings.topology.keys();
            let watchers = |user: &UserId| names.watchers(&record_of(&Address::User(user.clone())));
            let (keys, args) = (users.iter().map(watchers).collect(), vec![text(self.node.as_str())]);
            self.book(self.scripts.unwatch.run(&self.client, keys, args).await).map(drop)
        })
    }

    fn audience<'a>(&'a self, of: &'a Text) -> Answer<'a, Result<u64, BackplaneError>> {
        Box::pin(async move {
            let keys = vec![self.settings.topology.keys().record(of).meta];
            let answer = bytes_of(self.book(self.scripts.audience.run(&self.client, keys, Vec::new()).await)?);
            Ok(std::str::from_utf8(&answer).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0))
        })
    }

    fn notify<'a>(&'a self, notices: &'a [(Text, Notice)]) -> Answer<'a, Result<(), BackplaneError>> {
        Box::pin(async move {
            let names = self.settings.topology.keys();
            let keys = notices.iter().map(|(of, _)| names.record(of).meta).collect();
            let first = notices.first().map(|(of, _)| of.as_str());
            let mut args = Vec::from(requests::channel_args(&self.settings, first));
            for (of, notice) in notices {
                args.extend([text(of), Value::Bytes(notice.encode().into())]);
            }
            match self.book(self.scripts.notify.run(&self.client, keys, args).await) {
                // On its way to another master: who does not hear it asks.
                Err(error) if redirect(&error).is_some() => Ok(()),
                answer => answer.map(drop),
            }
        })
    }
}

/// Reads fields and values in turn. One of a later form is passed over.
fn presence_of(answer: Value) -> Result<PresenceOf, BackplaneError> {
    let Value::Array(pairs) = answer else { return Err(requests::refused(&bytes_of(answer))) };
    let mut presence = PresenceOf::default();
    let mut parts = pairs.into_iter().map(|part| Text::from_bytes(bytes_of(part)).unwrap_or_default());
    while let (Some(field), Some(value)) = (parts.next(), parts.next()) {
        let number = || value.parse::<u64>().unwrap_or(0);
        match &*field {
            "version" => presence.version = number(),
            "online" => presence.is_online = &*value == "1",
            "at" => presence.at = UnixMillis(number()),
            "profile" => presence.profile = Some(value),
            device => {
                let name = device.strip_prefix('+').map(Text::from);
                presence.devices.extend(name.map(|name| (name, UnixMillis(number()))));
            }
        }
    }
    Ok(presence)
}
