//! Shows a move as a progress bar while a command waits for it.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio_postgres::error::DbError;

use crate::model::printable;

/// How the notices of a waiting command are shown.
pub(super) enum Watch {
    /// On a terminal: a progress bar.
    Bar(ProgressBar),
    /// Elsewhere: one line for each.
    Lines,
}

impl Watch {
    pub(super) fn begin() -> Watch {
        if !std::io::stderr().is_terminal() {
            return Watch::Lines;
        }
        let bar = ProgressBar::new(100);
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg} [{bar:24}]");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Watch::Bar(bar)
    }

    fn show(&self, notice: &DbError) {
        match self {
            Watch::Bar(bar) => {
                bar.set_message(printable::one_line(notice.message()).into_owned());
                if let Some(position) = position(notice.message()) {
                    bar.set_position(position);
                }
            }
            Watch::Lines => eprintln!("{}", printable::lines(notice.message())),
        }
    }

    /// Shows notices while `work` runs.
    pub(super) async fn during<T>(
        &self,
        work: impl Future<Output = T>,
        notices: &mut mpsc::UnboundedReceiver<DbError>,
    ) -> T {
        tokio::pin!(work);
        loop {
            // Nothing is lost: the work is polled again, and a notice stays until it is received.
            tokio::select! {
                biased;
                Some(notice) = notices.recv() => self.show(&notice),
                outcome = &mut work => {
                    self.end();
                    return outcome;
                }
            }
        }
    }

    /// Prints something while the bar is hidden.
    pub(super) fn beside(&self, print: impl FnOnce()) {
        match self {
            Watch::Bar(bar) => bar.suspend(print),
            Watch::Lines => print(),
        }
    }

    fn end(&self) {
        if let Watch::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Progress of the phase at the beginning of the line; the copy fills the middle.
fn position(line: &str) -> Option<u64> {
    let (phase, rest) = line.split_once(':').unwrap_or((line, ""));
    Some(match phase {
        "preflight" => 2,
        "provision" => 5,
        "copy" => 10 + percent(rest).unwrap_or(0) * 60 / 100,
        "catchup" => 75,
        "cutover" | "undoing" => 85,
        "settle" | "finishing" | "rolling back" => 95,
        "kept" | "finished" | "undone" | "rolled back" => 100,
        _ => return None,
    })
}

/// The number before ` %`.
fn percent(text: &str) -> Option<u64> {
    let (before, _) = text.split_once(" %")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_follows_phases_and_the_copy() {
        assert_eq!(position("preflight"), Some(2));
        assert_eq!(position("copy: copying 3 of 8 tables, 50 % of 1.2 GB, 12 s left"), Some(40));
        assert_eq!(position("copy: indexes"), Some(10));
        assert_eq!(position("kept"), Some(100));
        assert_eq!(position("something else"), None);
    }
}
