//! What the functions, views, policies, triggers and defaults of a database can do to a session: read from its catalogue.
//!
//! Owns the question ([`sql`]) and the answer ([`Hints`]): for each name of the database, what may happen where a text
//! holds it. [`scan::judge`](crate::session::scan::judge) looks names up here.
//!
//! # Why
//! No text of a client shows what a function does. Without this, every query could have changed the session, and each
//! session would ask again at each boundary; with it, only those texts are asked about that name something which is not
//! known to be harmless.
//! A function is harmless if every word of its body is: it is read like a text of a client's. A function in C is harmless if it
//! is declared stable or immutable, or belongs to an extension that is known; in another language, never. A table is as
//! harmless as its triggers, rules, policies, defaults, checks and index expressions, and as the tables whose rows go
//! with its own. Names are looked up without regard to schemas, so a search path cannot hide one.
//!
//! It also finds the names of custom settings that the database's own code sets or reads by a literal name: those are the
//! ones an application cannot afford to lose.
//!
//! Expressions are stored as trees. They are searched as text, because `pg_get_expr` may wait for a table's lock.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use super::snapshot::{Fields, Rows, SnapshotError, expand};
use crate::session::scan::{
    self, Backslashes, Dialect, Effects, Finding, Meaning, Names, SettingName, judge_body,
};

/// Shared by the sessions of a database on one worker.
#[derive(Debug, Default)]
pub struct Hints {
    /// Tells one reading from another; 0 is none.
    id: u32,
    /// Names of whatever is not known to be harmless.
    names: HashMap<Box<[u8]>, Effects>,
    /// Names of functions that are.
    functions: HashSet<Box<[u8]>>,
    /// What any text may do that runs: an operator or a cast calls what is not harmless.
    implied: Effects,
    /// What any change of a definition may do: an event trigger.
    on_definition: Effects,
    /// What all names together may do.
    any: Effects,
    /// What those may do that hold other characters than ASCII's.
    beyond_ascii: Effects,
    /// Names of custom settings that the database's own code mentions.
    pub(super) settings: Vec<String>,
    /// [`DEFINITIONS`] at that moment; `None`: the server does not count.
    pub(super) definitions: Option<i64>,
    /// [`CATALOGUE`] at that moment.
    catalogue: Option<i64>,
}

/// The hints of a database, or room for them: filled by the first session that asks.
#[derive(Debug, Default)]
pub struct HintsCell {
    answer: OnceLock<Arc<Hints>>,
    /// Those of before, which may still be right.
    before: Option<Arc<Hints>>,
}

impl HintsCell {
    pub fn of(hints: Arc<Hints>) -> HintsCell {
        HintsCell { answer: OnceLock::from(hints), before: None }
    }

    /// To be filled anew; where the catalogue has not changed, by what it was filled with.
    pub(in crate::session) fn doubted(&self) -> HintsCell {
        HintsCell { answer: OnceLock::new(), before: self.answer.get().or(self.before.as_ref()).cloned() }
    }

    pub fn get(&self) -> Option<&Arc<Hints>> {
        self.answer.get()
    }

    /// The hints of before, with the question that tells whether they are right.
    pub(super) fn before(&self) -> Option<(&Arc<Hints>, String)> {
        self.before.as_ref().map(|before| (before, format!("SELECT ({CATALOGUE})::pg_catalog.text")))
    }

    pub(super) fn fill(&self, hints: Arc<Hints>) -> Arc<Hints> {
        Arc::clone(self.answer.get_or_init(|| hints))
    }
}

/// The newest major whose functions are all on a list.
const MAJOR_KNOWN_MAX: u32 = 18;

/// Names of settings that are kept.
const SETTINGS_MAX: usize = 200;

