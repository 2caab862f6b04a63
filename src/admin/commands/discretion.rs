//! What a user without a role on the platform is told of an error.
//!
//! # Why what is not known to be harmless is replaced
//! An error of a system names its address, an error of a move its systems, and new errors come with new code.
//! So a list says which errors are about the product, and every other one is the platform's: the user learns
//! that it is, and the audit trail and the log have the rest.

use crate::admin::error::AdminError;
use crate::error::Explain as _;

pub(in crate::admin) fn for_product(error: AdminError) -> AdminError {
    match error {
        AdminError::MoveInProgress { database, .. }
        | AdminError::OperationInProgress { database, .. }
        | AdminError::Held { database, .. } => AdminError::PlatformAtWork { database },
        AdminError::Transition(_)
        | AdminError::Team(_)
        | AdminError::Transfer(_)
        | AdminError::People(_)
        | AdminError::PurposeRequired { .. }
        | AdminError::UnknownTeam { .. }
        | AdminError::Unknown { kind: "database", .. }
        | AdminError::NotServed { .. }
        | AdminError::TransactionAborted
        | AdminError::ShuttingDown => error,
        other => AdminError::Concealed { sqlstate: other.sqlstate(), retry: other.retry() },
    }
}
