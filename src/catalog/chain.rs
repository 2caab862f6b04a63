//! The chain over the audit trail: every commit that writes audit entries also writes a link with their
//! digests and the digest of the link before.
//!
//! ```text
//! audit/…a   audit/…b   audit/…a (its outcome)
//!    |          |          |
//! link 1 <-- link 2 <-- link 3        link n: digests of the entries, digest of link n - 1
//! ```
//!
//! # What it shows
//! An entry that was changed, removed, added or given another time without Freehold does not fit its link; a
//! link that was changed or removed does not fit the next one. An attacker with full access to the store can
//! compute a new chain, and can cut off its end. An earlier head that is kept elsewhere shows both: the chain
//! that is verified must pass through it.
//!
//! # Why links are records of their own
//! The entry of a command is written with the command's change, and again with the final outcome. A digest in
//! the entry would not survive the second write, and the digest of the first would be lost.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::keys;
use super::store::{Compare, Entry, Range, Store, StoreError, Txn, TxnOutcome, Write};

/// How many records are read at once.
const PAGE: usize = 1_000;

/// How often a commit is attempted if other commits write the next link first.
const ATTEMPTS_MAX: u32 = 64;

/// A SHA-256 digest, in the store and for people as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

impl Sha256 {
    pub fn of(bytes: &[u8]) -> Sha256 {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut own = [0; 32];
        own.copy_from_slice(digest.as_ref());
        Sha256(own)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct Sha256Error;

impl FromStr for Sha256 {
    type Err = Sha256Error;

    fn from_str(text: &str) -> Result<Sha256, Sha256Error> {
        let mut own = [0; 32];
        if text.len() != 2 * own.len() || !text.is_ascii() {
            return Err(Sha256Error);
        }
        for (at, byte) in own.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| Sha256Error)?;
        }
        Ok(Sha256(own))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = Sha256Error;

    fn try_from(text: String) -> Result<Sha256, Sha256Error> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> String {
        digest.to_string()
    }
}

/// A link of the chain: which link it is, and what it digests to. Written as `12:<digest>`. The default is
/// the head of an empty chain, which the first link follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// The first link is 1; 0 stands for an empty chain.
    pub sequence: u64,
    pub digest: Sha256,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.digest)
    }
}

/// A text is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a head is the number of a link, a colon, and 64 hexadecimal digits")]
pub struct HeadError;

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Head, HeadError> {
        let (sequence, digest) = text.split_once(':').ok_or(HeadError)?;
        let sequence = sequence.parse().map_err(|_| HeadError)?;
        Ok(Head { sequence, digest: digest.parse().map_err(|_| HeadError)? })
    }
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    /// That of the link before; zeros in the first.
    previous: Sha256,
    /// By key: the entries that the commit wrote.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, LinkedEntry>,
    /// In the first link: the entries that were there before, written by a version without a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<EntriesBefore>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LinkedEntry {
    digest: Sha256,
    /// That of the entry which this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<Sha256>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EntriesBefore {
    count: u64,
    /// The greatest of their keys.
    last: String,
    /// Of all of them: see [`digest_of_all`].
    digest: Sha256,
}

/// The digest over a line for each entry: its key and its digest.
fn digest_of_all<'e>(entries: impl Iterator<Item = (&'e str, Sha256)>) -> Sha256 {
    let mut text = String::new();
    for (key, digest) in entries {
        text.push_str(&format!("{key} {digest}\n"));
    }
    Sha256::of(text.as_bytes())
}

/// Whether the transaction writes audit entries.
pub(super) fn is_audited(txn: &Txn) -> bool {
    audited(txn).next().is_some()
}

fn audited(txn: &Txn) -> impl Iterator<Item = (&String, &Bytes)> {
    txn.writes.iter().filter_map(|write| match write {
        Write::Put { key, value, .. } if key.starts_with(keys::AUDIT) => Some((key, value)),
        Write::Put { .. } | Write::Delete { .. } => None,
    })
}

/// Commits a transaction and, with it, the link of its audit entries. Retries if another commit has written
/// the next link first: that is no conflict of the transaction.
pub(super) async fn commit(store: &Arc<dyn Store>, txn: Txn) -> Result<TxnOutcome, StoreError> {
    let mut head = head(store).await?;
    for _ in 0..ATTEMPTS_MAX {
        if head.sequence == 0 {
            head = begin(store).await?;
        }
        let mut linked = txn.clone();
        let mut entries = BTreeMap::new();
        for (key, value) in audited(&txn) {
            let replaced = store.get(key).await?.entry.map(|entry| Sha256::of(&entry.value));
            entries.insert(key.clone(), LinkedEntry { digest: Sha256::of(value), replaced });
        }
        let link = Link { previous: head.digest, entries, before: None };
        add(&mut linked, head.sequence + 1, &link)?;
        match store.commit(linked).await? {
            TxnOutcome::Conflict => {
                let now = self::head(store).await?;
                if now == head {
                    return Ok(TxnOutcome::Conflict);
                }
                head = now;
            }
            committed @ TxnOutcome::Committed(_) => return Ok(committed),
        }
    }
    Err(StoreError::Contended { key: keys::AUDIT_LINKS.to_owned(), attempts: ATTEMPTS_MAX })
}

