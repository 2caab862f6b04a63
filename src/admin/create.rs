//! CREATE DATABASE: recorded before anything is done on a system, so that a crash leaves nothing that is not known.

use rand::RngExt as _;

use super::answer::{Answer, row};
use super::commands;
use super::databases::Complete;
use super::execute::{Caller, Executor};
use super::refuse::{AdminError, identifier};
use super::statement::CreateDatabase;
use super::users::verifier_of;
use crate::catalog::store::StoreError;
use crate::catalog::{NewDatabase, Swap, keys};
use crate::control::lifecycle::Creation;
use crate::error::{Explain as _, SqlState};
use crate::model::{
    DatabaseId, DatabaseName, DatabaseRecord, Lifecycle, Login, RoleName, RouteRecord, Service, SystemRecord,
};

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
        let mut new = self.new_database(&wanted, place, caller, Lifecycle::Provisioning);
        new.route.service = being_created(&wanted.name);
        self.record(&new).await?;

        let password = random_password();
        let creation = Creation {
            id: new.database.id.clone(),
            dbname: create.name.to_string(),
            role: role.clone(),
            verifier: verifier_of(&password),
        };
        let created = creation.run(self.reach(&system, &self.mover())).await;
        if let Err(error) = created {
            self.withdraw(&creation, &system, &new).await;
            return Err(error.into());
        }
        self.open_for_service(&new.database.id, &creation).await?;
        let row = row![
            &wanted.name,
            &new.database.id,
            self.dsn(&wanted.name, role.as_str(), Some(&password)),
            &role,
            password,
            &system.name
        ];
        Ok(Answer::rows(commands::CREATE_DATABASE, vec![row]))
    }

    /// After a failure: nothing stays on the system, and the name is free again.
    async fn withdraw(&self, creation: &Creation, system: &SystemRecord, new: &NewDatabase) {
        if let Err(error) = creation.undo(self.reach(system, &self.mover())).await {
            tracing::error!(error = &error as &dyn std::error::Error, database = %new.database.name,
                "what was created of a database could not be removed; the next start tries again");
            return;
        }
        if let Err(error) = forget(self, &new.database).await {
            tracing::error!(error = %error.message(), database = %new.database.name, "the record of a database that failed stays");
        }
    }

    async fn open_for_service(&self, id: &DatabaseId, creation: &Creation) -> Result<(), AdminError> {
        let login = Login {
            role: creation.role.clone(),
            verifier: Some(creation.verifier.clone()),
            can_login: true,
            superuser: false,
            valid_until: None,
            groups: Vec::new(),
        };
        self.catalog().sync_logins(id, &[login]).await?;
        let activate = |database: &mut DatabaseRecord| {
            database.lifecycle = Lifecycle::Active;
            Ok::<(), AdminError>(())
        };
        self.catalog().update_database(id, activate).await?;
        let serve = |route: &mut RouteRecord| {
            route.service = Service::Serving;
            Ok::<(), AdminError>(())
        };
        self.catalog().update_route(id, serve).await?;
        Ok(())
    }

    /// Databases whose creation a crash cut short. Before the first command.
    pub(super) async fn unfinished(&self) -> Result<Vec<DatabaseRecord>, StoreError> {
        let mut databases = self.catalog().databases().await?.into_values();
        databases.retain(|database| database.lifecycle == Lifecycle::Provisioning);
        Ok(databases)
    }

    /// What they made is removed, and the names are free again.
    pub(super) async fn clean_up(&self, unfinished: Vec<DatabaseRecord>) {
        for database in unfinished {
            match self.clean_up_one(&database).await {
                Ok(()) => {
                    tracing::info!(database = %database.name, "a creation that was cut short is removed")
                }
                Err(error) => tracing::error!(error = %error.message(), database = %database.name,
                    "a creation that was cut short could not be removed; the next start tries again"),
            }
        }
    }

    async fn clean_up_one(&self, database: &DatabaseRecord) -> Result<(), AdminError> {
        if let Some(route) = self.catalog().route(&database.id).await? {
            let place = route.value.place;
            let system = self.system(&place.system).await?;
            if let Ok(role) = RoleName::parse(&place.dbname) {
                let id = database.id.clone();
                let creation = Creation { id, dbname: place.dbname, role, verifier: String::new() };
                creation.undo(self.reach(&system, &self.mover())).await?;
            }
        }
        forget(self, database).await
    }
}

async fn forget(executor: &Executor, database: &DatabaseRecord) -> Result<(), AdminError> {
    executor.unlist(database).await?;
    let Some(record) = executor.catalog().database(&database.id).await? else { return Ok(()) };
    match executor.catalog().delete(keys::database(&database.id), record.revision).await? {
        Swap::Committed(_) | Swap::Conflict => Ok(()),
    }
}

fn being_created(name: &DatabaseName) -> Service {
    Service::Refused {
        sqlstate: SqlState::CANNOT_CONNECT_NOW.to_string(),
        message: format!("database \"{name}\" is being created"),
        hint: "Try again in a moment.".to_owned(),
    }
}

/// 24 letters and digits: about 142 bits.
fn random_password() -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..24).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}
