//! Describes the sessions that block a command, for a person.

use std::time::Duration;

use crate::route::SessionRow;

/// Sessions that are named; further ones are only counted.
const NAMED_MAX: usize = 10;

/// The sessions that a command waits for, the one in it for longest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::admin) struct Blockers {
    named: Vec<String>,
    others: usize,
    /// Unused connections that are still to be closed.
    idle: usize,
    first: Option<u64>,
}

impl Blockers {
    /// Sessions in a transaction.
    pub(in crate::admin) fn in_transactions(mut sessions: Vec<SessionRow>) -> Blockers {
        sessions.retain(|session| session.transaction_age.is_some());
        sessions.sort_by_key(|session| std::cmp::Reverse(session.transaction_age));
        let what = |session: &SessionRow| {
            let age = rounded(session.transaction_age.unwrap_or_default());
            format!(
                "in a transaction for {age}, {} for {}",
                session.activity.as_str(),
                rounded(session.since)
            )
        };
        Blockers::of(&sessions, what)
    }

    /// Sessions with an old server connection, and the number of idle old connections.
    pub(in crate::admin) fn of_connections(sessions: &[SessionRow], idle: usize) -> Blockers {
        let blockers = Blockers::of(sessions, |session| format!("connected since {}", session.connected_at));
        Blockers { idle, ..blockers }
    }

    fn of(sessions: &[SessionRow], what: impl Fn(&SessionRow) -> String) -> Blockers {
        let named = sessions.iter().take(NAMED_MAX);
        Blockers {
            named: named.map(|session| format!("{}: {}", session_text(session), what(session))).collect(),
            others: sessions.len().saturating_sub(NAMED_MAX),
            idle: 0,
            first: sessions.first().map(|session| session.session),
        }
    }

    /// A sentence for the detail of an error.
    pub(in crate::admin) fn detail(&self) -> String {
        let named = self.named.join("; ");
        match (self.named.is_empty(), self.others) {
            (true, _) if self.idle > 0 => format!("Held up by {} idle connections.", self.idle),
            (true, _) => "Held up by something that has ended since.".to_owned(),
            (false, 0) => format!("Held up by {named}."),
            (false, others) => format!("Held up by {named}; and {others} more."),
        }
    }

    /// The command that ends the first session.
    pub(in crate::admin) fn cure(&self) -> Option<String> {
        self.first.map(|session| format!("KILL_CLIENT {session}; ends the first of them"))
    }
}

/// Its number, role, application and client.
pub(in crate::admin) fn session_text(session: &SessionRow) -> String {
    let application = match session.application_name.as_str() {
        "" => String::new(),
        name => format!(", application \"{name}\""),
    };
    format!("session {} (role \"{}\"{application}, from {})", session.session, session.role, session.client)
}

/// Rounds for people: microseconds would not help them.
pub(in crate::admin) fn rounded(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
    }
}
