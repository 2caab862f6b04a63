//! From a statement to its row in the table of [`commands`].

use super::column::Column;
use super::commands::{self, Command};
use super::statement::{Chatter, Show, Statement};

const ONE_VALUE: Command =
    Command { syntax: "", doc: "", columns: &[Column::text("?column?")], tag: "SELECT" };
const SILENT: Command = Command { syntax: "", doc: "", columns: &[], tag: "SET" };

/// The row of the table for a statement.
pub(super) fn command(statement: &Statement) -> Command {
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
        Statement::Show(show) => shown(show),
        Statement::Chatter(chatter) => said(chatter),
    }
}

fn shown(show: &Show) -> Command {
    match show {
        Show::Databases => commands::SHOW_DATABASES,
        Show::Database(_) => commands::SHOW_DATABASE,
        Show::Systems => commands::SHOW_SYSTEMS,
        Show::Teams => commands::SHOW_TEAMS,
        Show::Moves => commands::SHOW_MOVES,
        Show::Move(_) => commands::SHOW_MOVE,
        Show::MoveTables(_) => commands::SHOW_MOVE_TABLES,
        Show::Sessions => commands::SHOW_SESSIONS,
        Show::Pools => commands::SHOW_POOLS,
        Show::Clients => commands::SHOW_CLIENTS,
        Show::Servers => commands::SHOW_SERVERS,
        Show::Sockets => commands::SHOW_SOCKETS,
        Show::ActiveSockets => commands::SHOW_ACTIVE_SOCKETS,
        Show::Users => commands::SHOW_USERS,
        Show::Mem => commands::SHOW_MEM,
        Show::DnsHosts => commands::SHOW_DNS_HOSTS,
        Show::DnsZones => commands::SHOW_DNS_ZONES,
        Show::Peers => commands::SHOW_PEERS,
        Show::PeerPools => commands::SHOW_PEER_POOLS,
        Show::Stats => commands::SHOW_STATS,
        Show::StatsTotals => commands::SHOW_STATS_TOTALS,
        Show::StatsAverages => commands::SHOW_STATS_AVERAGES,
        Show::Totals => commands::SHOW_TOTALS,
        Show::Lists => commands::SHOW_LISTS,
        Show::State => commands::SHOW_STATE,
        Show::Config => commands::SHOW_CONFIG,
        Show::Version => commands::SHOW_VERSION,
        Show::Help => commands::SHOW_HELP,
        Show::Audit => commands::SHOW_AUDIT,
        Show::Hba => commands::SHOW_HBA,
        Show::History(_) => commands::SHOW_HISTORY,
    }
}

fn said(chatter: &Chatter) -> Command {
    match chatter {
        Chatter::Accepted(tag) => Command { tag, ..SILENT },
        Chatter::Begin => Command { tag: "BEGIN", ..SILENT },
        Chatter::Commit => Command { tag: "COMMIT", ..SILENT },
        Chatter::Rollback => Command { tag: "ROLLBACK", ..SILENT },
        Chatter::RollbackToSavepoint => Command { tag: "ROLLBACK", ..SILENT },
        Chatter::SelectNumber(_) | Chatter::NoTypes => ONE_VALUE,
        Chatter::SelectFunction(name) => Command { columns: column_of(name), ..ONE_VALUE },
        Chatter::Setting(name, _) => Command { columns: column_of(name), tag: "SHOW", ..ONE_VALUE },
    }
}

/// A column with static lifetime.
fn column_of(name: &str) -> &'static [Column] {
    let known = super::chatter::COLUMNS.iter().find(|column| column.name == name);
    known.map_or(ONE_VALUE.columns, std::slice::from_ref)
}
