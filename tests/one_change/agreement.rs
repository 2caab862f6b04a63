//! What must be true of a store and its systems between two commands.

use std::collections::BTreeMap;

use freehold::catalog::chain::Flaw;
use freehold::catalog::{Catalog, keys};
use freehold::lab::Postgres;
use freehold::model::{
    AuditEntry, DatabaseRecord, Lifecycle, Login, MoveRecord, RouteRecord, ServiceTerms, SystemRecord,
    TeamName, TeamRecord, UserRecord,
};
use serde_json::Value;

/// Everything that a store says.
pub(crate) struct Known {
    databases: Vec<DatabaseRecord>,
    names: BTreeMap<String, String>,
    routes: BTreeMap<String, RouteRecord>,
    /// By database id.
    logins: Vec<(String, Login)>,
    systems: Vec<SystemRecord>,
    teams: Vec<TeamRecord>,
    users: Vec<UserRecord>,
    moves: Vec<MoveRecord>,
    /// CREATE, DROP and ADOPT DATABASE, by key.
    operations: BTreeMap<String, Value>,
    audit: Vec<AuditEntry>,
    /// Where the audit trail and its chain differ.
    flaws: Vec<Flaw>,
    /// What commands change, as it is stored.
    stored: BTreeMap<String, Value>,
}

