//! docs/config.md, and how any table of the documentation is kept equal to the code.
//!
//! A page has hand-written text around a part between two marks; that part is the code's. `UPDATE_DOCS=1 cargo test`
//! writes it.

use super::raw::{SETTINGS, Show};

const BEGIN: &str = "<!-- generated: begin -->";
const END: &str = "<!-- generated: end -->";

/// Compares the generated part of a page of the documentation with the code, or writes it.
pub(crate) fn compare(page: &str, generated: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the page has the first mark");
    let (inside, after) = rest.split_once(END).expect("the page has the second mark");
    if inside.trim() == generated.trim() {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "docs/{page} differs from the code; `UPDATE_DOCS=1 cargo test -p switchboard-gateway` writes it. Expected:\n{generated}"
    );
    std::fs::write(&path, format!("{before}{BEGIN}\n{}\n{END}{after}", generated.trim())).unwrap();
}

/// The table of docs/config.md.
fn table() -> String {
    let mut out = "| flag | environment | default | meaning |\n|---|---|---|---|\n".to_owned();
    // A default that can be typed is code; one that is explained is text.
    let default = |text: &str| {
        if text.contains(' ') || matches!(text, "none" | "any") { text.to_owned() } else { format!("`{text}`") }
    };
    for s in SETTINGS.iter().filter(|s| s.show != Show::Hidden) {
        out.push_str(&format!("| `--{}` | `{}` | {} | {} |\n", s.key, s.env, default(s.default), s.meaning));
    }
    out
}

mod tests {
    use super::*;
    use crate::config::RawConfig;

    #[test]
    fn the_page_about_settings_is_equal_to_the_code() {
        compare("config.md", &table());
    }

    /// The table in the code, clap's flags and the environment's names are one.
    #[test]
    fn the_command_line_has_exactly_the_settings_of_the_table() {
        let command = <RawConfig as clap::Args>::augment_args(clap::Command::new("serve"));
        command.clone().debug_assert();
        for setting in SETTINGS {
            let argument = command.get_arguments().find(|a| a.get_long() == Some(setting.key)).expect(setting.key);
            assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(setting.env));
            let expected = format!("SWITCHBOARD_{}", setting.key.to_ascii_uppercase().replace('-', "_"));
            assert_eq!(setting.env, expected, "the environment has the flag in capitals");
            assert_eq!(argument.is_hide_env_values_set(), setting.show == Show::Secret);
        }
        let others: Vec<_> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .filter(|long| !SETTINGS.iter().any(|setting| setting.key == *long))
            .collect();
        assert_eq!(others, ["config", "print-config"]);
    }
}
