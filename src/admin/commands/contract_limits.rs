//! Which side may change which part of a database's record by ALTER DATABASE.
//!
//! Purpose, pooling and limits are its owner's, the limits within what the platform gives: the numbers of the
//! tier and of the configuration, or what the platform has set beyond. The tier is the platform's promise.
//! Operators change limits, and no purpose.

use std::time::Duration;

use super::context::Caller;
use super::people_error::PeopleError;
use super::rights::UserRole;
use crate::config::Config;
use crate::error::Blame;
use crate::model::{ByteSize, Contract, ContractChange, DatabaseRecord, TeamRole, Timeout};

/// Refuses what is another side's to change.
pub(in crate::admin) fn check(
    caller: &Caller,
    database: &DatabaseRecord,
    purpose: Option<&str>,
    change: &ContractChange,
    config: &Config,
) -> Result<(), PeopleError> {
    let rights = &caller.rights;
    let refused = |what: &'static str, detail: String, side: Blame| {
        Err(PeopleError::Clause { user: caller.who.clone(), what, detail, side })
    };
    if rights.holds(UserRole::Admin) {
        return Ok(());
    }
    if purpose.is_some() && rights.on_team(&database.owner) != Some(TeamRole::Owner) {
        let detail = format!("PURPOSE needs OWNER ON TEAM {}.", database.owner);
        return refused("the purpose of a database", detail, Blame::Product);
    }
    let (now, next) = (&database.contract, database.contract.altered(change));
    if next.tier != now.tier {
        let detail = "TIER needs ADMIN ON PLATFORM.".to_owned();
        return refused("the tier of a database", detail, Blame::Platform);
    }
    if rights.holds(UserRole::Operator) {
        return Ok(());
    }
    match beyond(now, &next, config) {
        Some((clause, most)) => {
            refused("that limit", format!("{clause} is at most {most} for its owner."), Blame::Platform)
        }
        None => Ok(()),
    }
}

/// The first clause whose value is beyond what an owner may set, and the most that it may set.
fn beyond(now: &Contract, next: &Contract, config: &Config) -> Option<(&'static str, String)> {
    let tier = Contract::of_tier(now.tier);
    let numbers = [
        (
            "MAX_CLIENTS",
            now.client_connections_max.max(tier.client_connections_max),
            next.client_connections_max,
        ),
        (
            "POOL_SIZE",
            now.server_connections_max.max(tier.server_connections_max),
            next.server_connections_max,
        ),
        ("MAX_LOGIN_RATE", rate(now), rate(next)),
    ];
    if let Some((clause, most, _)) = numbers.into_iter().find(|(_, most, wanted)| wanted > most) {
        return Some((clause, most.to_string()));
    }
    let (size, process) =
        (|contract: &Contract| contract.quotas.message_size_max, config.limits.message_size_max);
    let most: ByteSize = size(now).unwrap_or(process).max(process);
    if size(next).unwrap_or(process) > most {
        return Some(("MAX_MESSAGE_SIZE", most.to_string()));
    }
    let process = config.client_timeouts();
    Timeout::ALL.into_iter().find_map(|timeout| {
        let process = process[timeout].unwrap_or_default();
        let of = |contract: &Contract| contract.timeouts[timeout].unwrap_or(process);
        let most = endless(of(now)).max(endless(process));
        let detail = || (timeout.clause(), humantime::format_duration(most).to_string());
        (endless(of(next)) > most).then(detail)
    })
}

/// Logins in a second.
fn rate(contract: &Contract) -> u32 {
    contract.quotas.logins_per_second_max.filter(|rate| *rate > 0).unwrap_or(u32::MAX)
}

/// Zero is no limit.
fn endless(time: Duration) -> Duration {
    if time.is_zero() { Duration::MAX } else { time }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{QuotasChange, Tier, TimeoutsChange};

    #[test]
    fn an_owner_lowers_limits_and_raises_them_to_what_the_platform_gives() {
        let mut config = Config::default();
        config.timeouts.transaction = Duration::from_secs(300);
        let now = Contract::of_tier(Tier::Standard);
        let beyond = |now: &Contract, change: ContractChange| {
            super::beyond(now, &now.altered(&change), &config).map(|(clause, _)| clause)
        };
        let clients = |most| ContractChange { clients_max: Some(most), ..ContractChange::default() };
        assert_eq!((beyond(&now, clients(500)), beyond(&now, clients(501))), (None, Some("MAX_CLIENTS")));
        let raised = now.altered(&clients(900));
        assert_eq!(
            (beyond(&raised, clients(900)), beyond(&raised, clients(901))),
            (None, Some("MAX_CLIENTS"))
        );
        let pool = |size| ContractChange { pool_size: Some(size), ..ContractChange::default() };
        assert_eq!((beyond(&now, pool(1)), beyond(&now, pool(501))), (None, Some("POOL_SIZE")));
        let rate = |rate| ContractChange {
            quotas: QuotasChange { logins_per_second_max: Some(rate), ..QuotasChange::default() },
            ..ContractChange::default()
        };
        let limited = now.altered(&rate(Some(5)));
        assert_eq!(beyond(&now, rate(Some(5))), None);
        for lifted in [None, Some(0), Some(6)] {
            assert_eq!(beyond(&limited, rate(lifted)), Some("MAX_LOGIN_RATE"));
        }
        let transaction = |time| ContractChange {
            timeouts: TimeoutsChange { transaction: Some(time), ..TimeoutsChange::default() },
            ..ContractChange::default()
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!((beyond(&now, transaction(seconds(9))), beyond(&now, transaction(None))), (None, None));
        for longer in [seconds(301), seconds(0)] {
            assert_eq!(beyond(&now, transaction(longer)), Some("TRANSACTION_TIMEOUT"));
        }
        let query = TimeoutsChange { query: Some(seconds(0)), ..TimeoutsChange::default() };
        assert_eq!(beyond(&now, ContractChange { timeouts: query, ..ContractChange::default() }), None);
    }
}
