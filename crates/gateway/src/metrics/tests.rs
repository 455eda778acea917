//! The table against what is rendered, and against docs/metrics.md.

use super::*;

/// The table of docs/metrics.md.
fn page() -> String {
    let mut out = "| name | kind | unit | label | |\n|---|---|---|---|---|\n".to_owned();
    for row in table() {
        let label = match &row.label {
            None => String::new(),
            Some((name, values)) if values.is_empty() => format!("`{name}`"),
            Some((name, values)) => {
                format!("`{name}`: {}", values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(" "))
            }
        };
        out.push_str(&format!("| `{}` | {} | {} | {label} | {} |\n", row.name, row.kind, row.unit, row.help));
    }
    out
}

#[test]
fn the_page_about_metrics_is_equal_to_the_code() {
    crate::config::docs::compare("metrics.md", &page());
}

/// Dashboards and alerts want a zero before the first event, not a hole.
#[test]
fn every_metric_is_there_from_the_start_with_all_its_labels() {
    let text = Metrics::new().render();
    for row in table() {
        assert!(text.contains(&format!("# TYPE {} {}\n", row.name, row.kind)), "{} in\n{text}", row.name);
        assert!(text.contains(&format!("# HELP {} {}", row.name, row.help)), "{} in\n{text}", row.name);
        let first = match (row.kind, &row.label) {
            ("histogram", _) => format!("{}_bucket{{le=\"+Inf\"}} 0", row.name),
            (_, Some((name, values))) if !values.is_empty() => format!("{}{{{name}=\"{}\"}} 0", row.name, values[0]),
            (_, Some((name, _))) => format!("{}{{{name}=\"{}\"}} 1", row.name, env!("CARGO_PKG_VERSION")),
            _ => format!("{} 0", row.name),
        };
        assert!(text.lines().any(|line| line == first), "{first} in\n{text}");
    }
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    let mut names: Vec<_> = table().iter().map(|row| row.name).collect();
    for row in table() {
        assert!(row.name.starts_with("switchboard_"));
        assert_eq!(row.name.ends_with("_total"), row.kind == "counter", "{}", row.name);
        assert!(row.help.ends_with('.'), "{}", row.name);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), table().len());
}

#[test]
fn handles_count_under_their_own_label_and_node() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.connections.increment(3.0);
    one.connections.decrement(1.0);
    one.connections_closed.of(Closed(Some(CloseCode::BadFrame))).increment(1);
    one.connections_closed.of(Closed(None)).increment(2);
    one.messages_received.of(MessageKind::Ephemeral).increment(4);
    one.api_requests.of(Status(418)).increment(1);
    one.generations.of(Begun(None)).increment(6);
    one.generations.of(Begun(Some(Loss::Stalled))).increment(7);
    one.resets.of(Reason::Fork).increment(8);
    one.pulls.of(PullCause::Resume).increment(5);
    one.append_batch_size.record(3.0);
    one.upkeep();
    let text = one.render();
    for line in [
        "switchboard_connections 2",
        "switchboard_connections_closed_total{code=\"4000\"} 1",
        "switchboard_connections_closed_total{code=\"none\"} 2",
        "switchboard_messages_received_total{kind=\"ephemeral\"} 4",
        "switchboard_api_requests_total{code=\"500\"} 1",
        "switchboard_pulls_total{cause=\"resume\"} 5",
        "switchboard_generations_total{cause=\"start\"} 6",
        "switchboard_generations_total{cause=\"stalled\"} 7",
        "switchboard_resets_total{reason=\"fork\"} 8",
        "switchboard_append_batch_size_bucket{le=\"2\"} 0",
        "switchboard_append_batch_size_bucket{le=\"4\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    assert!(other.render().lines().any(|line| line == "switchboard_connections 0"), "another node, other numbers");
}

#[test]
fn every_close_code_has_its_own_place() {
    let values = Closed::values();
    for code in CloseCode::ALL {
        assert_eq!(values[Closed(Some(code)).index()], code.number().to_string());
    }
    assert_eq!(values[Closed(None).index()], "none");
}
