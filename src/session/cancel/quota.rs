//! How many cancel requests an address may send.
//!
//! Owns what each address has used of its quota. It deliberately knows no clock: the time is an argument.
//!
//! # Why
//! Any machine that reaches the port can send a cancel request: it proves nothing but a guess at a secret,
//! and costs a connection to a server when the guess is right. PostgreSQL forks a process for each; a storm
//! of them has brought down peers. A cancel request is never answered, so one too many is dropped like one
//! with a wrong secret.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that have sent something within the last second. When there are more, requests of new addresses
/// are dropped.
const ADDRESSES_MAX: usize = 4096;

/// An address may send at once what it may send in this time.
const BURST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(in crate::session) struct Quota {
    /// `None`: no limit.
    cost: Option<Duration>,
    /// Until when each address has used up its share.
    used: Mutex<HashMap<IpAddr, Instant>>,
}

impl Quota {
    /// `per_second` requests for each address; 0 is any number.
    pub(in crate::session) fn new(per_second: u32) -> Quota {
        Quota { cost: BURST.checked_div(per_second), used: Mutex::default() }
    }

    /// Whether the address may send a request now; `None` is a Unix socket, which has no limit.
    pub(in crate::session) fn admits(&self, address: Option<IpAddr>, now: Instant) -> bool {
        let (Some(address), Some(cost)) = (address, self.cost) else { return true };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let key = neighbourhood(address);
        if used.len() >= ADDRESSES_MAX && !used.contains_key(&key) {
            used.retain(|_, until| *until > now);
            if used.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        let until = used.entry(key).or_insert(now);
        let next = (*until).max(now) + cost;
        let admitted = next <= now + BURST;
        if admitted {
            *until = next;
        }
        admitted
    }
}

/// The address, or its /64 for IPv6: a machine usually has a whole /64 for itself.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn four(number: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from_bits(number).into())
    }

    fn admitted(quota: &Quota, address: Option<IpAddr>, now: Instant) -> usize {
        (0..100).filter(|_| quota.admits(address, now)).count()
    }

    #[test]
    fn an_address_has_its_share_of_each_second_and_takes_nobody_elses() {
        let (quota, now) = (Quota::new(10), Instant::now());
        assert_eq!(admitted(&quota, four(1), now), 10);
        assert_eq!(admitted(&quota, four(1), now + Duration::from_millis(500)), 5);
        assert_eq!(
            admitted(&quota, four(1), now + Duration::from_secs(60)),
            10,
            "what was not used is not saved"
        );
        assert_eq!(admitted(&quota, four(2), now), 10);
    }

    #[test]
    fn a_unix_socket_and_a_quota_of_zero_have_no_limit() {
        let now = Instant::now();
        assert_eq!(admitted(&Quota::new(1), None, now), 100);
        assert_eq!(admitted(&Quota::new(0), four(1), now), 100);
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_share() {
        let (quota, now) = (Quota::new(10), Instant::now());
        let six = |host: u128| Some(Ipv6Addr::from_bits((0x2001_0db8 << 96) | host).into());
        assert_eq!(admitted(&quota, six(1), now), 10);
        assert_eq!(admitted(&quota, six(2), now), 0);
        assert_eq!(admitted(&quota, six(1 << 64), now), 10);
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_memory_and_passes() {
        let (quota, now) = (Quota::new(10), Instant::now());
        let flood = (0..10_000).filter(|&number| quota.admits(four(number), now)).count();
        assert_eq!(flood, ADDRESSES_MAX);
        assert_eq!(quota.used.lock().unwrap().len(), ADDRESSES_MAX);
        assert!(quota.admits(four(u32::MAX), now + BURST));
        assert_eq!(quota.used.lock().unwrap().len(), 1);
    }
}
