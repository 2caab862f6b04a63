//! Merges roles of two systems: carries only changes made since both sides were last read.
//!
//! # Why
//! A role belongs to its server, not to one database. Between a move and its undo the source's other
//! databases live on: passwords are rotated there, accounts are locked. The undo only knows the target's
//! copy, which is older in all of that. So each side is compared with its own earlier state (a three-way
//! merge); a change on the side that the clients go to stays, and if both sides have changed the same
//! attribute a finding reports it.

use std::collections::BTreeSet;

use crate::error::Blame;
use crate::model::movement::{Finding, FindingSeverity, SeenRole, SeenRoles};
use crate::system::roles::{Membership, Role};

/// In a finding: not carried over, because it differs on the side that the clients go to.
pub(in crate::control) const CHECK: &str = "role_conflict";

/// The state of both sides when they were last read: the one that the clients leave, and the one they go to.
#[derive(Debug, Clone, Default)]
pub(in crate::control) struct SeenSides {
    pub(in crate::control) from: SeenRoles,
    pub(in crate::control) to: SeenRoles,
}

/// Roles and memberships as they were read from one side.
#[derive(Debug)]
pub(in crate::control) struct Known {
    pub(in crate::control) roles: Vec<Role>,
    pub(in crate::control) memberships: Vec<Membership>,
}

/// How to treat a role or membership that was never seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Unseen {
    /// The move is under way: the current state of each side is recorded.
    Counts,
    /// Another party created it on both sides: only equal attributes are recorded.
    IsForeign,
}

/// A role of the side that is left, compared with the role of the same name on the other side.
#[derive(Debug)]
pub(in crate::control) struct Merged {
    /// The state that the role gets on the other side.
    pub(in crate::control) wanted: Role,
    /// Attributes that both sides have changed differently.
    pub(in crate::control) conflicts: Vec<String>,
    /// Attributes that only the other side has changed.
    pub(in crate::control) theirs: Vec<String>,
}

#[derive(Debug, Default)]
pub(in crate::control) struct MergedMemberships<'a> {
    pub(in crate::control) grant: Vec<&'a Membership>,
    pub(in crate::control) revoke: Vec<&'a Membership>,
    pub(in crate::control) conflicts: Vec<&'a Membership>,
}

/// The side that caused a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Here,
    There,
    Both,
    /// They were never the same.
    Neither,
}

fn origin(changed_here: bool, changed_there: bool) -> Origin {
    match (changed_here, changed_there) {
        (true, false) => Origin::Here,
        (false, true) => Origin::There,
        (true, true) => Origin::Both,
        (false, false) => Origin::Neither,
    }
}

impl SeenSides {
    /// Merges a role that both sides have.
    pub(in crate::control) fn merge(&self, here: &Role, there: &Role) -> Merged {
        let none = SeenRole::new();
        let was_here = self.from.roles.get(&here.name).unwrap_or(&none);
        let was_there = self.to.roles.get(&here.name).unwrap_or(&none);
        let (now_here, now_there) = (here.properties(), there.properties());
        let names: BTreeSet<&String> = now_here.keys().chain(now_there.keys()).collect();
        let mut merged = Merged { wanted: there.clone(), conflicts: Vec::new(), theirs: Vec::new() };
        for name in names {
            if now_here.get(name) == now_there.get(name) {
                continue;
            }
            let changed_here = now_here.get(name) != was_here.get(name);
            let changed_there = now_there.get(name) != was_there.get(name);
            match origin(changed_here, changed_there) {
                Origin::Here => merged.wanted.take(name, here),
                Origin::Both => merged.conflicts.push(name.clone()),
                Origin::There => merged.theirs.push(name.clone()),
                Origin::Neither => {}
            }
        }
        merged
    }

    /// Whether the role existed on the side that the clients go to.
    pub(in crate::control) fn was_there(&self, name: &str) -> bool {
        self.to.roles.contains_key(name)
    }

