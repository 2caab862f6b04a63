//! Why an audit trail is not accepted.

use crate::catalog::chain::Flaw;
use crate::error::{Blame, Explain, Retry, SqlState};

/// How many differences are listed.
const SHOWN_MAX: usize = 20;

/// The trail in the store is not the one that Freehold has written.
#[derive(Debug, thiserror::Error)]
#[error("the audit trail is not as Freehold has written it: {}", counted(flaws.len()))]
pub(in crate::admin) struct AuditError {
    pub(in crate::admin) flaws: Vec<Flaw>,
}

fn counted(differences: usize) -> String {
    match differences {
        1 => "1 difference".to_owned(),
        more => format!("{more} differences"),
    }
}

impl Explain for AuditError {
    fn sqlstate(&self) -> SqlState {
        SqlState::DATA_CORRUPTED
    }

    fn blame(&self) -> Blame {
        Blame::Store
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn message(&self) -> String {
        self.to_string()
    }

    /// The first differences, a line each.
    fn detail(&self) -> Option<String> {
        let mut lines: Vec<String> = self.flaws.iter().take(SHOWN_MAX).map(Flaw::to_string).collect();
        if self.flaws.len() > SHOWN_MAX {
            lines.push(format!("and {} more", self.flaws.len() - SHOWN_MAX));
        }
        Some(lines.join("\n"))
    }

    fn hint(&self) -> Option<String> {
        let hint = "Compare with a backup of the store. VERIFY AUDIT HEAD 'number:digest' says whether the \
                    trail up to a head that was kept is still the same.";
        Some(hint.to_owned())
    }
}
