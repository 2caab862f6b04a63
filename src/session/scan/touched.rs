//! What a text or the body of a function may set, judged by its words: settings with an effect beyond their
//! value.
//!
//! # Why
//! Some settings decide, for the connection's life, what PostgreSQL keeps of code that runs while they are
//! set: the path by which it found a name, the rules by which it read a literal or the body of a function. A
//! setting may end with its transaction, and no later query can reveal it. So the text decides, and in one
//! direction only: if the name of what it sets cannot be read, it counts as each of those settings. Names are
//! searched as bytes, also in literals and comments, because code may run a literal.

use memchr::memmem;

use super::effects::Effects;

/// Settings that affect how PostgreSQL's own code reads literals of dates, times, intervals, amounts, arrays
/// and documents, converts constants to text, or reads `= NULL`. In lower case.
const VALUE_SETTINGS: [&str; 12] = [
    "datestyle",
    "timezone",
    "timezone_abbreviations",
    "intervalstyle",
    "lc_monetary",
    "array_nulls",
    "xmloption",
    "xmlbinary",
    "extra_float_digits",
    "bytea_output",
    "transform_null_equals",
    "quote_all_identifiers",
];

/// Whether the setting of this name is one by which PostgreSQL's own code reads or writes values.
pub(crate) fn decides_values(setting: &str) -> bool {
    VALUE_SETTINGS.iter().any(|name| setting.eq_ignore_ascii_case(name))
}

/// A user-defined immutable function may read `application_name`, and custom settings.
const READ_BY_USERS: [&[u8]; 3] = [b"application_name", b"reset all", b"discard"];

const STRINGS: &[u8] = b"standard_conforming_strings";

/// A setting of any name.
const ANY_SETTING: Effects = Effects::PATH.with(Effects::VALUES).with(Effects::READING);

/// Where the parameters of a text come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameters {
    /// A Bind, which is examined: see `Notes::bind`.
    Bound,
    /// The caller of a function, or an EXECUTE.
    Unseen,
}

/// What an unproven client text may change besides settings: prepared statements, how function bodies are
/// read, the path by which names are looked up, and the settings by which values are read. A text with
/// escapes may change prepared statements, too.
pub(crate) fn touched(sql: &[u8]) -> Effects {
    let folded = sql.to_ascii_lowercase();
    let is_prepared = memmem::find(&folded, b"prepare").is_some();
    of(&folded, if is_prepared { Parameters::Unseen } else { Parameters::Bound })
}

/// The same of the body of a function.
pub(crate) fn touched_by_body(body: &[u8]) -> Effects {
    of(&body.to_ascii_lowercase(), Parameters::Unseen)
}

/// What a setting of this name decides; `None`: its name is not known.
pub(crate) fn decided_by(setting: Option<&[u8]>) -> Effects {
    let Some(name) = setting else { return ANY_SETTING };
    let folded = name.to_ascii_lowercase();
    let mut effects = named(&folded);
    if folded == b"role" {
        effects |= Effects::PATH;
    }
    if folded.contains(&b'.') {
        effects |= Effects::VALUES;
    }
    effects
}

fn of(folded: &[u8], parameters: Parameters) -> Effects {
    let mut effects = named(folded) | set(folded) | called(folded, parameters);
    if touches_statements(folded) {
        effects |= Effects::STATEMENTS;
    }
    effects
}

fn is_in(folded: &[u8], word: &[u8]) -> bool {
    memmem::find(folded, word).is_some()
}

/// The names of settings that are there, whatever is done with them.
fn named(folded: &[u8]) -> Effects {
    let mut effects = Effects::NONE;
    if is_in(folded, b"search_path") || is_in(folded, b"authorization") {
        effects |= Effects::PATH;
    }
    let reads_values = |name: &&str| is_in(folded, name.as_bytes());
    if VALUE_SETTINGS.iter().any(reads_values) || READ_BY_USERS.iter().any(|name| is_in(folded, name)) {
        effects |= Effects::VALUES;
    }
    if touches_strings(folded) || touches_plpgsql(folded) || uses_foreign(folded) {
        effects |= Effects::READING;
    }
    effects
}

/// Drivers set `standard_conforming_strings = on` when they connect, which changes nothing. If it is off at
/// that time, the caller has to know: see [`super::read`].
fn touches_strings(folded: &[u8]) -> bool {
    let sets_otherwise = |at: usize| {
        let rest = trim(&folded[at + STRINGS.len()..]);
        let value = rest.strip_prefix(b"=").or(rest.strip_prefix(b"to"));
        let behind = value.map(|value| trim(trim(value).strip_prefix(b"on").unwrap_or(b"x")));
        behind.is_none_or(|behind| behind.first().is_some_and(|&byte| byte != b';'))
    };
    memmem::find_iter(folded, STRINGS).any(sets_otherwise)
}

/// Whether `standard_conforming_strings` is set at all.
pub(crate) fn names_strings(sql: &[u8]) -> bool {
    is_in(&sql.to_ascii_lowercase(), STRINGS)
}

