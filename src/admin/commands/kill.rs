//! KILL and KILL_CLIENT: end sessions at once.

use std::collections::HashSet;
use std::time::Duration;

use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::execute::{Caller, Executor, Local};
use crate::admin::refuse::AdminError;
use crate::model::DatabaseName;
use crate::route::SessionTable;

/// How long to wait for a session to end; it ends later all the same.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Executor {
    pub(in crate::admin) async fn kill(
        &self,
        database: Option<&DatabaseName>,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let paused = self.hold_all(&self.meant(database).await?, caller).await?;
        for record in &paused.routes {
            // Connections without a session are closed, too.
            let record = self.next_generation(&self.recording(caller), &record.database).await?;
            let Some(route) = self.obeyed(&record).await else { continue };
            let there: HashSet<u64> =
                route.session_table().sessions().iter().map(|session| session.session).collect();
            route.dismiss(None);
            gone(route.session_table(), |session| there.contains(&session)).await;
        }
        Ok(Answer::done(commands::KILL))
    }
}

impl Local {
    pub(in crate::admin) async fn kill_client(&self, session: u64) -> Result<Answer, AdminError> {
        let routes = self.routes.routes();
        let Some(route) = routes.iter().find(|route| route.dismiss(Some(session)) > 0) else {
            return Err(AdminError::Unknown { kind: "client", name: session.to_string(), meant: None });
        };
        gone(route.session_table(), |other| other == session).await;
        Ok(Answer::done(commands::KILL_CLIENT))
    }
}

/// Waits, within a bound, until none of these sessions is left.
async fn gone(session_table: &SessionTable, meant: impl Fn(u64) -> bool) {
    let all_gone = async {
        while session_table.sessions().iter().any(|session| meant(session.session)) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let _ = tokio::time::timeout(GONE_WITHIN, all_gone).await;
}
