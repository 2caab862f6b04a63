//! A mistake in the file, and its display: line, column, the line itself, a caret, a hint.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::path::Path;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Bytes of the text; `None` for the whole file.
    pub span: Option<Range<usize>>,
    pub message: String,
    pub hint: Option<String>,
}

impl ConfigError {
    pub(super) fn new(span: Option<Range<usize>>, message: impl Into<String>) -> ConfigError {
        ConfigError { span, message: message.into(), hint: None }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> ConfigError {
        self.hint = Some(hint.into());
        self
    }
}

/// Every mistake of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    path: String,
    text: String,
    problems: Vec<ConfigError>,
}

impl ConfigErrors {
    pub(super) fn new(text: &str, problems: Vec<ConfigError>) -> ConfigErrors {
        ConfigErrors { path: "configuration".to_owned(), text: text.to_owned(), problems }
    }

    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> ConfigErrors {
        let problem = ConfigError::new(None, format!("cannot be read: {error}"));
        ConfigErrors::new("", vec![problem]).of_file(path)
    }

    pub(super) fn of_file(mut self, path: &Path) -> ConfigErrors {
        self.path = path.display().to_string();
        self
    }

    pub fn problems(&self) -> &[ConfigError] {
        &self.problems
    }

    /// Line and column of a problem, both from 1; columns count characters.
    pub fn position(&self, problem: &ConfigError) -> Option<(usize, usize)> {
        let start = problem.span.as_ref()?.start;
        let before = self.text.get(..start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Some((line, column))
    }

    fn snippet(&self, problem: &ConfigError) -> Option<String> {
        let (line, column) = self.position(problem)?;
        let span = problem.span.as_ref()?;
        let shown = self.text.lines().nth(line - 1)?;
        let marked = self.text.get(span.clone()).and_then(|marked| marked.lines().next()).unwrap_or("");
        let room = shown.chars().count().saturating_sub(column - 1);
        let carets = "^".repeat(marked.chars().count().clamp(1, room.max(1)));
        let gutter = line.to_string().len();
        // Tabs are kept, so that the caret is in the right column.
        let indent: String =
            shown.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        Some(format!("{:gutter$} |\n{line} | {shown}\n{:gutter$} | {indent}{carets}", "", ""))
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            match self.position(problem) {
                Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.path, problem.message)?,
                None => write!(f, "{}: {}", self.path, problem.message)?,
            }
            if let Some(snippet) = self.snippet(problem) {
                write!(f, "\n{snippet}")?;
            }
            if let Some(hint) = &problem.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}
