//! Goal: the load generator measures what happened, and every broken promise is found. Method: a server in the same
//! process that keeps the promise, or breaks it in one way.

#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails the test")]

mod relay;

use std::time::Duration;

use load::{
    Act, Common, Crowd, CrowdOptions, Dialect, FanoutOptions, IdleOptions, JoinsOptions, P2pOptions, P2pReport, Traffic,
};
use relay::Fault;

fn options(urls: [String; 2], traffic: Traffic) -> P2pOptions {
    let [from_url, to_url] = urls;
    P2pOptions {
        from_url,
        to_url,
        pairs: 4,
        body_bytes: 100,
        traffic,
        ephemeral: false,
        replicated_every: None,
        warmup: Duration::from_millis(200),
        measure: Duration::from_millis(800),
        drain: Duration::from_millis(700),
        common: Common::default(),
    }
}

async fn saturated(fault: Fault) -> P2pReport {
    load::p2p(options(relay::start(fault).await, Traffic::Saturate { window: 16 })).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_server_is_measured() {
    let mut wanted = options(relay::start(Fault::None).await, Traffic::Saturate { window: 16 });
    wanted.common.pids = vec![std::process::id()];
    let report = load::p2p(wanted).await.unwrap();
    assert!(report.is_ok(), "{report:#?}");
    assert!(report.acked > 100 && report.delivered > 100, "{report:#?}");
    assert_eq!(report.verified.acked, report.verified.received);
    assert!(report.latency.count > 100 && report.latency.p50_us < 800_000, "{report:#?}");
    assert!(report.cpu_us_per_message.unwrap() >= 0.0 && report.resident_bytes_per_connection.is_some());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        (&json["scenario"], &json["mode"], &json["verified"]["missing"]),
        (&"p2p".into(), &"saturate".into(), &0.into())
    );
    assert!(report.to_string().contains("kept"), "{report}");
}

