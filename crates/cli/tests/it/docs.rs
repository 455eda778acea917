//! The documents say what the code does. Goal: a name that is renamed, a code that is added, a file that moves, a
//! dependency that should not be there fails here. Method: the documents and manifests are read as text and compared
//! with the tables in the code, the binary's own help, and the tracked files.

mod manifests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use protocol::limits::{
    BATCH_FRAMES_MAX, CURSORS_MAX, DEPTH_MAX, FIELDS_MAX, GROUPS_MAX, HISTORY_LIMIT_MAX, ID_BYTES_MAX, WATCHED_MAX,
};
use protocol::{CloseCode, ErrorCode};

const BINARY: &str = env!("CARGO_BIN_EXE_switchboard");

/// Documents that are made or compared by somebody else; their links and names are checked all the same.
const METRICS: &str = "docs/metrics.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every tracked file, and every new one that is not ignored; `None` outside of a git checkout.
static FILES: LazyLock<Option<Vec<String>>> = LazyLock::new(|| git(&["--cached", "--others", "--exclude-standard"]));

/// Those that are tracked: what somebody is still writing does not have to fit yet.
static TRACKED: LazyLock<Option<Vec<String>>> = LazyLock::new(|| git(&["--cached"]));

fn git(kinds: &[&str]) -> Option<Vec<String>> {
    let said = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).args(kinds).output().ok()?;
    let names = String::from_utf8(said.stdout).ok()?;
    let there = |name: &&str| !name.is_empty() && root().join(name).is_file();
    said.status.success().then(|| names.split('\0').filter(there).map(ToOwned::to_owned).collect())
}

/// The texts among the files, by path.
fn texts() -> Vec<(String, String)> {
    let files = FILES.clone().unwrap_or_default();
    files
        .into_iter()
        .filter_map(|path| Some((path.clone(), std::fs::read_to_string(root().join(&path)).ok()?)))
        .collect()
}

/// README.md and its like, and everything in docs/.
fn documents() -> Vec<(String, String)> {
    let mut paths = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("docs/ is there") {
            let path = entry.expect("an entry of docs/").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                let relative = path.strip_prefix(root()).expect("docs/ is in the root");
                paths.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// A document without its fenced blocks, whose lines keep their place.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let line = |line: &str| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        if fenced || is_fence { String::new() } else { line.to_owned() }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// What stands between backticks in running text and tables.
fn code_spans(text: &str) -> Vec<String> {
    let prose = prose(text);
    prose.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).map(ToOwned::to_owned).collect()
}

/// The cells of the table rows of a document.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    prose(text).lines().filter(|line| line.starts_with('|')).map(cells).collect()
}

/// Nothing is missing; else all of it is said at once.
fn nothing(missing: &[String], what: &str) {
    assert!(missing.is_empty(), "{what}:\n  {}", missing.join("\n  "));
}

#[test]
fn every_error_code_is_in_the_protocols_table_with_its_http_status() {
    let rows = rows(&read("docs/protocol.md"));
    let has = |code: &ErrorCode| {
        let (name, status) = (format!("`{}`", code.as_str()), code.http_status().to_string());
        rows.iter().any(|row| row.len() > 2 && row[0] == name && row[1] == status)
    };
    let missing: Vec<String> = ErrorCode::ALL.iter().filter(|code| !has(code)).map(|c| c.as_str().to_owned()).collect();
    nothing(&missing, "error codes without a row (`code` | status | …) in docs/protocol.md");
}

