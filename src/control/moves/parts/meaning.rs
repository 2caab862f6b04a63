//! The settings that decide what a database's values mean: carries the source server's to the server that the
//! database goes to.
//!
//! The same text is another date under another `DateStyle`, another instant in another `TimeZone`, and a
//! write is refused if the server's transactions are read-only by default. Settings of the database and of
//! its roles travel; the server's own settings do not, so a setting that differs becomes a setting of the
//! database on the side that the clients go to (see [`decisions`](crate::system::settings::decisions) for
//! which settings those are). The same applies to a role that both servers had before: a setting that differs
//! becomes one of the role in this database.
//!
//! # Why
//! A setting that is made here is recorded as the move's own: on the way back it is not carried along, and is
//! removed where it is not needed. It stays the move's own as long as it has the value that the move set;
//! once changed, it is the database's.

use std::collections::BTreeSet;

use crate::system::databases::{self, DatabaseSetting};
use crate::system::roles::{self, Role};
use crate::system::session::INPUT;
use crate::system::settings::{self, Decision, ServerSettings, SettingEffect, decision, stored, value_in};
use crate::system::{Session, SystemError};

use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;

/// The settings of one side that decide what values mean.
#[derive(Debug, Clone)]
pub(in crate::control) struct Side {
    pub(in crate::control) server: ServerSettings,
    /// Settings of the database: for all roles, and for roles in it.
    pub(in crate::control) database: Vec<DatabaseSetting>,
    /// The roles that the database needs, as far as they exist.
    pub(in crate::control) roles: Vec<Role>,
    /// Encoding of the database, the same on both sides.
    encoding: String,
}

impl Side {
    /// Reads one side; the encoding is that of the database where it is now.
    pub(in crate::control) async fn read(
        end: &Endpoint,
        session: &Session,
        roles: &[String],
        encoding: &str,
    ) -> Result<Side, SystemError> {
        Ok(Side {
            server: end.server_settings(session).await?,
            database: databases::settings(session, &end.dbname).await?,
            roles: roles::read(session, roles).await?,
            encoding: encoding.to_owned(),
        })
    }

    /// The server's value for a session of the database.
    fn of_server(&self, name: &str) -> Option<&str> {
        let setting = self.server.get(name)?;
        let follows_the_database = setting.name == settings::CLIENT_ENCODING;
        setting.value.as_deref().or_else(|| follows_the_database.then_some(self.encoding.as_str()))
    }

    /// The value set for the database, for all roles (`None`) or for one role in it.
    fn of_database(&self, role: Option<&str>, name: &str) -> Option<&str> {
        let of_role = self.database.iter().filter(|(whose, _)| whose.as_deref() == role);
        value_in(of_role.map(|(_, stored)| stored), name)
    }

    fn of_role(&self, role: &str, name: &str) -> Option<&str> {
        value_in(&self.roles.iter().find(|known| known.name == role)?.settings, name)
    }

    /// The value for a session of a role without settings of its own.
    pub(in crate::control) fn for_everybody(&self, name: &str) -> Option<&str> {
        self.of_database(None, name).or_else(|| self.of_server(name))
    }

    /// The value for a session of a role.
    pub(in crate::control) fn for_role(&self, role: &str, name: &str) -> Option<&str> {
        let in_database = self.of_database(Some(role), name);
        in_database.or_else(|| self.of_role(role, name)).or_else(|| self.for_everybody(name))
    }
}

/// The encoding of a database.
pub(in crate::control) async fn encoding_of(session: &Session, dbname: &str) -> Result<String, SystemError> {
    let sql = "SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = $1";
    session.value("reading the encoding", sql, &[&dbname]).await
}

/// The settings that the database needs on one side to mean the same as on the other. `ours`: the settings
/// that the move had made on the side that is left.
pub(in crate::control) fn carried(from: &Side, ours: &[DatabaseSetting], to: &Side) -> Vec<DatabaseSetting> {
    let is_own = |role: Option<&str>, name: &str| {
        let set = from.database.iter().filter(|setting| !ours.contains(setting));
        value_in(set.filter(|(whose, _)| whose.as_deref() == role).map(|(_, stored)| stored), name).is_some()
    };
    let mut carried = Vec::new();
    for name in names(from, to) {
        // A server that does not know the setting yet behaves as a newer one does without any configuration.
        let unknown = to.server.get(&name).filter(|_| from.server.get(&name).is_none());
        let everybody = from.for_everybody(&name).or_else(|| unknown?.boot.as_deref());
        if let Some(value) =
            everybody.filter(|value| !is_own(None, &name) && to.of_server(&name) != Some(value))
        {
            carried.push((None, stored(&name, value)));
        }
        let on_both = from.roles.iter().filter(|role| to.roles.iter().any(|other| other.name == role.name));
        for role in on_both.map(|role| role.name.as_str()).filter(|role| !is_own(Some(role), &name)) {
            let here =
                from.of_database(Some(role), &name).or_else(|| from.of_role(role, &name)).or(everybody);
            let there = to.of_role(role, &name).or(everybody);
            if let Some(value) = here.filter(|_| here != there) {
                carried.push((Some(role.to_owned()), stored(&name, value)));
            }
        }
    }
    carried
}

