//! The directory of one server: creates, locks and removes it; removes those of killed processes.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::LabError;
use super::account::Account;

/// Where the files of a server are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// In memory (`/dev/shm`) if that is large enough: `fsync` stays on and costs nothing.
    MemoryIfPossible,
    /// In the directory for temporary files.
    Disk,
}

/// `<root>/freehold-lab-<random>/` with `lock`, `data/`, `run/` (the socket), `log`, `password`.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) path: PathBuf,
    /// Locked as long as this process lives. A directory with a free lock is no longer in use.
    _lock: File,
}

const PREFIX: &str = "freehold-lab-";
/// A small database with its WAL needs 100 MB; a test that moves it needs twice that, and tests run side by
/// side.
const MEMORY_BYTES_MIN: u64 = 2 << 30;

impl Home {
    pub(super) fn create(storage: Storage, account: Account) -> Result<Home, LabError> {
        let root = root(storage);
        sweep(&root);
        let name: u64 = rand::random();
        let path = root.join(format!("{PREFIX}{name:016x}"));
        // Created under another name first, so that a sweep cannot see it before it is locked.
        let unready = root.join(format!(".{PREFIX}{name:016x}"));
        let failed = |source| LabError::Directory { path: path.clone(), source };
        let lock = prepare(&unready).map_err(failed)?;
        fs::rename(&unready, &path).map_err(failed)?;
        let home = Home { path, _lock: lock };
        for directory in [home.data(), home.run()] {
            fs::create_dir(&directory)
                .and_then(|()| fs::set_permissions(&directory, Permissions::from_mode(0o700)))
                .map_err(|source| LabError::Directory { path: directory.clone(), source })?;
            account.own(&directory)?;
        }
        Ok(home)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The directory of the Unix socket; only the server's user (and root) can enter it.
    pub(super) fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The server's own locales, if it has any.
    pub(super) fn locales(&self) -> PathBuf {
        self.path.join("locale")
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.path.join("password")
    }

    /// Writes a file that only the account can read.
    pub(super) fn write_private(
        &self,
        account: Account,
        path: &Path,
        content: &[u8],
    ) -> Result<(), LabError> {
        fs::write(path, content)
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o600)))
            .map_err(|source| LabError::Directory { path: path.to_owned(), source })?;
        account.own(path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A dying backend may still write: try once more, then leave it to the next sweep.
        if fs::remove_dir_all(&self.path).is_err() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn prepare(path: &Path) -> io::Result<File> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o711))?;
    let lock = File::create_new(path.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn root(storage: Storage) -> PathBuf {
    let memory = Path::new("/dev/shm");
    if storage == Storage::MemoryIfPossible
        && bytes_free(memory).is_some_and(|bytes| bytes >= MEMORY_BYTES_MIN)
    {
        return memory.to_owned();
    }
    // A socket's path has at most 107 bytes, so a long TMPDIR cannot be used; nor can one that the server's
    // user cannot enter.
    let wanted = std::env::temp_dir();
    if wanted.as_os_str().len() <= 40 { wanted } else { "/tmp".into() }
}

/// Where the directories of servers are, with the files of their passwords.
pub fn roots() -> Vec<PathBuf> {
    vec!["/dev/shm".into(), root(Storage::Disk)]
}

fn bytes_free(directory: &Path) -> Option<u64> {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(directory).output().ok()?;
    std::str::from_utf8(&output.stdout).ok()?.lines().nth(1)?.trim().parse().ok()
}

/// Removes the directories of processes that were killed before they could clean up.
fn sweep(root: &Path) {
    for entry in root.read_dir().into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_swept_when_nobody_holds_its_lock_and_only_then() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(format!("{PREFIX}1"));
        let lock = prepare(&path).unwrap();
        sweep(root.path());
        assert!(path.exists(), "a locked directory is in use");
        lock.unlock().unwrap();
        sweep(root.path());
        assert!(!path.exists(), "an unlocked directory belongs to nobody");
    }
}
