//! The manifests against docs/architecture.md: who may import whom, and what must be absent.

use super::*;

/// The direct dependencies of each crate, without those for tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut crates = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("crates")).expect("crates/ is there") {
        let folder = entry.expect("an entry of crates/").path();
        let Ok(text) = std::fs::read_to_string(folder.join("Cargo.toml")) else { continue };
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        let mut names = BTreeSet::new();
        let mut tables = vec![manifest.get("dependencies"), manifest.get("build-dependencies")];
        let targets = manifest.get("target").and_then(toml::Value::as_table);
        tables.extend(targets.iter().flat_map(|t| t.values()).map(|t| t.get("dependencies")));
        for (name, value) in tables.into_iter().flatten().filter_map(toml::Value::as_table).flatten() {
            // `x = { package = "y" }` is y, by another name.
            let package = value.get("package").and_then(toml::Value::as_str);
            names.insert(package.unwrap_or(name).to_owned());
        }
        let name = folder.file_name().expect("a crate has a name").to_string_lossy().into_owned();
        crates.insert(name, names);
    }
    crates
}

/// The crates of this workspace, as manifests name them.
const OWN: [&str; 11] = [
    "protocol",
    "routing",
    "delivery",
    "connection",
    "backplane",
    "gateway",
    "switchboard_client",
    "load",
    "testkit",
    "cli",
    "faults",
];

#[test]
fn who_may_import_whom_is_what_the_manifests_say() {
    // docs/architecture.md, "Who may import whom": of this workspace a crate may use these and no others.
    let allowed: [(&str, &[&str]); 11] = [
        ("protocol", &[]),
        ("routing", &["protocol"]),
        ("delivery", &["protocol", "routing"]),
        ("connection", &["protocol", "routing", "delivery"]),
        ("backplane", &["protocol", "routing", "delivery"]),
        ("gateway", &["protocol", "routing", "delivery", "connection", "backplane"]),
        ("client", &["protocol"]),
        ("load", &["protocol", "switchboard_client"]),
        ("testkit", &["protocol", "routing"]),
        ("cli", &["protocol", "backplane", "gateway", "switchboard_client", "load"]),
        ("faults", &["protocol", "switchboard_client", "testkit"]),
    ];
    let crates = dependencies();
    let known: BTreeSet<&str> = allowed.iter().map(|(name, _)| *name).collect();
    let unknown: Vec<String> = crates.keys().filter(|name| !known.contains(&***name)).cloned().collect();
    nothing(&unknown, "crates that have no row in this test and in docs/architecture.md");
    for (name, may) in allowed {
        let has = crates.get(name).unwrap_or_else(|| panic!("crates/{name} is gone"));
        let more: Vec<String> = has.iter().filter(|d| OWN.contains(&&***d) && !may.contains(&&***d)).cloned().collect();
        nothing(&more, &format!("{name} depends on what it must not know"));
    }
}

#[test]
fn what_must_be_absent_is_absent() {
    const PURE: &[&str] = &[
        "tokio",
        "tokio-util",
        "tokio-tungstenite",
        "fred",
        "metrics",
        "metrics-exporter-prometheus",
        "rand",
        "tracing",
        "tracing-subscriber",
        "hyper",
        "hyper-util",
        "socket2",
        "parking_lot",
        "dashmap",
    ];
    const SOCKETS: &[&str] = &["hyper", "hyper-util", "http-body-util", "tokio-tungstenite", "socket2", "connection"];
    let banned: [(&str, &[&str]); 8] = [
        ("protocol", PURE),
        ("routing", PURE),
        ("delivery", PURE),
        ("connection", PURE),
        ("backplane", SOCKETS),
        ("gateway", &["fred"]),
        ("client", &["fred", "hyper", "metrics"]),
        ("load", &["fred", "hyper", "metrics"]),
    ];
    let crates = dependencies();
    for (name, banned) in banned {
        let found: Vec<String> = crates[name].iter().filter(|d| banned.contains(&&***d)).cloned().collect();
        nothing(&found, &format!("{name} depends on what docs/architecture.md says is absent"));
    }
    let fred: Vec<&String> = crates.iter().filter(|(_, has)| has.contains("fred")).map(|(name, _)| name).collect();
    assert_eq!(fred, ["backplane"], "only one crate knows the Redis library, see docs/adr/001-fred.md");
}
