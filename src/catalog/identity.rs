//! What a store has once: its id, and the secret that made-up salts come from.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keys;
use super::store::{Durability, StoreError};
use super::typed::{Catalog, Swap};
use crate::model::StoreId;

impl Catalog {
    /// The store's id. A store without one, because it is new or from an older version, gets one.
    pub async fn store_id(&self) -> Result<StoreId, StoreError> {
        self.made_once(keys::STORE_ID, || StoreId::from_random(rand::random())).await
    }

    /// What the salts of roles that do not exist are computed from: the same in every process of the store
    /// and after each start, so that a salt that changed does not tell that its role does not exist.
    pub async fn login_nonce(&self) -> Result<[u8; 32], StoreError> {
        self.made_once(keys::LOGIN_NONCE, rand::random).await
    }

    /// The value of a key; if it has none, a new one.
    async fn made_once<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        make: impl Fn() -> T,
    ) -> Result<T, StoreError> {
        if let Some(known) = self.read(key).await? {
            return Ok(known.value);
        }
        let new = make();
        match self.create(key.to_owned(), &new).await? {
            Swap::Committed(_) => Ok(new),
            Swap::Conflict => match self.read(key).await? {
                Some(known) => Ok(known.value),
                None => Err(StoreError::Missing { key: key.to_owned() }),
            },
        }
    }

    /// Gives the store a new id, so that what its moves create from now on has names that no copy of it used.
    pub async fn renew_store_id(&self) -> Result<StoreId, StoreError> {
        let new = StoreId::from_random(rand::random());
        self.put(keys::STORE_ID.to_owned(), &new, Durability::Synced).await?;
        Ok(new)
    }
}
