//! CREATE DATABASE: recorded as an operation, and waited for. The engine does the rest
//! ([`crate::control::lifecycle::create`]).

use rand::RngExt as _;

use crate::admin::answer::{Answer, row};
use crate::admin::commands;
use crate::admin::databases::{Complete, created};
use crate::admin::execute::{Caller, Executor};
use crate::admin::refuse::{AdminError, identifier};
use crate::admin::statement::CreateDatabase;
use crate::admin::users::verifier_of;
use crate::control::lifecycle::context::begin_new;
use crate::control::lifecycle::create;
use crate::model::{CreateFacts, OperationKind, RoleName};

impl Executor {
    pub(super) async fn create_database(
        &self,
        create: &CreateDatabase,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let rest = create
            .system
            .as_ref()
            .map_or_else(String::new, |system| format!(" ON SYSTEM {}", identifier(system.as_str())));
        let command = Complete {
            verb: "CREATE DATABASE",
            name: &create.name,
            place: "",
            tier: create.tier,
            rest: &rest,
        };
        let wanted = self.wanted(&command, create.owner.as_deref(), create.purpose.as_deref()).await?;
        let system = self.home(create.system.as_ref()).await?;
        let role = RoleName::parse(create.name.as_str())
            .map_err(|_| AdminError::Exists { kind: "role", name: create.name.to_string() })?;

        let place = system.place(create.name.as_str());
        let new = self.new_database(&wanted, place, caller, OperationKind::Create);
        let (id, trail) = (new.database.id.clone(), self.trail_of(caller));
        let password = random_password();
        let facts = CreateFacts { role: role.clone(), verifier: verifier_of(&password) };
        let begin = self.begin((&id, &wanted.name), (&system, create.name.as_str()), &trail);
        let record = begin.record(self.catalog(), facts, self.clock()).await?;
        let outcome = begin_new::<create::CreateDatabase>(self.catalog(), new, &record).await?;
        created(&outcome, &wanted.name)?;

        let ended = self.ended::<create::CreateDatabase>(record.id, &trail).await?;
        self.served(ended.revision).await;
        let row = row![
            &wanted.name,
            &id,
            self.dsn(&wanted.name, role.as_str(), Some(&password)),
            &role,
            password,
            &system.name
        ];
        Ok(Answer::rows(commands::CREATE_DATABASE, vec![row]))
    }
}

/// 24 letters and digits: about 142 bits of entropy.
fn random_password() -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..24).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}
