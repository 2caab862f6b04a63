//! What a client is towards a server: enough to open a server connection for it anywhere.

use crate::auth::Proof;
use crate::backend::ConnectRequest;
use crate::error::{Refusal, SqlState};
use crate::frontend::Client;
use crate::model::{Login, Place, RoleName};
use crate::route::Route;
use crate::wire::boolean::parse_bool;

/// The client's role, startup parameters and credentials: enough to open a server connection for it anywhere.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    role: RoleName,
    /// The startup parameters, in order.
    settings: Vec<(String, String)>,
    proof: Proof,
}

/// Whether a connection opened for one would do for the other.
impl PartialEq for Origin {
    fn eq(&self, other: &Origin) -> bool {
        self.role == other.role && self.settings == other.settings && self.proof.opens_the_same(&other.proof)
    }
}

impl Origin {
    #[cfg(test)]
    pub(super) fn with(role: RoleName, proof: Proof) -> Origin {
        Origin { role, settings: Vec::new(), proof }
    }

    /// Of a client that has logged in. Fails where the name is none that a role can have.
    pub(super) fn of(client: &Client) -> Result<Origin, Refusal> {
        let role = RoleName::parse(&client.role)
            .map_err(|error| Refusal::fatal(SqlState::INVALID_AUTHORIZATION, error.to_string()))?;
        Ok(Origin { role, settings: client.settings.clone(), proof: client.proof.clone() })
    }

    pub(super) fn request(&self, place: Place, route: &Route) -> ConnectRequest {
        ConnectRequest {
            place,
            role: self.role.clone(),
            startup: self.settings.clone(),
            credential: route.newest_proof(self.role.as_str(), &self.proof).into(),
        }
    }

    pub(super) fn role(&self) -> &RoleName {
        &self.role
    }

    /// Whether its role may log in with what it proved, if `login` is what is known of the role.
    pub(super) fn may_still_log_in(&self, login: &Login) -> bool {
        login.may_log_in() && self.proof.is_of(login)
    }

    /// The client asked to be a walsender.
    pub(super) fn is_replication(&self) -> bool {
        // As in PostgreSQL, the last parameter of a name counts.
        let asked = self.settings.iter().rev().find(|(name, _)| name == "replication");
        asked.is_some_and(|(_, value)| parse_bool(value) != Some(false))
    }
}
