//! What a connection keeps, for its life, of the names in functions.
//!
//! # Why
//! Neither DISCARD ALL nor any other command clears these: what PL/pgSQL found when it compiled a function;
//! and, in the caches of types and relations, the checks of domains, the expressions and conditions of
//! indexes and the keys of partitioned tables ([`super::trees`]). PostgreSQL puts into these expressions the
//! bodies of SQL functions, with all of their names, and the results of immutable functions of constants,
//! except for functions with a body that is stored as a tree, or with a search path of their own. Defaults,
//! other checks, generated columns, policies and triggers are planned anew for each statement.

use std::collections::{HashMap, HashSet};

use super::element;
use super::trees::{BY_TIME, Classes, Computed, computed};
use crate::session::scan::{self, Effects, Kept, Used};

type Name = Box<[u8]>;

/// The longest operator name in PostgreSQL (`NAMEDATALEN` - 1).
const OPERATOR_BYTES_MAX: usize = 63;

/// Names that exist in more than one schema: the search path decides what they mean.
#[derive(Default)]
struct AmbiguousNames {
    /// Of types, tables and collations.
    types: HashSet<Name>,
    /// The same, with functions and text search configurations.
    all: HashSet<Name>,
    operators: HashSet<Name>,
}

impl AmbiguousNames {
    fn add(&mut self, name: &[u8], kind: &str) {
        if kind == "operator" {
            self.operators.insert(name.into());
            return;
        }
        self.all.insert(name.into());
        if matches!(kind, "type" | "collation") {
            self.types.insert(name.into());
        }
    }

    fn are_none(&self) -> bool {
        self.all.is_empty() && self.operators.is_empty()
    }

    /// Whether a run of operator characters contains such an operator. Adds the bytes hashed to `work`.
    fn have_operator_in(&self, run: &[u8], work: &mut usize) -> bool {
        if self.operators.is_empty() {
            return false;
        }
        let lengths = |from: usize| 1..=OPERATOR_BYTES_MAX.min(run.len() - from);
        (0..run.len()).any(|from| {
            lengths(from).any(|length| {
                *work += length;
                self.operators.contains(&run[from..from + length])
            })
        })
    }
}

/// The names that are kept, while the answer is read.
#[derive(Default)]
pub(super) struct Keeping {
    ambiguous: AmbiguousNames,
    /// Domains and tables with functions in expressions that connections keep.
    keepers: Vec<(Name, Name)>,
    classes: Classes,
    /// What is computed from constants in these expressions, by their owner.
    computed: HashMap<Name, Effects>,
    /// Expressions, and SQL functions with bodies as trees, that call SQL functions with a constant among the
    /// arguments.
    binds: HashSet<Name>,
    /// What SQL functions with bodies as texts call with a constant among the arguments.
    bound: HashMap<Name, HashSet<Name>>,
    /// SQL functions that PostgreSQL may inline into expressions.
    put: HashSet<Name>,
    /// Those among them that may compute something from an argument that is a constant.
    goes_on: HashSet<Name>,
    /// What those with a body as text call with only constants.
    called: HashMap<Name, HashSet<Name>>,
    /// Functions in SQL with the names in their bodies.
    inlined: HashMap<Name, Vec<Name>>,
    /// Functions with such a name in their bodies that exists in several schemas.
    by_path: HashSet<Name>,
    /// Functions with a literal in their bodies that settings or the time affect.
    by_values: HashMap<Name, Effects>,
    /// Functions with bodies as trees that call a user-defined immutable function with only constants.
    results: HashSet<Name>,
    /// Functions that are computed once if their arguments are constants.
    immutable: HashSet<Name>,
    /// Functions that make temporary objects, by the name of the object.
    makers: HashMap<Name, Vec<Name>>,
    /// All names that are kept, as [`element`] has them.
    pub(super) names: HashSet<Name>,
    /// One of the names that are kept could not be read.
    pub(super) keeps_any: bool,
    /// Results of user-defined functions are kept, which any setting may affect.
    pub(super) keeps_results: bool,
    /// Work since [`Keeping::take_work`], in bytes read or hashed.
    work: usize,
}

