//! SHOW DEBT: what is overdue, and what ends it.

use crate::admin::answer::{Row, row};
use crate::admin::context::{Caller, Cluster};
use crate::admin::error::{AdminError, identifier, literal};
use crate::admin::permission;
use crate::model::{DatabaseRecord, Date, Due, TransferOffer, UnixMillis};

/// Since when, what, and what ends it.
type Debt = (Date, String, String);

pub(in crate::admin) async fn show_debt(cluster: &Cluster, caller: &Caller) -> Result<Vec<Row>, AdminError> {
    let now = cluster.now();
    let sees_place = !caller.rights.is_of_product();
    let mut databases = permission::seen(cluster, caller).await?;
    databases.retain(|database| database.dropping.is_none());
    let teams = cluster.catalog().teams().list().await?.into_values();
    let mut overdue: Vec<(Date, Row)> = Vec::new();
    for database in &databases {
        let due = database.lifecycle.due(now).map(|due| debt(database, due, sees_place));
        let unanswered = database.offer.as_ref().and_then(|offer| unanswered(database, offer, now));
        for (since, debt, cure) in due.into_iter().chain(unanswered) {
            let owner = teams.iter().find(|team| team.name == database.owner);
            let contact = owner.map(|team| team.contact.as_str());
            let row = row![&database.name, &database.owner, contact, debt, since.to_string(), cure];
            overdue.push((since, row));
        }
    }
    overdue.sort_by(|(a, a_row), (b, b_row)| a.cmp(b).then_with(|| a_row.cmp(b_row)));
    Ok(overdue.into_iter().map(|(_, row)| row).collect())
}

/// An offer that waits for long, or has expired.
fn unanswered(database: &DatabaseRecord, offer: &TransferOffer, now: UnixMillis) -> Option<Debt> {
    let (name, team) = (identifier(database.name.as_str()), &offer.to);
    if offer.has_expired(now) {
        let cure = format!("CANCEL TRANSFER OF {name};");
        return Some((Date::of(offer.expires_at), format!("its offer to team {team} has expired"), cure));
    }
    let cure = format!("ACCEPT TRANSFER OF {name}; or REJECT TRANSFER OF {name};");
    let debt = format!("team {team} has not answered its offer");
    offer.waits_for_long(now).then(|| (Date::of(offer.offered_at), debt, cure))
}

/// Without `sees_place`, the platform is asked for what only it can do.
fn debt(database: &DatabaseRecord, due: Due, sees_place: bool) -> Debt {
    let name = identifier(database.name.as_str());
    match due {
        Due::Quarantine { since } if !sees_place => {
            let cure = "Ask the platform team.".to_owned();
            (since, "not quarantined at its sunset: the platform is working on it".to_owned(), cure)
        }
        Due::Quarantine { since } => {
            let waits = database
                .operation
                .map_or_else(String::new, |operation| format!(": {operation} has not ended"));
            (since, format!("not quarantined at its sunset{waits}"), "SHOW OPERATIONS;".to_owned())
        }
        Due::Decision { since } => {
            let confirm = literal(database.name.as_str());
            let cure = match sees_place {
                true => format!(
                    "REVIVE DATABASE {name}; or DROP DATABASE {name} CONFIRM {confirm} REASON 'text';"
                ),
                false => format!("REVIVE DATABASE {name}; or ask the platform team to drop it."),
            };
            (since, "its quarantine is over, and nothing is decided".to_owned(), cure)
        }
    }
}
