//! The productions of SHOW.

use super::parser::Parser;
use super::statement::{Show, Statement};
use super::{ErrorKind, SyntaxError};

/// What is shown without a name or a number after it.
const PLAIN: [(&str, Show); 27] = [
    ("DATABASES", Show::Databases),
    ("SYSTEMS", Show::Systems),
    ("TEAMS", Show::Teams),
    ("MOVES", Show::Moves),
    ("SESSIONS", Show::Sessions),
    ("POOLS", Show::Pools),
    ("CLIENTS", Show::Clients),
    ("SERVERS", Show::Servers),
    ("SOCKETS", Show::Sockets),
    ("ACTIVE_SOCKETS", Show::ActiveSockets),
    ("USERS", Show::Users),
    ("STATS", Show::Stats),
    ("STATS_TOTALS", Show::StatsTotals),
    ("STATS_AVERAGES", Show::StatsAverages),
    ("TOTALS", Show::Totals),
    ("LISTS", Show::Lists),
    ("MEM", Show::Mem),
    ("DNS_HOSTS", Show::DnsHosts),
    ("DNS_ZONES", Show::DnsZones),
    ("PEERS", Show::Peers),
    ("PEER_POOLS", Show::PeerPools),
    ("STATE", Show::State),
    ("CONFIG", Show::Config),
    ("VERSION", Show::Version),
    ("HELP", Show::Help),
    ("AUDIT", Show::Audit),
    ("HBA", Show::Hba),
];

/// Words that need a name or number after them, and the one that is refused.
const OTHERS: [&str; 4] = ["DATABASE", "MOVE", "HISTORY", "FDS"];

impl Parser {
    pub(super) fn show(&mut self) -> Result<Statement, SyntaxError> {
        let span = self.span();
        let words: Vec<&str> = PLAIN.iter().map(|(word, _)| *word).chain(OTHERS).collect();
        Ok(Statement::Show(match self.one_of(&words)? {
            "DATABASE" => Show::Database(self.database()?),
            "MOVE" => {
                let id = self.move_id()?;
                if self.accept("TABLES") { Show::MoveTables(id) } else { Show::Move(id) }
            }
            "HISTORY" => {
                self.accept("DATABASE");
                Show::History(self.database()?)
            }
            "FDS" => {
                return Err(SyntaxError::new(span, "descriptors of sockets are not given away")
                    .with_hint("SHOW SOCKETS; lists the connections.")
                    .of_kind(ErrorKind::Unsupported));
            }
            word => plain(word),
        }))
    }
}

fn plain(word: &str) -> Show {
    let found = PLAIN.into_iter().find(|(known, _)| *known == word);
    found.map_or(Show::Help, |(_, show)| show)
}
