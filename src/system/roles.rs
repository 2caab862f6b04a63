//! Roles that a database needs, with their verifiers, memberships and settings.
//!
//! A move copies verifiers byte for byte: the ClientKey that a client's proof reveals is then valid on the
//! other system, too, and no password is ever needed. A role that the move created carries a comment that
//! says so ([`MoveNames::role_mark`]), written in the same transaction, so that an undo finds those and no
//! others.
//!
//! [`MoveNames::role_mark`]: super::names::MoveNames::role_mark

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde_json::Value;

use crate::auth::scram::{ITERATIONS_DEFAULT, SALT_BYTES_DEFAULT, Verifier};
use crate::auth::sha256;

use super::names::{quote_ident, quote_literal};
use super::session::or_rolled_back;
use super::{Session, SystemError};

/// A role as `pg_authid` has it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    pub superuser: bool,
    pub inherit: bool,
    pub create_role: bool,
    pub create_db: bool,
    pub can_login: bool,
    pub replication: bool,
    pub bypass_rls: bool,
    pub connection_limit: i64,
    /// `SCRAM-SHA-256$...` or `md5...`; `None` if the role has no password.
    pub verifier: Option<String>,
    /// As the server writes it, `infinity` included; `None` if it was never set.
    pub valid_until: Option<String>,
    pub comment: Option<String>,
    /// Settings for every database: `search_path=a, b`.
    pub settings: Vec<String>,
}