    /// Memberships to grant and to revoke on the other side, and those that both have changed.
    pub(in crate::control) fn memberships<'a>(
        &self,
        here: &'a [Membership],
        there: &'a [Membership],
    ) -> MergedMemberships<'a> {
        let mut merged = MergedMemberships::default();
        for pair in here.iter().chain(there.iter().filter(|pair| twin(here, pair).is_none())) {
            let (now_here, now_there) = (twin(here, pair), twin(there, pair));
            if are_same(now_here, now_there) {
                continue;
            }
            let changed_here = now_here.map(Membership::options) != options_of(&self.from, pair);
            let changed_there = now_there.map(Membership::options) != options_of(&self.to, pair);
            match (origin(changed_here, changed_there), now_here) {
                (Origin::Here, Some(wanted)) => merged.grant.push(wanted),
                (Origin::Here, None) => merged.revoke.push(pair),
                (Origin::Both, _) => merged.conflicts.push(pair),
                (Origin::There | Origin::Neither, _) => {}
            }
        }
        merged
    }

    /// The state of both sides for the next comparison. Where they still differ, the earlier state is kept: a
    /// conflict stays one until it is resolved.
    pub(in crate::control) fn renew(&self, here: &Known, there: &Known, unseen: Unseen) -> SeenSides {
        SeenSides {
            from: renewed(&self.from, here, there, unseen),
            to: renewed(&self.to, there, here, unseen),
        }
    }
}

fn twin<'a>(list: &'a [Membership], pair: &Membership) -> Option<&'a Membership> {
    list.iter().find(|other| other.is_same_pair(pair))
}