/// Carried settings that the other side knows, and custom settings of applications that are set on this side.
fn names(from: &Side, to: &Side) -> BTreeSet<String> {
    let is_carried = |name: &str| matches!(decision(name), Some(Decision::Carried(_)));
    let is_custom = |name: &str| name.contains('.');
    let of_servers = to.server.iter().filter(|setting| !is_custom(&setting.name));
    let custom =
        from.server.iter().filter(|setting| is_custom(&setting.name) && setting.value != setting.boot);
    let can_be_set = of_servers.chain(custom).filter(|setting| setting.is_of_a_session());
    let of_roles = from.roles.iter().chain(&to.roles).flat_map(|role| &role.settings);
    let of_roles = of_roles.filter_map(|stored| stored.split_once('=')).map(|(name, _)| name);
    let of_roles = of_roles.filter(|name| is_custom(name) || to.server.get(name).is_some());
    let all = can_be_set.map(|setting| setting.name.as_str()).chain(of_roles);
    // The spelling of the server that the clients go to: a role's own setting keeps the spelling of the time
    // when it was set.
    let spelt =
        |name: &str| to.server.get(name).map_or_else(|| name.to_owned(), |setting| setting.name.clone());
    all.filter(|name| is_carried(name)).map(spelt).collect()
}

/// Applies the database's own and the carried settings on the side that the clients go to. Safe to repeat.
pub(in crate::control) async fn bring(
    ctx: &mut StepContext,
    way: MoveDirection,
    (from_session, to_session): (&Session, &Session),
    roles: &[String],
) -> Result<(), StepError> {
    let doing = || StepError::doing("comparing settings");
    let (from_end, to_end) = way.ends(ctx.ends());
    let encoding = encoding_of(from_session, &from_end.dbname).await.map_err(doing())?;
    let from = Side::read(&from_end, from_session, roles, &encoding).await.map_err(doing())?;
    let to = Side::read(&to_end, to_session, roles, &encoding).await.map_err(doing())?;
    let ours = ctx.facts().carried_settings.get(&from_end.system.name).cloned().unwrap_or_default();
    let carried = carried(&from, &ours, &to);
    remember(ctx, &to_end, &carried).await?;
    let own = from.database.into_iter().filter(|setting| !ours.contains(setting));
    let mut wanted: Vec<DatabaseSetting> = own.chain(carried).collect();
    // A role that was dropped on the other side has no settings there.
    let of_roles: Vec<String> = wanted.iter().filter_map(|(role, _)| role.clone()).collect();
    let known = crate::system::roles::read(to_session, &of_roles).await.map_err(doing())?;
    wanted.retain(|(role, _)| role.as_ref().is_none_or(|role| known.iter().any(|known| known.name == *role)));
    let gone: Vec<DatabaseSetting> =
        to.database.iter().filter(|now| !wanted.contains(now)).cloned().collect();
    databases::reset_settings(to_session, &to_end.dbname, &gone).await.map_err(doing())?;
    let new: Vec<DatabaseSetting> =
        wanted.into_iter().filter(|wanted| !to.database.contains(wanted)).collect();
    databases::apply_settings(to_session, &to_end.dbname, &new, None).await.map_err(doing())
}

/// Recorded before anything is set: settings found after a crash are then known to be the move's.
async fn remember(
    ctx: &mut StepContext,
    end: &Endpoint,
    carried: &[DatabaseSetting],
) -> Result<(), StepError> {
    let system = end.system.name.clone();
    if ctx.facts().carried_settings.get(&system).map_or(&[][..], Vec::as_slice) == carried {
        return Ok(());
    }
    ctx.remember(|facts| {
        facts.carried_settings.insert(system.clone(), carried.to_vec());
    })
    .await
}

/// Settings of the database with which a session would read text that a session of Freehold wrote as another
/// value.
pub(in crate::control) fn misread(side: &Side) -> Vec<(&'static str, &str)> {
    let of_side = INPUT.into_iter().filter_map(|(name, ours)| Some((name, ours, side.for_everybody(name)?)));
    // The same format under other names.
    let is_plain = |value: &str| value == "POSIX" || value.starts_with("C.");
    let differs =
        of_side.filter(|(name, ours, value)| value != ours && !(*name == "lc_monetary" && is_plain(value)));
    differs.map(|(name, _, value)| (name, value)).collect()
}