/// Adds a link, which must be the next one.
fn add(txn: &mut Txn, sequence: u64, link: &Link) -> Result<(), StoreError> {
    let key = keys::audit_link(sequence);
    let value = match serde_json::to_vec(link) {
        Ok(json) => Bytes::from(json),
        Err(source) => return Err(StoreError::Decode { key, source }),
    };
    txn.compares.push(Compare::Absent { key: key.clone() });
    txn.writes.push(Write::Put { key, value, lease: None });
    Ok(())
}

/// The newest link.
async fn head(store: &Arc<dyn Store>) -> Result<Head, StoreError> {
    let newest = store.range(Range::of(keys::AUDIT_LINKS).newest_first().limit(1)).await?;
    Ok(newest.entries.first().map(head_of).unwrap_or_default())
}

fn head_of(link: &Entry) -> Head {
    Head { sequence: keys::sequence_of_link(&link.key).unwrap_or_default(), digest: Sha256::of(&link.value) }
}

/// Writes the first link, over the entries of a version without a chain.
async fn begin(store: &Arc<dyn Store>) -> Result<Head, StoreError> {
    let mut digests = Vec::new();
    let mut pages = Pages::of(store, keys::AUDIT);
    while let Some(page) = pages.next().await? {
        digests.extend(page.into_iter().map(|entry| (entry.key, Sha256::of(&entry.value))));
    }
    let before = digests.last().map(|(last, _)| EntriesBefore {
        count: digests.len() as u64,
        last: last.clone(),
        digest: digest_of_all(digests.iter().map(|(key, digest)| (key.as_str(), *digest))),
    });
    let link = Link { previous: Sha256::default(), entries: BTreeMap::new(), before };
    let mut txn = Txn::default();
    add(&mut txn, 1, &link)?;
    // If another commit has begun the chain, this one goes on with that.
    store.commit(txn).await?;
    head(store).await
}

/// A prefix, page by page.
struct Pages<'s> {
    store: &'s Arc<dyn Store>,
    range: Option<Range>,
}

impl<'s> Pages<'s> {
    fn of(store: &'s Arc<dyn Store>, prefix: &str) -> Pages<'s> {
        Pages { store, range: Some(Range::of(prefix).limit(PAGE)) }
    }

    fn after(mut self, key: String) -> Pages<'s> {
        self.range = self.range.map(|range| range.after(key));
        self
    }

    async fn next(&mut self) -> Result<Option<Vec<Entry>>, StoreError> {
        let Some(range) = self.range.take() else { return Ok(None) };
        let page = self.store.range(range.clone()).await?;
        if let (true, Some(last)) = (page.more, page.entries.last()) {
            self.range = Some(range.after(last.key.clone()));
        }
        Ok(Some(page.entries))
    }
}

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// A link is not there, although a later one is.
    LinkMissing {
        sequence: u64,
    },
    /// A link cannot be read, or another link is named by the next one.
    LinkChanged {
        sequence: u64,
    },
    /// The chain does not pass through the head that was kept.
    OtherHead {
        kept: Head,
    },
    EntryMissing {
        key: String,
    },
    EntryChanged {
        key: String,
    },
    /// No link names the entry.
    EntryAdded {
        key: String,
    },
    /// Among the entries from before the chain at least one is missing, changed or added.
    EntriesBefore {
        expected: u64,
        found: u64,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::LinkMissing { sequence } => write!(f, "link {sequence} is missing"),
            Flaw::LinkChanged { sequence } => write!(f, "link {sequence} was changed"),
            Flaw::OtherHead { kept } => write!(f, "link {} is missing or is not the kept one", kept.sequence),
            Flaw::EntryMissing { key } => write!(f, "the entry {key} is missing"),
            Flaw::EntryChanged { key } => write!(f, "the entry {key} was changed"),
            Flaw::EntryAdded { key } => write!(f, "the entry {key} was added"),
            Flaw::EntriesBefore { expected, found } => {
                write!(
                    f,
                    "of the {expected} entries from before the chain, which are {found} now, at least one differs"
                )
            }
        }
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    pub entries: u64,
    /// The newest link. Kept elsewhere, it shows later whether this part of the trail is as it was.
    pub head: Head,
    pub flaws: Vec<Flaw>,
}

