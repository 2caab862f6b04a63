//! DROP DATABASE: confirmed, recorded as an operation, and waited for. The engine does the rest
//! ([`crate::control::lifecycle::drop`]).

use crate::admin::answer::{Answer, row};
use crate::admin::commands;
use crate::admin::execute::{Caller, Executor};
use crate::admin::refuse::{AdminError, identifier, literal};
use crate::admin::statement::DropDatabase;
use crate::catalog::keys;
use crate::catalog::store::StoreError;
use crate::control::lifecycle::drop;
use crate::model::{DropFacts, Dropping};

impl Executor {
    pub(super) async fn drop_database(
        &self,
        drop: &DropDatabase,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let known = self.database(&drop.name).await?;
        let database = &known.value;
        let confirmed = drop.confirm.as_deref() == Some(drop.name.as_str());
        let reason = drop.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
        let (true, Some(reason)) = (confirmed, reason) else {
            let (name, confirm) = (identifier(drop.name.as_str()), literal(drop.name.as_str()));
            let command =
                format!("DROP DATABASE {name} CONFIRM {confirm} REASON 'why it is not needed any more';");
            return Err(AdminError::Unconfirmed { command });
        };
        self.refuse_moving(database).await?;
        let Some(route) = self.catalog().route(&database.id).await? else {
            return Err(StoreError::Missing { key: keys::route(&database.id) }.into());
        };
        let place = route.value.place;
        let system = self.system(&place.system).await?;

        let trail = self.trail_of(caller);
        let facts = DropFacts { is_adopted: database.adopted, left_as: None };
        let begin = self.begin((&database.id, &database.name), (&system, &place.dbname), &trail);
        let record = begin.record(self.catalog(), facts, self.clock()).await?;
        let dropping = Dropping { at: self.now(), who: caller.who.clone(), reason: reason.to_owned() };
        drop::begin(self.catalog(), &known, dropping, &record).await?;

        let ended = self.ended::<drop::DropDatabase>(record.id, &trail).await?.value;
        let left_as = ended.facts.left_as.unwrap_or(place.dbname);
        Ok(Answer::rows(commands::DROP_DATABASE, vec![row![&database.name, &place.system, left_as]]))
    }
}