/// A longer body is not read.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Extensions whose functions in C change no session, whatever their volatility says.
const PLAIN_EXTENSIONS: [&str; 21] = [
    "plpgsql",
    "uuid-ossp",
    "pgcrypto",
    "hstore",
    "citext",
    "unaccent",
    "fuzzystrmatch",
    "ltree",
    "cube",
    "seg",
    "intarray",
    "btree_gin",
    "btree_gist",
    "earthdistance",
    "postgis",
    "vector",
    "moddatetime",
    "autoinc",
    "insert_username",
    "lo",
    "tcn",
];

/// Extensions that run text which they are given.
const TEXT_EXTENSIONS: [&str; 3] = ["tablefunc", "xml2", "dblink"];

/// Grows with every change of a function, a rule or view, a trigger, a policy, an operator or a cast that this session has made,
/// and soon after one that another has made. A view of statistics: it costs nothing to read.
pub(super) const DEFINITIONS: &str = "CASE WHEN pg_catalog.current_setting('track_counts')::pg_catalog.bool THEN \
    (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_tuples_updated(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)) FROM pg_catalog.unnest(\
    ARRAY[1255,2618,2620,3256,2617,2605]::pg_catalog.oid[]) c(oid)) END";

/// Grows with every change of a catalogue that the question reads, a while after it was made. Those of a session's own count at
/// once, those of others when they have told.
const CATALOGUE: &str = "CASE WHEN pg_catalog.current_setting('track_counts')::pg_catalog.bool THEN \
    (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_tuples_updated(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_tuples_deleted(c.oid)) FROM pg_catalog.unnest(ARRAY[1255,1259,2600,2603,2604,2605,2606,2610,\
    2611,2617,2618,2620,3079,3256,3350,3381,3466,3541]::pg_catalog.oid[]) c(oid)) END";

/// The question. Each row of the answer is a kind and up to five texts, as [`super::snapshot()`] has them.
pub(super) fn sql() -> String {
    let names: Vec<&str> = scan::not_harmless().collect();
    let sql = READING
        .replace("@names", &names.join(","))
        .replace("@definitions", DEFINITIONS)
        .replace("@catalogue", CATALOGUE);
    expand(&sql, ("<<", ">>"))
}

/// Its names are found in `pg_catalog`, whatever the session's search path is: that holds for this one transaction.
/// No backslash stands in it: `standard_conforming_strings` may be off.
const READING: &str = r"
SET LOCAL search_path TO pg_catalog, pg_temp;
SET LOCAL jit TO off;
SET LOCAL max_parallel_workers_per_gather TO 0;
SET LOCAL enable_nestloop TO off;
WITH special(oid, name) AS MATERIALIZED (
  SELECT p.oid, p.proname FROM pg_proc p WHERE p.oid < 10000 AND p.proname = ANY ('{@names}'::name[])
    AND NOT 'internal'::regtype = ANY (p.proargtypes::oid[])),
tree(owner, tree) AS MATERIALIZED (
  SELECT c.relname, r.ev_action::text || r.ev_qual::text FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    WHERE r.oid >= 16384
  UNION ALL SELECT c.relname, concat(p.polqual::text, p.polwithcheck::text)
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
  UNION ALL SELECT c.relname, d.adbin::text FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
  UNION ALL SELECT c.relname, t.tgqual::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE t.tgqual IS NOT NULL
  UNION ALL SELECT coalesce(c.relname, ''), k.conbin::text FROM pg_constraint k LEFT JOIN pg_class c ON c.oid = k.conrelid
    WHERE k.oid >= 16384 AND k.conbin IS NOT NULL
  UNION ALL SELECT c.relname, concat(i.indexprs::text, i.indpred::text) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL SELECT c.relname, s.stxexprs::text FROM pg_statistic_ext s JOIN pg_class c ON c.oid = s.stxrelid
    WHERE s.stxexprs IS NOT NULL
  UNION ALL SELECT c.relname, p.partexprs::text FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
    WHERE p.partexprs IS NOT NULL
  UNION ALL SELECT p.proname, p.prosqlbody::text FROM pg_proc p WHERE p.oid >= 10000 AND p.prosqlbody IS NOT NULL),
