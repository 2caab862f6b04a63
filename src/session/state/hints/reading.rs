//! The answer as it is read: the effects that each name has by itself, and the names that it uses.

use std::collections::{HashMap, HashSet};

use super::super::rows::{Fields, SnapshotError};
use super::keeping::{Keeping, add};
use super::{Hints, unseen};
use crate::session::scan::{
    self, Backslashes, Dialect, Effects, Meaning, Names, ScanFinding, SettingName, judge_body,
};

/// Names of settings that are kept.
const SETTINGS_MAX: usize = 200;

/// Bytes that are read in one go on a worker's thread: about half a millisecond of work.
const TURN_BYTES: usize = 8 * 1024;
/// The cost of a row beside its body, in bytes.
const ROW_BYTES: usize = 64;

/// Extensions with functions in C that change no session, whatever their volatility says: PostgreSQL's own
/// (manual, appendix F), and some that many databases have.
const PLAIN_EXTENSIONS: &str = "plpgsql adminpack amcheck autoinc bloom btree_gin btree_gist citext cube earthdistance file_fdw \
    fuzzystrmatch hstore insert_username intagg intarray lo ltree moddatetime old_snapshot pageinspect pg_buffercache \
    pg_freespacemap pg_prewarm pg_stat_statements pg_surgery pg_visibility pg_walinspect pgcrypto pgrowlocks pgstattuple \
    postgres_fdw seg sslinfo tcn tsm_system_rows tsm_system_time unaccent uuid-ossp dict_int dict_xsyn postgis vector";

/// Extensions with functions in C that change settings which PostgreSQL lists.
const SETTING_EXTENSIONS: &str = "pg_trgm";

/// Extensions that run text that they are given.
const TEXT_EXTENSIONS: &str = "tablefunc xml2 dblink refint";

/// Stands in place of an extension's name for functions that initdb has made: those of information_schema and
/// of PL/pgSQL.
const INITDB: &str = "initdb";

/// A function, as its row describes it.
struct Function {
    name: Box<[u8]>,
    language: String,
    /// Declared volatile.
    is_volatile: bool,
    /// Declared immutable.
    is_immutable: bool,
    /// It has a search path of its own, whatever the session's is.
    has_own_path: bool,
    extension: Option<String>,
    /// The text, for SQL or another language; for an internal function, the built-in function that it is, if
    /// that is not harmless. `None`: it is in C, or stored as a tree.
    body: Option<Vec<u8>>,
}

impl Function {
    fn read(fields: &Fields<'_>) -> Result<Function, SnapshotError> {
        Ok(Function {
            name: fields.bytes(1)?.into(),
            language: fields.text(2)?,
            is_volatile: fields.plain(3)?.starts_with('v'),
            is_immutable: fields.plain(3)?.starts_with('i'),
            has_own_path: fields.plain(3)?.ends_with('p'),
            extension: fields.is_there(4).then(|| fields.text(4)).transpose()?,
            body: fields.is_there(5).then(|| fields.bytes(5)).transpose()?,
        })
    }

    /// What has to be cleaned after it, whatever was read in its body: a mistake there must not reach another
    /// client.
    fn unproven(&self) -> Effects {
        match (&*self.language, &self.body) {
            ("c" | "internal", _) => Effects::NONE,
            // Only PostgreSQL's own code.
            _ if self.is_of(INITDB) => Effects::NONE,
            (_, Some(body)) => Effects::UNPROVEN | scan::touched_by_body(body),
            (_, None) => Effects::UNPROVEN,
        }
    }

    /// In C, of an extension that changes no session beyond what is listed here.
    fn is_known(&self) -> bool {
        [PLAIN_EXTENSIONS, SETTING_EXTENSIONS, INITDB].iter().any(|extensions| self.is_of(extensions))
    }

    fn is_of(&self, extensions: &str) -> bool {
        let mut extensions = extensions.split_ascii_whitespace();
        self.extension.as_deref().is_some_and(|own| extensions.any(|extension| extension == own))
    }
}

