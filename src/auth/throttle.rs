//! Limits how often a client may guess a password.
//!
//! Owns two tables of fixed size: failed logins per role of a database and address, and per address. It
//! deliberately reads no clock: the time is an argument.
//!
//! # Why
//! A lock-out hits the wrong clients: a hundred services may share one address, and one of them has an old
//! password. So a failure costs time instead. Each one adds to the debt of its key; a small debt has no
//! effect; above that, the answer *that the login failed* is delayed until the debt is back within the
//! budget. A right password is never delayed, and clears the debt of its role in its database: in another
//! database the role may have another password. Only when an answer would be delayed longer than allowed is a
//! login refused without checking the password: many attempts at once reach that, one client that retries
//! does not.
//!
//! A table never grows. A new key takes the slot with the smallest debt among a few, so an attacker that
//! wants its debt forgotten must first bring other keys into deeper debt, which costs it time.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Number of sets in a table, each of [`SET_SLOTS`] keys.
const SETS: usize = 4096;
const SET_SLOTS: usize = 4;

/// One address may serve many roles: it is allowed this many times the failures of one role.
const ADDRESS_FACTOR: u32 = 10;

/// How many failed logins are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptBudget {
    /// Failures that are answered at once.
    pub free: u32,
    /// Above those, one failure in this time. Zero: no limit.
    pub interval: Duration,
    /// The longest delay of an answer; failures beyond it are refused without checking the password.
    pub delay_max: Duration,
}

impl AttemptBudget {
    pub const UNLIMITED: AttemptBudget =
        AttemptBudget { free: 0, interval: Duration::ZERO, delay_max: Duration::ZERO };

    fn of_address(self) -> AttemptBudget {
        AttemptBudget {
            free: self.free.saturating_mul(ADDRESS_FACTOR),
            interval: self.interval / ADDRESS_FACTOR,
            delay_max: self.delay_max,
        }
    }

    /// How long the answer to a failure is delayed if the failure brings the debt to `debt`.
    fn delay(self, debt: Duration) -> Duration {
        debt.saturating_sub(self.interval.saturating_mul(self.free))
    }
}

/// The keys of a login attempt in the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptKeys {
    role: u64,
    address: u64,
}

/// The failed logins of a process.
#[derive(Debug)]
pub struct Throttle {
    /// Randomly keyed, so that a client cannot choose keys that share a set.
    hashes: RandomState,
    begun: Instant,
    by_role: Mutex<Table>,
    by_address: Mutex<Table>,
}

impl Throttle {
    pub fn new(now: Instant) -> Throttle {
        Throttle {
            hashes: RandomState::new(),
            begun: now,
            by_role: Mutex::new(Table::new(SETS)),
            by_address: Mutex::new(Table::new(SETS)),
        }
    }

    /// `address` is `None` for a Unix socket.
    pub fn keys(&self, address: Option<IpAddr>, database: &str, role: &str) -> AttemptKeys {
        let neighbourhood = address.map(neighbourhood);
        AttemptKeys {
            role: self.hashes.hash_one((neighbourhood, database, role)),
            address: self.hashes.hash_one(neighbourhood),
        }
    }

    /// Whether to check a password. `false`: the login fails whatever the password.
    pub fn may_try(&self, keys: AttemptKeys, budget: AttemptBudget, now: Instant) -> bool {
        let now = self.clock(now);
        let room = |table: &Mutex<Table>, key: u64, budget: AttemptBudget| {
            let debt = lock(table).debt(key, now).saturating_add(budget.interval);
            budget.delay(debt) <= budget.delay_max
        };
        budget.interval.is_zero()
            || (room(&self.by_role, keys.role, budget)
                && room(&self.by_address, keys.address, budget.of_address()))
    }

    /// Records a failed login. Returns how long to delay the answer.
    pub fn failed(&self, keys: AttemptKeys, budget: AttemptBudget, now: Instant) -> Duration {
        if budget.interval.is_zero() {
            return Duration::ZERO;
        }
        let now = self.clock(now);
        let charge = |table: &Mutex<Table>, key: u64, budget: AttemptBudget| {
            budget.delay(lock(table).charge(key, budget.interval, now))
        };
        let of_role = charge(&self.by_role, keys.role, budget);
        let of_address = charge(&self.by_address, keys.address, budget.of_address());
        of_role.max(of_address).min(budget.delay_max)
    }

    /// Records a successful login and clears the debt of its role in its database. The debt of its
    /// address stays.
    pub fn succeeded(&self, keys: AttemptKeys) {
        lock(&self.by_role).clear(keys.role);
    }

    fn clock(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }
}

/// An IPv6 subscriber has at least a /64 of addresses, so those count as one.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let mut segments = six.segments();
            segments.iter_mut().skip(4).for_each(|segment| *segment = 0);
            IpAddr::from(segments)
        }
        four => four,
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until when a key is in debt. Free once that time has passed.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    until: Duration,
}

struct Table(Vec<[Slot; SET_SLOTS]>);

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("sets", &self.0.len()).finish_non_exhaustive()
    }
}

impl Table {
    fn new(sets: usize) -> Table {
        Table(vec![[Slot::default(); SET_SLOTS]; sets])
    }

    fn set(&mut self, key: u64) -> &mut [Slot] {
        let sets = self.0.len() as u64;
        let index = usize::try_from(key.checked_rem(sets).unwrap_or(0)).unwrap_or(0);
        self.0.get_mut(index).map_or(&mut [], |set| set.as_mut_slice())
    }

    fn debt(&mut self, key: u64, now: Duration) -> Duration {
        let slot = self.set(key).iter().find(|slot| slot.key == key);
        slot.map_or(Duration::ZERO, |slot| slot.until.saturating_sub(now))
    }