impl std::fmt::Debug for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Role").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Role {
    /// Its password is stored as an md5 hash, which is useless for SCRAM.
    pub fn has_md5(&self) -> bool {
        self.verifier.as_deref().is_some_and(|verifier| verifier.starts_with("md5"))
    }

    /// An unset expiry is the same as infinity.
    pub(crate) fn ends_at(&self) -> Option<&str> {
        self.valid_until.as_deref().filter(|&until| until != "infinity")
    }

    /// Names of the role's attributes that differ, leaving out the name and the authentication.
    pub fn differing_attributes(&self, other: &Role) -> Vec<&'static str> {
        let pairs = [
            ("SUPERUSER", self.superuser == other.superuser),
            ("INHERIT", self.inherit == other.inherit),
            ("CREATEROLE", self.create_role == other.create_role),
            ("CREATEDB", self.create_db == other.create_db),
            ("LOGIN", self.can_login == other.can_login),
            ("REPLICATION", self.replication == other.replication),
            ("BYPASSRLS", self.bypass_rls == other.bypass_rls),
            ("VALID UNTIL", self.ends_at() == other.ends_at()),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }

    /// The name of the password in the properties.
    pub const PASSWORD: &'static str = "PASSWORD";

    /// All properties of a role that differ from the defaults of CREATE ROLE, by the keywords of ALTER ROLE;
    /// for a password only a digest of the verifier.
    pub fn properties(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = ATTRIBUTES
            .iter()
            .map(|&(name, plain)| (name, plain, self.attributes_sql(&[name])))
            .filter(|(_, plain, option)| plain != option)
            .map(|(name, _, option)| (name.to_owned(), option))
            .collect();
        if self.connection_limit != -1 {
            all.insert("CONNECTION LIMIT".to_owned(), self.connection_limit.to_string());
        }
        if let Some(verifier) = &self.verifier {
            let digest = sha256(verifier.as_bytes());
            let digest = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
            all.insert(Role::PASSWORD.to_owned(), digest);
        }
        for stored in &self.settings {
            let (name, value) = stored.split_once('=').unwrap_or((stored, ""));
            all.insert(format!("{SET}{name}"), value.to_owned());
        }
        all
    }

    /// Copies one of the properties from another role.
    pub fn take(&mut self, property: &str, from: &Role) {
        match property {
            "SUPERUSER" => self.superuser = from.superuser,
            "INHERIT" => self.inherit = from.inherit,
            "CREATEROLE" => self.create_role = from.create_role,
            "CREATEDB" => self.create_db = from.create_db,
            "LOGIN" => self.can_login = from.can_login,
            "REPLICATION" => self.replication = from.replication,
            "BYPASSRLS" => self.bypass_rls = from.bypass_rls,
            "VALID UNTIL" => self.valid_until.clone_from(&from.valid_until),
            "CONNECTION LIMIT" => self.connection_limit = from.connection_limit,
            Role::PASSWORD => self.verifier.clone_from(&from.verifier),
            _ => self.take_setting(property.strip_prefix(SET).unwrap_or(property), from),
        }
    }

    fn take_setting(&mut self, name: &str, from: &Role) {
        let is_it = |stored: &&String| stored.split_once('=').is_some_and(|(other, _)| other == name);
        self.settings.retain(|stored| !is_it(&stored));
        self.settings.extend(from.settings.iter().find(is_it).cloned());
    }

    /// Some of the attributes, named as in [`Role::differing_attributes`], as options of ALTER ROLE.
    pub fn attributes_sql(&self, names: &[&str]) -> String {
        let until = self.valid_until.as_deref().unwrap_or("infinity");
        let all = [
            ("SUPERUSER", word(self.superuser, "SUPERUSER")),
            ("INHERIT", word(self.inherit, "INHERIT")),
            ("CREATEROLE", word(self.create_role, "CREATEROLE")),
            ("CREATEDB", word(self.create_db, "CREATEDB")),
            ("LOGIN", word(self.can_login, "LOGIN")),
            ("REPLICATION", word(self.replication, "REPLICATION")),
            ("BYPASSRLS", word(self.bypass_rls, "BYPASSRLS")),
            ("VALID UNTIL", format!("VALID UNTIL {}", quote_literal(until))),
        ];
        let chosen = all.into_iter().filter(|(name, _)| names.contains(name)).map(|(_, option)| option);
        chosen.collect::<Vec<_>>().join(" ")
    }

    /// `WITH` and everything after it in CREATE ROLE and ALTER ROLE.
    pub fn options_sql(&self) -> String {
        let mut options = vec![
            word(self.superuser, "SUPERUSER"),
            word(self.inherit, "INHERIT"),
            word(self.create_role, "CREATEROLE"),
            word(self.create_db, "CREATEDB"),
            word(self.can_login, "LOGIN"),
            word(self.replication, "REPLICATION"),
            word(self.bypass_rls, "BYPASSRLS"),
            format!("CONNECTION LIMIT {}", self.connection_limit),
        ];
        if let Some(verifier) = &self.verifier {
            options.push(format!("PASSWORD {}", quote_literal(verifier)));
        }
        if let Some(until) = &self.valid_until {
            options.push(format!("VALID UNTIL {}", quote_literal(until)));
        }
        format!("WITH {}", options.join(" "))
    }
}

/// Attributes of a role, by the names of [`Role::differing_attributes`], and their defaults.
const ATTRIBUTES: [(&str, &str); 8] = [
    ("SUPERUSER", "NOSUPERUSER"),
    ("INHERIT", "INHERIT"),
    ("CREATEROLE", "NOCREATEROLE"),
    ("CREATEDB", "NOCREATEDB"),
    ("LOGIN", "NOLOGIN"),
    ("REPLICATION", "NOREPLICATION"),
    ("BYPASSRLS", "NOBYPASSRLS"),
    ("VALID UNTIL", "VALID UNTIL 'infinity'"),
];
/// Prefix of a setting's name in the properties.
const SET: &str = "SET ";

/// An option of a role, or its opposite.
fn word(yes: bool, word: &str) -> String {
    if yes { word.to_owned() } else { format!("NO{word}") }
}

/// `member` is a member of `role`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub role: String,
    pub member: String,
    pub admin: bool,
    /// PostgreSQL 16; `None` before, where the member's INHERIT decides.
    pub inherit: Option<bool>,
    /// PostgreSQL 16: whether the member may SET ROLE.
    pub set: Option<bool>,
}

