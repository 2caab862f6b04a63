//! The fence: makes writing to a database impossible; its own system enforces it.
//!
//! It has two halves. Ahead of the pause [`shut`] revokes the right to connect (CONNECTION LIMIT 0, no
//! CONNECT for any role); existing sessions go on. In the pause [`terminate_others`] terminates all sessions
//! that do not belong to a proxy, and [`writers`] proves from the system's own views that no writer is left.
//! [`restore`] restores every privilege.
//!
//! # Why
//! `default_transaction_read_only` is no fence: `BEGIN READ WRITE` overrides it. `ALLOW_CONNECTIONS false` is
//! too strict: it also refuses the walsender's reconnect and the way back. Superusers can pass this fence,
//! which the preflight reports.

use std::collections::BTreeMap;

use crate::model::movement::SavedFence;

use super::names::quote_ident;
use super::session::or_rolled_back;
use super::{Session, SystemError};

/// The privileges on a database and its connection limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseAccess {
    pub owner: String,
    pub connection_limit: i32,
    /// `pg_database.datacl` as text; `None` for NULL (the default: PUBLIC may connect).
    pub acl: Option<String>,
    /// Every privilege, including the default ones, sorted.
    pub grants: Vec<Grant>,
}

impl DatabaseAccess {
    pub fn saved(&self) -> SavedFence {
        SavedFence { connection_limit: self.connection_limit, acl: self.acl.clone() }
    }

    /// Only superusers and a move's own roles and workers can connect. The connection limit is not checked:
    /// it is raised while a role of a move reads or writes rows.
    pub fn is_shut(&self) -> bool {
        !self.grants.iter().any(|grant| grant.privilege == "CONNECT")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    pub grantor: String,
    /// `None` is PUBLIC.
    pub grantee: Option<String>,
    /// `CONNECT`, `CREATE`, `TEMPORARY`
    pub privilege: String,
    pub grantable: bool,
}

pub async fn read(session: &Session, dbname: &str) -> Result<DatabaseAccess, SystemError> {
    const READING: &str = "reading who may connect";
    let sql = "SELECT pg_get_userbyid(datdba)::text, datconnlimit, datacl::text FROM pg_database WHERE datname = $1";
    let row = session.optional(READING, sql, &[&dbname]).await?;
    let row = row.ok_or_else(|| session.unexpected(READING, "there is no such database"))?;
    let acl: Option<String> = session.column(READING, &row, 2)?;
    Ok(DatabaseAccess {
        owner: session.column(READING, &row, 0)?,
        connection_limit: session.column(READING, &row, 1)?,
        grants: explode(session, dbname, acl.as_deref()).await?,
        acl,
    })
}

/// The access that a saved fence describes, for a database that is shut now.
pub async fn as_saved(
    session: &Session,
    dbname: &str,
    saved: &SavedFence,
) -> Result<DatabaseAccess, SystemError> {
    let now = read(session, dbname).await?;
    Ok(DatabaseAccess {
        connection_limit: saved.connection_limit,
        grants: explode(session, dbname, saved.acl.as_deref()).await?,
        acl: saved.acl.clone(),
        ..now
    })
}

/// Expands an ACL of a database; NULL is the default ACL. Leaves out the privileges of the roles that read
/// and write a move's rows, which have them while the database is shut. Leaves out entries with a role that
/// no longer exists: the text was saved earlier, and such a role would make all of it unreadable.
const EXPLODE: &str = "\
WITH item AS (
    SELECT i AS text, regexp_match(i, '^(\"(?:[^\"]|\"\")*\"|[^=]*)=[^/]*/(.*)$') AS roles
    FROM unnest($2::text::text[]) i),
named AS (
    SELECT text, ARRAY(SELECT CASE WHEN r ~ '^\"' THEN replace(substr(r, 2, length(r) - 2), '\"\"', '\"') ELSE r END
                       FROM unnest(roles) r WHERE r <> '') AS roles
    FROM item),
known AS (
    SELECT coalesce(array_agg(text::aclitem), '{}') AS acl FROM named
    WHERE NOT EXISTS (SELECT FROM unnest(roles) r WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname::text = r)))
SELECT pg_get_userbyid(a.grantor)::text,
    CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee)::text END, a.privilege_type, a.is_grantable
FROM pg_database d, known,
    aclexplode(CASE WHEN $2::text IS NULL THEN acldefault('d', d.datdba) ELSE known.acl END) a
WHERE d.datname = $1 AND pg_get_userbyid(a.grantee) !~ '^freehold_(apply|read)_([a-z0-9]{8}_)?[0-9]+$'";