/// The number of messages is that of the schedule, whatever the server's speed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_kept() {
    let report =
        load::p2p(options(relay::start(Fault::None).await, Traffic::Rate { per_second: 500.0 })).await.unwrap();
    assert!(report.is_ok(), "{report:#?}");
    assert_eq!((report.verified.written, report.verified.received, report.unsent), (500, 500, 0));
    assert_eq!(report.latency.count, 400, "those that were due during the measured time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broken_promise_is_found() {
    for fault in [Fault::Loses, Fault::Repeats, Fault::Swaps, Fault::Lies] {
        let report = saturated(fault).await;
        let v = report.verified;
        assert!(!report.is_ok(), "{fault:?}: {report:#?}");
        assert_eq!(v.missing > 0, fault == Fault::Loses, "{fault:?}: {v:?}");
        assert_eq!(v.duplicates > 0, fault == Fault::Repeats, "{fault:?}: {v:?}");
        assert_eq!(v.reordered > 0, fault == Fault::Swaps, "{fault:?}: {v:?}");
        assert_eq!(v.refused_but_received > 0, fault == Fault::Lies, "{fault:?}: {v:?}");
        assert!(report.to_string().contains("BROKEN"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_an_error_and_breaks_no_promise() {
    let report = saturated(Fault::Refuses).await;
    assert!(report.is_ok(), "{report:#?}");
    assert!(report.errors["overloaded"] > 0);
    assert_eq!(report.verified.written, report.verified.acked + report.errors["overloaded"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_ephemeral_message_is_counted_and_forgiven() {
    let mut wanted = options(relay::start(Fault::Loses).await, Traffic::Saturate { window: 4 });
    wanted.ephemeral = true;
    let report = load::p2p(wanted).await.unwrap();
    assert!(report.verified.missing > 0 && report.is_ok(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_are_told() {
    let report = saturated(Fault::Dies).await;
    assert!(!report.is_ok());
    assert_eq!(report.disconnects.values().sum::<u64>(), 4, "{report:#?}");
    let followed = options(relay::start(Fault::Dies).await, Traffic::Rate { per_second: 400.0 });
    let report = load::p2p(followed).await.unwrap();
    assert!(report.unsent > 0, "what the schedule held for them is told: {report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_opened_held_and_counted() {
    let report = load::idle(IdleOptions {
        urls: relay::start(Fault::None).await.into(),
        connections: 200,
        hold: Duration::from_millis(300),
        common: Common { pids: vec![std::process::id()], ..Common::default() },
    })
    .await
    .unwrap();
    assert!(report.is_ok(), "{report:#?}");
    assert_eq!((report.opened, report.failed, report.lost_while_held, report.welcome.count), (200, 0, 0, 200));
    assert!(report.opened_per_s > 0.0 && report.resident_bytes_per_connection.is_some());
    assert!(report.to_string().contains("200 opened, 0 failed"));
}

async fn group(fault: Fault) -> load::FanoutReport {
    load::fanout(FanoutOptions {
        urls: relay::start(fault).await.into(),
        dialect: Dialect::Switchboard,
        members: 10,
        body_bytes: 100,
        traffic: Traffic::Rate { per_second: 100.0 },
        joined: load::Hook::default(),
        warmup: Duration::from_millis(200),
        measure: Duration::from_millis(800),
        drain: Duration::from_millis(700),
        common: Common { pids: vec![std::process::id()], ..Common::default() },
    })
    .await
    .unwrap()
}

/// Goal: all members of a group have every message, and whoever has not is found. Method: 100 messages of two senders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_measured_and_what_a_member_misses_is_found() {
    let report = group(Fault::None).await;
    assert!(report.is_ok(), "{report:#?}");
    assert_eq!((report.written, report.acked, report.received), (100, 100, 1_000));
    assert!(report.delivered > 500 && report.cpu_us_per_delivery.is_some(), "{report:#?}");
    let report = group(Fault::Loses).await;
    assert!(!report.is_ok() && report.missing == 100, "{report:#?}");
    let report = group(Fault::Repeats).await;
    assert!(!report.is_ok() && report.late_or_twice == 100, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_and_leaves_are_counted() {
    let [url, _] = relay::start(Fault::None).await;
    let mut wanted = JoinsOptions {
        url: url.clone(),
        connections: 5,
        groups: 20,
        window: 3,
        warmup: Duration::from_millis(100),
        measure: Duration::from_millis(500),
        common: Common::default(),
    };
    let report = load::joins(wanted.clone()).await.unwrap();
    assert!(report.is_ok() && report.joined > 100, "{report:#?}");
    assert!(report.joined.abs_diff(report.left) <= 15, "as many as are under way: {report:#?}");
    wanted.groups = 2;
    assert!(load::joins(wanted).await.unwrap_err().to_string().contains("--groups"));

    let options = CrowdOptions { url, connections: 20, common: Common::default() };
    let mut crowd = Crowd::open(&options).await.unwrap();
    crowd.order(Act::Join, "g").await.unwrap();
    crowd.order(Act::Leave, "g").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_connections_say_why() {
    let [url, _] = relay::start(Fault::Deaf).await;
    let mut idle = IdleOptions {
        urls: vec![url],
        connections: 3,
        hold: Duration::ZERO,
        common: Common { open_timeout: Duration::from_millis(100), ..Common::default() },
    };
    let report = load::idle(idle.clone()).await.unwrap();
    assert_eq!((report.opened, report.failed), (0, 3));
    assert_eq!(report.failures["no welcome within 100 ms"], 3);
    idle.urls = vec!["ws://127.0.0.1:1".into()];
    let report = load::idle(idle).await.unwrap();
    assert!(report.failures.keys().next().unwrap().contains("no TCP connection"), "{report:#?}");
}

#[tokio::test]
async fn what_makes_no_sense_is_told_before_anything_runs() {
    let urls = ["ws://127.0.0.1:1".to_owned(), "ws://127.0.0.1:1".to_owned()];
    let mut wanted = options(urls.clone(), Traffic::Saturate { window: 0 });
    assert!(load::p2p(wanted.clone()).await.unwrap_err().to_string().contains("--window"));
    wanted.traffic = Traffic::Rate { per_second: 0.0 };
    assert!(load::p2p(wanted.clone()).await.unwrap_err().to_string().contains("--rate"));
    wanted.traffic = Traffic::Saturate { window: 1 };
    wanted.body_bytes = 10;
    assert!(load::p2p(wanted.clone()).await.unwrap_err().to_string().contains("--body"));
    wanted.body_bytes = 100;
    assert!(load::p2p(wanted).await.unwrap_err().to_string().contains("not one of 4 pairs"));
}
