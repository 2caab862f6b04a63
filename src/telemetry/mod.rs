//! The one table of metrics, and logging.
//!
//! Owns what a process tells about itself: [`Metrics`] holds the figures and renders them for Prometheus, [`log`] sets up
//! tracing. It deliberately opens no port (`app` answers HTTP) and knows nothing of what is counted.
//!
//! # Why
//! A metric that is not in the table cannot be registered, so each has a unit and a help text. The recorder belongs to
//! a value and not to the process (the `metrics` crate would also offer a global one): two proxies run in one test.

pub mod log;
mod metrics;

pub use metrics::{Kind, METRICS, Metric, Metrics, names};
