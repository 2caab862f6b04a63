//! The file: three tables of redb.
//!
//! ```text
//! kv      key                   -> (revision that wrote it last, value)
//! leased  key                   -> lease, for the keys that are under one
//! meta    "format" | "revision" | "place" -> number
//! ```
//!
//! # Why
//! The history is not written. All watchers of this store are in the process that has it open, so none asks
//! for a commit of an earlier process, and a log would write everything twice. Numbering continues [`LEAD`]
//! beyond what the file says, so that a revision that was visible and lost in a crash is never given to
//! another commit.
//!
//! Leases are not written, only which keys were under one. The process that could keep them alive is the one
//! that had the file open, so opening the file deletes these keys, and what older versions wrote below
//! `proxy/` without a lease. A version that knows no leases leaves the table as it is.
//!
//! No savepoints, no renamed tables: redb 4.1 repaired corruption around both. The whole content is read once
//! at start; afterwards the file is only written.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::content::Stored;
use super::memory::{Commit, Image, LEAD};
use crate::catalog::keys;
use crate::catalog::store::{Entry, Revision, StoreError, StoreEvent};

const FORMAT: u64 = 1;
/// Key in the table of numbers: its value distinguishes the file from a copy of it.
const PLACE: &str = "place";
/// redb's default is 1 GiB; the content is in memory already.
const CACHE_BYTES: usize = 4 << 20;

const KV: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("kv");
const LEASED: TableDefinition<'static, &str, i64> = TableDefinition::new("leased");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
    /// Distinguishes the file from a copy of it; None for a copy in memory.
    place: Option<u64>,
    /// The file was not there before.
    is_new: bool,
}

