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
        error if is_of_product(&error) => error,
        other => AdminError::Concealed { sqlstate: other.sqlstate(), retry: other.retry() },
    }
}

/// Whether the error is about the product, and can be told as it is.
pub(in crate::admin) fn is_of_product(error: &AdminError) -> bool {
    matches!(
        error,
        AdminError::Transition(_)
            | AdminError::Team(_)
            | AdminError::Transfer(_)
            | AdminError::People(_)
            | AdminError::PurposeRequired { .. }
            | AdminError::UnknownTeam { .. }
            | AdminError::Unknown { kind: "database", .. }
            | AdminError::NotServed { .. }
            | AdminError::TransactionAborted
            | AdminError::ShuttingDown
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Severity;
    use crate::model::{MoveId, MovePhase};

    #[test]
    fn an_error_that_may_name_a_system_is_replaced_and_keeps_its_code() {
        let (shop, rack) = (|| "shop".to_owned(), || "rack7".to_owned());
        for error in [
            AdminError::Cordoned { system: rack() },
            AdminError::Adopted { dbname: shop(), system: rack(), name: shop() },
            AdminError::AlreadyThere { database: shop(), system: rack() },
            AdminError::Unknown { kind: "system", name: rack(), meant: None },
            AdminError::Reload { problems: rack() },
        ] {
            let sqlstate = error.sqlstate();
            let told = for_product(error).refusal(Severity::Error);
            assert!(!format!("{told:?}").contains("rack7"), "{told:?}");
            assert_eq!(told.sqlstate, sqlstate);
            assert_eq!(told.responsible().as_deref(), Some("Responsible: the platform team."));
        }
    }

    #[test]
    fn a_move_is_work_of_the_platform_and_errors_about_the_product_stay() {
        let busy =
            AdminError::MoveInProgress { database: "shop".to_owned(), id: MoveId(7), phase: MovePhase::Kept };
        let told = for_product(busy).refusal(Severity::Error);
        let text = format!("{told:?}").to_lowercase();
        assert!(!text.contains("move") && !text.contains('7'), "{told:?}");
        let own = AdminError::NotServed { database: "shop".to_owned(), state: "quarantined".to_owned() };
        let message = own.message();
        assert_eq!(for_product(own).message(), message);
    }
}
