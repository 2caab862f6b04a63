//! The table of metrics and their recorder.

use std::fmt;
use std::sync::Arc;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    Counter,
    Gauge,
    Histogram,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricType,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])* $id:ident = $kind:ident $name:literal $labels:expr;)*) => {
        /// The metrics by name.
        pub mod names {
            use super::{MetricType, Metric};
            $(
                $(#[doc = $help])*
                pub const $id: Metric =
                    Metric { name: $name, kind: MetricType::$kind, labels: &$labels, help: concat!($($help,)*) };
            )*
        }

        /// Every metric.
        pub const METRICS: &[Metric] = &[$(names::$id,)*];
    };
}

metrics! {
    /// Always 1; the label is the version that runs.
    BUILD = Gauge "freehold_build_info" ["version"];
    /// Logins that failed or were refused, by reason: failed (wrong password or unknown), throttled (too many failures), rate (too
    /// many logins at once), full (too many clients).
    LOGINS_REFUSED = Counter "freehold_logins_refused_total" ["reason"];
    /// Logins before which a system was to be asked for its roles, by outcome: current (it was), often (that database is asked often
    /// enough already), failures (too many logins from there have failed), unread (a move is at its cutover, or no answer in time).
    LOGINS_ASKED = Counter "freehold_logins_asked_total" ["outcome"];
    /// Databases by state of life.
    DATABASES = Gauge "freehold_databases" ["state"];
    /// Client sessions of a database in this process.
    SESSIONS = Gauge "freehold_sessions" ["database"];
    /// Errors that clients of a database were told by this process, by class of SQLSTATE and responsible side: client, product,
    /// platform, server and store. The last three use the error budget of SHOW SLO up.
    ERRORS = Counter "freehold_errors_total" ["database", "class", "responsible"];
    /// The epoch of the route that this process follows.
    ROUTE_EPOCH = Gauge "freehold_route_epoch" ["database"];
    /// 1 while the gate of a database is open, 0 while clients wait at it.
    GATE_OPEN = Gauge "freehold_gate_open" ["database"];
    /// Moves that have not ended, by phase.
    MOVES = Gauge "freehold_moves" ["phase"];
    /// The longest that a client waited in the last cutover or undo of a database.
    MOVE_STALL = Gauge "freehold_move_longest_stall_seconds" ["database"];
    /// WAL that the target of a running move has not applied.
    MOVE_LAG = Gauge "freehold_move_lag_bytes" ["database"];
    /// Tables in which the two copies of a moved database differ, as long as both are kept. Other than 0: somebody has to look.
    MOVE_DIFFERENCES = Gauge "freehold_move_differences" ["database"];
    /// Commands on the admin port, by verb and SQLSTATE (00000: it worked).
    ADMIN_COMMANDS = Counter "freehold_admin_commands_total" ["verb", "sqlstate"];
}

/// The metrics of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in METRICS {
            let (key, help) =
                (KeyName::from_const_str(metric.name), SharedString::const_str(metric.help.trim_ascii()));
            match metric.kind {
                MetricType::Counter => recorder.describe_counter(key, Some(Unit::Count), help),
                MetricType::Gauge => recorder.describe_gauge(key, Some(Unit::Count), help),
                MetricType::Histogram => recorder.describe_histogram(key, Some(Unit::Seconds), help),
            }
        }
        let handle = recorder.handle();
        Metrics { recorder: Arc::new(recorder), handle }
    }

    /// A counter to keep: adding to it is one atomic step. `values` are the values of the metric's labels.
    pub fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        self.recorder.register_counter(&key(metric, values), &METADATA)
    }

    pub fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        self.recorder.register_gauge(&key(metric, values), &METADATA)
    }

    pub fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        self.recorder.register_histogram(&key(metric, values), &METADATA)
    }

    /// The text format of Prometheus.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

const METADATA: Metadata<'static> = Metadata::new("freehold", Level::INFO, None);

fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels: Vec<Label> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_rendered_with_its_help_and_labels() {
        let metrics = Metrics::new();
        metrics.gauge(&names::SESSIONS, &["shop"]).set(3.0);
        metrics.counter(&names::ADMIN_COMMANDS, &["SHOW", "00000"]).increment(2);
        let text = metrics.render();
        assert!(
            text.contains("# HELP freehold_sessions Client sessions of a database in this process."),
            "{text}"
        );
        assert!(text.contains("freehold_sessions{database=\"shop\"} 3"), "{text}");
        assert!(text.contains("freehold_admin_commands_total{verb=\"SHOW\",sqlstate=\"00000\"} 2"), "{text}");
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in METRICS {
            assert!(metric.name.starts_with("freehold_"), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == MetricType::Counter,
                "{}",
                metric.name
            );
            assert!(metric.help.trim().ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn two_processes_in_one_program_do_not_share_figures() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.gauge(&names::SESSIONS, &["shop"]).set(1.0);
        assert!(!other.render().contains("shop"));
    }
}