impl Keeping {
    /// Something with this name exists in more than one schema.
    pub(super) fn ambiguous(&mut self, name: &[u8], kind: &str) {
        self.ambiguous.add(name, kind);
    }

    pub(super) fn keeps(&mut self, owner: &[u8], function: &[u8]) {
        self.keepers.push((owner.into(), function.into()));
    }

    pub(super) fn classes(&mut self, list: &str) {
        self.classes.read(list);
    }

    /// Reads a kept expression; `None`: it is too long.
    pub(super) fn tree(&mut self, owner: &[u8], tree: Option<&str>) {
        let found = self.read_tree(tree);
        self.note_computed(owner, found);
    }

    /// Reads the body, stored as a tree, of an SQL function; `None`: it is too long.
    pub(super) fn tree_of_function(&mut self, owner: &[u8], tree: Option<&str>) {
        let found = self.read_tree(tree);
        self.put.insert(owner.into());
        if found.goes_on {
            self.goes_on.insert(owner.into());
        }
        let effects = found.effects();
        if !effects.is_none() {
            *self.by_values.entry(owner.into()).or_default() |= effects;
        }
        if found.by_users {
            self.results.insert(owner.into());
        }
        if found.binds {
            self.binds.insert(owner.into());
        }
    }

    fn read_tree(&mut self, tree: Option<&str>) -> Computed {
        self.work += tree.map_or(0, str::len);
        tree.map_or(Computed::ANY, |tree| computed(tree, &self.classes))
    }

    fn note_computed(&mut self, owner: &[u8], found: Computed) {
        self.keeps_results |= found.by_users;
        let effects = found.effects();
        if !effects.is_none() {
            *self.computed.entry(owner.into()).or_default() |= effects;
        }
        if found.binds {
            self.binds.insert(owner.into());
        }
    }

    /// Takes the work since the last call, in bytes.
    pub(super) fn take_work(&mut self) -> usize {
        std::mem::take(&mut self.work)
    }

    pub(super) fn makes(&mut self, owner: &[u8], name: Name) {
        self.makers.entry(name).or_default().push(owner.into());
    }

    /// The effects of code with names that cannot be read.
    pub(super) fn whatever(&self) -> Effects {
        let by_values = if self.keepers.is_empty() { Effects::NONE } else { Effects::BY_VALUES };
        if self.ambiguous.are_none() { by_values } else { by_values | Effects::BY_PATH }
    }

    /// Reads the body of a function in PL/pgSQL.
    pub(super) fn declarations(&mut self, body: &[u8]) -> Effects {
        let mut effects = Effects::NONE;
        let by_path = |is_ambiguous: bool| if is_ambiguous { Effects::BY_PATH } else { Effects::NONE };
        scan::declared(body, &mut |kept| {
            effects |= match kept {
                Kept::Type(name) => {
                    if !self.names.contains(element(name)) {
                        self.names.insert(element(name).into());
                    }
                    Effects::FINDS | by_path(self.ambiguous.types.contains(name))
                }
                Kept::AnyType => {
                    self.keeps_any = true;
                    Effects::FINDS | by_path(!self.ambiguous.types.is_empty())
                }
                Kept::Procedure(name) => by_path(self.ambiguous.all.contains(name)),
                Kept::AnyProcedure => by_path(!self.ambiguous.all.is_empty()),
            }
        });
        effects
    }

    /// Reads the body of a function in SQL, as text.
    pub(super) fn inlined(&mut self, owner: &[u8], body: &[u8]) {
        if let Some((names, by_values)) = self.used(owner, body) {
            if !by_values.is_none() {
                *self.by_values.entry(owner.into()).or_default() |= by_values;
            }
            self.inlined.entry(owner.into()).or_default().extend(names);
            self.put.insert(owner.into());
        }
    }