/// What is known while the answer is read.
#[derive(Default)]
pub(super) struct Reading {
    /// The effects that each name has by itself.
    effects: HashMap<Box<[u8]>, Effects>,
    /// By name, the users of that name: they have its effects, too.
    users: HashMap<Box<[u8]>, Vec<Box<[u8]>>>,
    functions: HashSet<Box<[u8]>>,
    settings: Vec<String>,
    triggers: Vec<Box<[u8]>>,
    /// The names that a connection keeps for its life.
    keeping: Keeping,
    has_login_trigger: bool,
    /// The encoding of the database.
    is_utf8: bool,
    /// Functions in C of extensions that are not known: whatever they are declared, a library may keep
    /// something for itself.
    libraries: Vec<Box<[u8]>>,
    /// Functions that extensions use in operators, casts and operator families of their own.
    of_extensions: Vec<Box<[u8]>>,
    /// Names that ask, by themselves, for sequence values that the session drew.
    memory_readers: HashSet<Box<[u8]>>,
    /// Bytes of bodies and trees, and an allowance for each row, since [`Reading::is_turn_over`] last
    /// returned `true`.
    read: usize,
}

/// The names that a body contains.
#[derive(Default)]
struct Mentioned {
    names: HashSet<Box<[u8]>>,
    /// It may reach any name of the database.
    reaches_any: bool,
    /// Names of what it makes in the temporary schema.
    temporary: Vec<Box<[u8]>>,
}

impl Names for Mentioned {
    fn are_all_harmless(&self) -> bool {
        false
    }

    fn effects(&mut self, name: &[u8]) -> Effects {
        if !self.names.contains(name) {
            self.names.insert(name.into());
        }
        Effects::NONE
    }

    fn makes_temporary(&mut self, name: Option<&[u8]>) -> Effects {
        match name {
            Some(name) => {
                self.temporary.push(name.into());
                Effects::NONE
            }
            None => Effects::TEMPORARY,
        }
    }

    fn on_definition(&mut self) -> Effects {
        self.any()
    }

    fn any(&mut self) -> Effects {
        self.reaches_any = true;
        Effects::NONE
    }
}

/// The owner of code that is not named where it runs: operators, casts, checks of domains.
const IMPLIED: &[u8] = b"";
/// Stands for every name in [`Reading::users`]; no object has this name.
const ANY_NAME: &[u8] = b"\0";

impl Reading {
    fn uses(&mut self, owner: &[u8], used: &[u8]) {
        self.users.entry(used.into()).or_default().push(owner.into());
        if scan::reads_memory(used) {
            self.memory_readers.insert(owner.into());
        }
        // The trees themselves are searched for names and keys of settings.
        if let Some(effects) = built_in_effects(used) {
            self.add(owner, effects);
        }
    }

    fn add(&mut self, name: &[u8], effects: Effects) {
        if !effects.is_none() {
            *self.effects.entry(name.into()).or_default() |= effects;
        }
    }

    fn function(&mut self, function: Function) {
        if function.is_immutable && !function.is_of(INITDB) {
            self.keeping.immutable(&function.name);
        }
        let effects = match (&*function.language, &function.body) {
            ("c", _) if function.is_of(TEXT_EXTENSIONS) => Effects::ANY,
            ("c", _) if function.is_volatile && function.is_of(SETTING_EXTENSIONS) => Effects::ASKS,
            ("c", _) if function.is_volatile && !function.is_known() => Effects::ANY,
            ("c", _) if !function.is_known() => {
                self.libraries.push(function.name.clone());
                Effects::NONE
            }
            // What is stored as a tree has the effects of what it uses; an aggregate, too.
            ("c", _) | ("sql" | "internal", None) => Effects::NONE,
            // Another name of a built-in function that is not harmless.
            ("internal", Some(other)) => match scan::meaning(other) {
                Some(Meaning::Asks) => Effects::ASKS,
                // Calls of it are not recognised by name.
                _ => Effects::ANY,
            },
            ("sql", Some(body)) => {
                if !function.has_own_path {
                    self.keeping.inlined(&function.name, body);
                }
                self.body(&function.name, body, Dialect::Sql)
            }
            ("plpgsql", Some(body)) => {
                if function.is_immutable && !function.has_own_path {
                    self.keeping.computed(&function.name, body);
                }
                let kept = self.keeping.declarations(body);
                let by_path = if function.has_own_path { Effects::BY_PATH } else { Effects::NONE };
                self.body(&function.name, body, Dialect::PlPgSql) | kept.without(by_path)
            }
            // Others may have filled the limit.
            ("unread", _) => unseen() | self.keeping.whatever(),
            _ => Effects::ANY,
        };
        self.add(&function.name, effects | function.unproven());
        self.functions.insert(function.name);
    }

    /// Settings in a function's definition hold while it runs, and for whatever it calls: each as
    /// `name=value`.
    fn config(&mut self, owner: &[u8], settings: &[u8]) {
        for setting in settings.split(|&byte| byte == b'\n') {
            // A seed is not reset when the function ends.
            let lasting = if setting.starts_with(b"seed=") { Effects::ANY } else { Effects::NONE };
            self.add(owner, Effects::UNPROVEN | scan::touched(setting) | lasting);
        }
    }

