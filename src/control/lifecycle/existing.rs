//! What ADOPT DATABASE finds: which roles may log in to a database that exists, and what its owner should
//! know. It changes nothing on the system.
//!
//! # Why not every role is shown
//! A server with many databases has many roles, and by the CONNECT that PUBLIC has on each database, each
//! role may log in to each. All of them are served, as before the adoption. The answer is about those that
//! have to do with the database: that own something in it, or were granted something; the others are a
//! number.

use std::collections::HashSet;

use super::{LifecycleError, SystemConnection};
use crate::control::logins;
use crate::model::{Login, RoleName, printable};
use crate::system::facts::{self, DatabaseFacts};
use crate::system::{Session, SystemError, quote_ident};

/// Names of superusers in one warning; a number stands for the others.
const NAMES_MAX: usize = 5;

/// A database that already exists on a system.
#[derive(Debug, Clone)]
pub struct ExistingDatabase {
    pub facts: DatabaseFacts,
    /// Every role that can log in and connect, but for the platform's own.
    pub logins: Vec<Login>,
    /// Those of them that own something there, or were granted something.
    pub own_roles: Vec<RoleName>,
    /// What the owner should know: sentences, with the SQL that corrects it.
    pub warnings: Vec<String>,
}

/// Examines a database before its adoption.
pub async fn examine(reach: SystemConnection<'_>, dbname: &str) -> Result<ExistingDatabase, LifecycleError> {
    let session = reach.admin_session().await?;
    let (system, dbname) = (reach.system.name.to_string(), dbname.to_owned());
    let Some(facts) = facts::of_database(&session, &dbname).await? else {
        return Err(LifecycleError::NoDatabase { system, dbname });
    };
    if facts.is_template || !facts.allows_connections {
        return Err(LifecycleError::NotServable { system, dbname });
    }
    let logins = logins::read_logins(&session, std::slice::from_ref(&dbname), &[])
        .await?
        .remove(&dbname)
        .unwrap_or_default();
    let related = related_roles(&session, &dbname).await?;
    let is_own = |login: &&Login| related.contains(login.role.as_str());
    let own: Vec<&Login> = logins.iter().filter(is_own).collect();
    let warnings = warnings(&dbname, &facts, &logins, &own);
    let own_roles = own.iter().map(|login| login.role.clone()).collect();
    Ok(ExistingDatabase { facts, own_roles, warnings, logins })
}

/// Roles that own the database or something in it, or were granted something there, and the members of such
/// roles. PostgreSQL records none of that for the role that it was initialized with, except that it owns the
/// database.
async fn related_roles(session: &Session, dbname: &str) -> Result<HashSet<String>, SystemError> {
    const READING: &str = "reading the roles of the database";
    let sql = "WITH RECURSIVE related(role) AS (
                   (SELECT d.datdba FROM pg_database d WHERE d.datname = $1
                    UNION SELECT s.refobjid FROM pg_database d JOIN pg_shdepend s
                        ON s.dbid = d.oid OR s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid = d.oid
                    WHERE d.datname = $1 AND s.refclassid = 'pg_authid'::regclass)
                   UNION SELECT m.member FROM pg_auth_members m JOIN related ON related.role = m.roleid)
               SELECT r.rolname::text FROM pg_roles r JOIN related ON related.role = r.oid";
    let rows = session.rows(READING, sql, &[&dbname]).await?;
    rows.iter().map(|row| session.column(READING, row, 0)).collect()
}

fn warnings(dbname: &str, facts: &DatabaseFacts, logins: &[Login], own: &[&Login]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |roles: Vec<&Login>, text: &dyn Fn(&str) -> String| {
        if !roles.is_empty() {
            warnings.push(text(&names(&roles)));
        }
    };
    // The others cannot log in through Freehold.
    let superusers = logins.iter().filter(|login| login.superuser && login.verifier.is_some());
    warn(superusers.collect(), &|roles| {
        format!(
            "superusers can log in ({roles}): no fence and no limit holds them; give the application a role of its own"
        )
    });
    let own_with = |wanted: &dyn Fn(&Login) -> bool| -> Vec<&Login> {
        own.iter().copied().filter(|login| wanted(login)).collect()
    };
    let is_md5 =
        |login: &Login| login.verifier.as_deref().is_some_and(|verifier| verifier.starts_with("md5"));
    warn(own_with(&is_md5), &|roles| {
        format!(
            "roles with an md5 password ({roles}) are refused until it is set anew: SET password_encryption = 'scram-sha-256'; ALTER ROLE ... PASSWORD '...'"
        )
    });
    warn(own_with(&|login| login.verifier.is_none() && !login.superuser), &|roles| {
        format!(
            "roles without a password ({roles}) cannot log in through Freehold: ALTER ROLE ... PASSWORD '...'"
        )
    });
    let owner = logins.iter().find(|login| login.role.as_str() == facts.owner && !login.superuser);
    if let Some(owner) = owner {
        warnings.push(format!(
            "role {} owns the database and could lift the fence of a move: ALTER DATABASE {} OWNER TO the platform's role",
            quote_ident(owner.role.as_str()),
            quote_ident(dbname)
        ));
    }
    // The warnings contain names of roles, which may hold any character.
    warnings.iter().map(|warning| printable::one_line(warning).into_owned()).collect()
}

fn names(roles: &[&Login]) -> String {
    let mut names: Vec<String> =
        roles.iter().take(NAMES_MAX).map(|login| quote_ident(login.role.as_str())).collect();
    if roles.len() > NAMES_MAX {
        names.push(format!("and {} more", roles.len() - NAMES_MAX));
    }
    names.join(", ")
}