part(owner, called, after) AS MATERIALIZED (
  SELECT t.owner, split_part(x.after, ' ', 1), x.after FROM tree t, LATERAL string_to_table(t.tree, 'funcid ') x(after)),
calls(owner, oid, after) AS MATERIALIZED (
  SELECT p.owner, s.oid, p.after FROM part p JOIN special s ON s.oid::text = p.called),
owner(classid, objid, name) AS (
  SELECT 'pg_rewrite'::regclass, r.oid, c.relname FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
  UNION ALL SELECT 'pg_policy'::regclass, p.oid, c.relname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
  UNION ALL SELECT 'pg_attrdef'::regclass, d.oid, c.relname FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
  UNION ALL SELECT 'pg_trigger'::regclass, t.oid, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal
  UNION ALL SELECT 'pg_constraint'::regclass, k.oid, coalesce(c.relname, '') FROM pg_constraint k
    LEFT JOIN pg_class c ON c.oid = k.conrelid WHERE k.contype = 'c'
  UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
  UNION ALL SELECT 'pg_class'::regclass, c.oid, c.relname FROM pg_class c WHERE c.relkind = 'p'
  UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, c.relname
    FROM pg_statistic_ext s JOIN pg_class c ON c.oid = s.stxrelid
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, p.proname FROM pg_proc p WHERE p.oid >= 16384),
used(classid, objid, name) AS (
  SELECT 'pg_proc'::regclass, p.oid, p.proname FROM pg_proc p WHERE p.oid >= 16384
  UNION ALL SELECT 'pg_class'::regclass, c.oid, c.relname FROM pg_class c
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')),
uses(owner, used) AS (
  SELECT o.name, u.name FROM owner o JOIN pg_depend d ON d.classid = o.classid AND d.objid = o.objid
    JOIN used u ON u.classid = d.refclassid AND u.objid = d.refobjid
  UNION SELECT c.owner, s.name FROM calls c JOIN special s ON s.oid = c.oid
  UNION SELECT c.relname, p.proname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal
  UNION SELECT a.relname, b.relname FROM pg_constraint k JOIN pg_class a ON a.oid = k.confrelid
    JOIN pg_class b ON b.oid = k.conrelid WHERE k.contype = 'f'
  UNION SELECT a.relname, b.relname FROM pg_inherits i JOIN pg_class a ON a.oid = i.inhparent
    JOIN pg_class b ON b.oid = i.inhrelid
  UNION SELECT f.proname, p.proname FROM pg_aggregate a JOIN pg_proc f ON f.oid = a.aggfnoid, LATERAL unnest(ARRAY[
      a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn,
      a.aggmfinalfn]::oid[]) x(oid) JOIN pg_proc p ON p.oid = x.oid WHERE f.oid >= 16384
  UNION SELECT '', p.proname FROM pg_operator o, LATERAL unnest(ARRAY[o.oprcode, o.oprrest, o.oprjoin]::oid[]) x(oid)
    JOIN pg_proc p ON p.oid = x.oid WHERE o.oid >= 16384
  UNION SELECT '', p.proname FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc WHERE c.oid >= 16384
  UNION SELECT '', p.proname FROM pg_amproc a JOIN pg_proc p ON p.oid = a.amproc WHERE a.oid >= 16384
  UNION SELECT '', p.proname FROM pg_range r, LATERAL unnest(ARRAY[r.rngcanonical, r.rngsubdiff]::oid[]) x(oid)
    JOIN pg_proc p ON p.oid = x.oid WHERE r.rngtypid >= 16384)
SELECT 'server' AS kind, current_setting('server_version_num') AS a, (@definitions)::text AS b,
  (@catalogue)::text AS c, NULL AS d, NULL AS e
UNION ALL SELECT 'function', <<p.proname>>, <<l.lanname>>, p.provolatile::text, <<(SELECT x.extname FROM pg_depend d
    JOIN pg_extension x ON x.oid = d.refobjid WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    AND d.refclassid = 'pg_extension'::regclass)>>,
    <<CASE WHEN l.lanname <> 'c' AND p.prosqlbody IS NULL THEN p.prosrc END>>
  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.oid >= 10000
    AND NOT 'internal'::regtype = ANY (p.proargtypes::oid[])
    AND p.prorettype::regtype::text !~ '^(internal|cstring|.*_handler)$'
UNION ALL SELECT 'uses', <<u.owner>>, <<u.used>>, NULL, NULL, NULL FROM uses u WHERE u.owner <> u.used
UNION ALL SELECT 'trigger', <<p.proname>>, NULL, NULL, NULL, NULL FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid
  WHERE t.evtenabled <> 'D' AND t.evtevent <> 'login'
UNION ALL SELECT DISTINCT 'opaque', <<c.owner>>, NULL, NULL, NULL, NULL FROM calls c
  WHERE c.oid = 2078 AND c.after !~ '^[^{]*:args [(][{]CONST '
UNION ALL SELECT DISTINCT 'opaque', <<t.owner>>, NULL, NULL, NULL, NULL FROM tree t
  WHERE strpos(t.tree, ':relid ' || 'pg_settings'::regclass::oid || ' ') > 0
UNION ALL SELECT DISTINCT 'constant', NULL, m.found[1], NULL, NULL, NULL FROM calls c, LATERAL regexp_matches(c.after,
  '^[^[]*?:constvalue [0-9]+ [[] ([0-9 -]+) []]') AS m(found) WHERE c.oid = ANY (ARRAY[2077, 2078, 3294]::oid[])";

/// A function, as far as its row tells.
struct Function {
    name: Box<[u8]>,
    language: String,
    /// Declared volatile.
    is_volatile: bool,
    extension: Option<String>,
    /// `None`: in C, or kept as a tree.
    body: Option<String>,
}

impl Function {
    fn read(fields: &Fields<'_>) -> Result<Function, SnapshotError> {
        let optional = |at| if fields.is_there(at) { fields.text(at).map(Some) } else { Ok(None) };
        Ok(Function {
            name: fields.text(1)?.into_bytes().into(),
            language: fields.text(2)?,
            is_volatile: fields.plain(3)? == "v",
            extension: optional(4)?,
            body: optional(5)?,
        })
    }

    fn is_of(&self, extensions: &[&str]) -> bool {
        self.extension.as_deref().is_some_and(|extension| extensions.contains(&extension))
    }
}

/// What is known while the answer is read.
#[derive(Default)]
struct Reading {
    /// What each name does by itself.
    effects: HashMap<Box<[u8]>, Effects>,
    /// Whose effects a name's effects are, too: by the name that is used.
    users: HashMap<Box<[u8]>, Vec<Box<[u8]>>>,
    functions: HashSet<Box<[u8]>>,
    settings: Vec<String>,
    triggers: Vec<Box<[u8]>>,
}

/// The names that a body holds.
#[derive(Default)]
struct Mentioned {
    names: HashSet<Box<[u8]>>,
    /// It may reach any of the database.
    reaches_any: bool,
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

    fn call(&mut self, _: &[u8]) -> Effects {
        Effects::NONE
    }

    fn implied(&mut self) -> Effects {
        Effects::NONE
    }

    fn on_definition(&mut self) -> Effects {
        self.any()
    }

    fn any(&mut self) -> Effects {
        self.reaches_any = true;
        Effects::NONE
    }
}

/// The owner of what is not named where it is used: operators, casts, checks of domains.
const IMPLIED: &[u8] = b"";
/// Stands for every name in [`Reading::users`]; nothing is called so.
const ANY_NAME: &[u8] = b"\0";

impl Reading {
    fn uses(&mut self, owner: &[u8], used: &[u8]) {
        self.users.entry(used.into()).or_default().push(owner.into());
        let effects = match scan::meaning(used) {
            Some(Meaning::Asks) => Effects::ASKS,
            Some(Meaning::RunsText) => Effects::ANY,
            // Names and keys of settings are looked for in the trees themselves.
            Some(Meaning::Scanned) => scan::effects_in_body(used),
            _ => return,
        };
        self.add(owner, effects);
    }

    fn add(&mut self, name: &[u8], effects: Effects) {
        if !effects.is_none() {
            *self.effects.entry(name.into()).or_default() |= effects;
        }
    }

    fn function(&mut self, function: Function) {
        let effects = match (&*function.language, &function.body) {
            ("c", _) if function.is_of(&TEXT_EXTENSIONS) => Effects::ANY,
            ("c", _) if function.is_volatile && !function.is_of(&PLAIN_EXTENSIONS) => Effects::ANY,
            // What is kept as a tree is told by what it uses.
            ("c", _) | ("sql", None) => Effects::NONE,
            ("internal", Some(symbol)) if scan::meaning(symbol.as_bytes()) == Some(Meaning::Harmless) => {
                Effects::NONE
            }
            ("sql", Some(body)) => self.body(&function.name, body, Dialect::Sql),
            ("plpgsql", Some(body)) => self.body(&function.name, body, Dialect::PlPgSql),
            _ => Effects::ANY,
        };
        self.add(&function.name, effects);
        self.functions.insert(function.name);
    }

    fn body(&mut self, owner: &[u8], body: &str, dialect: Dialect) -> Effects {
        if body.len() > BODY_BYTES_MAX {
            return Effects::ANY;
        }
        let mut mentioned = Mentioned::default();
        let effects = judge_body(body.as_bytes(), dialect, &mut mentioned);
        for name in mentioned.names {
            self.users.entry(name).or_default().push(owner.into());
        }
        if mentioned.reaches_any {
            self.users.entry(ANY_NAME.into()).or_default().push(owner.into());
        }
        scan::scan_body(body.as_bytes(), Backslashes::Literal, &mut |finding| {
            if let Finding::Setting(name) = finding {
                self.setting(name);
            }
        });
        effects
    }

    fn setting(&mut self, name: String) {
        let is_known = self.settings.iter().any(|known| known.eq_ignore_ascii_case(&name));
        if !is_known && self.settings.len() < SETTINGS_MAX {
            self.settings.push(name);
        }
    }

    fn row(&mut self, fields: &Fields<'_>) -> Result<(), SnapshotError> {
        match fields.kind() {
            "function" => self.function(Function::read(fields)?),
            "uses" => self.uses(fields.text(1)?.as_bytes(), fields.text(2)?.as_bytes()),
            "opaque" => self.add(fields.text(1)?.as_bytes(), Effects::ANY),
            "trigger" => self.triggers.push(fields.text(1)?.into_bytes().into()),
            "constant" => {
                if let SettingName::Custom(name) = SettingName::of(&constant(fields.plain(2)?)) {
                    self.setting(name);
                }
            }
            _ => return Err(fields.odd(0)),
        }
        Ok(())
    }

    /// Whoever uses something has its effects, and so has whoever uses that one.
    fn spread(&mut self) {
        let mut changed: Vec<Box<[u8]>> = self.effects.keys().cloned().collect();
        while let Some(name) = changed.pop() {
            let effects = self.effects.get(&name).copied().unwrap_or_default();
            let users = self.users.get(&name).into_iter().chain(self.users.get(ANY_NAME)).flatten();
            for user in users {
                let known = self.effects.entry(user.clone()).or_default();
                if *known | effects != *known {
                    *known |= effects;
                    changed.push(user.clone());
                }
            }
        }
    }

    fn finish(mut self) -> Hints {
        self.spread();
        let implied = self.effects.remove(IMPLIED).unwrap_or_default();
        let effects = self.triggers.iter().filter_map(|name| self.effects.get(name));
        let on_definition = effects.fold(Effects::NONE, |all, &one| all | one);
        let mut hints = Hints {
            id: rand::random_range(1..u32::MAX),
            implied,
            on_definition,
            settings: self.settings,
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

impl Hints {
    /// Reads the answer to [`sql`].
    pub(super) fn from_rows(rows: &Rows) -> Result<Hints, SnapshotError> {
        let mut reading = Reading::default();
        let (mut major, mut definitions, mut catalogue) = (0, None, None);
        for row in rows {
            let fields = Fields::of(row);
            if fields.kind() == "server" {
                major = fields.number::<u32>(1)? / 10_000;
                definitions = fields.optional_number(2)?;
                catalogue = fields.optional_number(3)?;
            } else {
                reading.row(&fields)?;
            }
        }
        let mut hints = reading.finish();
        (hints.definitions, hints.catalogue) = (definitions, catalogue);
        if major > MAJOR_KNOWN_MAX {
            // Functions that it brings are on no list, and views of its own may call them.
            hints.implied |= Effects::ANY;
        }
        Ok(hints)
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Whether the catalogue is as it was, by the answer to [`HintsCell::before`].
    pub(super) fn are_right(&self, answer: &Rows) -> bool {
        let now = answer.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
        now.is_some() && now == self.catalogue
    }

    #[cfg(test)]
    pub(super) fn with(name: &str, effects: Effects) -> Hints {
        Hints {
            id: 1,
            names: HashMap::from([(name.as_bytes().into(), effects)]),
            any: effects,
            ..Hints::default()
        }
    }

    /// What all of it together may do to a session.
    pub(super) fn any(&self) -> Effects {
        self.any | self.implied
    }

    /// The names of those that do more than can be asked for.
    pub(super) fn opaque_names(&self) -> impl Iterator<Item = &[u8]> {
        let unseen = Effects::OPAQUE | Effects::LOCKS;
        self.names.iter().filter(move |(_, effects)| effects.has(unseen)).map(|(name, _)| &**name)
    }

    pub(super) fn names(&self) -> Known<'_> {
        Known(self)
    }
}

/// The names of a database, to judge a text by.
pub(super) struct Known<'h>(&'h Hints);

impl Names for Known<'_> {
    fn are_all_harmless(&self) -> bool {
        self.0.names.is_empty() && self.0.implied.is_none()
    }

    fn effects(&mut self, name: &[u8]) -> Effects {
        let known = self.0.names.get(name).copied().unwrap_or_default();
        // In another encoding it is written in other bytes, or folded in another way.
        if name.is_ascii() { known } else { known | self.0.beyond_ascii }
    }

    fn call(&mut self, name: &[u8]) -> Effects {
        match self.0.functions.contains(name) || self.0.names.contains_key(name) {
            true => Effects::NONE,
            false => Effects::ASKS,
        }
    }

    fn implied(&mut self) -> Effects {
        self.0.implied
    }

    fn on_definition(&mut self) -> Effects {
        self.0.on_definition
    }

    fn any(&mut self) -> Effects {
        self.0.any()
    }
}

/// While nothing is known of a database.
pub(super) struct Unknown;

impl Names for Unknown {
    fn are_all_harmless(&self) -> bool {
        true
    }

    fn effects(&mut self, _: &[u8]) -> Effects {
        Effects::NONE
    }

    fn call(&mut self, _: &[u8]) -> Effects {
        Effects::NONE
    }

    fn implied(&mut self) -> Effects {
        Effects::NONE
    }

    fn on_definition(&mut self) -> Effects {
        Effects::NONE
    }

    fn any(&mut self) -> Effects {
        Effects::NONE
    }
}

/// The text of a constant in a stored tree: `48 0 0 0 97 112 112`, bytes as signed numbers, the first four its length.
fn constant(numbers: &str) -> Vec<u8> {
    const LENGTH_BYTES: usize = 4;
    let byte = |number: &str| number.parse::<i16>().ok().map(|number| number as u8);
    numbers.split_ascii_whitespace().skip(LENGTH_BYTES).filter_map(byte).collect()
}

#[cfg(test)]
#[path = "hints_tests.rs"]
mod tests;