/// CREATE FOREIGN TABLE or IMPORT FOREIGN SCHEMA: the foreign table may be used and be gone before anything
/// is read of it. `FOREIGN KEY` looks the same.
fn uses_foreign(folded: &[u8]) -> bool {
    is_in(folded, b"foreign") && (is_in(folded, b"create") || is_in(folded, b"import"))
}

/// `plpgsql.variable_conflict` and its like, which may be written with blanks and quotes.
fn touches_plpgsql(folded: &[u8]) -> bool {
    const PLPGSQL: &[u8] = b"plpgsql";
    let is_class = |at: usize| {
        let rest = trim_quoted(&folded[at + PLPGSQL.len()..]);
        rest.starts_with(b".") || begins_comment(rest)
    };
    memmem::find_iter(folded, PLPGSQL).any(is_class)
}

/// SET with another name than the setting's: `SET ROLE`, `SET SCHEMA`, `SET TIME ZONE`, `SET XML OPTION`; or
/// with a name in escapes. `"$user"` in the search path is the role. `UPDATE users SET role = 'x'` looks the
/// same.
fn set(folded: &[u8]) -> Effects {
    let of_target = |at: usize| {
        let mut rest = trim(&folded[at + 3..]);
        for scope in [&b"local"[..], b"session"] {
            rest = rest.strip_prefix(scope).map_or(rest, trim);
        }
        let rest = trim_quoted(rest);
        match rest {
            _ if rest.starts_with(b"role") || rest.starts_with(b"schema") => Effects::PATH,
            _ if rest.starts_with(b"time") || rest.starts_with(b"xml") => Effects::VALUES,
            _ if rest.starts_with(b"u&") => ANY_SETTING,
            // A custom setting, or `UPDATE t SET composite.field`.
            _ if behind_name(rest).starts_with(b".") => Effects::VALUES,
            _ => Effects::NONE,
        }
    };
    let mut effects = Effects::NONE;
    let mut is_there = false;
    for at in memmem::find_iter(folded, b"set") {
        is_there = true;
        effects |= of_target(at);
    }
    if is_there && (is_in(folded, b"/*") || is_in(folded, b"--")) {
        // Comments between two words are not skipped, so with a comment the words count anywhere.
        let path = is_in(folded, b"role") || is_in(folded, b"schema");
        effects |= if path { Effects::PATH } else { Effects::NONE };
        effects |= Effects::VALUES;
        effects |= if is_in(folded, b"u&") { ANY_SETTING } else { Effects::NONE };
    }
    effects
}

/// Calls of `set_config`.
fn called(folded: &[u8], parameters: Parameters) -> Effects {
    const SET_CONFIG: &[u8] = b"set_config";
    let calls = memmem::find_iter(folded, SET_CONFIG);
    calls.fold(Effects::NONE, |effects, at| effects | call(&folded[at + SET_CONFIG.len()..], parameters))
}

/// What follows the name of the function.
fn call(rest: &[u8], parameters: Parameters) -> Effects {
    let rest = trim_quoted(rest);
    if begins_comment(rest) {
        return ANY_SETTING;
    }
    // Another word, or the name of the function in a list of names.
    let Some(rest) = rest.strip_prefix(b"(") else { return Effects::NONE };
    let mut rest = trim(rest);
    if let Some(named) = rest.strip_prefix(b"setting_name") {
        let named = trim(named);
        rest = named.strip_prefix(b"=>").or(named.strip_prefix(b":=")).map_or(rest, trim);
    }
    for makes in [&b"format"[..], b"concat"] {
        let text = rest.strip_prefix(makes).and_then(|rest| trim(rest).strip_prefix(b"("));
        rest = text.map_or(rest, trim);
    }
    let is_parameter = rest.first() == Some(&b'$') && rest.get(1).is_some_and(u8::is_ascii_digit);
    match rest.first() {
        Some(b'$') if is_parameter && parameters == Parameters::Bound => Effects::NONE,
        Some(b'\'') => literal(rest),
        _ => ANY_SETTING,
    }
}

/// The first argument begins with a literal, which stands in a literal itself where its quotes are doubled.
fn literal(rest: &[u8]) -> Effects {
    let rest = without_quotes(rest);
    let end = memchr::memchr(b'\'', rest).unwrap_or(rest.len());
    let (name, behind) = rest.split_at(end);
    // What begins so is a custom setting, whatever follows.
    let class = memchr::memchr(b'.', name).map(|dot| &name[..dot]);
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if class.is_some_and(|class| !class.is_empty() && class != b"plpgsql" && class.iter().all(is_plain)) {
        return Effects::VALUES;
    }
    let mut behind = trim(without_quotes(behind));
    if let Some(cast) = behind.strip_prefix(b"::") {
        let cast = trim_quoted(cast);
        let length = cast.iter().take_while(|byte| is_plain(byte) || b"._\"".contains(byte)).count();
        behind = trim(&cast[length..]);
    }
    match behind.first() {
        Some(b',') if !name.contains(&b'\\') => decided_by(Some(name)),
        _ => ANY_SETTING,
    }
}

