//! The published vectors: what any other implementation of the routing has to answer alike.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use routing::{Settings, Topology, hash, partition};
use serde_json::{Value, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/routing.json");

fn vectors() -> Value {
    let topology = Topology::new(Settings::default()).unwrap();
    let records = ["user:alice", "user:bob", "user:a}{b", "user:ålice 🦀", "group:den", "all", "service:api"];
    let records: Vec<Value> = records
        .iter()
        .map(|record| {
            let keys = topology.keys().record(record);
            json!({"record": record, "hash": format!("{:016x}", hash::hash(record.as_bytes())),
                "partition": topology.partition(record).0, "lane": topology.lane(record).0, "meta": keys.meta,
                "inbox": keys.inbox, "cursors": keys.cursors, "members": topology.keys().members(record),
                "changes": topology.keys().changes(record), "presence": topology.keys().presence(record),
                "watchers": topology.keys().watchers(record)})
        })
        .collect();
    let tags: Vec<Value> = [("user:alice", "m1"), ("service:api", "ä")]
        .iter()
        .map(|(from, id)| json!({"from": from, "id": id, "tag": format!("{:016x}", hash::tag(from, id).0)}))
        .collect();
    let partitions: Vec<Value> =
        partition::tags(64).iter().map(|tag| json!({"tag": tag, "slot": partition::slot(tag.as_bytes())})).collect();
    json!({"settings": {"prefix": "sb", "partitions": 64, "lanes": 8}, "records": records, "tags": tags,
        "partitions": partitions})
}

/// Goal: what is in people's Redis is found again by the next version. Method: the committed file; with `UPDATE_VECTORS=1`
/// it is written anew, which is a change of the format.
#[test]
fn the_routing_answers_what_is_published() {
    let now = format!("{:#}\n", vectors());
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(FILE, &now).unwrap();
    }
    assert_eq!(std::fs::read_to_string(FILE).unwrap(), now, "vectors/routing.json");
}
