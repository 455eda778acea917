//! The command line of `switchboard-faults`. What its runs find is looked at by running it: docs/faults.md.

use std::process::{Command, Output};

fn faults(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_switchboard-faults")).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_list_has_every_number_once_and_says_where_or_why_not() {
    let output = faults(&["list"]);
    assert!(output.status.success());
    let list = text(&output.stdout);
    for number in 1..=34 {
        let heads = list.lines().filter(|line| line.starts_with(&format!("{number:>2}  "))).count();
        assert_eq!(heads, 1, "fault {number} in {list}");
    }
    assert!(list.contains("single, sentinel, cluster") && list.contains("not inflicted"), "{list}");
}

#[test]
fn a_fault_that_is_not_inflicted_there_is_refused_with_the_reason() {
    let binary = env!("CARGO_BIN_EXE_switchboard-faults");
    for (fault, topology, reason) in
        [("13", "single", "Needs a cluster"), ("23", "all", "append.lua"), ("35", "all", "there is no fault 35")]
    {
        let output = faults(&["run", "--fault", fault, "--topology", topology, "--binary", binary]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(reason), "{}", text(&output.stderr));
    }
    let output = faults(&["run", "--fault", "8", "--binary", "/nowhere/switchboard"]);
    assert!(text(&output.stderr).contains("build it"), "{}", text(&output.stderr));
}

#[test]
fn what_is_to_run_has_to_be_said() {
    assert_eq!(faults(&["run"]).status.code(), Some(2));
    assert_eq!(faults(&["run", "--fault", "8", "--schedule", "short"]).status.code(), Some(2));
}
