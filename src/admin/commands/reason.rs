//! The REASON of a command, and the entry in the history that a command makes.

use super::context::{Caller, Cluster};
use crate::model::{HistoryEntry, Told};

/// A text that says something.
pub(in crate::admin) fn stated(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// Behind what happened: `: the reason`, or nothing.
pub(in crate::admin) fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

pub(in crate::admin) fn history(cluster: &Cluster, caller: &Caller, what: String) -> HistoryEntry {
    HistoryEntry { at: cluster.now(), who: caller.who.clone(), what, epoch: None, told: Told::AsItIs }
}