    fn body(&mut self, owner: &[u8], body: &[u8], dialect: Dialect) -> Effects {
        self.read += body.len();
        if scan::reads_memory(body) {
            self.memory_readers.insert(owner.into());
        }
        let mut mentioned = Mentioned::default();
        let effects = judge_body(body, dialect, &mut mentioned);
        for name in mentioned.names {
            self.users.entry(name).or_default().push(owner.into());
        }
        for name in mentioned.temporary {
            self.keeping.makes(owner, name);
        }
        if mentioned.reaches_any {
            self.users.entry(ANY_NAME.into()).or_default().push(owner.into());
        }
        let mut settings = Vec::new();
        scan::scan_body(body, Backslashes::Literal, &mut |finding| {
            if let ScanFinding::Setting(name) = finding {
                settings.push(name);
            }
        });
        settings.into_iter().fold(effects, |effects, name| effects | self.setting(name))
    }

    /// Returns the effects of code that sets it, if it cannot be asked for: a name that is not written in
    /// UTF-8 would make the question for a session's state fail.
    fn setting(&mut self, name: String) -> Effects {
        if !(self.is_utf8 || name.is_ascii()) {
            return Effects::ANY;
        }
        let is_known = self.settings.iter().any(|known| known.eq_ignore_ascii_case(&name));
        if !is_known && self.settings.len() < SETTINGS_MAX {
            self.settings.push(name);
        }
        Effects::NONE
    }

    /// A part of the answer that is not understood may hold for any text.
    pub(super) fn unseen(&mut self) {
        self.add(IMPLIED, unseen());
    }

    #[cfg(test)]
    pub(super) fn work(&mut self) -> usize {
        self.read += self.keeping.take_work();
        self.read
    }

    /// Whether other tasks of the thread should run now.
    pub(super) fn is_turn_over(&mut self) -> bool {
        self.read += self.keeping.take_work();
        let is_over = self.read >= TURN_BYTES;
        if is_over {
            self.read = 0;
        }
        is_over
    }

