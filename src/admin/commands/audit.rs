//! VERIFY AUDIT.

use super::audit_error::AuditError;
use crate::admin::answer::{Answer, row};
use crate::admin::commands::VERIFY_AUDIT;
use crate::admin::context::Cluster;
use crate::admin::error::AdminError;
use crate::catalog::chain::Head;

pub(in crate::admin) async fn verify(cluster: &Cluster, kept: Option<Head>) -> Result<Answer, AdminError> {
    let found = cluster.catalog().audit().verify(kept).await?;
    match found.flaws.is_empty() {
        true => {
            let head = found.head;
            Ok(Answer::rows(VERIFY_AUDIT, vec![row![found.entries, head.sequence, head.to_string()]]))
        }
        false => Err(AuditError { flaws: found.flaws }.into()),
    }
}
