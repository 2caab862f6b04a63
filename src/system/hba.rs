//! Evaluates `pg_hba.conf` of a system as the server has parsed it, also for roles that do not exist there
//! yet.
//!
//! # Why
//! The first matching rule decides, so the rules are evaluated in their order. If a match depends on data
//! that only the server has (host names, its networks), the verdict is unknown, which causes no finding.

use super::{Session, SystemError};

/// A role to log in, and the roles that it is a member of, including itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRole {
    pub role: String,
    pub groups: Vec<String>,
}

/// How a connection reaches the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// `None` for a Unix socket.
    pub address: Option<String>,
    pub encrypted: bool,
}

/// The first matching rule for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HbaMatch {
    pub role: String,
    /// The line in the file, and the method; `None` if no rule matches.
    pub rule: Option<(i32, String)>,
    /// Whether the match depends on data that is not visible from here.
    pub unknown: bool,
}

/// How this session reached its server.
pub async fn path_of(session: &Session) -> Result<Path, SystemError> {
    const READING: &str = "reading how the platform comes to a system";
    let sql = "SELECT host(inet_client_addr()), coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)";
    let row = session.rows(READING, sql, &[]).await?;
    let row = row.first().ok_or_else(|| session.unexpected(READING, "no row"))?;
    Ok(Path { address: session.column(READING, row, 0)?, encrypted: session.column(READING, row, 1)? })
}

/// The roles that each of these is a member of, directly or indirectly.
pub async fn logins(session: &Session, roles: &[String]) -> Result<Vec<LoginRole>, SystemError> {
    const READING: &str = "reading memberships";
    let sql = "WITH RECURSIVE above (role, oid) AS (
            SELECT rolname::text, oid FROM pg_roles WHERE rolname::text = ANY ($1) AND rolcanlogin
            UNION SELECT a.role, m.roleid FROM above a JOIN pg_auth_members m ON m.member = a.oid)
        SELECT role, array_agg(pg_get_userbyid(oid)::text) FROM above GROUP BY role ORDER BY role";
    let rows = session.rows(READING, sql, &[&roles]).await?;
    let login = |row| -> Result<LoginRole, SystemError> {
        Ok(LoginRole { role: session.column(READING, row, 0)?, groups: session.column(READING, row, 1)? })
    };
    rows.iter().map(login).collect()
}

/// `$1`: database, `$2`: address or NULL, `$3`: encrypted, `$4`, `$5`: roles, and the groups of each as JSON.
/// A regular expression begins with a slash (16), a group with a plus; a name without a mask is a host name.
const VERDICTS: &str = "\
WITH rules AS (SELECT row_number() OVER () AS n, * FROM pg_hba_file_rules WHERE error IS NULL),
logins AS (SELECT role, groups FROM unnest($4::text[], $5::text[]) AS l (role, groups)),
way AS (SELECT $2::text::inet AS address, $3::bool AS encrypted)
SELECT l.role, f.line_number, f.auth_method, coalesce(f.unknown, false)
FROM logins l CROSS JOIN way LEFT JOIN LATERAL (
    SELECT r.line_number, r.auth_method,
        r.type <> 'local' AND r.address NOT IN ('all', 'samehost') AND (r.netmask IS NULL OR r.address ~ '%') AS unknown
    FROM rules r
    WHERE CASE WHEN way.address IS NULL THEN r.type = 'local'
               WHEN way.encrypted THEN r.type IN ('host', 'hostssl', 'hostnogssenc')
               ELSE r.type IN ('host', 'hostnossl', 'hostnogssenc') END
      AND EXISTS (SELECT FROM unnest(r.database) d WHERE d IN ('all', $1) OR d = 'sameuser' AND l.role = $1
            OR d IN ('samerole', 'samegroup') AND l.groups::jsonb ? $1 OR d ~ '^/' AND $1 ~ substr(d, 2))
      AND EXISTS (SELECT FROM unnest(r.user_name) u WHERE u IN ('all', l.role)
            OR u ~ '^[+]' AND l.groups::jsonb ? substr(u, 2) OR u ~ '^/' AND l.role ~ substr(u, 2))
      AND CASE WHEN r.type = 'local' OR r.address = 'all' THEN true
               WHEN r.address = 'samehost' THEN way.address = inet_server_addr()
               WHEN r.netmask IS NULL OR r.address ~ '%' THEN true
               WHEN family(r.address::inet) <> family(way.address) THEN false
               ELSE way.address & r.netmask::inet = r.address::inet & r.netmask::inet END
    ORDER BY r.n LIMIT 1) f ON true
ORDER BY l.role";

/// The verdict of the server's file for each of the roles.
pub async fn verdicts(
    session: &Session,
    dbname: &str,
    path: &Path,
    logins: &[LoginRole],
) -> Result<Vec<HbaMatch>, SystemError> {
    const READING: &str = "reading pg_hba.conf";
    let roles: Vec<&str> = logins.iter().map(|login| login.role.as_str()).collect();
    let groups: Vec<String> =
        logins.iter().map(|login| serde_json::json!(login.groups).to_string()).collect();
    let rows =
        session.rows(READING, VERDICTS, &[&dbname, &path.address, &path.encrypted, &roles, &groups]).await?;
    let mut verdicts = Vec::with_capacity(rows.len());
    for row in &rows {
        let line: Option<i32> = session.column(READING, row, 1)?;
        let method: Option<String> = session.column(READING, row, 2)?;
        verdicts.push(HbaMatch {
            role: session.column(READING, row, 0)?,
            rule: line.zip(method),
            unknown: session.column(READING, row, 3)?,
        });
    }
    Ok(verdicts)
}