    /// Reads the body of a function that is computed once if its arguments are constants.
    ///
    /// Literals in it are read again after a connection was cleaned. A kept result counts where it is
    /// computed, whatever the body.
    pub(super) fn computed(&mut self, owner: &[u8], body: &[u8]) {
        self.used(owner, body);
    }

    /// PostgreSQL computes it once if its arguments are constants, whatever its language is.
    pub(super) fn immutable(&mut self, owner: &[u8]) {
        if !self.keepers.is_empty() {
            self.immutable.insert(owner.into());
        }
    }

    /// The names in a body, and the effects of its literals; `None`: no expression keeps any.
    fn used(&mut self, owner: &[u8], body: &[u8]) -> Option<(Vec<Name>, Effects)> {
        if self.keepers.is_empty() {
            return None;
        }
        let mut names: HashSet<Name> = HashSet::new();
        let (mut called, mut bound): (HashSet<Name>, HashSet<Name>) = Default::default();
        let (mut is_any, mut is_ambiguous, mut by_values) = (false, false, Effects::NONE);
        let (mut goes_on, mut work) = (false, 0);
        scan::used(body, &mut |used| match used {
            Used::Name(name) => {
                is_ambiguous |= self.ambiguous.all.contains(name);
                if !names.contains(name) {
                    names.insert(name.into());
                }
            }
            Used::Operators(run) => {
                is_ambiguous |= !is_ambiguous && self.ambiguous.have_operator_in(run, &mut work);
            }
            Used::Value => by_values |= Effects::BY_VALUES,
            Used::Moment => by_values |= BY_TIME,
            Used::Cast => goes_on = true,
            Used::Call { name, takes_only_constants } => {
                let names = if takes_only_constants { &mut called } else { &mut bound };
                names.insert(name.into());
            }
            Used::Any => is_any = true,
        });
        self.work += work;
        if is_ambiguous || is_any && !self.ambiguous.are_none() {
            self.by_path.insert(owner.into());
        }
        if goes_on {
            self.goes_on.insert(owner.into());
        }
        self.called.entry(owner.into()).or_default().extend(called);
        self.bound.entry(owner.into()).or_default().extend(bound);
        // An empty name stands for any.
        names.extend(is_any.then(Name::default));
        Some((names.into_iter().collect(), by_values))
    }

    /// The effects of keeping names, beside the declarations of PL/pgSQL, and of making an object with such a
    /// name.
    pub(super) fn found(
        &mut self,
        users: &HashMap<Name, Vec<Name>>,
        functions: &HashSet<Name>,
    ) -> Vec<(Name, Effects)> {
        let reached = self.reached(users, functions);
        let mut kept: HashMap<Name, Effects> = HashMap::new();
        let mut changed = Vec::new();
        for function in &reached {
            if let Some(names) = self.inlined.remove(function) {
                self.keeps_any |= names.iter().any(|name| name.is_empty());
                self.names.extend(names.iter().map(|name| element(name).into()));
                add(&mut kept, function, Effects::FINDS, &mut changed);
            }
            if self.by_path.contains(function) {
                add(&mut kept, function, Effects::BY_PATH, &mut changed);
            }
            if let Some(&effects) = self.by_values.get(function) {
                add(&mut kept, function, effects, &mut changed);
            }
            if self.calls_immutable(function) {
                self.keeps_results = true;
                add(&mut kept, function, Effects::BY_VALUES, &mut changed);
            }
        }
        let computing = self.computing(users);
        // The constants that these functions pass on may be computed in the called ones.
        let passes = |owner: &Name, used: &Name| self.binds.contains(owner) && computing.contains(used);
        let passes_text = |owner: &Name| {
            let calls = |calls: &HashMap<Name, HashSet<Name>>| {
                calls.get(owner).is_some_and(|called| called.iter().any(|name| computing.contains(name)))
            };
            self.put.contains(owner) && (calls(&self.bound) || calls(&self.called))
        };
        for used in &computing {
            for owner in users.get(used).into_iter().flatten().filter(|owner| reached.contains(*owner)) {
                if passes(owner, used) || passes_text(owner) {
                    self.keeps_results = true;
                    add(&mut kept, owner, Effects::BY_VALUES, &mut changed);
                }
            }
        }
        self.keeps_results |= self.keepers.iter().any(|(owner, used)| passes(owner, used));
        while let Some(function) = changed.pop() {
            let effects = kept.get(&function).copied().unwrap_or_default();
            for user in users.get(&function).into_iter().flatten().filter(|user| reached.contains(*user)) {
                add(&mut kept, user, effects, &mut changed);
            }
        }
        let mut found: Vec<(Name, Effects)> = Vec::new();
        for (owner, used) in &self.keepers {
            let mut effects = kept.get(used).copied().unwrap_or_default();
            if passes(owner, used) {
                effects |= Effects::BY_VALUES;
            }
            if !effects.is_none() {
                found.push((owner.clone(), effects));
            }
        }
        found.extend(std::mem::take(&mut self.computed));
        for (name, owners) in std::mem::take(&mut self.makers) {
            if self.keeps_any || self.names.contains(element(&name)) {
                found.extend(owners.into_iter().map(|owner| (owner, Effects::TEMPORARY)));
            }
        }
        found
    }