fn are_same(one: Option<&Membership>, other: Option<&Membership>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_met_by(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn options_of(seen: &SeenRoles, pair: &Membership) -> Option<String> {
    let is_it = |seen: &&(String, String, String)| (&seen.0, &seen.1) == (&pair.role, &pair.member);
    seen.memberships.iter().find(is_it).map(|seen| seen.2.clone())
}

/// The recorded state of one side.
fn renewed(seen: &SeenRoles, side: &Known, other: &Known, unseen: Unseen) -> SeenRoles {
    let mut renewed = SeenRoles::default();
    // The state of a dropped role stays: it shows that the role existed.
    renewed.roles.clone_from(&seen.roles);
    for role in &side.roles {
        let twin = other.roles.iter().find(|twin| twin.name == role.name);
        let now = renewed_role(role, twin, seen.roles.get(&role.name), unseen);
        renewed.roles.insert(role.name.clone(), now);
    }
    for pair in &side.memberships {
        let is_same = are_same(Some(pair), twin(&other.memberships, pair));
        let options = match options_of(seen, pair) {
            was if !is_same && (was.is_some() || unseen == Unseen::IsForeign) => was,
            _ => Some(pair.options()),
        };
        let entry = options.map(|options| (pair.role.clone(), pair.member.clone(), options));
        renewed.memberships.extend(entry);
    }
    // A membership that so far was revoked on this side only.
    let has = |known: &Known, seen: &(String, String, String)| {
        known.memberships.iter().any(|pair| (&pair.role, &pair.member) == (&seen.0, &seen.1))
    };
    let is_ended = |seen: &&(String, String, String)| !has(side, seen) && has(other, seen);
    renewed.memberships.extend(seen.memberships.iter().filter(is_ended).cloned());
    renewed
}

fn renewed_role(role: &Role, twin: Option<&Role>, seen: Option<&SeenRole>, unseen: Unseen) -> SeenRole {
    let now = role.properties();
    let theirs = twin.map(Role::properties).unwrap_or_default();
    let Some(seen) = seen else {
        let counts =
            |name: &String, value: &String| unseen == Unseen::Counts || theirs.get(name) == Some(value);
        return now.into_iter().filter(|(name, value)| counts(name, value)).collect();
    };
    let names: BTreeSet<&String> = now.keys().chain(seen.keys()).collect();
    let value = |name: &String| match now.get(name) == theirs.get(name) {
        true => now.get(name).cloned(),
        false => seen.get(name).cloned(),
    };
    names.into_iter().filter_map(|name| Some((name.clone(), value(name)?))).collect()
}

pub(in crate::control) fn finding(object: &str, message: String) -> Finding {
    Finding {
        severity: FindingSeverity::Warning,
        check: CHECK.to_owned(),
        object: Some(object.to_owned()),
        message,
        cure: None,
        responsible: Blame::Platform,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, limit: i64, settings: &[&str]) -> Role {
        Role {
            name: name.to_owned(),
            superuser: false,
            inherit: true,
            create_role: false,
            create_db: false,
            can_login: true,
            replication: false,
            bypass_rls: false,
            connection_limit: limit,
            verifier: Some("md5aa".to_owned()),
            valid_until: None,
            comment: None,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        }
    }

    fn membership(member: &str, set: Option<bool>) -> Membership {
        Membership { role: "team".to_owned(), member: member.to_owned(), admin: false, inherit: set, set }
    }

    fn known(roles: &[Role], memberships: &[Membership]) -> Known {
        Known { roles: roles.to_vec(), memberships: memberships.to_vec() }
    }

    fn seen(roles: &[Role], memberships: &[Membership]) -> SeenSides {
        let side = known(roles, memberships);
        SeenSides::default().renew(&side, &side, Unseen::Counts)
    }

    #[test]
    fn only_what_changed_on_the_side_that_is_left_is_brought() {
        let seen = seen(&[role("app", -1, &["work_mem=4MB", "a.b=1"])], &[]);
        let here = role("app", -1, &["work_mem=8MB", "a.b=1", "c.d=2"]);
        let there = Role { can_login: false, ..role("app", 50, &["work_mem=4MB", "a.b=1", "e.f=3"]) };
        let merged = seen.merge(&here, &there);
        assert!(!merged.wanted.can_login);
        assert_eq!(merged.wanted.connection_limit, 50);
        let mut settings = merged.wanted.settings;
        settings.sort();
        assert_eq!(settings, ["a.b=1", "c.d=2", "e.f=3", "work_mem=8MB"]);
        assert_eq!(merged.conflicts, Vec::<String>::new());
        assert_eq!(merged.theirs, ["CONNECTION LIMIT", "LOGIN", "SET e.f"]);
    }

    #[test]
    fn a_conflict_stays_one_until_somebody_ends_it() {
        let first = seen(&[role("app", -1, &[])], &[]);
        let (here, there) = (role("app", 33, &[]), role("app", 50, &[]));
        assert_eq!(first.merge(&here, &there).conflicts, ["CONNECTION LIMIT"]);
        assert_eq!(first.merge(&here, &there).wanted.connection_limit, 50);
        let one = |role: &Role| known(std::slice::from_ref(role), &[]);
        let again = first.renew(&one(&here), &one(&there), Unseen::IsForeign);
        assert_eq!(again.merge(&here, &there).conflicts, ["CONNECTION LIMIT"]);
        assert_eq!(again.merge(&here, &role("app", 33, &[])).conflicts, Vec::<String>::new());
    }

    #[test]
    fn what_was_brought_can_change_again() {
        let first = seen(&[role("app", -1, &[])], &[]);
        let brought = known(&[role("app", 33, &[])], &[]);
        let second = first.renew(&brought, &brought, Unseen::IsForeign);
        let merged = second.merge(&role("app", 34, &[]), &role("app", 33, &[]));
        assert_eq!(merged.wanted.connection_limit, 34);
    }

    #[test]
    fn a_membership_that_the_other_side_ended_is_not_granted_again() {
        let both = [membership("a", None), membership("b", None), membership("c", None)];
        let seen = seen(&[], &both);
        // Here b has gone, there a; c has other options on each side, d is new here.
        let here = [membership("a", None), membership("c", Some(true)), membership("d", None)];
        let there = [membership("b", None), Membership { admin: true, ..membership("c", Some(false)) }];
        let names = |list: &[&Membership]| list.iter().map(|pair| pair.member.clone()).collect::<Vec<_>>();
        let renewed = seen.renew(&known(&[], &here), &known(&[], &there), Unseen::IsForeign);
        for seen in [seen, renewed] {
            let merged = seen.memberships(&here, &there);
            assert_eq!(names(&merged.grant), ["d"]);
            assert_eq!(names(&merged.revoke), ["b"]);
            assert_eq!(names(&merged.conflicts), ["c"]);
        }
    }
}
