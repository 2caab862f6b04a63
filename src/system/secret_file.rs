//! Files that hold a secret: where one may be read from, and whether other users could read it.
//!
//! # Why
//! An administrator names a password file by SQL, and may name their own server with it: without a limit they
//! could have every file that this process can read sent to that server. So a password is read only from
//! directories that the configuration of the process names, and never from a file that Freehold uses itself.
//! The path after resolving every symbolic link decides, at each read: changing a link later does not give
//! access to another file.
//!
//! The error is the same for existing and missing files, so that an administrator cannot find out which files
//! a machine has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A password is one line. A longer file is rejected.
const PASSWORD_BYTES_MAX: u64 = 4096;
/// Capacity for the whole file, so that a growing buffer leaves no copy behind.
const PASSWORD_CAPACITY: usize = PASSWORD_BYTES_MAX as usize + 64;

/// Where password files may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PasswordPlaces {
    /// In these directories and below them.
    pub directories: Vec<PathBuf>,
    /// Except for these files, which are Freehold's own.
    pub except: Vec<PathBuf>,
}

/// Why a password was not read.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Does not reveal whether the file exists.
    #[error("passwords are not read from there")]
    Place,
    #[error("it is no file")]
    NoFile,
    #[error("it holds more than one line of at most {PASSWORD_BYTES_MAX} bytes")]
    NoPassword,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl PasswordPlaces {
    /// Reads the line in a file. Blocking.
    pub fn read(&self, path: &Path) -> Result<Zeroizing<String>, PasswordError> {
        let file = self.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(PasswordError::NoFile);
        }
        let mut text = Zeroizing::new(String::with_capacity(PASSWORD_CAPACITY));
        file.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text)?;
        let line = text.trim_end_matches(['\r', '\n']);
        match text.len() as u64 > PASSWORD_BYTES_MAX || line.contains(['\n', '\r', '\0']) {
            true => Err(PasswordError::NoPassword),
            false => Ok(Zeroizing::new(line.to_owned())),
        }
    }

    /// Whether the location allows reading a password from there.
    pub fn allow(&self, path: &Path) -> bool {
        !matches!(self.locate(path), Err(PasswordError::Place))
    }

    fn open(&self, path: &Path) -> Result<File, PasswordError> {
        let real = self.locate(path)?;
        // O_NONBLOCK: does not wait if the file has become a pipe.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(real)?;
        // A directory in the path may have become a link since: the opened file is checked.
        let opened = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        match self.hold(&opened) {
            true => Ok(file),
            false => Err(PasswordError::Place),
        }
    }

    /// The real path of the file, if its location is allowed.
    fn locate(&self, path: &Path) -> Result<PathBuf, PasswordError> {
        match path.canonicalize() {
            Ok(real) if self.hold(&real) => Ok(real),
            Ok(_) => Err(PasswordError::Place),
            Err(error) if self.would_hold(path) => Err(error.into()),
            Err(_) => Err(PasswordError::Place),
        }
    }

    /// `real` contains no symbolic link.
    fn hold(&self, real: &Path) -> bool {
        let leads_to = |known: &PathBuf| known.canonicalize().ok();
        let below = self.directories.iter().filter_map(leads_to).any(|directory| real.starts_with(directory));
        below && !self.except.iter().filter_map(leads_to).any(|own| own == real)
    }

    /// Nothing exists there, not even a dangling link, and the location is allowed.
    fn would_hold(&self, path: &Path) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        let Ok(parent) = parent.canonicalize() else { return false };
        let real = parent.join(name);
        let missing = real.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        missing && self.hold(&real)
    }
}

