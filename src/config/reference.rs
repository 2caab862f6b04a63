//! The commented reference file, rendered from the table.

use std::fmt::Write as _;

use super::{Apply, Config, Setting};

const TEXT_WIDTH: usize = 100;

/// `config/freehold.toml`: every setting with its default, commented out.
pub fn reference() -> String {
    let mut text = String::from(
        "# Freehold: every setting with its default. Rendered from the table in src/config/settings.rs;\n\
         # `FREEHOLD_RENDER=1 cargo test --lib the_reference` writes it anew.\n\
         # Remove the # of a line to change its value.\n\
         # Unknown settings are refused. `freehold check --config FILE` explains every mistake of a file.\n\
         # Durations: \"500ms\", \"30s\", \"5m\". Sizes: \"64MB\" (units of 1024: B, kB, MB, GB, TB).\n\
         # Relative paths are meant from the directory of this file.\n\
         # (reload): RELOAD or SIGHUP applies a change without dropping anyone. (restart): at the next start.\n",
    );
    let defaults = Config::default();
    for (section, doc) in Config::SECTIONS {
        let _ = writeln!(text, "\n{}[{section}]", comment(doc));
        for setting in Config::SETTINGS.iter().filter(|setting| setting.section == *section) {
            let _ = write!(text, "\n{}", entry(setting, &defaults));
        }
    }
    text
}

fn entry(setting: &Setting, defaults: &Config) -> String {
    let apply = match setting.apply {
        Apply::Reload => "reload",
        Apply::Restart => "restart",
    };
    let doc = comment(&format!("{} ({}; {apply})", setting.doc, setting.kind));
    match setting.show(defaults) {
        Some(value) => format!("{doc}#{} = {value}\n", setting.name),
        None => format!("{doc}# Not set by default.\n#{} = {}\n", setting.name, setting.example),
    }
}

fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > TEXT_WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines.push_str(&line);
    lines.push('\n');
    lines
}