impl Known {
    pub(crate) async fn read(catalog: &Catalog) -> Known {
        let everything = catalog.list_and_watch::<Value>("").await.unwrap().records.into_iter();
        let everything: BTreeMap<String, Value> =
            everything.map(|change| (change.key().to_owned(), change.into_record().unwrap().value)).collect();
        let below = |prefix: &str| -> Vec<(String, Value)> {
            let below =
                |(key, value): (&String, &Value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone()));
            everything.iter().filter_map(below).collect()
        };
        let logins = below(keys::LOGINS).into_iter().map(|(key, value)| {
            let id = key.split('/').next().unwrap().to_owned();
            (id, serde_json::from_value(value).unwrap())
        });
        let names = below(keys::NAMES)
            .into_iter()
            .map(|(name, id)| (name, serde_json::from_value::<String>(id).unwrap()));
        let routes = catalog.routes().list().await.unwrap().into_values().into_iter();
        let told = |key: &str| {
            let further = [keys::AUDIT, keys::AUDIT_LINKS, "counter/", keys::OPERATIONS];
            !further.iter().any(|prefix| key.starts_with(prefix))
        };
        Known {
            databases: catalog.databases().list().await.unwrap().into_values(),
            names: names.collect(),
            routes: routes.map(|route| (route.database.to_string(), route)).collect(),
            logins: logins.collect(),
            systems: catalog.systems().list().await.unwrap().into_values(),
            users: catalog.users().list().await.unwrap().into_values(),
            teams: catalog.teams().list().await.unwrap().into_values(),
            moves: catalog.moves().list().await.unwrap().into_values(),
            operations: below(keys::OPERATIONS).into_iter().collect(),
            audit: below(keys::AUDIT)
                .into_iter()
                .map(|(_, entry)| serde_json::from_value(entry).unwrap())
                .collect(),
            flaws: catalog.audit().verify(None).await.unwrap().flaws,
            stored: everything.into_iter().filter(|(key, _)| told(key)).collect(),
        }
    }

    fn living(&self) -> impl Iterator<Item = &DatabaseRecord> {
        self.databases.iter().filter(|database| !matches!(database.lifecycle, Lifecycle::Deleted { .. }))
    }

    /// Every route has the terms of its database; a deleted database has no route.
    pub(crate) fn is_enforced(&self, what: &str) {
        for database in &self.databases {
            let route = self.routes.get(database.id.as_str());
            match database.lifecycle {
                Lifecycle::Deleted { .. } => assert!(route.is_none(), "{what}: {}", database.name),
                _ => assert_eq!(
                    route.map(|route| &route.terms),
                    Some(&ServiceTerms::of(database)),
                    "{what}: the contract of {} is enforced at once",
                    database.name
                ),
            }
        }
    }

    /// Catalogue, routes, logins and systems say the same.
    pub(crate) fn agrees(&self, systems: &[(&'static str, Postgres)], what: &str) {
        for database in self.living() {
            self.database_agrees(database, what);
        }
        for (user, granted) in
            self.users.iter().flat_map(|user| user.grants.iter().map(move |one| (user, one)))
        {
            let is_known = |team: &TeamName| self.teams.iter().any(|known| known.name == *team);
            assert!(
                granted.grant.team().is_none_or(is_known),
                "{what}: {} has {:?}, of no team",
                user.name,
                granted.grant
            );
        }
        let lives = |id: &str| self.living().any(|database| database.id.as_str() == id);
        for (name, id) in &self.names {
            assert!(lives(id), "{what}: name {name} is of {id}, which is none");
        }
        for id in self.routes.keys() {
            assert!(lives(id), "{what}: a route of {id}, which is none");
        }
        for (id, login) in &self.logins {
            assert!(lives(id), "{what}: login {} of {id}, which is none", login.role);
        }
        for movement in &self.moves {
            let database = self.living().find(|database| database.id == movement.database);
            let is_operation =
                database.is_some_and(|database| database.operation == Some(movement.id.into()));
            assert_eq!(is_operation, !movement.phase.has_ended(), "{what}: move {}", movement.id);
        }
        for database in &self.databases {
            let of_move = database.operation.is_none_or(|operation| operation.move_id().is_some());
            assert!(of_move, "{what}: {} still has {:?}", database.name, database.operation);
        }
        for (key, record) in &self.operations {
            assert!(record["ended_at"].is_u64(), "{what}: {key} has not ended: {record}");
        }
        for (name, server) in systems {
            self.system_agrees(name, server, what);
        }
    }

    fn database_agrees(&self, database: &DatabaseRecord, what: &str) {
        let name = &database.name;
        let is_quarantined = matches!(database.lifecycle, Lifecycle::Quarantined { .. });
        assert!(database.is_served() || is_quarantined, "{what}: {name} is {}", database.state());
        assert_eq!(
            self.names.get(name.as_str()).map(String::as_str),
            Some(database.id.as_str()),
            "{what}: {name} is found by its name"
        );
        assert!(self.teams.iter().any(|team| team.name == database.owner), "{what}: {name} has an owner");
        let route = self.routes.get(database.id.as_str());
        let route = route.unwrap_or_else(|| panic!("{what}: {name} has no route"));
        assert_eq!(route.terms, ServiceTerms::of(database), "{what}: the contract of {name} is enforced");
        let system = self.systems.iter().find(|system| system.name == route.place.system).unwrap();
        assert_eq!(route.place, system.place(route.place.dbname.as_str()), "{what}: {name} is reached");
        assert!(
            self.logins.iter().any(|(id, _)| id == database.id.as_str()),
            "{what}: a role can log in to {name}"
        );
    }

    /// Every database that Freehold made or serves is there, open for its roles; and no other one.
    fn system_agrees(&self, name: &str, server: &Postgres, what: &str) {
        let served: Vec<&RouteRecord> =
            self.routes.values().filter(|route| route.place.system.as_str() == name).collect();
        let listed = |sql: &str| -> Vec<String> {
            server.psql(sql).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
        };
        let own = |name: &&String| !name.starts_with("raw_") && !name.contains("__dropped_");
        let open = listed(
            "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' AND datallowconn",
        );
        for database in open.iter().filter(own) {
            let known = served.iter().any(|route| route.place.dbname == *database);
            assert!(known, "{what}: database {database} on {name} is nobody's");
        }
        let roles = listed(
            "SELECT rolname || ' ' || coalesce(rolpassword, '') FROM pg_authid WHERE rolcanlogin AND NOT rolsuper",
        );
        for route in served {
            assert!(open.contains(&route.place.dbname), "{what}: {} is not on {name}", route.name);
            for (_, login) in self.logins.iter().filter(|(id, _)| id == route.database.as_str()) {
                let role = format!("{} {}", login.role, login.verifier.as_deref().unwrap_or_default());
                assert!(login.superuser || roles.contains(&role), "{what}: {} on {name}", login.role);
            }
        }
        let marked = listed(
            "SELECT rolname FROM pg_roles r WHERE shobj_description(r.oid, 'pg_authid') ~ '^db_' AND rolcanlogin",
        );
        for role in marked {
            let known = self.logins.iter().any(|(_, login)| login.role.as_str() == role);
            assert!(known, "{what}: role {role} on {name} is nobody's");
        }
    }

    /// The command was carried out: a case that is always refused would test nothing.
    pub(crate) fn was_carried_out(&self, before: &Known, what: &str) {
        let mut new = self.audit.iter().filter(|entry| !before.audit.contains(entry));
        assert!(
            new.any(|entry| entry.who == "alice" && entry.outcome == "ok"),
            "{what}: {:?}",
            self.audit.last()
        );
    }

    /// Whatever is another than before, the audit trail says who did it, and that it was done.
    pub(crate) fn tells_of_changes_since(&self, before: &Known, what: &str) {
        assert!(self.flaws.is_empty(), "{what}: {:?}", self.flaws);
        let told = &self.audit[..];
        let done = told.iter().filter(|entry| !before.audit.contains(entry));
        let done: Vec<&AuditEntry> = done.filter(|entry| entry.outcome.starts_with("ok")).collect();
        let changed: Vec<&String> = self
            .stored
            .iter()
            .filter(|(key, value)| before.stored.get(*key) != Some(*value))
            .map(|(key, _)| key)
            .chain(before.stored.keys().filter(|key| !self.stored.contains_key(*key)))
            .collect();
        assert!(changed.is_empty() || !done.is_empty(), "{what}: {changed:?} changed, and nothing says so");
    }
}