impl Membership {
    /// Whether `other` grants exactly the same. An unknown INHERIT option of an older server matches any.
    pub fn is_met_by(&self, other: &Membership) -> bool {
        let same = |a: Option<bool>, b: Option<bool>| a.is_none() || b.is_none() || a == b;
        (&self.role, &self.member, self.admin) == (&other.role, &other.member, other.admin)
            && same(self.inherit, other.inherit)
            && same(self.set, other.set)
    }

    pub fn is_same_pair(&self, other: &Membership) -> bool {
        (&self.role, &self.member) == (&other.role, &other.member)
    }

    /// The options after WITH in GRANT; unknown ones are left out.
    pub fn options(&self) -> String {
        let mut options = vec![format!("ADMIN {}", yes_or_no(self.admin))];
        options.extend(self.inherit.map(|yes| format!("INHERIT {}", yes_or_no(yes))));
        options.extend(self.set.map(|yes| format!("SET {}", yes_or_no(yes))));
        options.join(", ")
    }
}

/// The roles that a database needs: those that own something in it, are named in a privilege, a policy or a
/// default privilege of it, or have settings for it; members of these; and, recursively, the roles that all
/// of these are members of. Leaves out predefined roles (`pg_...`), which exist everywhere, roles of moves,
/// which are members of owners of tables, and `$2`; always includes `$3`.
///
/// PUBLIC's right to connect makes no role needed: on a shared system it would make all roles needed.
const NEEDED: &str = "\
WITH RECURSIVE db AS (SELECT oid, datdba, coalesce(datacl, acldefault('d', datdba)) AS acl
                      FROM pg_database WHERE datname = $1),
named AS (
    SELECT s.refobjid AS oid FROM pg_shdepend s, db
     WHERE s.refclassid = 'pg_authid'::regclass
       AND (s.dbid = db.oid OR (s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid = db.oid))
    UNION SELECT db.datdba FROM db
    UNION SELECT x.grantee FROM db, aclexplode(db.acl) x WHERE x.grantee <> 0
    UNION SELECT x.grantor FROM db, aclexplode(db.acl) x
    UNION SELECT s.setrole FROM pg_db_role_setting s, db WHERE s.setdatabase = db.oid AND s.setrole <> 0
    UNION SELECT r.oid FROM pg_roles r WHERE r.rolname::text = ANY ($3)
),
members AS (
    SELECT n.oid FROM named n JOIN pg_roles r USING (oid) WHERE r.rolname !~ '^pg_'
    UNION SELECT m.member FROM members JOIN pg_auth_members m ON m.roleid = members.oid
),
needed AS (
    SELECT oid FROM named UNION SELECT oid FROM members
    UNION SELECT m.roleid FROM needed JOIN pg_auth_members m ON m.member = needed.oid
)
SELECT DISTINCT r.rolname::text FROM needed JOIN pg_roles r USING (oid)
WHERE r.rolname !~ '^(pg_|freehold_(move|apply|read|claim)_)' AND r.rolname::text <> ALL ($2) ORDER BY 1";

/// Whether a role of this name exists.
pub async fn exists(session: &Session, operation: &'static str, name: &str) -> Result<bool, SystemError> {
    session.value(operation, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", &[&name]).await
}

/// Names of the roles that a database needs, with `logins`, without `except`.
pub async fn needed_by(
    session: &Session,
    dbname: &str,
    logins: &[String],
    except: &[&str],
) -> Result<Vec<String>, SystemError> {
    const LISTING: &str = "listing the roles of a database";
    session.list(LISTING, NEEDED, &[&dbname, &except, &logins]).await
}

/// Reads those of the roles that exist. Verifiers need a superuser; without one, they are absent on managed
/// systems.
pub async fn read(session: &Session, names: &[String]) -> Result<Vec<Role>, SystemError> {
    const READING: &str = "reading roles";
    let sql = "SELECT (to_jsonb(a) || jsonb_build_object('valid_until', a.rolvaliduntil::text,
            'comment', shobj_description(a.oid, 'pg_authid'),
            'settings', (SELECT to_jsonb(setconfig) FROM pg_db_role_setting WHERE setrole = a.oid AND setdatabase = 0)
        ))::text FROM pg_authid a WHERE a.rolname::text = ANY ($1) ORDER BY a.rolname";
    let rows = session.rows(READING, sql, &[&names]).await?;
    let mut roles = Vec::with_capacity(rows.len());
    for row in &rows {
        let json: String = session.column(READING, row, 0)?;
        let json: Value =
            serde_json::from_str(&json).map_err(|error| session.unexpected(READING, error.to_string()))?;
        roles.push(role_from(&json));
    }
    Ok(roles)
}