    /// Whether PostgreSQL computes a user-defined immutable function in this SQL function.
    fn calls_immutable(&self, function: &Name) -> bool {
        let called = self.called.get(function).filter(|_| self.put.contains(function));
        self.results.contains(function)
            || called.is_some_and(|called| called.iter().any(|name| self.immutable.contains(name)))
    }

    /// SQL functions that compute something from arguments that are constants, themselves or by other
    /// functions that they call.
    fn computing(&self, users: &HashMap<Name, Vec<Name>>) -> HashSet<Name> {
        let callers = |name: &Name| users.get(name).into_iter().flatten();
        let is_put = |name: &&Name| self.put.contains(*name);
        let immutable = self.immutable.iter().flat_map(callers);
        let mut computing: HashSet<Name> =
            self.goes_on.iter().chain(immutable).filter(is_put).cloned().collect();
        let mut open: Vec<Name> = computing.iter().cloned().collect();
        while let Some(name) = open.pop() {
            for caller in callers(&name).filter(is_put) {
                if computing.insert(caller.clone()) {
                    open.push(caller.clone());
                }
            }
        }
        computing
    }

    /// The functions that may run inside of the expressions that are kept.
    fn reached(&self, users: &HashMap<Name, Vec<Name>>, functions: &HashSet<Name>) -> HashSet<Name> {
        let mut reached: HashSet<Name> = self.keepers.iter().map(|(_, used)| used.clone()).collect();
        if reached.is_empty() {
            return reached;
        }
        let mut calls: HashMap<&[u8], Vec<&Name>> = HashMap::new();
        for (used, owners) in users.iter().filter(|(used, _)| functions.contains(*used)) {
            for owner in owners.iter().filter(|owner| functions.contains(*owner)) {
                calls.entry(owner).or_default().push(used);
            }
        }
        let mut open: Vec<Name> = reached.iter().cloned().collect();
        while let Some(function) = open.pop() {
            for &called in calls.get(&*function).into_iter().flatten() {
                if reached.insert(called.clone()) {
                    open.push(called.clone());
                }
            }
        }
        reached
    }
}

/// Gives a name more effects; if that adds any, the name is listed in `changed`.
pub(super) fn add(
    known: &mut HashMap<Box<[u8]>, Effects>,
    name: &[u8],
    effects: Effects,
    changed: &mut Vec<Box<[u8]>>,
) {
    if !known.contains_key(name) {
        known.insert(name.into(), Effects::NONE);
    }
    if let Some(own) = known.get_mut(name)
        && *own | effects != *own
    {
        *own |= effects;
        changed.push(name.into());
    }
}