#[test]
fn every_close_code_is_in_the_protocols_table_with_its_name() {
    let rows = rows(&read("docs/protocol.md"));
    let has = |code: &CloseCode| {
        let number = code.number().to_string();
        rows.iter().any(|row| row.len() > 2 && row[0] == number && row[1] == code.as_str())
    };
    let missing: Vec<String> =
        CloseCode::ALL.iter().filter(|code| !has(code)).map(|c| format!("{} {}", c.number(), c.as_str())).collect();
    nothing(&missing, "close codes without a row (code | name | …) in docs/protocol.md");
    // And none that no node knows.
    let told = rows.iter().filter_map(|row| row[0].parse::<u16>().ok());
    let unknown: Vec<String> = told.filter(|n| CloseCode::from_number(*n).is_none()).map(|n| n.to_string()).collect();
    nothing(&unknown, "close codes in docs/protocol.md that the code does not have");
}

#[test]
fn the_limits_of_the_wire_are_those_that_the_protocol_tells() {
    // Lines may break anywhere.
    let protocol = read("docs/protocol.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let thousands = |n: usize| if n < 1_000 { n.to_string() } else { format!("{},{:03}", n / 1_000, n % 1_000) };
    for told in [
        format!("1 to {ID_BYTES_MAX} bytes of UTF-8"),
        format!("| {DEPTH_MAX} | `bye` 4000"),
        format!("| frames of one batch of a client | {} |", thousands(BATCH_FRAMES_MAX)),
        format!("an array of at most {CURSORS_MAX}, newest first"),
        format!("`limit`? (1 to {HISTORY_LIMIT_MAX}, default {})", HISTORY_LIMIT_MAX / 4),
        format!("keeps at most {} places", thousands(FIELDS_MAX as usize)),
        format!("at most {GROUPS_MAX} groups"),
        format!("| users whom a connection watches | {} |", thousands(WATCHED_MAX)),
    ] {
        assert!(protocol.contains(&told), "docs/protocol.md does not say {told:?}");
    }
}

/// A histogram's name stands in the table; Prometheus adds its endings.
#[test]
fn every_metric_that_a_document_names_exists() {
    let known: BTreeSet<String> =
        rows(&read(METRICS)).into_iter().filter_map(|row| Some(row.first()?.trim_matches('`').to_owned())).collect();
    assert!(known.contains("switchboard_connections"), "the table of {METRICS} is not read as it should be");
    let is_metric_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut missing = Vec::new();
    for (path, text) in documents() {
        for at in text.match_indices("switchboard_").map(|(at, _)| at) {
            let name: String = text[at..].chars().take_while(|c| is_metric_word(*c)).collect();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            // The client library's crate, as Rust writes it.
            let is_crate = name == "switchboard_client";
            if !is_crate && !known.contains(&name) && !base.is_some_and(|base| known.contains(base)) {
                missing.push(format!("{path}: {name}"));
            }
        }
    }
    nothing(&missing, "metrics that are named and do not exist");
}

/// Targets of `[text](target)`, outside of code.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let plain: Vec<&str> = prose.split('`').step_by(2).collect();
    let plain = plain.join("");
    let ends = plain.match_indices("](").map(|(at, _)| &plain[at + 2..]);
    ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors that a document's headings have on the pages of a code host.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose(text).lines().filter(|line| line.starts_with('#')).map(heading).collect()
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut broken = Vec::new();
    for (path, text) in documents() {
        let folder = root().join(&path).parent().expect("a file has a folder").to_owned();
        for link in links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { root().join(&path) } else { folder.join(file) };
            let is_heading = |text: String| anchors(&text).contains(anchor);
            let is_there =
                target.exists() && (anchor.is_empty() || std::fs::read_to_string(&target).is_ok_and(is_heading));
            if !is_there {
                broken.push(format!("{path}: {link}"));
            }
        }
    }
    nothing(&broken, "links that lead nowhere");
}