fn role_from(json: &Value) -> Role {
    let yes = |name: &str| json.get(name).and_then(Value::as_bool).unwrap_or(false);
    let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
    Role {
        name: text("rolname").unwrap_or_default(),
        superuser: yes("rolsuper"),
        inherit: yes("rolinherit"),
        create_role: yes("rolcreaterole"),
        create_db: yes("rolcreatedb"),
        can_login: yes("rolcanlogin"),
        replication: yes("rolreplication"),
        bypass_rls: yes("rolbypassrls"),
        connection_limit: json.get("rolconnlimit").and_then(Value::as_i64).unwrap_or(-1),
        verifier: text("rolpassword"),
        valid_until: text("valid_until"),
        comment: text("comment"),
        settings: strings(json.get("settings")),
    }
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Memberships of these roles in other roles.
pub async fn memberships(session: &Session, members: &[String]) -> Result<Vec<Membership>, SystemError> {
    const READING: &str = "reading memberships";
    let sql =
        "SELECT pg_get_userbyid(m.roleid)::text, pg_get_userbyid(m.member)::text, bool_or(m.admin_option),
            bool_or((to_jsonb(m) ->> 'inherit_option')::bool), bool_or((to_jsonb(m) ->> 'set_option')::bool)
        FROM pg_auth_members m WHERE pg_get_userbyid(m.member)::text = ANY ($1) GROUP BY 1, 2 ORDER BY 1, 2";
    let rows = session.rows(READING, sql, &[&members]).await?;
    rows.iter().map(|row| membership(session, READING, row)).collect()
}

/// The members of these roles that are no superusers, with the options of the memberships. Leaves out a
/// move's own role that no other role controls.
pub async fn members(session: &Session, roles: &[String]) -> Result<Vec<Membership>, SystemError> {
    const READING: &str = "reading the members of roles";
    let sql = "SELECT r.rolname::text, u.rolname::text, bool_or(m.admin_option),
            bool_or(coalesce((to_jsonb(m) ->> 'inherit_option')::bool, u.rolinherit)),
            bool_or(coalesce((to_jsonb(m) ->> 'set_option')::bool, true))
        FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
        WHERE r.rolname::text = ANY ($1) AND NOT u.rolsuper
          AND NOT (u.rolname ~ '^freehold_(move|apply|read)_' AND NOT EXISTS (SELECT FROM pg_auth_members o
              JOIN pg_roles p ON p.oid = o.member WHERE o.roleid = u.oid AND NOT p.rolsuper))
        GROUP BY 1, 2 ORDER BY 1, 2";
    let rows = session.rows(READING, sql, &[&roles]).await?;
    rows.iter().map(|row| membership(session, READING, row)).collect()
}

fn membership(
    session: &Session,
    operation: &'static str,
    row: &tokio_postgres::Row,
) -> Result<Membership, SystemError> {
    Ok(Membership {
        role: session.column(operation, row, 0)?,
        member: session.column(operation, row, 1)?,
        admin: session.column(operation, row, 2)?,
        inherit: session.column(operation, row, 3)?,
        set: session.column(operation, row, 4)?,
    })
}

/// Creates a role with its verifier, settings and mark, in one transaction.
pub async fn create(session: &Session, role: &Role, mark: &str) -> Result<(), SystemError> {
    let name = quote_ident(&role.name);
    let mut sql = format!(
        "BEGIN; SET LOCAL log_statement = 'none'; CREATE ROLE {name} {}; COMMENT ON ROLE {name} IS {};",
        role.options_sql(),
        quote_literal(mark)
    );
    for setting in &role.settings {
        sql.push_str(&format!("ALTER ROLE {name} {};", set_clause(setting)));
    }
    sql.push_str("COMMIT");
    or_rolled_back(session, session.batch("creating a role", &sql).await).await
}

/// Changes a role from `now` to `wanted`, including its verifier and settings, in one transaction. Equal
/// attributes are not written: another session may be changing them.
pub async fn alter(session: &Session, wanted: &Role, now: &Role) -> Result<(), SystemError> {
    let name = quote_ident(&wanted.name);
    let mut options = vec![wanted.attributes_sql(&wanted.differing_attributes(now))];
    if wanted.connection_limit != now.connection_limit {
        options.push(format!("CONNECTION LIMIT {}", wanted.connection_limit));
    }
    if wanted.verifier != now.verifier {
        let verifier = wanted.verifier.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
        options.push(format!("PASSWORD {verifier}"));
    }
    options.retain(|option| !option.is_empty());
    let mut sql = String::from("BEGIN; SET LOCAL log_statement = 'none';");
    if !options.is_empty() {
        sql.push_str(&format!("ALTER ROLE {name} WITH {};", options.join(" ")));
    }
    for stored in now.settings.iter().filter(|stored| !wanted.settings.contains(stored)) {
        sql.push_str(&format!("ALTER ROLE {name} {};", reset_clause(stored)));
    }
    for stored in wanted.settings.iter().filter(|stored| !now.settings.contains(stored)) {
        sql.push_str(&format!("ALTER ROLE {name} {};", set_clause(stored)));
    }
    sql.push_str("COMMIT");
    or_rolled_back(session, session.batch("changing a role", &sql).await).await
}

/// Ends a membership.
pub async fn revoke_membership(session: &Session, membership: &Membership) -> Result<(), SystemError> {
    let (role, member) = (quote_ident(&membership.role), quote_ident(&membership.member));
    session.batch("revoking a membership", &format!("REVOKE {role} FROM {member}")).await
}

/// Grants `membership` on this system, if it is not granted yet.
pub async fn grant_membership(session: &Session, membership: &Membership) -> Result<(), SystemError> {
    let version = super::facts::version_num(session).await?;
    let mut options = Vec::new();
    if membership.admin {
        options.push("ADMIN OPTION".to_owned());
    }
    // Since 16 options are named, and INHERIT is one of them.
    if version >= 160_000 {
        options = vec![membership.options()];
    }
    let with = if options.is_empty() { String::new() } else { format!(" WITH {}", options.join(", ")) };
    let (role, member) = (quote_ident(&membership.role), quote_ident(&membership.member));
    let mut sql = format!("GRANT {role} TO {member}{with}");
    // Before 16 GRANT cannot remove the option.
    if version < 160_000 && !membership.admin {
        sql.push_str(&format!("; REVOKE ADMIN OPTION FOR {role} FROM {member}"));
    }
    session.batch("granting a membership", &sql).await
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "TRUE" } else { "FALSE" }
}