async fn explode(session: &Session, dbname: &str, acl: Option<&str>) -> Result<Vec<Grant>, SystemError> {
    const READING: &str = "reading the rights on a database";
    let rows = session.rows(READING, EXPLODE, &[&dbname, &acl]).await?;
    let mut grants = Vec::with_capacity(rows.len());
    for row in &rows {
        grants.push(Grant {
            grantor: session.column(READING, row, 0)?,
            grantee: session.column(READING, row, 1)?,
            privilege: session.column(READING, row, 2)?,
            grantable: session.column(READING, row, 3)?,
        });
    }
    grants.sort();
    Ok(grants)
}

/// Revokes the right to connect from all roles, in one transaction. Existing sessions go on; superusers can
/// still connect. Returns the access before, for [`restore`]; for a database that is shut already, the
/// current one.
pub async fn shut(session: &Session, dbname: &str) -> Result<DatabaseAccess, SystemError> {
    let before = read(session, dbname).await?;
    let database = quote_ident(dbname);
    let mut sql = format!("BEGIN; ALTER DATABASE {database} CONNECTION LIMIT 0;");
    // CASCADE also reaches grants by other roles than the owner.
    for grant in before.grants.iter().filter(|grant| grant.privilege == "CONNECT") {
        let grantee = grantee_sql(grant.grantee.as_deref());
        sql.push_str(&format!("REVOKE CONNECT ON DATABASE {database} FROM {grantee} CASCADE;"));
    }
    sql.push_str("COMMIT");
    or_rolled_back(session, session.batch("shutting a database", &sql).await).await?;
    let after = read(session, dbname).await?;
    match after.is_shut() && after.connection_limit == 0 {
        true => Ok(before),
        false => Err(session.unexpected("shutting a database", "somebody still may connect")),
    }
}

/// Restores exactly the privileges of `saved`. Safe to repeat. Grants by a role that has lost the privilege
/// since are granted again as that role.
pub async fn restore(session: &Session, dbname: &str, saved: &SavedFence) -> Result<(), SystemError> {
    const RESTORING: &str = "opening a database";
    let now = read(session, dbname).await?;
    let wanted = explode(session, dbname, saved.acl.as_deref()).await?;
    if now.grants == wanted && now.connection_limit == saved.connection_limit {
        return Ok(());
    }
    let database = quote_ident(dbname);
    let mut sql = String::from("BEGIN;");
    for grant in now.grants.iter().filter(|grant| !wanted.contains(grant)) {
        let (privilege, grantee) = (&grant.privilege, grantee_sql(grant.grantee.as_deref()));
        sql.push_str(&format!("REVOKE {privilege} ON DATABASE {database} FROM {grantee} CASCADE;"));
    }
    for grant in in_granting_order(&now.owner, wanted.clone()) {
        let (privilege, grantee) = (&grant.privilege, grantee_sql(grant.grantee.as_deref()));
        let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
        let statement = format!("GRANT {privilege} ON DATABASE {database} TO {grantee}{option};");
        match grant.grantor == now.owner {
            true => sql.push_str(&statement),
            false => {
                let grantor = quote_ident(&grant.grantor);
                sql.push_str(&format!("SET LOCAL ROLE {grantor};{statement}RESET ROLE;"));
            }
        }
    }
    let limit = saved.connection_limit;
    sql.push_str(&format!("ALTER DATABASE {database} CONNECTION LIMIT {limit};COMMIT"));
    or_rolled_back(session, session.batch(RESTORING, &sql).await).await?;
    let after = read(session, dbname).await?;
    match after.grants == wanted {
        true => Ok(()),
        false => Err(session.unexpected(RESTORING, format!("rights are {:?}", after.acl))),
    }
}

/// The privileges of a database for another owner on another system. The owner here does not own it there, so
/// its owner's privileges become explicit grants. `knows` returns whether a role exists there.
pub fn translated(access: &DatabaseAccess, new_owner: &str, knows: impl Fn(&str) -> bool) -> SavedFence {
    let unchanged = access.acl.is_none() && access.owner == new_owner;
    if unchanged {
        return SavedFence { connection_limit: access.connection_limit, acl: None };
    }
    let mut rights: BTreeMap<Option<&str>, BTreeMap<char, bool>> = BTreeMap::new();
    for grant in &access.grants {
        let grantee = grant.grantee.as_deref();
        if grantee.is_some_and(|role| !knows(role)) {
            continue;
        }
        let Some(letter) = letter_of(&grant.privilege) else { continue };
        let grantable = rights.entry(grantee).or_default().entry(letter).or_default();
        *grantable |= grant.grantable;
    }
    for role in [access.owner.as_str(), new_owner] {
        if role == new_owner || knows(role) {
            let own = rights.entry(Some(role)).or_default();
            ['C', 'T', 'c'].into_iter().for_each(|letter| *own.entry(letter).or_default() |= false);
        }
    }
    let items: Vec<String> =
        rights.iter().map(|(&role, letters)| acl_item(role, letters, new_owner)).collect();
    let acl = Some(format!("{{{}}}", items.join(",")));
    SavedFence { connection_limit: access.connection_limit, acl }
}

