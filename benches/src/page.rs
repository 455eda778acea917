//! Writes one section of docs/performance.md; the others stay as they are.

use std::process::Command;

use anyhow::Context as _;

const PAGE: &str = "docs/performance.md";

const HEAD: &str = "# Performance

What was measured, by which command, on which commit. Everything below is written by the tool
(`cargo run --release -p switchboard-benches -- …`); no number here is typed. Machines are noisy: compare the two sides of
one table, never two tables.
";

/// The order of the sections, and their titles.
const SECTIONS: [(&str, &str); 8] = [
    ("p2p", "Durable messages between two nodes, against a Node.js peer"),
    ("latency", "The delay of a durable message at a steady rate"),
    ("replicated", "`stored` beside `replicated`, with a replica that stands still"),
    ("fanout", "A group of 1,000 members on two nodes, against Socket.IO"),
    ("joins", "Joining and leaving groups, and the memory of a member"),
    ("idle", "Memory of an idle connection"),
    ("scheduler", "One work-stealing runtime, or one runtime a worker"),
    ("meta", "A record's meta: one packed string, or a hash"),
];

pub(crate) fn write(name: &str, text: &str) -> anyhow::Result<()> {
    let old = std::fs::read_to_string(PAGE).unwrap_or_default();
    let mut page = HEAD.to_owned();
    for (section, title) in SECTIONS {
        let (begin, end) = (format!("<!-- begin {section} -->\n"), format!("<!-- end {section} -->\n"));
        let kept =
            old.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(inside, _)| inside.to_owned());
        let inside = if section == name { Some(format!("{}\n{text}", origin()?)) } else { kept };
        if let Some(inside) = inside {
            page.push_str(&format!("\n## {title}\n\n{begin}{inside}{end}"));
        }
    }
    std::fs::write(PAGE, page).with_context(|| PAGE)
}

/// Which command, commit and machine.
fn origin() -> anyhow::Result<String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let shown = |program: &str, arguments: &[&str]| -> String {
        let output = Command::new(program).args(arguments).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let commit = shown("git", &["rev-parse", "--short=12", "HEAD"]);
    // The page itself is changed by every section.
    let changed = !shown("git", &["status", "--porcelain", "--", "crates", "benches"]).is_empty();
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let redis = shown("redis-server", &["--version"]);
    let redis = redis.split_whitespace().find_map(|w| w.strip_prefix("v=")).unwrap_or("unknown");
    Ok(format!(
        "Command: `cargo run --release -p switchboard-benches -- {}` · commit {commit}{} · {cores} cores,{} · Redis {redis} · \
         Node.js {}\n",
        arguments.join(" "),
        if changed { " with changes" } else { "" },
        model
            .trim_start_matches([' ', '\t', ':'])
            .split('@')
            .next()
            .map(|m| format!(" {}", m.trim()))
            .unwrap_or_default(),
        shown("node", &["--version"]),
    ))
}

/// The median of some figures, and their range: `12.3 (11.9–13.0)`.
pub(crate) fn range(figures: &[f64]) -> String {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let digits = if sorted.last().is_some_and(|&n| n >= 1_000.0) { 0 } else { 2 };
    match (sorted.first(), sorted.last()) {
        (Some(first), Some(last)) => format!("{:.digits$} ({first:.digits$}–{last:.digits$})", median(figures)),
        _ => "none".to_owned(),
    }
}

pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