    /// Reads a row that is needed to read the names in other rows.
    pub(super) fn names_row(&mut self, fields: &Fields<'_>) -> Result<(), SnapshotError> {
        match fields.kind() {
            "twice" => self.keeping.ambiguous(&fields.bytes(1)?, fields.plain(2)?),
            "keeps" => {
                self.keeping.keeps(&fields.bytes(1)?, &fields.bytes(2)?);
            }
            "classes" if fields.is_there(2) => self.keeping.classes(fields.plain(2)?),
            "server" => self.is_utf8 = fields.plain(5).is_ok_and(|encoding| encoding == "UTF8"),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn row(&mut self, fields: &Fields<'_>) -> Result<(), SnapshotError> {
        self.read += ROW_BYTES;
        match fields.kind() {
            "function" => self.function(Function::read(fields)?),
            "uses" => self.uses(&fields.bytes(1)?, &fields.bytes(2)?),
            "own" => self.of_extensions.push(fields.bytes(2)?.into()),
            "unseen" => self.add(&fields.bytes(1)?, unseen()),
            "foreign" => self.add(&fields.bytes(1)?, Effects::LASTING),
            "opaque" => self.add(&fields.bytes(1)?, Effects::ANY),
            "config" if fields.is_there(2) => self.config(&fields.bytes(1)?, &fields.bytes(2)?),
            "config" => self.add(&fields.bytes(1)?, any_setting()),
            "twice" | "keeps" | "classes" => {}
            "tree" => {
                let (owner, tree) =
                    (fields.bytes(1)?, fields.is_there(2).then(|| fields.bytes(2)).transpose()?);
                // Only names in it may have other characters.
                let tree = tree.as_deref().map(String::from_utf8_lossy);
                match fields.is_there(3) {
                    true => self.keeping.tree_of_function(&owner, tree.as_deref()),
                    false => self.keeping.tree(&owner, tree.as_deref()),
                }
            }
            "thesaurus" => self.add(IMPLIED, Effects::BY_PATH),
            "login" => self.has_login_trigger = true,
            "trigger" => self.triggers.push(fields.bytes(1)?.into()),
            "constant" if !fields.is_there(2) => {
                if fields.is_there(3) {
                    self.add(&fields.bytes(1)?, any_setting());
                }
            }
            "constant" => {
                let name = constant(fields.plain(2)?);
                if fields.is_there(3) {
                    self.add(&fields.bytes(1)?, scan::decided_by(Some(&name)));
                }
                if let SettingName::Custom(name) = SettingName::of(&name) {
                    let effects = self.setting(name);
                    if fields.is_there(3) {
                        self.add(&fields.bytes(1)?, effects);
                    }
                }
            }
            _ => return Err(fields.unexpected(0)),
        }
        Ok(())
    }

    /// Gives every user of a name the effects of that name, directly and through others.
    fn spread(&mut self) {
        let reach_any = self.users.get(ANY_NAME).cloned().unwrap_or_default();
        let mut changed: Vec<Box<[u8]>> = self.effects.keys().cloned().collect();
        let mut all = Effects::NONE;
        while let Some(name) = changed.pop() {
            let effects = self.effects.get(&name).copied().unwrap_or_default();
            for user in self.users.get(&name).into_iter().flatten() {
                add(&mut self.effects, user, effects, &mut changed);
            }
            // Not for each name: there may be thousands of both.
            if all | effects != all {
                all |= effects;
                for user in &reach_any {
                    add(&mut self.effects, user, all, &mut changed);
                }
            }
        }
    }

    /// Names that, when used, ask for sequence values that the session drew.
    fn memory_readers(&mut self) -> Vec<Box<[u8]>> {
        let mut readers = std::mem::take(&mut self.memory_readers);
        let mut new: Vec<Box<[u8]>> = readers.iter().cloned().collect();
        while let Some(name) = new.pop() {
            for user in self.users.get(&name).into_iter().flatten() {
                if readers.insert(user.clone()) {
                    new.push(user.clone());
                }
            }
        }
        // Code that is not named where it runs is not searched for.
        readers.into_iter().filter(|name| **name != *IMPLIED && **name != *ANY_NAME).collect()
    }

    pub(super) fn finish(mut self) -> Hints {
        let memory_readers = self.memory_readers();
        for (owner, effects) in self.keeping.found(&self.users, &self.functions) {
            self.add(&owner, effects);
        }
        self.spread();
        // An extension's own operators are believed to change nothing: no text names them.
        let of_extensions = self.of_extensions.iter().filter_map(|name| self.effects.get(name));
        let of_extensions = of_extensions.fold(Effects::NONE, |all, &one| all | one);
        if !self.libraries.is_empty() {
            for name in std::mem::take(&mut self.libraries) {
                self.add(&name, Effects::LASTING);
            }
            self.spread();
        }
        let implied = (self.effects.remove(IMPLIED).unwrap_or_default() | of_extensions).closing();
        let effects = self.triggers.iter().filter_map(|name| self.effects.get(name));
        let on_definition = effects.fold(Effects::NONE, |all, &one| all | one);
        let mut hints = Hints {
            id: rand::random_range(1..u32::MAX),
            implied,
            on_definition,
            settings: self.settings,
            kept: self.keeping.names,
            keeps_any: self.keeping.keeps_any,
            keeps_results: self.keeping.keeps_results,
            has_login_trigger: self.has_login_trigger,
            memory_readers,
            ..Hints::default()
        };
        for (name, effects) in self.effects {
            hints.any |= effects;
            if !name.is_ascii() {
                hints.beyond_ascii |= effects;
            }
            hints.names.insert(name, effects);
        }
        self.functions.retain(|name| !hints.names.contains_key(name));
        hints.functions = self.functions;
        hints
    }
}

/// The effects of code that sets a setting of a name that was not read: others may have filled the limit.
fn any_setting() -> Effects {
    Effects::ANY.closing() | scan::decided_by(None)
}

/// The effects of a built-in function that is not harmless, where it stands in a body or a tree.
fn built_in_effects(name: &[u8]) -> Option<Effects> {
    match scan::meaning(name) {
        Some(Meaning::Asks) => Some(Effects::ASKS),
        Some(Meaning::RunsText) => Some(Effects::ANY),
        Some(Meaning::Scanned) => Some(scan::effects_in_body(name)),
        _ => None,
    }
}

/// The text of a constant in a stored tree: `48 0 0 0 97 112 112`, bytes as signed numbers, the first four
/// its length.
fn constant(numbers: &str) -> Vec<u8> {
    const LENGTH_BYTES: usize = 4;
    let byte = |number: &str| number.parse::<i16>().ok().map(|number| number as u8);
    numbers.split_ascii_whitespace().skip(LENGTH_BYTES).filter_map(byte).collect()
}
