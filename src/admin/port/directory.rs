//! The users of the admin port: those of the file, and those of the catalogue.
//!
//! Owns which of the two a login is checked against, and what a user that has logged in may do now.
//!
//! # Why the file goes before the catalogue
//! A name that stands in both is the file's: only the password of the file opens the port, and the record of
//! the catalogue counts for nothing, neither its password nor its grants. The file is the way in on the first
//! day and in an emergency, and belongs to the host's operator. If the record counted, an administrator of
//! the catalogue could take the name over, or lock it out. CREATE USER refuses a name of the file, so a name
//! can stand in both only after the file was edited.
//!
//! # Why rights are read anew for each command
//! REVOKE and DROP USER have to hold for connections that are open, and so has a new password: the old one
//! may be known to another person. A user that was dropped, or whose name is now of the other kind, has no
//! rights any more, also if there is a new user of that name. The connection that changes its own password
//! goes on.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::admin::rights::Rights;
use crate::admin::users::Users;
use crate::auth::scram::Verifier;
use crate::catalog::Catalog;
use crate::error::{Blame, Explain as _, Refusal, Severity, SqlState};
use crate::frontend::Administrators;
use crate::model::{UnixMillis, UserName, UserRecord};

/// Where a user that has logged in was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Origin {
    File,
    /// `created_at` tells it from a later user of that name; `password_changed_at` tells the password of the
    /// login from a later one.
    Catalogue {
        created_at: UnixMillis,
        password_changed_at: UnixMillis,
    },
}

/// Looks users up. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::admin) struct Directory {
    file: Arc<ArcSwap<Users>>,
    catalog: Catalog,
}

impl Directory {
    pub(in crate::admin) fn new(file: Arc<ArcSwap<Users>>, catalog: Catalog) -> Directory {
        Directory { file, catalog }
    }

    /// Replaces the users of the file.
    pub(in crate::admin) fn set_file(&self, users: Users) {
        self.file.store(Arc::new(users));
    }

    /// What a user that has logged in may do now. The refusal is fatal where the user is there no more.
    pub(in crate::admin) async fn rights(&self, name: &str, origin: Origin) -> Result<Rights, Refusal> {
        let in_file = self.file.load().rights(name);
        match (origin, in_file) {
            (Origin::File, Some(rights)) => return Ok(rights),
            (Origin::File, None) | (Origin::Catalogue { .. }, Some(_)) => return Err(gone(name)),
            (Origin::Catalogue { .. }, None) => {}
        }
        let Ok(user) = UserName::parse(name) else { return Err(gone(name)) };
        let record = self.catalog.users().get(&user).await.map_err(|error| error.refusal(Severity::Error))?;
        match record {
            Some(user) if origin_of(&user.value) == origin => Ok(Rights::of_user(&user)),
            _ => Err(gone(name)),
        }
    }
}

fn origin_of(user: &UserRecord) -> Origin {
    Origin::Catalogue { created_at: user.created_at, password_changed_at: user.password_changed_at }
}

fn gone(name: &str) -> Refusal {
    Refusal::fatal(SqlState::INVALID_AUTHORIZATION, format!("user \"{name}\" has no access any more"))
        .with_detail(
            "The user was dropped or has another password, or its name now stands in the file of administrators, \
             or no longer there.",
        )
        .with_hint("Log in again, or ask an administrator of the platform.")
        .with_blame(Blame::Platform)
}

impl Administrators for Directory {
    type Known = Origin;

    /// If the catalogue cannot be read, the users of the file still come in.
    async fn find(&self, name: &str) -> Option<(Verifier, Origin)> {
        if let Some(verifier) = self.file.load().verifiers.get(name) {
            return Some((verifier.clone(), Origin::File));
        }
        let user = match self.catalog.users().get(&UserName::parse(name).ok()?).await {
            Ok(user) => user?.value,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a user cannot be looked up");
                return None;
            }
        };
        let verifier = Verifier::parse(&user.verifier).ok()?;
        Some((verifier, origin_of(&user)))
    }
}