fn behind_name(text: &[u8]) -> &[u8] {
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_' || **byte >= 0x80;
    trim_quoted(&text[text.iter().take_while(is_part).count()..])
}

fn without_quotes(text: &[u8]) -> &[u8] {
    let quotes = text.iter().take_while(|&&byte| byte == b'\'').count();
    &text[quotes..]
}

fn touches_statements(folded: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [b"prepare", b"deallocate", b"discard", b"execute", b"freehold_", b"u&"];
    folded.contains(&b'\\') || WORDS.iter().any(|word| is_in(folded, word))
}

fn begins_comment(rest: &[u8]) -> bool {
    rest.starts_with(b"/*") || rest.starts_with(b"--")
}

/// Without blanks in front. A vertical tab is one from PostgreSQL 16 on.
fn trim(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count();
    &text[blanks..]
}

/// Without the quotes of a name, too.
fn trim_quoted(text: &[u8]) -> &[u8] {
    let is_front = |byte: &&u8| byte.is_ascii_whitespace() || **byte == 0x0b || **byte == b'"';
    &text[text.iter().take_while(is_front).count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_whose_name_cannot_be_read_counts_as_each() {
        for sql in [
            "SELECT set_config('search' || '_path', 'x', true)",
            "SELECT set_config(lower('ROLE'), 'x', true)",
            "SELECT set_config(E'search\\137path', 'x', true)",
            "SELECT \"set_config\" /* x */ ('a', 'b', true)",
            "SELECT set_config($$search_path$$, 'x', true)",
            "SELECT set_config(setting_name => name, new_value => 'x', is_local => true) FROM t",
            "SET LOCAL U&\"search\\005fpath\" = x",
            "SET/**/LOCAL/**/U&\"search\\005fpath\" = x",
            "PREPARE p AS SELECT set_config($1, $2, true)",
            "DO $x$ BEGIN EXECUTE 'SELECT set_config(''search'' || ''_path'', ''x'', true)'; END $x$",
        ] {
            let effects = touched(sql.as_bytes());
            assert_eq!(effects.without(Effects::STATEMENTS), ANY_SETTING, "{sql}");
        }
        assert_eq!(touched_by_body(b"SELECT set_config($1, $2, true)"), ANY_SETTING);
        assert_eq!(touched_by_body(b"begin perform set_config(name, value, true); end"), ANY_SETTING);
        assert_eq!(decided_by(None), ANY_SETTING);
    }

    #[test]
    fn a_setting_whose_name_is_read_counts_as_what_it_decides() {
        let none = [
            "SELECT set_config($1, $2, true)",
            "SELECT pg_catalog.set_config( 'work_mem', '1MB', false)",
            "COMMENT ON FUNCTION set_config IS 'x'",
        ];
        for sql in none {
            assert_eq!(touched(sql.as_bytes()).without(Effects::STATEMENTS), Effects::NONE, "{sql}");
        }
        for (sql, effects) in [
            ("SELECT set_config('app.' || $1, $2, true)", Effects::VALUES),
            ("SELECT set_config(format('app.%s', $1), $2, true)", Effects::VALUES),
            ("SELECT set_config('app.tenant'::text, $1, true)", Effects::VALUES),
            ("SET LOCAL app.tenant = 'a'", Effects::VALUES),
            ("SELECT set_config('role', $1, true)", Effects::PATH),
            ("SELECT set_config('Search_Path', $1, true)", Effects::PATH),
            ("SELECT set_config('standard_conforming_strings', 'on', true)", Effects::READING),
            ("SET LOCAL \"role\" = 'r1'", Effects::PATH),
            ("SET LOCAL\x0bSCHEMA 'two'", Effects::PATH),
            ("SET LOCAL\x0bTIME\x0bZONE 'UTC'", Effects::VALUES),
            ("SET LOCAL plpgsql . variable_conflict = error", Effects::READING.with(Effects::VALUES)),
            ("SET LOCAL \"plpgsql\".\"variable_conflict\" = error", Effects::READING.with(Effects::VALUES)),
        ] {
            assert_eq!(touched(sql.as_bytes()), effects, "{sql}");
        }
        for (name, effects) in [
            ("Role", Effects::PATH),
            ("session_authorization", Effects::PATH),
            ("TimeZone", Effects::VALUES),
            ("standard_conforming_strings", Effects::READING),
            ("plpgsql.variable_conflict", Effects::READING.with(Effects::VALUES)),
            ("app.tenant", Effects::VALUES),
            ("work_mem", Effects::NONE),
        ] {
            assert_eq!(decided_by(Some(name.as_bytes())), effects, "{name}");
        }
    }

    #[test]
    fn a_text_that_changes_statements_is_found_however_it_spells_them() {
        for sql in [
            "DO 'begin execute ''x''; end'",
            "PREPARE x AS SELECT 1",
            "do U&'x'",
            "select E'\\x65'",
            "Discard All",
        ] {
            assert!(touched(sql.as_bytes()).has(Effects::STATEMENTS), "{sql}");
        }
        assert_eq!(touched(b"SELECT set_config('app.tenant', $1, false)"), Effects::VALUES);
    }
}