fn letter_of(privilege: &str) -> Option<char> {
    match privilege {
        "CREATE" => Some('C'),
        "TEMPORARY" => Some('T'),
        "CONNECT" => Some('c'),
        _ => None,
    }
}

/// `app=CTc/owner` as an element of an array literal.
fn acl_item(role: Option<&str>, letters: &BTreeMap<char, bool>, grantor: &str) -> String {
    let letters: String = letters
        .iter()
        .map(|(letter, &grantable)| format!("{letter}{}", if grantable { "*" } else { "" }))
        .collect();
    let item = format!("{}={letters}/{}", role.map(quote_ident).unwrap_or_default(), quote_ident(grantor));
    format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The owner's grants first, then those of roles that have received the grant option by then.
fn in_granting_order(owner: &str, mut grants: Vec<Grant>) -> Vec<Grant> {
    let mut ordered: Vec<Grant> = Vec::with_capacity(grants.len());
    loop {
        let can_grant = |grant: &Grant| {
            grant.grantor == owner
                || ordered.iter().any(|earlier| {
                    earlier.grantable
                        && earlier.privilege == grant.privilege
                        && earlier.grantee.as_deref() == Some(&grant.grantor)
                })
        };
        let (next, later): (Vec<Grant>, Vec<Grant>) = grants.into_iter().partition(can_grant);
        if next.is_empty() {
            // Grants without a possible grantor come last; the server decides about them.
            ordered.extend(later);
            return ordered;
        }
        ordered.extend(next);
        grants = later;
    }
}

fn grantee_sql(grantee: Option<&str>) -> String {
    grantee.map_or_else(|| "PUBLIC".to_owned(), quote_ident)
}

/// A backend or a prepared transaction on a database that may still write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// `unknown` if the role of a prepared transaction was dropped.
    pub role: String,
    pub application_name: String,
    /// `client backend`, `parallel worker`, `prepared transaction`, the name of an extension's worker.
    pub kind: String,
    /// `active`, `idle in transaction`; for a prepared transaction its identifier.
    pub state: String,
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(
                f,
                "{} {pid} of role {} ({}, {})",
                self.kind, self.role, self.application_name, self.state
            ),
            None => write!(f, "prepared transaction {} of role {}", self.state, self.role),
        }
    }
}

/// Every backend of a database that may write for a user: leaves out Freehold's sessions, walsenders that
/// serve a move, and workers of the server itself. Other walsenders count: a replication connection can run
/// SQL, too. A pid of `$2` does not count while it is idle, even with a snapshot: a listener then reads its
/// notifications.
const OTHERS: &str = "\
FROM pg_stat_activity a
WHERE a.datname = $1 AND a.pid <> pg_backend_pid()
  AND a.pid NOT IN (SELECT s.active_pid FROM pg_replication_slots s
                    WHERE s.active_pid IS NOT NULL AND s.slot_name ~ '^freehold_(move|back)_')
  AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'autovacuum launcher',
      'logical replication launcher', 'logical replication worker', 'logical replication apply worker',
      'logical replication parallel worker', 'logical replication tablesync worker', 'slotsync worker')
  AND NOT (a.pid = ANY ($2) AND a.backend_xid IS NULL
           AND coalesce(a.state, 'disabled') IN ('idle', 'disabled'))";

/// Terminates every backend of the database except this session and those of `keep`. Returns the terminated
/// ones, which take a moment to end. `keep` are server connections of the proxies with clients that are in no
/// transaction: a busy one is being cleaned or given a client's settings, and [`writers`] reports it until it
/// is idle. `others_of_ours` are sessions of the platform, which are never terminated.
pub async fn terminate_others(
    session: &Session,
    dbname: &str,
    keep: &[i32],
    others_of_ours: &[i32],
) -> Result<Vec<Writer>, SystemError> {
    const ENDING: &str = "ending other sessions";
    let rows = session.rows(ENDING, &terminate_sql(), &[&dbname, &keep, &others_of_ours]).await?;
    rows.iter().map(|row| writer(session, ENDING, row)).collect()
}