/// The settings that decide what a query of a role computes in a database: `name=value`.
pub(in crate::control) fn values_for(side: &Side, role: &str) -> Vec<String> {
    let decides = |name: &str| decision(name) == Some(Decision::Carried(SettingEffect::Value));
    // A setting with a dot may be a library's, which would take it as set by a superuser.
    let listed = side.server.iter().filter(|setting| decides(&setting.name) && !setting.name.contains('.'));
    // The session keeps its own, so that Freehold can read the answers.
    let listed = listed.filter(|setting| setting.name != settings::CLIENT_ENCODING);
    listed.filter_map(|setting| Some(stored(&setting.name, side.for_role(role, &setting.name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::settings::ServerSetting;

    fn side(server: &[(&str, &str)]) -> Side {
        let setting = |&(name, value): &(&str, &str)| ServerSetting {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            boot: (!name.contains('.')).then(|| "boot".to_owned()),
            context: "user".to_owned(),
            hidden: false,
        };
        Side {
            server: ServerSettings::of(server.iter().map(setting)),
            database: Vec::new(),
            roles: Vec::new(),
            encoding: "UTF8".to_owned(),
        }
    }

    fn everybody(stored: &str) -> DatabaseSetting {
        (None, stored.to_owned())
    }

    #[test]
    fn what_differs_is_carried_unless_the_database_has_its_own() {
        let mut from = side(&[("TimeZone", "Asia/Tokyo"), ("DateStyle", "ISO, DMY"), ("work_mem", "1")]);
        let to = side(&[("TimeZone", "UTC"), ("DateStyle", "ISO, DMY"), ("work_mem", "2")]);
        assert_eq!(carried(&from, &[], &to), [everybody("TimeZone=Asia/Tokyo")]);
        from.database.push(everybody("timezone=Europe/Berlin"));
        assert_eq!(carried(&from, &[], &to), []);
    }

    #[test]
    fn what_the_move_set_is_not_carried_back_where_it_came_from() {
        let source = side(&[("TimeZone", "Asia/Tokyo")]);
        let mut target = side(&[("TimeZone", "UTC")]);
        let ours = carried(&source, &[], &target);
        target.database.clone_from(&ours);
        assert_eq!(carried(&target, &ours, &source), []);
        // The setting was removed: the clients have seen UTC since.
        target.database.clear();
        assert_eq!(carried(&target, &ours, &source), [everybody("TimeZone=UTC")]);
    }

    #[test]
    fn a_limit_that_the_source_does_not_know_yet_is_lifted() {
        let to = side(&[("transaction_timeout", "500")]);
        assert_eq!(carried(&side(&[]), &[], &to), [everybody("transaction_timeout=boot")]);
    }

    #[test]
    fn a_setting_of_an_application_is_carried_and_one_of_the_target_alone_is_not() {
        let (here, there) = (side(&[("app.mode", "x")]), side(&[("app.other", "y")]));
        assert_eq!(carried(&here, &[], &there), [everybody("app.mode=x")]);
    }

    #[test]
    fn a_role_of_both_servers_keeps_what_it_has_in_this_database() {
        let role = |settings: &[&str]| Role {
            name: "app".to_owned(),
            settings: settings.iter().map(|&stored| stored.to_owned()).collect(),
            ..Role::default()
        };
        let (mut from, mut to) = (side(&[("TimeZone", "UTC")]), side(&[("TimeZone", "UTC")]));
        from.roles.push(role(&[]));
        to.roles.push(role(&["TimeZone=Asia/Tokyo"]));
        let kept = (Some("app".to_owned()), "TimeZone=UTC".to_owned());
        assert_eq!(carried(&from, &[], &to), [kept]);
        from.database.push((Some("app".to_owned()), "TimeZone=Europe/Berlin".to_owned()));
        assert_eq!(carried(&from, &[], &to), []);
        assert_eq!(from.for_role("app", "timezone"), Some("Europe/Berlin"));
        assert_eq!(from.for_role("other", "timezone"), Some("UTC"));
    }

    #[test]
    fn what_would_read_other_values_than_were_written_is_told() {
        let plain = side(&[("lc_monetary", "C.UTF-8"), ("array_nulls", "on"), ("xmloption", "content")]);
        assert_eq!(misread(&plain), []);
        let mut odd =
            side(&[("lc_monetary", "de_DE.UTF-8"), ("array_nulls", "on"), ("xmloption", "content")]);
        odd.database.push(everybody("array_nulls=off"));
        assert_eq!(misread(&odd), [("lc_monetary", "de_DE.UTF-8"), ("array_nulls", "off")]);
    }

    #[test]
    fn the_clients_encoding_is_the_databases_where_nobody_has_set_it() {
        let unset = ServerSetting {
            name: "client_encoding".to_owned(),
            value: None,
            boot: None,
            context: "user".to_owned(),
            hidden: false,
        };
        let mut from = side(&[]);
        from.server = ServerSettings::of([unset]);
        let to = side(&[("client_encoding", "LATIN1")]);
        assert_eq!(carried(&from, &[], &to), [everybody("client_encoding=UTF8")]);
        assert_eq!(carried(&to, &[], &from), [everybody("client_encoding=LATIN1")]);
    }
}