    /// Adds to the debt of a key, and returns the new debt.
    fn charge(&mut self, key: u64, cost: Duration, now: Duration) -> Duration {
        let set = self.set(key);
        let slot = match set.iter().position(|slot| slot.key == key) {
            Some(index) => set.get_mut(index),
            None => set.iter_mut().min_by_key(|slot| slot.until),
        };
        let Some(slot) = slot else { return Duration::ZERO };
        let begin = if slot.key == key { slot.until.max(now) } else { now };
        *slot = Slot { key, until: begin.saturating_add(cost) };
        slot.until.saturating_sub(now)
    }

    fn clear(&mut self, key: u64) {
        self.set(key).iter_mut().filter(|slot| slot.key == key).for_each(|slot| *slot = Slot::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: AttemptBudget =
        AttemptBudget { free: 3, interval: Duration::from_secs(2), delay_max: Duration::from_secs(6) };

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// A throttle with a fake clock.
    struct Play {
        throttle: Throttle,
        now: Instant,
    }

    impl Play {
        fn begin() -> Play {
            let now = Instant::now();
            Play { throttle: Throttle::new(now), now }
        }

        /// The delay of the answer in seconds; `None`: refused without checking the password.
        fn fail(&self, keys: AttemptKeys) -> Option<u64> {
            let seen = self.throttle.may_try(keys, BUDGET, self.now);
            seen.then(|| self.throttle.failed(keys, BUDGET, self.now).as_secs())
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn failures_are_free_then_slow_then_unseen() {
        let play = Play::begin();
        let keys = play.throttle.keys(address("10.0.0.1"), "shop", "app");
        let answers: Vec<_> = (0..8).map(|_| play.fail(keys)).collect();
        assert_eq!(answers, [Some(0), Some(0), Some(0), Some(2), Some(4), Some(6), None, None]);
    }

    #[test]
    fn one_who_waits_for_each_answer_is_seen_for_ever_at_the_same_pace() {
        let mut play = Play::begin();
        let keys = play.throttle.keys(address("10.0.0.1"), "shop", "app");
        for _ in 0..BUDGET.free {
            assert_eq!(play.fail(keys), Some(0));
        }
        for _ in 0..100 {
            let delay = play.fail(keys).unwrap();
            assert_eq!(delay, 2);
            play.wait(delay);
        }
    }

    #[test]
    fn a_debt_is_paid_by_waiting_and_cleared_by_a_right_password() {
        let mut play = Play::begin();
        let keys = play.throttle.keys(address("10.0.0.1"), "shop", "app");
        while play.fail(keys).is_some() {}
        play.wait(12);
        assert_eq!(play.fail(keys), Some(0));
        while play.fail(keys).is_some() {}
        play.throttle.succeeded(keys);
        assert_eq!(play.fail(keys), Some(0));
    }

    #[test]
    fn other_roles_and_other_addresses_are_not_concerned() {
        let play = Play::begin();
        let keys = play.throttle.keys(address("10.0.0.1"), "shop", "app");
        while play.fail(keys).is_some() {}
        assert_eq!(play.fail(play.throttle.keys(address("10.0.0.2"), "shop", "app")), Some(0));
        assert_eq!(play.fail(play.throttle.keys(address("10.0.0.1"), "shop", "other")), Some(0));
        assert_eq!(play.fail(play.throttle.keys(None, "shop", "app")), Some(0));
    }

    #[test]
    fn a_right_password_clears_no_debt_of_the_role_in_another_database() {
        let play = Play::begin();
        let keys = |database| play.throttle.keys(address("10.0.0.1"), database, "app");
        while play.fail(keys("shop")).is_some() {}
        play.throttle.succeeded(keys("stock"));
        assert_eq!(play.fail(keys("shop")), None);
    }

    #[test]
    fn one_address_may_not_try_every_role() {
        let play = Play::begin();
        let tried = (0..1000).filter(|role| {
            play.fail(play.throttle.keys(address("10.0.0.1"), "shop", &format!("role{role}"))).is_some()
        });
        // Thirty free failures, and thirty more that fit in six seconds at five a second.
        assert_eq!(tried.count(), 60);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_a_mapped_address_is_its_own() {
        let throttle = Play::begin().throttle;
        let keys = |text| throttle.keys(address(text), "shop", "app");
        assert_eq!(keys("2001:db8:1:2::1"), keys("2001:db8:1:2:ffff::9"));
        assert_ne!(keys("2001:db8:1:2::1"), keys("2001:db8:1:3::1"));
        assert_eq!(keys("::ffff:10.0.0.1"), keys("10.0.0.1"));
        assert_ne!(keys("10.0.0.1"), keys("10.0.0.2"));
    }

    #[test]
    fn a_full_table_forgets_the_smallest_debt() {
        let mut table = Table::new(1);
        let (now, second) = (Duration::ZERO, Duration::from_secs(1));
        for key in 1..=4 {
            table.charge(key, second * u32::try_from(key).unwrap(), now);
        }
        table.charge(5, second * 9, now);
        assert_eq!(table.debt(1, now), Duration::ZERO);
        assert_eq!((table.debt(2, now), table.debt(5, now)), (second * 2, second * 9));
    }

    #[test]
    fn without_an_interval_nothing_is_throttled() {
        let play = Play::begin();
        let keys = play.throttle.keys(address("10.0.0.1"), "shop", "app");
        for _ in 0..1000 {
            assert!(play.throttle.may_try(keys, AttemptBudget::UNLIMITED, play.now));
            assert_eq!(play.throttle.failed(keys, AttemptBudget::UNLIMITED, play.now), Duration::ZERO);
        }
    }
}