/// Sessions on the database other than `ours`, busy or idle.
pub async fn others(session: &Session, dbname: &str, ours: &[i32]) -> Result<Vec<Writer>, SystemError> {
    const LOOKING: &str = "looking for other sessions";
    let sql = format!(
        "SELECT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(a.backend_type, ''),
            coalesce(a.state, '')
         {OTHERS} AND a.pid <> ALL ($3)"
    );
    let nobody: [i32; 0] = [];
    let rows = session.rows(LOOKING, &sql, &[&dbname, &nobody.as_slice(), &ours]).await?;
    rows.iter().map(|row| writer(session, LOOKING, row)).collect()
}

/// The statement of [`terminate_others`]: database, pids to keep, pids of the platform.
pub(super) fn terminate_sql() -> String {
    format!(
        "SELECT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(a.backend_type, ''),
            coalesce(a.state, ''), pg_terminate_backend(a.pid)
         {OTHERS} AND a.pid <> ALL ($2) AND a.pid <> ALL ($3)"
    )
}

/// Everything that may still write to the database: other backends except the idle ones in `keep`, holders of
/// a write lock, prepared transactions. An empty list, with the database [`shut`], proves the fence.
pub async fn writers(
    session: &Session,
    dbname: &str,
    keep: &[i32],
    others_of_ours: &[i32],
) -> Result<Vec<Writer>, SystemError> {
    const PROVING: &str = "proving that nobody writes";
    let rows = session.rows(PROVING, &writers_sql(), &[&dbname, &keep, &others_of_ours]).await?;
    rows.iter().map(|row| writer(session, PROVING, row)).collect()
}

/// The statement of [`writers`]: database, pids to keep, pids of the platform.
pub(super) fn writers_sql() -> String {
    format!(
        "SELECT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(a.backend_type, ''),
            coalesce(a.state, '')
         {OTHERS} AND a.pid <> ALL ($3)
         UNION
         SELECT l.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''),
            coalesce(a.backend_type, 'backend'), 'holds ' || min(l.mode)
         FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid() AND l.pid <> ALL ($3)
           AND l.database = (SELECT oid FROM pg_database WHERE datname = $1)
           AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
           AND coalesce(a.backend_type, 'client backend') IN ('client backend', 'background worker', 'parallel worker', 'walsender')
           AND l.pid NOT IN (SELECT s.active_pid FROM pg_replication_slots s
                             WHERE s.active_pid IS NOT NULL AND s.slot_name ~ '^freehold_(move|back)_')
         GROUP BY l.pid, a.usename, a.application_name, a.backend_type
         UNION
         SELECT NULL, coalesce(owner::text, 'unknown'), '', 'prepared transaction', gid FROM pg_prepared_xacts WHERE database = $1"
    )
}

pub(super) fn writer(
    session: &Session,
    operation: &'static str,
    row: &tokio_postgres::Row,
) -> Result<Writer, SystemError> {
    Ok(Writer {
        pid: session.column(operation, row, 0)?,
        role: session.column(operation, row, 1)?,
        application_name: session.column(operation, row, 2)?,
        kind: session.column(operation, row, 3)?,
        state: session.column(operation, row, 4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantor: &str, grantee: &str, grantable: bool) -> Grant {
        Grant {
            grantor: grantor.into(),
            grantee: Some(grantee.into()),
            privilege: "CONNECT".into(),
            grantable,
        }
    }

    #[test]
    fn a_former_owner_keeps_by_name_what_it_had_as_owner() {
        let access = DatabaseAccess {
            owner: "app".into(),
            connection_limit: 7,
            acl: Some("{app=CTc/app,\"re\"\"ader\"=c/app,gone=c/app}".into()),
            grants: vec![
                Grant { privilege: "CONNECT".into(), ..grant("app", "re\"ader", true) },
                grant("app", "gone", false),
                grant("app", "app", false),
            ],
        };
        let there = translated(&access, "platform", |role| role != "gone");
        assert_eq!(there.connection_limit, 7);
        let expected = r#"{"\"app\"=CTc/\"platform\"","\"platform\"=CTc/\"platform\"","\"re\"\"ader\"=c*/\"platform\""}"#;
        assert_eq!(there.acl.as_deref(), Some(expected));
    }

    #[test]
    fn who_passes_a_right_on_gets_it_first() {
        let grants = vec![grant("b", "c", false), grant("a", "b", true), grant("owner", "a", true)];
        let ordered = in_granting_order("owner", grants);
        let grantors: Vec<&str> = ordered.iter().map(|grant| grant.grantor.as_str()).collect();
        assert_eq!(grantors, ["owner", "a", "b"]);
    }
}
