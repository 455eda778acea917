//! Redis CPU of an append against a plain RPUSH, and with a record's meta as one packed string (what is shipped) and as a
//! hash.
//!
//! The hash variant is the shipped script with the lines replaced that read and write meta. The short way of the common
//! case knows only packed strings; so it is compared with the shipped script without that way, and nothing else differs.

use anyhow::{Context as _, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use fred::clients::Client;
use fred::interfaces::{ClientLike as _, KeysInterface as _, ListInterface as _, LuaInterface as _};
use fred::types::Value;
use fred::types::config::Config;
use protocol::{Encoding, Envelope};
use routing::{Settings, Topology, hash};
use testkit::redis::Redis;

use crate::page::{median, range};

const COMMON: &str = include_str!("../../crates/backplane/src/redis/lua/common.lua");
const APPEND: &str = include_str!("../../crates/backplane/src/redis/lua/append.lua");

/// Addresses that are written to in turn, each with one location.
const ADDRESSES: usize = 2_000;
const MESSAGES: usize = 32_000;
const BATCHES: [usize; 3] = [1, 16, 64];
/// Calls on their way at once: what eight lanes of two nodes have.
const CALLS: usize = 16;
const NODE: &str = "a.0000000000000001";

/// Takes the short way out of the script: every address goes the general one.
const GENERAL: (&str, &str) = ("local is_common = byte(heads) <= 2 and raw", "local is_common = false and raw");

/// What the hash variant replaces: meta as fields, locations as fields of their own.
const REPLACED: [(&str, &str); 5] = [
    (
        "local raws = count > 0 and call('MGET', unpack(KEYS, 2, count + 1)) or {}",
        "local raws = {} for i = 1, count do local h = call('HGETALL', KEYS[i + 1]) raws[i] = #h > 0 and h or false end",
    ),
    ("if raw then a.meta = parse(raw)", "if raw then a.meta = parse_hash(raw)"),
    ("a.nodes = receivers_of(m.tail, a.item)", "a.nodes = m.hash_nodes or receivers_of(m.tail, a.item)"),
    (
        "      save(meta_key, m)\n",
        "      call('HSET', meta_key, 'e', m.epoch, 'b', m.b, 's', string.format('%.0f', m.last), 'y', m.bytes, 'o', \
         string.format('%.0f', m.oldest), 'x', string.format('%.0f', m.expiry), 't', m.t)\n",
    ),
    (
        "      call('SETRANGE', meta_key, 9, pack('>I8I8I8I8I8I8', m.b, m.last, m.bytes, m.oldest, m.expiry, m.t))\n",
        "      call('HSET', meta_key, 'b', m.b, 's', string.format('%.0f', m.last), 'y', m.bytes)\n",
    ),
];

const PARSE_HASH: &str = "
local function parse_hash(flat)
  local m = { d = 0, v = 0, tail = '', hash_nodes = {} }
  for i = 1, #flat, 2 do
    local field, value = flat[i], flat[i + 1]
    if field == 'e' then m.epoch = value
    elseif field == 'b' then m.b = tonumber(value)
    elseif field == 's' then m.last = tonumber(value)
    elseif field == 'y' then m.bytes = tonumber(value)
    elseif field == 'o' then m.oldest = tonumber(value)
    elseif field == 'x' then m.expiry = tonumber(value)
    elseif field == 't' then m.t = tonumber(value)
    elseif sub(field, 1, 2) == 'n:' then m.hash_nodes[#m.hash_nodes + 1] = string.match(field, '^n:([^:]*):') end
  end
  return m
end
";

fn general_script() -> anyhow::Result<String> {
    Ok(format!("{COMMON}\n{}", replaced(APPEND, GENERAL)?))
}

fn hash_script() -> anyhow::Result<String> {
    let mut script = replaced(APPEND, GENERAL)?;
    for change in REPLACED {
        script = replaced(&script, change)?;
    }
    Ok(format!("{COMMON}\n{PARSE_HASH}\n{script}"))
}

fn replaced(script: &str, (from, to): (&str, &str)) -> anyhow::Result<String> {
    ensure!(script.matches(from).count() == 1, "append.lua has changed: {from}");
    Ok(script.replace(from, to))
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Shipped,
    General,
    Hash,
    Rpush,
}

struct Bench {
    redis: Redis,
    client: Client,
    topology: Topology,
    /// What was measured, by batch size and side.
    us: Vec<(usize, Side, f64)>,
    number: u64,
}

pub(crate) async fn run(runs: usize) -> anyhow::Result<String> {
    let redis = Redis::start_with(&["--appendonly", "no", "--save", ""])?;
    let client = Client::new(Config::from_url(&redis.url())?, None, None, None);
    client.init().await?;
    let settings = |prefix: &str| Settings { prefix: prefix.to_owned(), ..Settings::default() };
    let packed_keys = Topology::new(settings("packed")).ok().context("topology")?;
    let hashed = Topology::new(settings("hashed")).ok().context("topology")?;
    let mut bench = Bench { redis, client, topology: packed_keys.clone(), us: Vec::new(), number: 0 };
    let shipped = format!("{COMMON}\n{APPEND}");
    let (general, hash) = (general_script()?, hash_script()?);
    for round in 0..=runs {
        for batch in BATCHES {
            let is_warm_up = round == 0;
            let sides =
                [(Side::Shipped, &shipped), (Side::Rpush, &shipped), (Side::General, &general), (Side::Hash, &hash)];
            for (side, script) in sides {
                bench.topology = if side == Side::Hash { hashed.clone() } else { packed_keys.clone() };
                let us = bench.measure(side, script, batch).await?;
                if !is_warm_up {
                    bench.us.push((batch, side, us));
                }
            }
        }
    }
    Ok(bench.text(runs))
}

impl Bench {
    fn cpu_us(&self) -> f64 {
        let info = self.redis.cli(&["INFO", "cpu"]);
        let get = |name: &str| -> f64 {
            info.lines().find_map(|l| l.strip_prefix(name)).and_then(|v| v.trim().parse().ok()).unwrap_or(0.0)
        };
        (get("used_cpu_sys:") + get("used_cpu_user:")) * 1e6
    }

    /// Redis CPU of one message, in microseconds.
    async fn measure(&mut self, side: Side, script: &str, batch: usize) -> anyhow::Result<f64> {
        self.prepare(side, script).await?;
        let loaded: String = self.client.script_load(script).await?;
        let before = self.cpu_us();
        let mut sent = 0;
        while sent < MESSAGES {
            let mut calls = Vec::new();
            for slot in 0..CALLS {
                let from = sent % ADDRESSES;
                match side {
                    Side::Rpush => {
                        // Pipelined like the others: as many commands at once as the others have messages in a call.
                        for n in 0..batch {
                            let key = format!("plain:{}", (from + n) % ADDRESSES);
                            let client = self.client.clone();
                            calls.push(tokio::spawn(async move { client.rpush::<(), _, _>(key, entry(n)).await }));
                        }
                    }
                    _ => {
                        let (keys, args) = self.call(slot, from, batch);
                        let (client, hash) = (self.client.clone(), loaded.clone());
                        calls.push(tokio::spawn(async move {
                            let reply: Value = client.evalsha(hash, keys, args).await?;
                            let first = reply.into_bytes().and_then(|b| b.first().copied());
                            assert_eq!(first, Some(b'R'), "the script refused");
                            Ok(())
                        }));
                    }
                }
                sent += batch;
            }
            for call in calls {
                call.await??;
            }
        }
        Ok((self.cpu_us() - before) / sent as f64)
    }

    /// Every address with one location, and an inbox short enough that none is trimmed.
    async fn prepare(&mut self, side: Side, script: &str) -> anyhow::Result<()> {
        self.redis.cli(&["FLUSHALL"]);
        if side == Side::Rpush {
            return Ok(());
        }
        // The first append begins the record; then the location is added as attach does.
        let loaded: String = self.client.script_load(script).await?;
        for from in (0..ADDRESSES).step_by(100) {
            let (keys, args) = self.call(0, from, 100);
            let _: Value = self.client.evalsha(loaded.as_str(), keys, args).await?;
        }
        for n in 0..ADDRESSES {
            let meta = self.topology.keys().record(&format!("user:{n}")).meta;
            if side == Side::Hash {
                use fred::interfaces::HashesInterface as _;
                self.client.hset::<(), _, _>(meta, (format!("n:{NODE}:0000000000000007"), "1")).await?;
            } else {
                let mut location = BytesMut::new();
                location.put_u64(1);
                location.put_u64(7);
                location.put_u8(0);
                location.put_u8(u8::try_from(NODE.len())?);
                location.put_u8(0);
                location.put_slice(NODE.as_bytes());
                self.client.append::<(), _, _>(meta, Value::Bytes(location.freeze())).await?;
            }
        }
        Ok(())
    }

    /// `slot` has a ledger of its own: its calls follow each other.
    fn call(&mut self, slot: usize, from: usize, batch: usize) -> (Vec<String>, Vec<Value>) {
        self.number += 1;
        let text = |text: &str| Value::Bytes(Bytes::copy_from_slice(text.as_bytes()));
        let names = self.topology.keys();
        let records: Vec<String> = (from..from + batch).map(|n| format!("user:{}", n % ADDRESSES)).collect();
        let of = |record: &String| names.record(record);
        let mut keys = vec![names.ledger(7, routing::Lane(slot as u16))];
        keys.extend(records.iter().map(|record| of(record).meta));
        keys.extend(records.iter().map(|record| of(record).inbox));
        keys.extend(records.iter().map(|record| of(record).cursors));
        let numbers = [self.number, u64::MAX >> 12, 604_800_000, 10_000, 16 << 20, 6_000_000];
        let mut args: Vec<Value> = numbers.iter().map(|n| text(&n.to_string())).collect();
        args.extend([text("x:node:"), text("PUBLISH"), text("12345678"), text("x:all")]);
        for (n, record) in (from..).zip(&records) {
            let (mut heads, mut item) = (BytesMut::with_capacity(9), BytesMut::with_capacity(3 + record.len()));
            heads.put_u8(1);
            heads.put_u64(hash::tag("user:a", &self.number.to_string()).0);
            item.put_u8(1);
            item.put_u16(record.len() as u16);
            item.put_slice(record.as_bytes());
            args.extend([Value::Bytes(heads.freeze()), Value::Bytes(item.freeze()), envelope(n)]);
        }
        (keys, args)
    }

    fn text(&self, runs: usize) -> String {
        let of = |batch: usize, side: Side| -> Vec<f64> {
            self.us.iter().filter(|(b, s, _)| *b == batch && *s == side).map(|(_, _, us)| *us).collect()
        };
        let mut text = format!(
            "Redis CPU (user and system) of one durable message of 100 bytes, in microseconds, to different addresses with one \
             location each: the shipped append script with its ledger and its PUBLISH, beside plain pipelined RPUSH of the \
             same bytes. Then the same script without its short way for the common case, with meta as one packed string \
             and as a hash. {CALLS} calls under way, {MESSAGES} messages a measurement, {runs} measurements in turn: \
             median (least–most).\n\n\
             | messages a batch | shipped | plain RPUSH | shipped / RPUSH | general, packed string | general, hash | packed / \
             hash |\n|---|---|---|---|---|---|---|\n"
        );
        for batch in BATCHES {
            let (shipped, plain) = (of(batch, Side::Shipped), of(batch, Side::Rpush));
            let (general, hash) = (of(batch, Side::General), of(batch, Side::Hash));
            text.push_str(&format!(
                "| {batch} | {} | {} | {:.2} | {} | {} | {:.2} |\n",
                range(&shipped),
                range(&plain),
                median(&shipped) / median(&plain),
                range(&general),
                range(&hash),
                median(&general) / median(&hash),
            ));
        }
        text.push_str(
            "\nThe goal for batches of 16 was at most 4.5 times a plain RPUSH. The cheaper form of meta is what is shipped: one \
             packed string.\n",
        );
        text
    }
}

fn envelope(n: usize) -> Value {
    let envelope = Envelope {
        to: format!("user:{n}").into(),
        from: "user:alice".into(),
        id: format!("{n:016}").into(),
        encoding: Encoding::Json,
        body: Bytes::from(format!("\"{}\"", "x".repeat(98))),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    };
    Value::Bytes(envelope.encode().into())
}

/// What an entry is, for a plain RPUSH: the same bytes.
fn entry(n: usize) -> Value {
    let head = [0u8; 17];
    let body = envelope(n).into_bytes().unwrap_or_default();
    Value::Bytes(Bytes::from([&head[..], &body].concat()))
}
