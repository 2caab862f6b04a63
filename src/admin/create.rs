//! CREATE DATABASE: recorded before anything is done on a system, so that a crash leaves nothing unrecorded.
//!
//! ```text
//!   commit 1: name, record (provisioning), route (refused)
//!             role and database on the system
//!   commit 2: login, record (active), route (served), audit entry
//! ```
//!
//! After a crash before commit 2, the next start removes what was made ([`super::unfinished`]); after it, the
//! database is served.

use rand::RngExt as _;

use super::answer::{Answer, row};
use super::commands;
use super::databases::Complete;
use super::execute::{Caller, Executor};
use super::refuse::{AdminError, identifier};
use super::statement::CreateDatabase;
use super::users::verifier_of;
use crate::catalog::NewDatabase;
use crate::catalog::store::Revision;
use crate::control::lifecycle::Creation;
use crate::model::{DatabaseId, DatabaseRecord, Lifecycle, Login, RoleName, SystemRecord};

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
        let new = self.new_database(&wanted, place, caller, Lifecycle::Provisioning);
        self.record(self.catalog(), &new).await?;

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
        let opened = self.open_for_service(&new.database.id, &creation, caller).await?;
        self.served(opened).await;
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

    /// After a failure: removes what was made on the system, and frees the name.
    async fn withdraw(&self, creation: &Creation, system: &SystemRecord, new: &NewDatabase) {
        if let Err(error) = creation.undo(self.reach(system, &self.mover())).await {
            tracing::error!(error = &error as &dyn std::error::Error, database = %new.database.name,
                "what was created of a database could not be removed; the next start tries again");
            return;
        }
        if let Err(error) = self.catalog().forget_database(&new.database.id).await {
            tracing::error!(error = &error as &dyn std::error::Error, database = %new.database.name, "the record of a database that failed stays");
        }
    }

    /// Writes in one commit everything that makes the database served. Returns the commit's revision.
    async fn open_for_service(
        &self,
        id: &DatabaseId,
        creation: &Creation,
        caller: &Caller,
    ) -> Result<Revision, AdminError> {
        let login = Login {
            role: creation.role.clone(),
            verifier: Some(creation.verifier.clone()),
            can_login: true,
            superuser: false,
            valid_until: None,
            groups: Vec::new(),
        };
        let activate = |database: &mut DatabaseRecord| {
            // A DROP may have been run meanwhile.
            if database.lifecycle != Lifecycle::Provisioning || database.dropping.is_some() {
                let (database, state) = (database.name.to_string(), database.state().to_owned());
                return Err(AdminError::NotServed { database, state });
            }
            database.lifecycle = Lifecycle::Active;
            Ok(())
        };
        let changed = self.recording(caller).change_database_with(id, &[login], activate).await?;
        Ok(changed.revision)
    }
}

/// 24 letters and digits: about 142 bits of entropy.
fn random_password() -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..24).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}
