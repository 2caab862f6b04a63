//! The words of SQL itself: keywords, and the functions of `pg_catalog`, each with what it may do.
//!
//! Owns the lists in `words/`, and a table that finds a word in a few steps. Names that a database has
//! defined itself are in [`Names`](super::Names).
//!
//! # Why
//! A built-in function is harmless only if it is on the list of harmless ones. A test compares the lists with
//! `pg_proc` of every installed major: a function that a new major brings is on none, and the test fails
//! until a maintainer has decided. At run time a word that is on no list and no name of the database counts
//! as unknown.

/// What a word may mean for the state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A reserved word: without quotes it cannot be a name.
    Reserved,
    /// A word of the grammar that a parenthesis may follow.
    Grammar,
    /// A word of the grammar; the name that follows it is not called, even where a parenthesis comes next.
    Introduces,
    /// `into`
    Into,
    /// A function that leaves nothing behind.
    Harmless,
    /// A function that may leave something; PostgreSQL can be asked for it.
    Asks,
    /// A function that runs a text, or the object that a text names.
    RunsText,
    /// A function or a word that the full scan has to read: see [`super::scan`].
    Scanned,
    /// `pg_settings`: an UPDATE of it changes settings.
    SettingsView,
    /// `update`
    Update,
}

const HARMLESS: &str = include_str!("harmless.txt");
const ASKS: &str = include_str!("asks.txt");
const RUNS_TEXT: &str = include_str!("runs_text.txt");
/// Functions with a name, a key or a count that must be kept: [`super::ScanFinding`].
const SCANNED: &str = "set_config current_setting currval lastval setseed pg_backup_start \
    pg_replication_origin_session_setup pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock \
    pg_try_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all \
    dblink_connect dblink_connect_u pg_create_physical_replication_slot pg_create_logical_replication_slot \
    pg_copy_physical_replication_slot pg_copy_logical_replication_slot";
/// Category R of `pg_get_keywords()`, without words that have a meaning of their own here.
const RESERVED: &str = "all analyse analyze and any array asc asymmetric both case cast check collate column \
    constraint create current_catalog current_date current_role current_time current_timestamp current_user default \
    deferrable desc distinct do else end except false fetch for foreign from grant group having in initially intersect \
    lateral leading limit localtime localtimestamp not null offset on only or order placing primary references \
    returning select session_user some symmetric table then to trailing true union unique user using variadic when \
    where window";
/// Categories C and T, and the other words that a parenthesis may follow without being a call. A database may
/// have functions with some of these names.
const GRAMMAR: &str = "between bigint bit boolean char character coalesce dec decimal exists extract float greatest \
    grouping inout int integer interval json json_array json_arrayagg json_exists json_object json_objectagg json_query \
    json_scalar json_serialize json_table json_value least merge_action national nchar none normalize nullif numeric out \
    overlay position precision real row setof smallint substring system_user time timestamp treat trim values varchar \
    xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable \
    authorization binary concurrently cross current_schema freeze full ilike inner is isnull join like natural notnull \
    outer similar tablesample verbose over filter within cube rollup sets materialized conflict insert columns set by \
    key include options passing nested operator rows partition exclude identity generated always stored excluded \
    nulls delete merge matched";

/// `INSERT INTO t (a)`, `AS t (a)`, `WITH t (a) AS`, `COPY t (a)`.
const INTRODUCES: &str = "as with recursive copy";

const BUILT_IN: [(&str, Meaning); 8] = [
    (RESERVED, Meaning::Reserved),
    (INTRODUCES, Meaning::Introduces),
    ("into", Meaning::Into),
    (HARMLESS, Meaning::Harmless),
    (GRAMMAR, Meaning::Grammar),
    (ASKS, Meaning::Asks),
    (RUNS_TEXT, Meaning::RunsText),
    (SCANNED, Meaning::Scanned),
];

/// The longest word that is looked up.
pub(crate) const WORD_BYTES_MAX: usize = 63;