/// Compares the whole audit trail with its chain, and the chain with a head that was kept. Commits may go on
/// meanwhile.
pub(super) async fn verify(store: &Arc<dyn Store>, kept: Option<Head>) -> Result<Verification, StoreError> {
    let mut chain = Chain::default();
    chain.follow(store).await?;
    let mut entries = Vec::new();
    let mut pages = Pages::of(store, keys::AUDIT);
    while let Some(page) = pages.next().await? {
        entries.extend(page.into_iter().map(|entry| (entry.key, Sha256::of(&entry.value))));
    }
    // What was written since the links were read may or may not be among the entries.
    let before = chain.last.sequence;
    chain.follow(store).await?;
    chain.uncertain_after(before);
    let foreign = kept.filter(|kept| !chain.passes_through(*kept));
    chain.flaws.extend(foreign.map(|kept| Flaw::OtherHead { kept }));
    Ok(chain.compare(&entries))
}

/// The links as they are read.
#[derive(Default)]
struct Chain {
    last: Head,
    /// By key: the newest digest, and the link that has it.
    entries: HashMap<String, (Sha256, u64)>,
    /// By key: the digest of an entry when the chain began, if it was replaced since.
    replaced: HashMap<String, Sha256>,
    before: Option<EntriesBefore>,
    uncertain: HashSet<String>,
    heads: Vec<Head>,
    flaws: Vec<Flaw>,
}

impl Chain {
    /// Reads the links after the last one.
    async fn follow(&mut self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        let mut pages = Pages::of(store, keys::AUDIT_LINKS).after(keys::audit_link(self.last.sequence));
        while let Some(page) = pages.next().await? {
            page.iter().for_each(|entry| self.take(entry));
        }
        Ok(())
    }

    fn take(&mut self, entry: &Entry) {
        let head = head_of(entry);
        self.flaws
            .extend((self.last.sequence + 1..head.sequence).map(|sequence| Flaw::LinkMissing { sequence }));
        match serde_json::from_slice::<Link>(&entry.value) {
            Ok(link) => self.add(head.sequence, link),
            Err(_) => self.flaws.push(Flaw::LinkChanged { sequence: head.sequence }),
        }
        self.last = head;
        self.heads.push(head);
    }

    fn add(&mut self, sequence: u64, link: Link) {
        // Where a link is missing, that is said already.
        if sequence == self.last.sequence + 1 && link.previous != self.last.digest {
            self.flaws.push(Flaw::LinkChanged { sequence: self.last.sequence });
        }
        if sequence == 1 {
            self.before = link.before;
        }
        for (key, entry) in link.entries {
            if !self.entries.contains_key(&key)
                && let Some(replaced) = entry.replaced
            {
                self.replaced.insert(key.clone(), replaced);
            }
            self.entries.insert(key, (entry.digest, sequence));
        }
    }

    fn uncertain_after(&mut self, sequence: u64) {
        let newer = self.entries.iter().filter(|(_, (_, at))| *at > sequence);
        self.uncertain = newer.map(|(key, _)| key.clone()).collect();
    }

    fn passes_through(&self, kept: Head) -> bool {
        kept == Head::default() || self.heads.contains(&kept)
    }

    /// Compares the entries, which are in the order of their keys.
    fn compare(mut self, entries: &[(String, Sha256)]) -> Verification {
        let last_before = self.before.as_ref().map(|before| before.last.as_str());
        let mut old = Vec::new();
        for (key, digest) in entries {
            let is_old = last_before.is_some_and(|last| key.as_str() <= last);
            let linked = self.entries.remove(key);
            if is_old {
                match (linked, self.replaced.get(key)) {
                    // It was added since, with an earlier time.
                    (Some(_), None) => {}
                    (_, replaced) => old.push((key.as_str(), *replaced.unwrap_or(digest))),
                }
            }
            match linked {
                _ if self.uncertain.contains(key) => {}
                Some((expected, _)) if expected == *digest => {}
                Some(_) => self.flaws.push(Flaw::EntryChanged { key: key.clone() }),
                None if is_old => {}
                None => self.flaws.push(Flaw::EntryAdded { key: key.clone() }),
            }
        }
        let mut missing: Vec<String> = self.entries.into_keys().collect();
        missing.retain(|key| !self.uncertain.contains(key));
        missing.sort();
        self.flaws.extend(missing.into_iter().map(|key| Flaw::EntryMissing { key }));
        let expected = self.before.as_ref().map_or(0, |before| before.count);
        if self.before.as_ref().is_some_and(|before| before.digest != digest_of_all(old.iter().copied())) {
            self.flaws.push(Flaw::EntriesBefore { expected, found: old.len() as u64 });
        }
        Verification { entries: entries.len() as u64, head: self.last, flaws: self.flaws }
    }
}
