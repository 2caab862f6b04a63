//! Output of the demo: live progress on a terminal, plain lines elsewhere, one JSON object per line for
//! programs.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::admin::Refused;
use super::verdict::{Finding, Verdict};
use crate::error::chain;

/// The output of the demo.
#[derive(Debug)]
pub(super) struct Teller {
    form: Form,
    bar: Option<ProgressBar>,
    last_line: Option<(String, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Terminal,
    Plain,
    Json,
}

/// The displayed state of a move.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(super) struct Progress {
    pub(super) phase: String,
    pub(super) activity: String,
    pub(super) bytes_total: u64,
    pub(super) bytes_copied: u64,
    pub(super) lag_bytes: Option<u64>,
    /// Of the application: transactions since the start, and errors.
    pub(super) transactions: u64,
    pub(super) errors: usize,
}

/// On a pipe, at most one line of progress per interval, except when the phase changes.
const LINE_EVERY: Duration = Duration::from_secs(1);

impl Teller {
    pub(super) fn new(json: bool) -> Teller {
        let form = match (json, stdout().is_terminal()) {
            (true, _) => Form::Json,
            (false, true) => Form::Terminal,
            (false, false) => Form::Plain,
        };
        Teller { form, bar: None, last_line: None }
    }

    /// A new part of the demo.
    pub(super) fn chapter(&mut self, title: &str) {
        match self.form {
            Form::Json => self.event(&json!({"event": "chapter", "title": title})),
            Form::Terminal => self.line(&format!("\n\x1b[1m{title}\x1b[0m")),
            Form::Plain => self.line(&format!("\n{title}")),
        }
    }

    pub(super) fn say(&mut self, text: &str) {
        match self.form {
            Form::Json => self.event(&json!({"event": "note", "text": text})),
            _ => self.line(&format!("  {text}")),
        }
    }

    /// A command as it is typed at the admin port.
    pub(super) fn command(&mut self, sql: &str) {
        match self.form {
            Form::Json => self.event(&json!({"event": "command", "sql": sql})),
            Form::Terminal => self.line(&format!("  \x1b[2mfreehold=>\x1b[0m \x1b[36m{sql};\x1b[0m")),
            Form::Plain => self.line(&format!("  freehold=> {sql};")),
        }
    }

    pub(super) fn refused(&mut self, refused: &Refused) {
        if self.form == Form::Json {
            return self.event(
                &json!({"event": "refused", "sqlstate": refused.sqlstate, "message": refused.message,
                "detail": refused.detail, "hint": refused.hint}),
            );
        }
        self.line(&format!("  ERROR:  {}: {}", refused.sqlstate, refused.message));
        let rest = [("DETAIL", &refused.detail), ("HINT", &refused.hint)];
        for (label, text) in rest {
            if let Some(text) = text {
                self.line(&format!("  {label}:  {text}"));
            }
        }
    }

    /// Shows the progress of a move; call it often.
    pub(super) fn progress(&mut self, progress: &Progress) {
        match self.form {
            Form::Json => self.event(&json!({"event": "progress", "move": progress})),
            Form::Terminal => self.draw(progress),
            Form::Plain => self.print_sometimes(progress),
        }
    }

    /// Removes the progress bar.
    pub(super) fn progress_done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.last_line = None;
    }

    pub(super) fn verdict(&mut self, verdict: &Verdict) {
        if self.form == Form::Json {
            return self.event(
                &json!({"event": "verdict", "good": verdict.is_good(), "findings": verdict.findings}),
            );
        }
        let width = verdict.findings.iter().map(|finding| finding.question.len()).max().unwrap_or(0);
        for finding in &verdict.findings {
            self.line(&format!("  {} {:width$}  {}", self.mark(finding), finding.question, finding.answer));
        }
    }

    /// Names and values for going on by hand.
    pub(super) fn facts(&mut self, facts: &[(&str, String)]) {
        if self.form == Form::Json {
            let facts: serde_json::Map<_, _> =
                facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            return self.event(&json!({"event": "facts", "facts": facts}));
        }
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in facts {
            self.line(&format!("  {name:width$}  {value}"));
        }
    }

    /// The demo ended early.
    pub(super) fn broke_off(&mut self, error: &dyn std::error::Error, hint: Option<&str>) {
        let text = chain(error);
        if self.form == Form::Json {
            return self.event(&json!({"event": "failed", "error": text, "hint": hint}));
        }
        self.line(&format!("\nfailed: {text}"));
        if let Some(hint) = hint {
            self.line(&format!("hint: {hint}"));
        }
    }

    fn mark(&self, finding: &Finding) -> &'static str {
        match (self.form, finding.good) {
            (Form::Terminal, true) => "\x1b[32mok \x1b[0m",
            (Form::Terminal, false) => "\x1b[31mBAD\x1b[0m",
            (_, true) => "ok ",
            (_, false) => "BAD",
        }
    }

    fn draw(&mut self, progress: &Progress) {
        let bar = self.bar.get_or_insert_with(new_bar);
        bar.set_length(progress.bytes_total.max(1));
        bar.set_position(progress.bytes_copied.min(progress.bytes_total));
        bar.set_prefix(format!("{:<9}", progress.phase));
        bar.set_message(details(progress));
    }

    fn print_sometimes(&mut self, progress: &Progress) {
        let due = match &self.last_line {
            Some((phase, at)) => *phase != progress.phase || at.elapsed() >= LINE_EVERY,
            None => true,
        };
        if due {
            self.last_line = Some((progress.phase.clone(), Instant::now()));
            self.line(&format!("  {:<9} {}", progress.phase, details(progress)));
        }
    }

    fn event(&self, event: &serde_json::Value) {
        self.line(&event.to_string());
    }

    /// A reader that closed the pipe is not an error.
    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => {
                let _ = writeln!(stdout(), "{text}");
            }
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::new(1).with_finish(indicatif::ProgressFinish::AndClear);
    let template = "  {spinner} {prefix} [{bar:24}] {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn details(progress: &Progress) -> String {
    let application =
        format!("application: {} transactions, {} errors", progress.transactions, progress.errors);
    match progress.activity.as_str() {
        "" => application,
        activity => format!("{activity} | {application}"),
    }
}
