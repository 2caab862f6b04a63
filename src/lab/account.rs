//! The user that a server runs as: the current user, or `postgres` for root, because PostgreSQL refuses root.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::LabError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    Ourselves,
    Other { uid: u32, gid: u32 },
}

impl Account {
    pub(super) fn choose() -> Result<Account, LabError> {
        let uid = fs::metadata("/proc/self")
            .map(|metadata| metadata.uid())
            .map_err(|source| LabError::Directory { path: "/proc/self".into(), source })?;
        if uid != 0 {
            return Ok(Account::Ourselves);
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        ["postgres", "nobody"].iter().find_map(|name| lookup(&passwd, name)).ok_or(LabError::NoAccount)
    }

    /// Changes the owner of a file or directory to this account.
    pub(super) fn own(self, path: &Path) -> Result<(), LabError> {
        match self {
            Account::Ourselves => Ok(()),
            Account::Other { uid, gid } => chown(path, Some(uid), Some(gid))
                .map_err(|source| LabError::Directory { path: path.to_owned(), source }),
        }
    }

    /// A command that runs as this account, in a directory that it can enter, without PostgreSQL's
    /// environment variables of the current user.
    pub(super) fn command(self, program: impl AsRef<OsStr>, directory: &Path) -> Command {
        let mut command = Command::new(program);
        if let Account::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        // The server must not use the user's files: libpq in it would look for certificates there.
        command.env("HOME", directory);
        // A process group of its own: Ctrl-C on the terminal goes only to this process, which then stops the
        // server in order.
        command.current_dir(directory).stdin(Stdio::null()).process_group(0);
        command
    }
}

fn lookup(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account::Other { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres2:x:7:8::/:/x\npostgres:x:101:104:a:/b:/c\n";
        assert_eq!(lookup(passwd, "postgres"), Some(Account::Other { uid: 101, gid: 104 }));
        assert_eq!(lookup(passwd, "nobody"), None);
    }
}