/// Describes which other users can read a file according to its permissions, with the cure:
/// `others can read or change /x (mode 0644): chmod 600 /x`. `None`: no other user can, or it does not exist.
///
/// As for PostgreSQL's keys, a group may read a file that root owns: operating systems give services their
/// keys that way. Directories in the path that other users cannot enter are not considered.
pub fn exposure(path: &Path) -> Option<String> {
    let facts = path.metadata().ok()?;
    let mode = facts.mode() & 0o7777;
    let by_group = if facts.uid() == 0 { 0o030 } else { 0o070 };
    let who = match (mode & 0o007 != 0, mode & by_group != 0) {
        (true, _) => "others",
        (false, true) => "its group",
        (false, false) => return None,
    };
    let path = path.display();
    Some(format!("{who} can read or change {path} (mode {mode:04o}): chmod 600 {path}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Fixture {
        root: tempfile::TempDir,
        places: PasswordPlaces,
    }

    /// Creates `in/password`, `in/own`, `out/secret`.
    fn fixture() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("in/password", "one\n"), ("in/own", "two"), ("out/secret", "three")] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let places = PasswordPlaces {
            directories: vec![root.path().join("missing"), root.path().join("in")],
            except: vec![root.path().join("in/own")],
        };
        Fixture { root, places }
    }

    impl Fixture {
        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn read(&self, name: &str) -> Result<String, PasswordError> {
            self.places.read(&self.path(name)).map(|text| text.as_str().to_owned())
        }

        fn is_out_of_place(&self, name: &str) -> bool {
            matches!(self.read(name), Err(PasswordError::Place))
        }
    }

    #[test]
    fn a_password_is_read_from_a_directory_that_was_named() {
        let fixture = fixture();
        assert_eq!(fixture.read("in/password").unwrap(), "one");
        assert_eq!(fixture.read("out/../in/password").unwrap(), "one");
        fs::create_dir(fixture.path("in/deep")).unwrap();
        symlink(fixture.path("in/password"), fixture.path("in/deep/link")).unwrap();
        assert_eq!(fixture.read("in/deep/link").unwrap(), "one");
        symlink(fixture.path("in"), fixture.path("door")).unwrap();
        assert_eq!(fixture.read("door/password").unwrap(), "one");
        assert!(matches!(fixture.read("in/nothing"), Err(PasswordError::Io(_))));
        assert!(matches!(fixture.read("in"), Err(PasswordError::NoFile)));
    }

    #[test]
    fn whatever_leads_out_is_refused_alike_whether_it_exists_or_not() {
        let fixture = fixture();
        symlink(fixture.path("out/secret"), fixture.path("in/link")).unwrap();
        symlink(fixture.path("out/nothing"), fixture.path("in/dangling")).unwrap();
        symlink(fixture.path("out"), fixture.path("in/door")).unwrap();
        for name in [
            "out/secret",
            "out/nothing",
            "in/../out/secret",
            "in/../out/nothing",
            "in/link",
            "in/dangling",
            "in/door/secret",
            "in/door/nothing",
            "in/door/nowhere/nothing",
            "in/own",
        ] {
            assert!(fixture.is_out_of_place(name), "{name}");
        }
    }

    #[test]
    fn a_link_that_is_changed_afterwards_leads_nowhere_else() {
        let fixture = fixture();
        let link = fixture.path("in/link");
        symlink(fixture.path("in/password"), &link).unwrap();
        assert_eq!(fixture.read("in/link").unwrap(), "one");
        fs::remove_file(&link).unwrap();
        symlink(fixture.path("out/secret"), &link).unwrap();
        assert!(fixture.is_out_of_place("in/link"));
        fs::remove_dir_all(fixture.path("in/deep")).unwrap_or_default();
        fs::create_dir(fixture.path("in/deep")).unwrap();
        fs::write(fixture.path("in/deep/secret"), "four").unwrap();
        assert_eq!(fixture.read("in/deep/secret").unwrap(), "four");
        fs::remove_dir_all(fixture.path("in/deep")).unwrap();
        symlink(fixture.path("out"), fixture.path("in/deep")).unwrap();
        assert!(fixture.is_out_of_place("in/deep/secret"));
    }

    #[test]
    fn what_is_not_one_line_is_no_password() {
        let fixture = fixture();
        for text in ["-----BEGIN-----\nkey\n", &"x".repeat(5000), "a\0b"] {
            fs::write(fixture.path("in/password"), text).unwrap();
            assert!(matches!(fixture.read("in/password"), Err(PasswordError::NoPassword)), "{text:?}");
        }
        fs::write(fixture.path("in/password"), " with spaces \r\n\n").unwrap();
        assert_eq!(fixture.read("in/password").unwrap(), " with spaces ");
    }

    #[test]
    fn a_file_is_exposed_where_others_can_read_it() {
        let fixture = fixture();
        let path = fixture.path("in/password");
        let exposed = |mode: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            exposure(&path)
        };
        assert_eq!(exposed(0o600), None);
        assert_eq!(exposed(0o400), None);
        let told = exposed(0o644).unwrap();
        assert!(told.starts_with("others ") && told.contains("(mode 0644): chmod 600 /"), "{told}");
        assert!(exposed(0o660).unwrap().starts_with("its group"));
        let is_roots = path.metadata().unwrap().uid() == 0;
        assert_eq!(exposed(0o640).is_none(), is_roots);
        assert_eq!(exposure(&fixture.path("nothing")), None);
    }
}
