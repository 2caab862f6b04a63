//! A Unix socket in a directory, by PostgreSQL's conventions: `.s.PGSQL.<port>` and a lock file beside it.
//!
//! # Why
//! A socket file survives a killed process, so its presence proves little: we try to connect to it. A process
//! holds the lock on the file beside it while it creates or removes the socket. The first line of that file
//! holds our process id, so a PostgreSQL server that is started on the same name refuses, as it would beside
//! another server.
//!
//! The socket is created under another name, and renamed once it listens and has its permissions: no client
//! finds it half done, and the rename replaces an old socket in one step.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{BACKLOG, ListenError, ListenOptions, Sharing, failed};

/// Another process that starts or ends holds the lock for milliseconds.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(20);

/// The line of the lock file that marks it as Freehold's.
const MARK: &str = "freehold";
/// A process id and a mark; PostgreSQL's lock file is not much longer.
const LOCK_BYTES_MAX: u64 = 4096;

/// The file of a socket that we listen on. Dropping it removes the file if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Listens in `directory`. Replaces the socket of a dead process, and of a Freehold that hands over.
    pub(super) fn listen(
        directory: &Path,
        port: u16,
        options: &ListenOptions,
    ) -> Result<(UnixListener, SocketFile), ListenError> {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let mut lock = Lock::take(&path, LOCK_WAIT_MAX)?;
        if is_occupied(&path)? {
            let holder = lock.holder();
            if options.sharing == Sharing::Alone || !holder.is_freehold {
                return Err(ListenError::Occupied { pid: holder.pid, path });
            }
        }
        let listener = make(&path, options.unix_mode).map_err(|source| failed(&path.display(), source))?;
        let named = fs::symlink_metadata(&path).and_then(|file| lock.sign().map(|()| file));
        let file = named.map_err(|source| failed(&path.display(), source))?;
        Ok((listener, SocketFile { path, identity: identity(&file) }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(lock) = Lock::take(&self.path, LOCK_WAIT_MAX) else { return };
        if fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity) {
            let _ = fs::remove_file(&self.path);
            lock.remove();
        }
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Whether a process listens on the socket file.
fn is_occupied(path: &Path) -> Result<bool, ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(failed(&path.display(), source)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) => Ok(!matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)),
        Ok(_) => Ok(true),
    }
}

fn make(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mut fresh = path.to_owned().into_os_string();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    // Left by a killed process that had our process id.
    let _ = fs::remove_file(&fresh);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&fresh)?)?;
    let finished = fs::set_permissions(&fresh, Permissions::from_mode(mode))
        .and_then(|()| socket.set_nonblocking(true))
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| fs::rename(&fresh, path));
    if finished.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    finished.map(|()| socket.into())
}

/// The process that a lock file names.
struct Holder {
    pid: Option<u32>,
    is_freehold: bool,
}

/// The file beside a socket, locked until dropped.
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    fn take(socket: &Path, wait_max: Duration) -> Result<Lock, ListenError> {
        let mut path = socket.to_owned().into_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        let deadline = Instant::now() + wait_max;
        loop {
            match Lock::try_take(&path) {
                Ok(Some(file)) => return Ok(Lock { file, path }),
                Ok(None) if Instant::now() > deadline => return Err(ListenError::Locked { path }),
                Ok(None) => std::thread::sleep(LOCK_LOOK_EVERY),
                Err(source) => return Err(failed(&path.display(), source)),
            }
        }
    }

    /// `None`: another process has it, or has just removed it.
    fn try_take(path: &Path) -> io::Result<Option<File>> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let ours = identity(&file.metadata()?);
        let is_there = fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == ours);
        Ok(is_there.then_some(file))
    }

    /// The process that wrote it last.
    fn holder(&mut self) -> Holder {
        let mut text = String::new();
        let _ = (&mut self.file).take(LOCK_BYTES_MAX).read_to_string(&mut text);
        let mut lines = text.lines();
        Holder {
            pid: lines.next().and_then(|line| line.trim().parse().ok()),
            is_freehold: lines.next() == Some(MARK),
        }
    }

    fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(format!("{}\n{MARK}\n", std::process::id()).as_bytes())
    }

    fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 5999;

    fn listen(directory: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
        listen_as(directory, Sharing::Alone)
    }

    fn listen_as(directory: &Path, sharing: Sharing) -> Result<(UnixListener, SocketFile), ListenError> {
        SocketFile::listen(
            directory,
            PORT,
            &ListenOptions { on: Vec::new(), handed_over: Vec::new(), unix_mode: 0o700, sharing },
        )
    }

    fn files(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = directory
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_socket_has_its_permissions_and_its_lock_file_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let (_listener, file) = listen(directory.path()).unwrap();
        assert_eq!(files(directory.path()), [".s.PGSQL.5999", ".s.PGSQL.5999.lock"]);
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let lock = fs::read_to_string(directory.path().join(".s.PGSQL.5999.lock")).unwrap();
        assert_eq!(lock.lines().next(), Some(std::process::id().to_string().as_str()));
        UnixStream::connect(file.path()).unwrap();
        drop(file);
        assert!(files(directory.path()).is_empty());
    }

    #[test]
    fn a_socket_that_is_in_use_is_refused_and_names_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let (_listener, _file) = listen(directory.path()).unwrap();
        let error = listen(directory.path()).unwrap_err();
        assert!(
            error.to_string().contains(&format!("process {} listens there", std::process::id())),
            "{error}"
        );
        assert_eq!(files(directory.path()).len(), 2);
    }

    #[test]
    fn a_socket_is_taken_over_from_a_freehold_and_from_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let (old, old_file) = listen(directory.path()).unwrap();
        let early = UnixStream::connect(old_file.path()).unwrap();
        let (new, new_file) = listen_as(directory.path(), Sharing::InTurn).unwrap();
        let late = UnixStream::connect(new_file.path()).unwrap();
        assert!(old.accept().is_ok() && new.accept().is_ok(), "each finds the one that it came to");
        drop((early, late, old_file));
        assert_eq!(files(directory.path()).len(), 2, "what is the new one's stays");

        fs::write(directory.path().join(".s.PGSQL.5999.lock"), "1\n/var/lib/postgresql\n").unwrap();
        let error = listen_as(directory.path(), Sharing::InTurn).unwrap_err();
        assert!(matches!(error, ListenError::Occupied { pid: Some(1), .. }), "{error}");
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, file) = listen(directory.path()).unwrap();
        // As after kill -9: the file stays.
        std::mem::forget(file);
        drop(listener);
        let (_listener, file) = listen(directory.path()).unwrap();
        UnixStream::connect(file.path()).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.5999");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(directory.path()), Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    }

    #[test]
    fn a_file_that_is_somebody_elses_by_now_is_left_to_him() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, first) = listen(directory.path()).unwrap();
        drop(listener);
        let (_listener, second) = listen(directory.path()).unwrap();
        drop(first);
        UnixStream::connect(second.path()).unwrap();
    }
}
