//! RELOAD and SHUTDOWN: requests to the whole process, which `app` carries out.

use tokio::sync::oneshot;

use super::context::{Local, ProcessRequest};
use crate::admin::answer::{Answer, row};
use crate::admin::commands;
use crate::admin::error::AdminError;
use crate::admin::statement::ShutdownMode;

pub(in crate::admin) async fn reload(local: &Local) -> Result<Answer, AdminError> {
    let (answer, outcome) = oneshot::channel();
    let sent = local.requests.send(ProcessRequest::Reload { answer }).await;
    sent.map_err(|_| AdminError::ShuttingDown)?;
    let changed = outcome.await.map_err(|_| AdminError::ShuttingDown)?;
    let changed = changed.map_err(|problems| AdminError::Reload { problems })?;
    let rows = changed
        .into_iter()
        .map(|(setting, now)| row![setting, if now { "now" } else { "at the next start" }])
        .collect();
    Ok(Answer::rows(commands::RELOAD, rows))
}

pub(in crate::admin) async fn shutdown(local: &Local, mode: ShutdownMode) -> Result<Answer, AdminError> {
    let sent = local.requests.send(ProcessRequest::Shutdown(mode)).await;
    sent.map_err(|_| AdminError::ShuttingDown)?;
    Ok(Answer::done(commands::SHUTDOWN))
}