/// A power of two, far more than there are words: few lookups take a second step.
const SLOTS: usize = 8_192;

/// Where the text of a word lies, and what it means; a length of zero is no word.
#[derive(Clone, Copy)]
struct Slot {
    list: u8,
    length: u8,
    start: u16,
}

const TABLE: &[Slot; SLOTS] = &table();

#[allow(long_running_const_eval, reason = "the table is made once, by the compiler")]
const fn table() -> [Slot; SLOTS] {
    let mut slots = [Slot { list: 0, length: 0, start: 0 }; SLOTS];
    let mut list = 0;
    while list < BUILT_IN.len() {
        let text = BUILT_IN[list].0.as_bytes();
        let mut start = 0;
        while start < text.len() {
            let mut end = start;
            while end < text.len() && text[end] > b' ' {
                end += 1;
            }
            if end > start {
                let mut at = slot_of(text, start, end);
                while slots[at].length != 0 {
                    at = (at + 1) % SLOTS;
                }
                slots[at] = Slot { list: list as u8, length: (end - start) as u8, start: start as u16 };
            }
            start = end + 1;
        }
        list += 1;
    }
    slots
}

/// Both cases of a letter get the same slot; other collisions are resolved by comparing.
const fn slot_of(text: &[u8], start: usize, end: usize) -> usize {
    let mut hash = end.wrapping_sub(start) as u64;
    let mut at = start;
    while at < end {
        hash = (hash ^ (text[at] | 0x20) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        at += 1;
    }
    (hash >> 51) as usize
}

/// What SQL itself means by an unquoted word. `None`: it is a name of the database, or of the text.
#[inline]
pub(crate) fn meaning(word: &[u8]) -> Option<Meaning> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    match word.len() {
        6 if word.eq_ignore_ascii_case(b"update") => return Some(Meaning::Update),
        11 if word.eq_ignore_ascii_case(b"pg_settings") => return Some(Meaning::SettingsView),
        _ => {}
    }
    let mut at = slot_of(word, 0, word.len());
    loop {
        let slot = TABLE[at];
        if slot.length == 0 {
            return None;
        }
        let (text, meaning) = BUILT_IN[slot.list as usize];
        let start = slot.start as usize;
        let known = &text.as_bytes()[start..start + slot.length as usize];
        if known.eq_ignore_ascii_case(word) {
            return Some(meaning);
        }
        at = (at + 1) % SLOTS;
    }
}

/// The functions of `pg_catalog` that are not harmless, by name.
pub(crate) fn not_harmless() -> impl Iterator<Item = &'static str> {
    [ASKS, RUNS_TEXT, SCANNED].into_iter().flat_map(str::split_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_either_case_and_names_are_not() {
        assert_eq!(meaning(b"SELECT"), Some(Meaning::Reserved));
        assert_eq!(meaning(b"Count"), Some(Meaning::Harmless));
        assert_eq!(meaning(b"set_config"), Some(Meaning::Scanned));
        assert_eq!(meaning(b"QUERY_TO_XML"), Some(Meaning::RunsText));
        assert_eq!(meaning(b"update"), Some(Meaning::Update));
        assert_eq!(meaning(b"pgbench_accounts"), None);
        assert_eq!(meaning(&[b'a'; 100]), None);
    }

    #[test]
    fn every_word_is_on_one_list() {
        let mut seen = std::collections::BTreeMap::new();
        for (list, meaning) in BUILT_IN {
            for word in list.split_ascii_whitespace() {
                if let Some(other) = seen.insert(word, meaning) {
                    // Some functions are named like words of the grammar.
                    assert!(
                        [other, meaning].contains(&Meaning::Harmless),
                        "{word}: {other:?} and {meaning:?}"
                    );
                }
            }
        }
        assert!(BUILT_IN.iter().all(|(list, _)| list.len() < usize::from(u16::MAX)));
    }
}