/// Roles that carry a mark.
pub async fn marked(session: &Session, mark: &str) -> Result<Vec<String>, SystemError> {
    const LISTING: &str = "listing the roles that the move made";
    let sql = "SELECT rolname::text FROM pg_roles WHERE shobj_description(oid, 'pg_authid') = $1 ORDER BY 1";
    session.list(LISTING, sql, &[&mark]).await
}

/// Drops a role if it exists. `Ok(false)`: something depends on it, so it stays.
pub async fn drop_unless_used(session: &Session, name: &str) -> Result<bool, SystemError> {
    match session.batch("dropping a role", &format!("DROP ROLE IF EXISTS {}", quote_ident(name))).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_refused_with("2BP01") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Replaces the comment on a role; `None` removes it.
pub async fn comment(session: &Session, name: &str, text: Option<&str>) -> Result<(), SystemError> {
    let text = text.map_or_else(|| "NULL".to_owned(), quote_literal);
    let sql = format!("COMMENT ON ROLE {} IS {text}", quote_ident(name));
    session.batch("commenting a role", &sql).await
}

/// The SCRAM verifier of a password: the publisher never gets the password itself, and requires SCRAM
/// whatever its `password_encryption` is.
pub(super) async fn verifier_of(session: &Session, password: &str) -> Result<String, SystemError> {
    let password = zeroize::Zeroizing::new(password.to_owned());
    let salt: [u8; SALT_BYTES_DEFAULT] = rand::random();
    let rounds = NonZeroU32::new(ITERATIONS_DEFAULT).unwrap_or(NonZeroU32::MIN);
    // This takes milliseconds of CPU time.
    tokio::task::spawn_blocking(move || Verifier::from_password(&password, &salt, rounds).to_string())
        .await
        .map_err(|error| session.unexpected("hashing a password", error.to_string()))
}

/// Settings of a database, and of roles in it: (role or None, `name=value`).
pub async fn database_settings(
    session: &Session,
    dbname: &str,
) -> Result<Vec<(Option<String>, String)>, SystemError> {
    const READING: &str = "reading the settings of a database";
    let sql = "SELECT CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole)::text END, c
        FROM pg_db_role_setting s, unnest(s.setconfig) c
        WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = $1) ORDER BY 1 NULLS FIRST, 2";
    let rows = session.rows(READING, sql, &[&dbname]).await?;
    rows.iter().map(|row| Ok((session.column(READING, row, 0)?, session.column(READING, row, 1)?))).collect()
}

