//! From a statement to its row in the table of [`commands`].

use crate::admin::column::Column;
use crate::admin::commands::{self, Command, Effect, Scope};
use crate::admin::rights::{Own, Permission, UserRole};
use crate::admin::statement::{DriverQuery, Statement};

/// What drivers send on their own: every user may.
const SILENT: Command = Command {
    syntax: "",
    doc: "",
    columns: &[],
    tag: "SET",
    scope: Scope::Process,
    effect: Effect::Look,
    permission: Permission { roles: &[UserRole::User], own: Some(Own::Rows) },
};
const ONE_VALUE: Command = Command { columns: &[Column::text("?column?")], tag: "SELECT", ..SILENT };

/// The row of the table for a statement.
pub(in crate::admin) fn command(statement: &Statement) -> Command {
    match statement {
        Statement::CreateTeam(_) => commands::CREATE_TEAM,
        Statement::AlterTeam(_) => commands::ALTER_TEAM,
        Statement::DropTeam(_) => commands::DROP_TEAM,
        Statement::CreateSystem(_) => commands::CREATE_SYSTEM,
        Statement::AlterSystem(_) => commands::ALTER_SYSTEM,
        Statement::DropSystem(_) => commands::DROP_SYSTEM,
        Statement::CreateDatabase(_) => commands::CREATE_DATABASE,
        Statement::AlterDatabase(_) => commands::ALTER_DATABASE,
        Statement::AdoptDatabase(_) => commands::ADOPT_DATABASE,
        Statement::DropDatabase(_) => commands::DROP_DATABASE,
        Statement::Deprecate(_) => commands::DEPRECATE_DATABASE,
        Statement::Revive(_) => commands::REVIVE_DATABASE,
        Statement::Quarantine(_) => commands::QUARANTINE_DATABASE,
        Statement::Transfer(_) => commands::TRANSFER_DATABASE,
        Statement::AcceptTransfer(_) => commands::ACCEPT_TRANSFER,
        Statement::RejectTransfer(_) => commands::REJECT_TRANSFER,
        Statement::CancelTransfer(_) => commands::CANCEL_TRANSFER,
        Statement::CreateUser(_) => commands::CREATE_USER,
        Statement::AlterUser(_) => commands::ALTER_USER,
        Statement::DropUser(_) => commands::DROP_USER,
        Statement::Grant(_) => commands::GRANT,
        Statement::Revoke(_) => commands::REVOKE,
        Statement::PlanMove { .. } => commands::PLAN_MOVE,
        Statement::Move(_) => commands::MOVE_DATABASE,
        Statement::UndoMove { .. } => commands::UNDO_MOVE,
        Statement::CancelMove { .. } => commands::CANCEL_MOVE,
        Statement::FinishMove { .. } => commands::FINISH_MOVE,
        Statement::AdoptMove(_) => commands::ADOPT_MOVE,
        Statement::Pause(_) => commands::PAUSE,
        Statement::Resume(_) => commands::RESUME,
        Statement::Reload => commands::RELOAD,
        Statement::Disable(_) => commands::DISABLE,
        Statement::Enable(_) => commands::ENABLE,
        Statement::Reconnect(_) => commands::RECONNECT,
        Statement::WaitClose(_) => commands::WAIT_CLOSE,
        Statement::Kill(_) => commands::KILL,
        Statement::KillClient(_) => commands::KILL_CLIENT,
        Statement::Shutdown(_) => commands::SHUTDOWN,
        Statement::VerifyAudit(_) => commands::VERIFY_AUDIT,
        Statement::Show(show) => show.command(),
        Statement::DriverQuery(query) => of_driver(query),
    }
}

fn of_driver(query: &DriverQuery) -> Command {
    match query {
        DriverQuery::Accepted(tag) => Command { tag, ..SILENT },
        DriverQuery::Begin => Command { tag: "BEGIN", ..SILENT },
        DriverQuery::Commit => Command { tag: "COMMIT", ..SILENT },
        DriverQuery::Rollback => Command { tag: "ROLLBACK", ..SILENT },
        DriverQuery::RollbackToSavepoint => Command { tag: "ROLLBACK", ..SILENT },
        DriverQuery::SelectNumber(_) | DriverQuery::NoTypes => ONE_VALUE,
        DriverQuery::SelectFunction(name) => Command { columns: column_of(name), ..ONE_VALUE },
        DriverQuery::Setting(name, _) => Command { columns: column_of(name), tag: "SHOW", ..ONE_VALUE },
    }
}

/// A column with static lifetime.
fn column_of(name: &str) -> &'static [Column] {
    let known = crate::admin::driver_queries::COLUMNS.iter().find(|column| column.name == name);
    known.map_or(ONE_VALUE.columns, std::slice::from_ref)
}
