//! The one table of metrics, and logging.
//!
//! Owns metrics and logs of a process: [`Metrics`] holds the metrics and renders them for Prometheus, [`log`]
//! sets up tracing. It deliberately opens no port (`app` answers HTTP) and knows nothing of what is counted.
//!
//! # Why
//! A metric that is not in the table cannot be registered, so each has a unit and a help text. The recorder
//! is a value and not global (the `metrics` crate also offers a global one): two proxies run in one test.

pub mod log;
mod metrics;

pub use metrics::{METRICS, Metric, MetricType, Metrics, names};
