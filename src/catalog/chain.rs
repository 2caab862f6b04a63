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
//! The entry of a command is written with the command's change, as one whose outcome is to come
//! ([`AuditEntry::PENDING`]), and again with its outcome. A digest in the entry would not survive the second
//! write, and the digest of the first would be lost.
//!
//! # Why a part of an entry has a digest of its own
//! A later link may replace an entry. Without a bound, an attacker who can add a link could replace any entry
//! by another one, and every head that was kept would still be part of the chain. So the second link of an
//! entry may change only its outcome, and only once: its first link says whether the outcome is still to
//! come. Links of the first version do not tell the two apart, and none of them is accepted after one of the
//! second.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::keys;
use super::store::{Compare, Entry, Range, Store, StoreError, Txn, TxnOutcome, Write};
use crate::model::AuditEntry;

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
    /// 1: the digests of an entry are of its whole text alone. 2: its fixed part has a digest, too.
    #[serde(default = "first_version")]
    version: u32,
    /// That of the link before; zeros in the first.
    previous: Sha256,
    /// By key: the entries that the commit wrote.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, LinkedEntry>,
    /// In the first link: the entries that were there before, written by a version without a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<EntriesBefore>,
}

/// The version of the links that are written now.
const VERSION: u32 = 2;

fn first_version() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LinkedEntry {
    digest: Sha256,
    /// That of the entry which this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<Sha256>,
    /// That of everything but the outcome and what is told of it; from version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fixed: Option<Sha256>,
    /// The outcome is still to come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_pending: bool,
}

impl LinkedEntry {
    fn is_of(&self, stored: &StoredEntry) -> bool {
        self.digest == stored.digest && self.fixed.is_none_or(|fixed| fixed == stored.fixed)
    }
}

/// An entry as it is stored.
#[derive(Debug, Clone, Copy)]
struct StoredEntry {
    digest: Sha256,
    /// Of everything but the outcome and what is told of it: who, when, from where, which command and why.
    fixed: Sha256,
    is_pending: bool,
}

impl StoredEntry {
    fn of(value: &[u8]) -> StoredEntry {
        let digest = Sha256::of(value);
        let unread = StoredEntry { digest, fixed: digest, is_pending: false };
        let Ok(mut members) = serde_json::from_slice::<BTreeMap<String, serde_json::Value>>(value) else {
            return unread;
        };
        let outcome = members.remove("outcome");
        // What is told of a refusal is less than what is told of the command.
        members.remove("told");
        let Ok(fixed) = serde_json::to_vec(&members) else { return unread };
        let is_pending = outcome.is_some_and(|outcome| outcome == AuditEntry::PENDING);
        StoredEntry { digest, fixed: Sha256::of(&fixed), is_pending }
    }
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

/// Commits a transaction and, with it, the link of its audit entries. An entry that has its outcome keeps it:
/// another write of it is left out. Retries if another commit has written the next link first: that is no
/// conflict of the transaction.
pub(super) async fn commit(store: &Arc<dyn Store>, txn: Txn) -> Result<TxnOutcome, StoreError> {
    let mut head = head(store).await?;
    for _ in 0..ATTEMPTS_MAX {
        if head.sequence == 0 {
            head = begin(store).await?;
        }
        let mut linked = txn.clone();
        let mut entries = BTreeMap::new();
        let mut ended = Vec::new();
        for (key, value) in audited(&txn) {
            let before = store.get(key).await?.entry.map(|entry| StoredEntry::of(&entry.value));
            if before.is_some_and(|before| !before.is_pending) {
                ended.push(key.clone());
                continue;
            }
            let StoredEntry { digest, fixed, is_pending } = StoredEntry::of(value);
            let replaced = before.map(|before| before.digest);
            entries.insert(key.clone(), LinkedEntry { digest, replaced, fixed: Some(fixed), is_pending });
        }
        linked.writes.retain(|write| !matches!(write, Write::Put { key, .. } if ended.contains(key)));
        if entries.is_empty() {
            return store.commit(linked).await;
        }
        let link = Link { version: VERSION, previous: head.digest, entries, before: None };
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
    let link = Link { version: VERSION, previous: Sha256::default(), entries: BTreeMap::new(), before };
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
        entries.extend(page.into_iter().map(|entry| (entry.key, StoredEntry::of(&entry.value))));
    }
    // What was written since the links were read may or may not be among the entries.
    let before = chain.last.sequence;
    chain.follow(store).await?;
    chain.uncertain_after(before);
    let foreign = kept.filter(|kept| !chain.passes_through(*kept));
    chain.flaws.extend(foreign.map(|kept| Flaw::OtherHead { kept }));
    Ok(chain.compare(&entries))
}

/// Whether a link may have this entry, after an earlier one had it as it is known. In the first version
/// nothing tells the outcome from the rest: the entry may have been replaced as a whole.
fn may_follow(known: Option<LinkedEntry>, entry: LinkedEntry, is_first_version: bool) -> bool {
    match known {
        _ if is_first_version => true,
        None => entry.replaced.is_none(),
        Some(known) => {
            let has_its_outcome_now = known.is_pending && !entry.is_pending;
            has_its_outcome_now && known.fixed == entry.fixed && entry.replaced == Some(known.digest)
        }
    }
}

/// The links as they are read.
#[derive(Default)]
struct Chain {
    last: Head,
    /// By key: the newest digests, and the link that has them.
    entries: HashMap<String, (LinkedEntry, u64)>,
    /// Entries that a later link replaces, although nothing of Freehold's does that.
    overwritten: HashSet<String>,
    /// The greatest version so far: a chain does not go back to an earlier one.
    version: u32,
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
        let is_first_version = link.version < VERSION && self.version < VERSION;
        self.version = self.version.max(link.version);
        for (key, entry) in link.entries {
            let known = self.entries.get(&key).map(|(known, _)| *known);
            if !may_follow(known, entry, is_first_version) {
                self.overwritten.insert(key);
                continue;
            }
            if let (None, Some(replaced)) = (known, entry.replaced) {
                self.replaced.insert(key.clone(), replaced);
            }
            self.entries.insert(key, (entry, sequence));
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
    fn compare(mut self, entries: &[(String, StoredEntry)]) -> Verification {
        let last_before = self.before.as_ref().map(|before| before.last.as_str());
        let mut old = Vec::new();
        for (key, stored) in entries {
            let is_old = last_before.is_some_and(|last| key.as_str() <= last);
            let linked = self.entries.remove(key);
            if is_old {
                match (linked, self.replaced.get(key)) {
                    // It was added since, with an earlier time.
                    (Some(_), None) => {}
                    (_, replaced) => old.push((key.as_str(), *replaced.unwrap_or(&stored.digest))),
                }
            }
            match linked {
                _ if self.uncertain.contains(key) => {}
                _ if self.overwritten.contains(key) => {
                    self.flaws.push(Flaw::EntryChanged { key: key.clone() })
                }
                Some((expected, _)) if expected.is_of(stored) => {}
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