impl Disk {
    /// Opens or creates the file, readable by its owner only: it holds verifiers.
    pub(super) fn open(path: &Path) -> Result<(Disk, Image), StoreError> {
        let shown = || path.display().to_string();
        let failed = |source: Cause| StoreError::Open { path: shown(), source };
        let (file, is_new) = open_or_create(path).map_err(|e| failed(e.into()))?;
        let place = Some(place_of(&file).map_err(|e| failed(e.into()))?);
        let backend = FileBackend::new(file).map_err(|e| failed(e.into()))?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(
            |error| match error {
                DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: shown() },
                other => failed(other.into()),
            },
        )?;
        let disk = Disk { database, place, is_new };
        disk.prepare().map_err(failed)?;
        sync_directory(path).map_err(|e| failed(e.into()))?;
        match disk.number("format").map_err(failed)? {
            FORMAT => {}
            found => return Err(StoreError::Format { path: shown(), found, known: FORMAT }),
        }
        let image = disk.load().map_err(failed)?;
        Ok((disk, image))
    }

    /// Reads what a file holds below a prefix. Changes nothing, and fails while a process has the file open.
    /// It reads a copy in memory, because a file that was not closed properly is repaired when it is opened.
    pub(super) fn peek(path: &Path, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let failed = |source: Cause| StoreError::Open { path: path.display().to_string(), source };
        let copied = || -> Result<Disk, Cause> {
            let file = File::open(path)?;
            file.try_lock_shared()?;
            let copy = InMemoryBackend::new();
            let content = std::fs::read(path)?;
            copy.set_len(content.len() as u64)?;
            copy.write(0, &content)?;
            let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(copy)?;
            Ok(Disk { database, place: None, is_new: false })
        };
        copied().and_then(|disk| disk.below(prefix)).map_err(failed)
    }

    fn below(&self, prefix: &str) -> Result<Vec<Entry>, Cause> {
        let mut found = Vec::new();
        for row in self.database.begin_read()?.open_table(KV)?.range(prefix..)? {
            let (key, stored) = row?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let (revision, value) = stored.value();
            let value = Bytes::copy_from_slice(value);
            found.push(Entry {
                key: key.value().to_owned(),
                value,
                revision: Revision(revision),
                lease: None,
            });
        }
        Ok(found)
    }

    /// Creates the tables in a new file.
    fn prepare(&self) -> Result<(), Cause> {
        let transaction = self.database.begin_write()?;
        let is_new = transaction.list_tables()?.next().is_none();
        if !is_new {
            transaction.abort()?;
            return Ok(());
        }
        transaction.open_table(KV)?;
        transaction.open_table(META)?.insert("format", FORMAT)?;
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether the file was copied, or restored from a backup, since it was written. `false` for a file of an
    /// older version, which does not record that.
    pub(super) fn is_copied(&self) -> Result<bool, Cause> {
        let known = self.number(PLACE)?;
        Ok(known != 0 && self.place.is_some_and(|place| place != known))
    }

    /// Records the place of this file as the original's.
    pub(super) fn accept_place(&self) -> Result<(), Cause> {
        let Some(place) = self.place.filter(|place| self.number(PLACE).ok() != Some(*place)) else {
            return Ok(());
        };
        let transaction = self.database.begin_write()?;
        transaction.open_table(META)?.insert(PLACE, place)?;
        transaction.commit()?;
        Ok(())
    }

    fn number(&self, name: &str) -> Result<u64, Cause> {
        let meta = self.database.begin_read()?.open_table(META)?;
        Ok(meta.get(name)?.map_or(0, |number| number.value()))
    }

    fn load(&self) -> Result<Image, Cause> {
        let mut image = Image { revision: self.begin_process()?, ..Image::default() };
        for row in self.database.begin_read()?.open_table(KV)?.iter()? {
            let (key, stored) = row?;
            let (revision, value) = stored.value();
            let value = Bytes::copy_from_slice(value);
            let stored = Stored { revision: Revision(revision), value, lease: None };
            image.entries.insert(key.value().to_owned(), stored);
        }
        Ok(image)
    }

    /// Returns the revision at which numbering continues, and records it, so that the next start goes beyond
    /// it. Deletes, in the same transaction, the keys that ended with the process before.
    fn begin_process(&self) -> Result<Revision, Cause> {
        let last = self.number("revision")?;
        let first = last.saturating_add(LEAD);
        let transaction = self.database.begin_write()?;
        transaction.open_table(META)?.insert("revision", first)?;
        {
            let mut kv = transaction.open_table(KV)?;
            let mut leased = transaction.open_table(LEASED)?;
            let mut ended = Vec::new();
            for row in leased.iter()? {
                ended.push(row?.0.value().to_owned());
            }
            // Older versions wrote these without a lease. One process has a file open, so every proxy that is
            // in it now is dead: it can be no other.
            for row in kv.range(keys::PROXIES..)? {
                let key = row?.0.value().to_owned();
                if !key.starts_with(keys::PROXIES) {
                    break;
                }
                ended.push(key);
            }
            for key in ended {
                kv.remove(key.as_str())?;
                leased.remove(key.as_str())?;
            }
        }
        transaction.commit()?;
        Ok(Revision(first))
    }

    /// Writes the commits in the given order, all or none. They are on disk when it returns.
    pub(super) fn write<'a>(&self, commits: impl Iterator<Item = &'a Commit>) -> Result<(), Cause> {
        let transaction = self.database.begin_write()?;
        {
            let mut kv = transaction.open_table(KV)?;
            let mut leased = transaction.open_table(LEASED)?;
            let mut meta = transaction.open_table(META)?;
            // A relaxed commit that became visible during a flight is written after it.
            let mut newest = meta.get("revision")?.map_or(0, |number| number.value());
            for commit in commits {
                for event in commit.events.iter() {
                    match event {
                        StoreEvent::Put(entry) => {
                            kv.insert(entry.key.as_str(), (commit.revision.0, entry.value.as_ref()))?;
                            match entry.lease {
                                Some(lease) => leased.insert(entry.key.as_str(), lease.0)?,
                                None => leased.remove(entry.key.as_str())?,
                            };
                        }
                        StoreEvent::Deleted { key, .. } => {
                            kv.remove(key.as_str())?;
                            leased.remove(key.as_str())?;
                        }
                    }
                }
                newest = newest.max(commit.revision.0);
            }
            meta.insert("revision", newest)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// The file, and whether it was created.
fn open_or_create(path: &Path) -> std::io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // It may be gone by now.
            options.create(true).truncate(false).open(path).map(|file| (file, false))
        }
        Err(error) => Err(error),
    }
}

/// A hash of where a file is and when it was created: a copy has another inode, or, on another filesystem,
/// another creation time. The device number is not included: it may change when a machine starts. Never 0.
fn place_of(file: &File) -> std::io::Result<u64> {
    let metadata = file.metadata()?;
    let born = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let mut hash = Fnv1a::default();
    hash.write(&metadata.ino().to_le_bytes());
    hash.write(&born.as_nanos().to_le_bytes());
    Ok(hash.0.max(1))
}

/// FNV-1a, which has the same value in every version of this program.
struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Fnv1a {
        Fnv1a(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A new file is durable only when its directory is.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}