/// `name=value`, as stored, in the form `SET name TO value`.
///
/// A few settings are lists of names (GUC_LIST_QUOTE in the server's source): their stored value is already a
/// list, and each element must be quoted separately, or `a, b` would become one name.
pub fn set_clause(stored: &str) -> String {
    const LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    let (name, value) = stored.split_once('=').unwrap_or((stored, ""));
    let is_list = LISTS.iter().any(|list| list.eq_ignore_ascii_case(name));
    let value = match is_list {
        true => {
            let names: Vec<String> = split_names(value).iter().map(|name| quote_literal(name)).collect();
            if names.is_empty() { "''".to_owned() } else { names.join(", ") }
        }
        false => quote_literal(value),
    };
    format!("SET {} TO {value}", setting_name(name))
}

/// The RESET clause for a stored `name=value`.
pub fn reset_clause(stored: &str) -> String {
    let name = stored.split_once('=').map_or(stored, |(name, _)| name);
    format!("RESET {}", setting_name(name))
}

/// A custom setting has a dot that separates two identifiers.
fn setting_name(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(quote_ident).collect();
    parts.join(".")
}

/// Splits `"a b", c` into `a b` and `c`.
pub fn split_names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim_end().to_owned(), &rest[end..])
            }
        };
        names.push(name);
        rest = after.trim_start().strip_prefix(',').unwrap_or("").trim_start();
    }
    names
}

/// The name up to its closing quote, and the rest.
fn unquote(quoted: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        if character != '"' {
            name.push(character);
        } else if characters.next_if(|&(_, next)| next == '"').is_some() {
            name.push('"');
        } else {
            return (name, &quoted[index + 1..]);
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_is_quoted_name_by_name() {
        assert_eq!(
            set_clause("search_path=\"$user\", public, \"My \"\"own\"\" schema\""),
            "SET \"search_path\" TO '$user', 'public', 'My \"own\" schema'"
        );
        assert_eq!(set_clause("search_path=\"\""), "SET \"search_path\" TO ''");
        assert_eq!(set_clause("work_mem=64MB"), "SET \"work_mem\" TO '64MB'");
        assert_eq!(set_clause("app.tenant=a, b"), "SET \"app\".\"tenant\" TO 'a, b'");
    }
}
