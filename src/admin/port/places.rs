//! The places of the admin port: how many connections there may be, and whose.
//!
//! # Why some are reserved
//! A user of the catalogue may log in without any grant. If it could take every place, no administrator could
//! take its rights away. So each user of the catalogue has a bounded number of places, and the last ones are
//! for the users of the file and the administrators of the platform.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::admin::rights::{Rights, UserRole};
use crate::error::{Blame, Refusal, SqlState};

use super::directory::Origin;

/// The most connections of one user of the catalogue.
const OF_USER_MAX: usize = 20;

/// The most places that are reserved: one in ten, up to this number.
const RESERVED_MAX: usize = 10;

/// All places.
#[derive(Debug)]
pub(in crate::admin) struct AdminPlaces {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of the users of the catalogue.
    of_user: HashMap<String, usize>,
}

/// One connection's place: free again when dropped.
#[derive(Debug)]
pub(in crate::admin) struct AdminPlace {
    places: Arc<AdminPlaces>,
    /// `None`: a user of the file.
    user: Option<String>,
}

impl AdminPlaces {
    pub(in crate::admin) fn new(max: usize) -> Arc<AdminPlaces> {
        Arc::new(AdminPlaces { max, taken: Mutex::default() })
    }

    /// A place for a user that has logged in. `rights`: as far as they could be read.
    pub(in crate::admin) fn take(
        self: &Arc<AdminPlaces>,
        name: &str,
        origin: Origin,
        rights: Option<&Rights>,
    ) -> Result<AdminPlace, Refusal> {
        let is_of_file = origin == Origin::File;
        let is_admin = rights.is_some_and(|rights| rights.holds(UserRole::Admin));
        let reserved = if is_of_file || is_admin { 0 } else { (self.max / 10).min(RESERVED_MAX) };
        let mut taken = self.taken();
        let own = taken.of_user.get(name).copied().unwrap_or_default();
        if !is_of_file && own >= OF_USER_MAX {
            return Err(refusal(format!("too many connections of user \"{name}\" to the admin port"))
                .with_detail(format!("A user of the catalogue may have {OF_USER_MAX}."))
                .with_hint("Close a connection that is not used any more."));
        }
        if taken.all + reserved >= self.max {
            let full = refusal("too many connections to the admin port".to_owned());
            return Err(match reserved {
                0 => full.with_hint("admin.connections_max is the limit."),
                _ => full
                    .with_detail(format!("The last {reserved} are for administrators."))
                    .with_hint("admin.connections_max is the limit."),
            });
        }
        taken.all += 1;
        let user = (!is_of_file).then(|| name.to_owned());
        if let Some(user) = &user {
            *taken.of_user.entry(user.clone()).or_default() += 1;
        }
        Ok(AdminPlace { places: Arc::clone(self), user })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(message: String) -> Refusal {
    Refusal::fatal(SqlState::TOO_MANY_CONNECTIONS, message).with_blame(Blame::Platform)
}

impl Drop for AdminPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(user) = &self.user
            && let Some(own) = taken.of_user.get_mut(user)
        {
            *own -= 1;
            if *own == 0 {
                taken.of_user.remove(user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Granted, PlatformRole, UnixMillis, UserGrant};

    const OF_CATALOGUE: Origin =
        Origin::Catalogue { created_at: UnixMillis(1), password_changed_at: UnixMillis(1) };

    fn platform(role: PlatformRole) -> Rights {
        let grant = UserGrant::Platform { role };
        Rights::of(&[Granted { grant, at: UnixMillis(1), by: "ops".to_owned() }])
    }

    #[test]
    fn users_of_the_catalogue_take_no_place_that_is_reserved_for_administrators() {
        let places = AdminPlaces::new(100);
        let operator = platform(PlatformRole::Operator);
        let mut taken = Vec::new();
        for number in 0.. {
            let Ok(place) = places.take(&format!("user{}", number / 20), OF_CATALOGUE, Some(&operator))
            else {
                break;
            };
            taken.push(place);
        }
        assert_eq!(taken.len(), 90);
        assert!(places.take("late", OF_CATALOGUE, None).is_err());
        let admin = platform(PlatformRole::Admin);
        taken.push(places.take("boss", OF_CATALOGUE, Some(&admin)).unwrap());
        for _ in 0..9 {
            taken.push(places.take("ops", Origin::File, None).unwrap());
        }
        let full = places.take("ops", Origin::File, None).unwrap_err();
        assert_eq!(full.sqlstate, SqlState::TOO_MANY_CONNECTIONS);
        taken.clear();
        let again = places.taken();
        assert_eq!((again.all, again.of_user.len()), (0, 0), "all are free again");
    }

    #[test]
    fn one_user_has_so_many_and_the_users_of_the_file_have_no_limit_of_their_own() {
        let places = AdminPlaces::new(100);
        let of_user: Vec<_> = (0..30).map(|_| places.take("alice", OF_CATALOGUE, None)).collect();
        assert_eq!(of_user.iter().filter(|place| place.is_ok()).count(), OF_USER_MAX);
        let of_file: Vec<_> = (0..100).map(|_| places.take("ops", Origin::File, None)).collect();
        assert_eq!(of_file.iter().filter(|place| place.is_ok()).count(), 100 - OF_USER_MAX);
    }
}
