//! Why a step of a move failed.

use std::time::Duration;

use crate::catalog::store::StoreError;
use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::{Finding, FindingSeverity, blockers_by_side};

/// A step did not reach its end. What the machine does about it depends on [`Explain::retry`] alone: `Now`
/// and `Later` are tried again within bounds, `Never` is not tried again.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The operator cancelled the move, and the step stopped at its next safe point.
    #[error("the move was cancelled")]
    Cancelled,
    /// The preflight named blockers.
    #[error("{}", blocked(.0))]
    Blocked(Vec<Finding>),
    /// A wait exceeded its limit. `in_the_way` names what it waited for.
    #[error("{waited_for} took longer than {}", humantime::format_duration(*.budget))]
    OverBudget { waited_for: String, budget: Duration, in_the_way: Vec<String> },
    /// Not possible at this moment: for example, the database is paused or the other side is not current yet.
    #[error("{message}")]
    NotNow { message: String, detail: Option<String> },
    /// A fact forbids going on.
    #[error("{message}")]
    Forbidden {
        sqlstate: SqlState,
        blame: Blame,
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    },
    /// An operation failed; the cause says where and why.
    #[error("{doing}")]
    Failed {
        /// What was being done, as a clause: `creating the publication on the source`.
        doing: String,
        sqlstate: SqlState,
        blame: Blame,
        retry: Retry,
        detail: Option<String>,
        hint: Option<String>,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StepError {
    /// An operation failed with an error that explains itself. `doing` is a clause:
    /// `creating the slot on the source`.
    pub fn failed<E>(doing: impl Into<String>, source: E) -> StepError
    where
        E: Explain + Send + Sync + 'static,
    {
        StepError::Failed {
            doing: doing.into(),
            sqlstate: source.sqlstate(),
            blame: source.blame(),
            retry: source.retry(),
            detail: Some(source.message()),
            hint: source.hint(),
            source: Box::new(source),
        }
    }

    /// For `map_err`: `session.execute(..).await.map_err(StepError::doing("creating the slot on the
    /// source"))?`.
    pub fn doing<E>(doing: impl Into<String>) -> impl FnOnce(E) -> StepError
    where
        E: Explain + Send + Sync + 'static,
    {
        |source| StepError::failed(doing, source)
    }

    pub fn not_now(message: impl Into<String>) -> StepError {
        StepError::NotNow { message: message.into(), detail: None }
    }

    /// A wait exceeded its budget. `in_the_way` names what it waited for.
    pub fn over_budget(
        waited_for: impl Into<String>,
        budget: Duration,
        in_the_way: Vec<String>,
    ) -> StepError {
        StepError::OverBudget { waited_for: waited_for.into(), budget, in_the_way }
    }
}

fn blocked(findings: &[Finding]) -> String {
    let blockers = findings.iter().filter(|finding| finding.severity == FindingSeverity::Blocker);
    let messages: Vec<&str> = blockers.map(|finding| finding.message.as_str()).collect();
    match messages.as_slice() {
        [only] => format!("the move cannot start: {only}"),
        _ => format!("the move cannot start for {}", blockers_by_side(findings).unwrap_or_default()),
    }
}

impl Explain for StepError {
    fn sqlstate(&self) -> SqlState {
        match self {
            StepError::Cancelled => SqlState::QUERY_CANCELED,
            StepError::Blocked(_) => SqlState::MOVE_BLOCKED,
            StepError::OverBudget { .. } => SqlState::LOCK_NOT_AVAILABLE,
            StepError::NotNow { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            StepError::Forbidden { sqlstate, .. } | StepError::Failed { sqlstate, .. } => *sqlstate,
            StepError::Store(error) => error.sqlstate(),
        }
    }

    fn blame(&self) -> Blame {
        match self {
            StepError::Cancelled => Blame::Client,
            StepError::Blocked(findings) => {
                findings.first().map_or(Blame::Platform, |first| first.responsible)
            }
            StepError::OverBudget { .. } => Blame::Product,
            StepError::NotNow { .. } => Blame::Platform,
            StepError::Forbidden { blame, .. } | StepError::Failed { blame, .. } => *blame,
            StepError::Store(error) => error.blame(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            StepError::Cancelled | StepError::Blocked(_) | StepError::Forbidden { .. } => Retry::Never,
            StepError::OverBudget { .. } | StepError::NotNow { .. } => Retry::Later,
            StepError::Failed { retry, .. } => *retry,
            StepError::Store(error) => error.retry(),
        }
    }

    fn message(&self) -> String {
        self.to_string()
    }

    fn detail(&self) -> Option<String> {
        match self {
            StepError::Blocked(findings) => Some(listed(
                findings
                    .iter()
                    .map(|finding| format!("{} has to act: {}", finding.responsible, finding.message)),
            )),
            StepError::OverBudget { in_the_way, .. } if !in_the_way.is_empty() => {
                Some(format!("In the way: {}.", in_the_way.join("; ")))
            }
            StepError::NotNow { detail, .. }
            | StepError::Forbidden { detail, .. }
            | StepError::Failed { detail, .. } => detail.clone(),
            StepError::Cancelled | StepError::OverBudget { .. } | StepError::Store(_) => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StepError::Blocked(findings) => {
                let cures = findings.iter().filter_map(|finding| finding.cure.as_deref().map(str::to_owned));
                Some(listed(cures)).filter(|cures| !cures.is_empty())
            }
            StepError::Forbidden { hint, .. } | StepError::Failed { hint, .. } => hint.clone(),
            StepError::Cancelled
            | StepError::OverBudget { .. }
            | StepError::NotNow { .. }
            | StepError::Store(_) => None,
        }
    }
}

fn listed(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<String>>().join("\n")
}
