//! The records of logins: the roles of each database.

use super::changes::ListWatch;
use super::keys;
use super::store::{Range, Revision, StoreError};
use super::typed::{ATTEMPTS_MAX, Catalog, Listing, Swap, Versioned};
use crate::model::{DatabaseId, Login, RoleName};

/// Logins: the roles of the databases.
#[derive(Debug, Clone, Copy)]
pub struct LoginRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn logins(&self) -> LoginRecords<'_> {
        LoginRecords { catalog: self }
    }
}

impl LoginRecords<'_> {
    pub async fn get(self, id: &DatabaseId, role: &RoleName) -> Result<Option<Versioned<Login>>, StoreError> {
        self.catalog.read(&keys::login(id, role)).await
    }

    pub async fn of(self, id: &DatabaseId) -> Result<Listing<Login>, StoreError> {
        self.catalog.list(&keys::logins_of(id)).await
    }

    /// The roles that have a login to a database, in the order of their names.
    pub async fn roles_of(self, id: &DatabaseId) -> Result<Vec<String>, StoreError> {
        let logins = self.catalog.store().range(Range::of(keys::logins_of(id))).await?;
        let role_of = |key: &str| keys::login_of(key).map(|(_, role)| role.to_owned());
        Ok(logins.entries.iter().filter_map(|entry| role_of(&entry.key)).collect())
    }

    /// Replaces the logins of a database, in one commit. Writes only differences. Returns that commit, or the
    /// newest that wrote one of the logins if there were none; `None`: the database has no route any more.
    pub async fn sync(self, id: &DatabaseId, logins: &[Login]) -> Result<Option<Revision>, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            // A DROP meanwhile removes the logins: nothing may be written after it.
            let Some(route) = self.catalog.routes().revision(id).await? else { return Ok(None) };
            let known = self.of(id).await?.records;
            let mut batch = self.catalog.batch().unchanged(keys::route(id), route);
            let mut changes = 0;
            for login in logins {
                let old = known.iter().find(|old| old.value.role == login.role);
                if old.is_some_and(|old| old.value == *login) {
                    continue;
                }
                let key = keys::login(id, &login.role);
                batch = match old {
                    Some(old) => batch.unchanged(key.clone(), old.revision),
                    None => batch.absent(key.clone()),
                };
                batch = batch.put(key, login);
                changes += 1;
            }
            for old in known.iter().filter(|old| !logins.iter().any(|login| login.role == old.value.role)) {
                let key = keys::login(id, &old.value.role);
                batch = batch.unchanged(key.clone(), old.revision).delete(key);
                changes += 1;
            }
            if changes == 0 {
                return Ok(Some(known.iter().map(|login| login.revision).max().unwrap_or_default()));
            }
            if let Swap::Committed(revision) = batch.commit().await? {
                return Ok(Some(revision));
            }
        }
        Err(StoreError::Contended { key: keys::logins_of(id), attempts: ATTEMPTS_MAX })
    }

    /// Reads those of all databases, and watches all later changes.
    pub async fn follow(self) -> Result<ListWatch<Login>, StoreError> {
        self.catalog.list_and_watch(keys::LOGINS).await
    }
}
