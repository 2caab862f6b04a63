//! Connections whose login has not ended, and which of them makes room for another one.
//!
//! # Why
//! A socket that says nothing keeps its place until the time limit of a login. With as many of them as there
//! may be clients, a stranger would keep out every client for that long, again and again. So where there is
//! no place left, the oldest login of the address with the most logins is closed. A login that has just begun
//! is not: services that all connect at once do not close each other's connections.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::auth::throttle::neighbourhood;

/// A login that is younger makes no room: most end sooner.
const AGE_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct PendingLogins(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    by_age: BTreeMap<u64, Pending>,
    /// `None`: over a Unix socket.
    by_address: HashMap<Option<IpAddr>, usize>,
}

#[derive(Debug)]
struct Pending {
    address: Option<IpAddr>,
    begun: Instant,
    displaced: CancellationToken,
}

/// One login that has not ended; it has when this is dropped.
#[derive(Debug)]
pub(super) struct PendingLogin {
    logins: Arc<PendingLogins>,
    number: u64,
    displaced: CancellationToken,
}

impl PendingLogins {
    pub(super) fn begin(self: &Arc<PendingLogins>, address: Option<IpAddr>, now: Instant) -> PendingLogin {
        let (address, displaced) = (address.map(neighbourhood), CancellationToken::new());
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        *state.by_address.entry(address).or_default() += 1;
        state.by_age.insert(number, Pending { address, begun: now, displaced: displaced.clone() });
        PendingLogin { logins: Arc::clone(self), number, displaced }
    }

    /// The same where at most `max` may be pending. `None`: there is no place, and no login makes room.
    pub(super) fn begin_within(
        self: &Arc<PendingLogins>,
        max: usize,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Option<PendingLogin> {
        let is_full = self.state().by_age.len() >= max;
        (!is_full || self.displace(now)).then(|| self.begin(address, now))
    }

    /// Closes one login. `false`: none is old enough.
    pub(super) fn displace(&self, now: Instant) -> bool {
        let mut state = self.state();
        let is_old = |pending: &Pending| now.saturating_duration_since(pending.begun) >= AGE_MIN;
        let most = state.by_address.iter().max_by_key(|(_, count)| **count).map(|(address, _)| *address);
        let of_most = |pending: &Pending| Some(pending.address) == most;
        let oldest = state.by_age.iter().find(|(_, pending)| of_most(pending) && is_old(pending));
        let oldest = oldest.or_else(|| state.by_age.first_key_value().filter(|(_, pending)| is_old(pending)));
        let Some((&number, pending)) = oldest else { return false };
        pending.displaced.cancel();
        state.remove(number);
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, number: u64) {
        let Some(pending) = self.by_age.remove(&number) else { return };
        if let Some(count) = self.by_address.get_mut(&pending.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&pending.address);
            }
        }
    }
}

impl PendingLogin {
    /// Another connection needs the place.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for PendingLogin {
    fn drop(&mut self) {
        self.logins.state().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_oldest_login_of_the_address_with_the_most_makes_room() {
        let (logins, begun) = (Arc::<PendingLogins>::default(), Instant::now());
        let oldest = logins.begin(address("10.0.0.1"), begun);
        let many: Vec<_> = (0..3).map(|_| logins.begin(address("10.0.0.2"), begun)).collect();
        assert!(!logins.displace(begun), "all have just begun");
        assert!(logins.displace(begun + AGE_MIN));
        assert!(many[0].displaced.is_cancelled() && !oldest.displaced.is_cancelled());
        drop(many);
        assert!(logins.displace(begun + AGE_MIN) && oldest.displaced.is_cancelled());
        assert!(!logins.displace(begun + AGE_MIN), "none is left");
        drop(oldest);
        let state = logins.state();
        assert!(state.by_age.is_empty() && state.by_address.is_empty());
    }

    #[test]
    fn no_more_are_pending_than_may_be() {
        let (logins, begun) = (Arc::<PendingLogins>::default(), Instant::now());
        let begin = |now| logins.begin_within(2, None, now);
        let some: Vec<_> = (0..3).map(|_| begin(begun)).collect();
        assert_eq!(some.iter().flatten().count(), 2);
        let more = begin(begun + AGE_MIN);
        assert!(
            more.is_some() && some.iter().flatten().filter(|one| one.displaced.is_cancelled()).count() == 1
        );
    }
}
