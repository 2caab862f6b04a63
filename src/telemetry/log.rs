//! Logging: tracing to standard error, as text or JSON, at a level that can change while the process runs.
//!
//! An event is one line, whatever it contains: see [`printable`].

use std::io::{self, IsTerminal as _, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::model::printable;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Changes the level while the process runs.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// `error`, `warn`, `info`, `debug` or `trace`. Libraries stay at `warn` unless it is `trace`.
    pub fn set_level(&self, level: &str) {
        // The handle fails only when the subscriber is gone, and then there is no log.
        let _ = self.0.reload(filter(level));
    }
}

/// Installs the subscriber of the process; `main` does it once. `RUST_LOG`, if set, overrides `level`.
///
/// Returns `None` if a subscriber is installed already.
pub fn install(level: &str, format: Format) -> Option<LogHandle> {
    let chosen = match std::env::var("RUST_LOG") {
        Ok(directives) => EnvFilter::new(directives),
        Err(_) => filter(level),
    };
    let (layer, handle) = reload::Layer::new(chosen);
    let registry = tracing_subscriber::registry().with(layer);
    let installed = match format {
        Format::Text => registry
            .with(
                fmt::layer()
                    .with_writer(io::stderr)
                    .with_ansi(io::stderr().is_terminal())
                    .with_target(false)
                    .fmt_fields(Fields),
            )
            .try_init(),
        Format::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(|| JsonLines)).try_init()
        }
    };
    installed.ok().map(|()| LogHandle(handle))
}

/// Writes the fields of an event in one line; a value's `Display` output may contain line breaks and escape
/// sequences.
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> std::fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&printable::one_line(&text))
    }
}

/// Writes an event as JSON at once; JSON strings may contain characters that terminals interpret.
struct JsonLines;

impl Write for JsonLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => io::stderr().write_all(printable::json(text).as_bytes())?,
            Err(_) => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn filter(level: &str) -> EnvFilter {
    match level {
        "trace" => EnvFilter::new("trace"),
        _ => EnvFilter::builder()
            .with_default_directive(LevelFilter::WARN.into())
            .parse_lossy(format!("freehold={level}")),
    }
}