/// Comments, manifests and scripts point to documents, too.
#[test]
fn every_document_that_any_file_names_exists() {
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    let mut broken = BTreeSet::new();
    let tracked = TRACKED.clone().unwrap_or_default();
    for (path, text) in texts().into_iter().filter(|(path, _)| tracked.contains(path)) {
        for (at, _) in text.match_indices("docs/") {
            let name: String = text[at..].chars().take_while(|c| is_path(*c)).collect();
            let is_own = !text[..at].ends_with(|c: char| is_path(c) || c == ':');
            if is_own
                && let Some((name, _)) = name.split_once(".md")
                && !root().join(format!("{name}.md")).is_file()
            {
                broken.insert(format!("{path}: {name}.md"));
            }
        }
    }
    nothing(&Vec::from_iter(broken), "documents that are named and do not exist");
}

/// Names of the subcommands, from the help of the binary.
fn subcommands() -> BTreeSet<String> {
    let said = Command::new(BINARY).arg("--help").output().expect("the binary runs");
    let help = String::from_utf8(said.stdout).expect("help is UTF-8");
    let list = help.split("Commands:\n").nth(1).expect("help lists commands").split("\n\n").next().unwrap_or_default();
    list.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn every_command_that_a_document_tells_to_run_is_one() {
    let known = subcommands();
    assert!(known.contains("serve") && known.contains("health"), "{known:?}");
    let mut missing = Vec::new();
    for path in ["README.md", "docs/operations.md", "docs/config.md", "docs/metrics.md"] {
        let text = read(path);
        // What is planned is named as such, in its own section at the end.
        let now = text.split("\n## What comes").next().unwrap_or_default();
        for before in ["-p switchboard-cli -- ", "`switchboard ", "\nswitchboard ", "    switchboard "] {
            for (at, _) in now.match_indices(before) {
                let rest = &now[at + before.len()..];
                let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                if !known.contains(&name) {
                    missing.push(format!("{path}: switchboard {name}"));
                }
            }
        }
    }
    nothing(&missing, "commands that the binary does not have");
    for name in known.iter().filter(|name| *name != "help") {
        let said = read("docs/operations.md").contains(&format!("`switchboard {name}"));
        assert!(said, "docs/operations.md does not say what `switchboard {name}` does");
    }
}

/// A flag that a document tells to use is one of some command.
#[test]
fn every_flag_of_a_command_line_in_the_readme_exists() {
    let help = |command: &str| {
        let said = Command::new(BINARY).args([command, "--help"]).output().expect("the binary runs");
        String::from_utf8(said.stdout).expect("help is UTF-8")
    };
    let readme = read("README.md");
    let mut missing = Vec::new();
    for line in readme.lines().filter(|line| line.contains("switchboard-cli -- ")) {
        let rest = line.split("switchboard-cli -- ").nth(1).unwrap_or_default().split('`').next().unwrap_or_default();
        let mut words = rest.split_whitespace();
        let command = words.next().unwrap_or_default();
        let help = help(command);
        let known: BTreeSet<&str> = help.split([' ', ',', '\n']).filter(|word| word.starts_with("--")).collect();
        missing.extend(
            words
                .filter(|word| word.starts_with("--") && !known.contains(word))
                .map(|word| format!("{command} {word}")),
        );
    }
    nothing(&missing, "flags that the README uses and no command has");
}

/// The sections of the code map: crate, and the files that it names.
fn code_map() -> BTreeMap<String, BTreeSet<String>> {
    let mut map: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = None;
    for line in read("docs/architecture.md").lines() {
        if line.starts_with('#') {
            let name = line.strip_prefix("### `crates/").and_then(|rest| rest.strip_suffix('`'));
            section = name.map(|name| format!("crates/{name}"));
        } else if let (Some(folder), Some(rest)) = (&section, line.strip_prefix("| `src/"))
            && let Some((file, _)) = rest.split_once('`')
        {
            map.entry(folder.clone()).or_default().insert(format!("{folder}/src/{file}"));
        }
    }
    map
}

#[test]
fn the_code_map_names_every_source_file_and_no_other() {
    let named: BTreeSet<String> = code_map().into_values().flatten().collect();
    let gone: Vec<String> = named.iter().filter(|path| !root().join(path).is_file()).cloned().collect();
    nothing(&gone, "files in the code map of docs/architecture.md that do not exist");
    let Some(tracked) = TRACKED.as_ref() else { return };
    let is_source = |path: &&String| {
        let mut parts = path.split('/');
        let is_code = path.ends_with(".rs") || path.ends_with(".lua");
        parts.next() == Some("crates") && parts.nth(1) == Some("src") && is_code
    };
    let missing: Vec<String> =
        tracked.iter().filter(is_source).filter(|path| !named.contains(*path)).cloned().collect();
    nothing(&missing, "files without a line in the code map of docs/architecture.md");
}

/// Paths in backticks, as far as they begin at the root of the repository.
#[test]
fn every_path_that_a_document_names_exists() {
    let folders = ["crates/", "tests/", "deploy/", "k8s/", "scripts/", "benches/", "docs/"];
    let mut missing = Vec::new();
    for (path, text) in documents() {
        for span in code_spans(&text) {
            let is_path = folders.iter().any(|folder| span.starts_with(folder));
            let is_plain = span.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
            // `crates/x` stands for any crate.
            if is_path && is_plain && span != "crates/x" && !root().join(&span).exists() {
                missing.push(format!("{path}: {span}"));
            }
        }
    }
    nothing(&missing, "paths that do not exist");
}

/// A name with four words or more is a test's: it has to be one, in Rust or Python.
#[test]
fn every_test_that_a_document_names_exists() {
    if FILES.is_none() {
        return;
    }
    let sources: Vec<String> = texts()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs") || path.ends_with(".py"))
        .map(|(_, text)| text)
        .collect();
    let exists = |name: &str| {
        let (rust, python) = (format!("fn {name}("), format!("def {name}("));
        sources.iter().any(|text| text.contains(&rust) || text.contains(&python))
    };
    let is_test = |span: &String| {
        let is_name = span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        is_name && !span.starts_with("switchboard_") && span.matches('_').count() >= 3
    };
    let mut missing = Vec::new();
    for (path, text) in documents() {
        missing.extend(
            code_spans(&text).into_iter().filter(is_test).filter(|n| !exists(n)).map(|n| format!("{path}: {n}")),
        );
    }
    nothing(&missing, "tests that are named and do not exist");
}

/// `Type::function`, `module::function` and `A_CONSTANT` in backticks: the way of a message and the table of queues name
/// them, and they are renamed more often than files.
#[test]
fn every_function_and_constant_that_a_document_names_exists() {
    if FILES.is_none() {
        return;
    }
    let sources: Vec<String> =
        texts().into_iter().filter(|(path, _)| path.ends_with(".rs")).map(|(_, text)| text).collect();
    let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let is_function = |text: &str| is_word(text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    let is_constant = |text: &str| {
        text.len() > 2
            && text.contains('_')
            && text.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
    };
    let mut missing = BTreeSet::new();
    for (path, text) in documents() {
        for span in code_spans(&text) {
            let declared: Vec<String> = match span.rsplit_once("::") {
                Some((owner, name)) if is_function(name) && owner.split("::").all(is_word) => {
                    vec![format!("fn {name}("), format!("fn {name}<")]
                }
                None if is_constant(&span) && !span.starts_with("SWITCHBOARD_") => vec![format!("const {span}:")],
                _ => continue,
            };
            if !sources.iter().any(|text| declared.iter().any(|d| text.contains(d))) {
                missing.insert(format!("{path}: {span}"));
            }
        }
    }
    nothing(&Vec::from_iter(missing), "functions and constants that are named and do not exist");
}

/// The project stands alone: nothing in it points to a place outside of it.
#[test]
fn no_file_points_outside_of_the_repository() {
    let outside = concat!("..", "/shared");
    let found: Vec<String> =
        texts().into_iter().filter(|(_, text)| text.contains(outside)).map(|(path, _)| path).collect();
    nothing(&found, &format!("files that mention {outside}"));
}
