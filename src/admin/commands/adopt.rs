//! ADOPT DATABASE: takes in an existing database, where it is, with the roles it has. Recorded as an
//! operation, and waited for: the engine does the rest ([`crate::control::lifecycle::adopt`]).

use crate::admin::answer::{Answer, Row, row};
use crate::admin::commands;
use crate::admin::databases::{Complete, created, verifier_kind};
use crate::admin::execute::{Caller, Executor};
use crate::admin::refuse::{AdminError, identifier, literal};
use crate::admin::statement::AdoptDatabase;
use crate::control::lifecycle::adopt;
use crate::control::lifecycle::context::begin_new;
use crate::error::{Severity, SqlState};
use crate::model::{AdoptFacts, DatabaseRecord, Login, OperationKind, Place};

impl Executor {
    pub(super) async fn adopt_database(
        &self,
        adopt: &AdoptDatabase,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let at = format!(" ON SYSTEM {}", identifier(adopt.system.as_str()));
        let rest =
            adopt.dbname.as_ref().map_or_else(String::new, |dbname| format!(" DBNAME {}", literal(dbname)));
        let command =
            Complete { verb: "ADOPT DATABASE", name: &adopt.name, place: &at, tier: adopt.tier, rest: &rest };
        let wanted = self.wanted(&command, adopt.owner.as_deref(), adopt.purpose.as_deref()).await?;
        let system = self.system(&adopt.system).await?;
        let place = system.place(adopt.dbname.as_deref().unwrap_or(adopt.name.as_str()));
        self.refuse_adopted(&place).await?;

        let dbname = place.dbname.clone();
        let new = self.new_database(&wanted, place, caller, OperationKind::Adopt);
        let (database, trail) = (new.database.clone(), self.trail_of(caller));
        let begin = self.begin((&database.id, &wanted.name), (&system, &dbname), &trail);
        let record = begin.record(self.catalog(), AdoptFacts::default(), self.clock()).await?;
        let outcome = begin_new::<adopt::AdoptDatabase>(self.catalog(), new, &record).await?;
        created(&outcome, &wanted.name)?;

        let ended = self.ended::<adopt::AdoptDatabase>(record.id, &trail).await?;
        self.served(ended.revision).await;
        let AdoptFacts { logins, warnings } = ended.value.facts;
        for warning in &warnings {
            caller.notice(Severity::Warning, SqlState::WARNING, warning.clone());
        }
        let rows = self.adopted_rows(&database, &logins, &warnings);
        Ok(Answer::rows(commands::ADOPT_DATABASE, rows))
    }

    async fn refuse_adopted(&self, place: &Place) -> Result<(), AdminError> {
        let routes = self.catalog().routes().await?.into_values();
        let same = |known: &Place| known.system == place.system && known.dbname == place.dbname;
        match routes.iter().find(|route| same(&route.place)) {
            Some(route) => Err(AdminError::Adopted {
                dbname: place.dbname.clone(),
                system: place.system.to_string(),
                name: route.name.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// A row for each login; each row repeats the warnings, because a client may show only one row.
    fn adopted_rows(&self, database: &DatabaseRecord, logins: &[Login], warnings: &[String]) -> Vec<Row> {
        let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
        if logins.is_empty() {
            let none = "no role can log in and connect".to_owned();
            let dsn = self.dsn(&database.name, "role", None);
            return vec![row![
                &database.name,
                &database.id,
                dsn,
                None::<String>,
                None::<String>,
                None::<String>,
                none
            ]];
        }
        let of = |login: &Login| {
            let dsn = self.dsn(&database.name, login.role.as_str(), None);
            row![
                &database.name,
                &database.id,
                dsn,
                &login.role,
                login.superuser,
                verifier_kind(login),
                warning.clone()
            ]
        };
        logins.iter().map(of).collect()
    }
}
