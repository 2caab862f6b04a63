//! What a connection keeps, for its life, of the names in functions.
//!
//! # Why
//! Neither DISCARD ALL nor any other command clears these: what PL/pgSQL found when it compiled a function;
//! and, in the caches of types and relations, the checks of domains, the expressions and conditions of
//! indexes and the keys of partitioned tables. Into these expressions PostgreSQL puts the bodies of functions
//! in SQL, with all of their names, and the results of immutable functions of constants, except for functions
//! with a body that is stored as a tree, or with a search path of their own. Defaults, other checks,
//! generated columns, policies and triggers are planned anew for each statement.

use std::collections::{HashMap, HashSet};

use super::element;
use super::reading::add;
use crate::session::scan::{self, Effects, Kept, Used};

type Name = Box<[u8]>;

/// The names that are kept, while the answer is read.
#[derive(Default)]
pub(super) struct Keeping {
    /// Names of types, tables and collations that exist in more than one schema.
    types_twice: HashSet<Name>,
    /// The same, with functions and text search configurations.
    twice: HashSet<Name>,
    operators_twice: Vec<Name>,
    /// Domains and tables with functions in the expressions that are kept, and whether one of those functions
    /// has constant arguments.
    keepers: Vec<(Name, Name, bool)>,
    /// Functions in SQL with the names in their bodies.
    inlined: HashMap<Name, Vec<Name>>,
    /// Functions with such a name in their bodies that exists in several schemas.
    by_path: HashSet<Name>,
    /// Functions with a literal in their bodies that settings affect.
    by_values: HashSet<Name>,
    /// Functions that are computed once if their arguments are constants.
    immutable: HashSet<Name>,
    /// Functions that make temporary objects, by the name of the object.
    makers: HashMap<Name, Vec<Name>>,
    /// All names that are kept, as [`element`] has them.
    pub(super) names: HashSet<Name>,
    /// One of the names that are kept could not be read.
    pub(super) keeps_any: bool,
}

impl Keeping {
    pub(super) fn twice(&mut self, name: &[u8], kind: &str) {
        match kind {
            "operator" => self.operators_twice.push(name.into()),
            _ => {
                self.twice.insert(name.into());
                if matches!(kind, "type" | "collation") {
                    self.types_twice.insert(name.into());
                }
            }
        }
    }

    pub(super) fn keeps(&mut self, owner: &[u8], function: &[u8], computes: bool) {
        self.keepers.push((owner.into(), function.into(), computes));
    }

    pub(super) fn makes(&mut self, owner: &[u8], name: Name) {
        self.makers.entry(name).or_default().push(owner.into());
    }

    /// The effects of code with names that cannot be read.
    pub(super) fn whatever(&self) -> Effects {
        let by_values = if self.keepers.is_empty() { Effects::NONE } else { Effects::BY_VALUES };
        if self.is_any_twice() { by_values | Effects::BY_PATH } else { by_values }
    }

    fn is_any_twice(&self) -> bool {
        !self.twice.is_empty() || !self.operators_twice.is_empty()
    }

    /// Reads the body of a function in PL/pgSQL.
    pub(super) fn declarations(&mut self, body: &str) -> Effects {
        let mut effects = Effects::NONE;
        let by_path = |is_twice: bool| if is_twice { Effects::BY_PATH } else { Effects::NONE };
        scan::declared(body.as_bytes(), &mut |kept| {
            effects |= match kept {
                Kept::Type(name) => {
                    if !self.names.contains(element(name)) {
                        self.names.insert(element(name).into());
                    }
                    Effects::FINDS | by_path(self.types_twice.contains(name))
                }
                Kept::AnyType => {
                    self.keeps_any = true;
                    Effects::FINDS | by_path(!self.types_twice.is_empty())
                }
                Kept::Procedure(name) => by_path(self.twice.contains(name)),
                Kept::AnyProcedure => by_path(!self.twice.is_empty()),
            }
        });
        effects
    }

    /// Reads the body of a function in SQL, as text.
    pub(super) fn inlined(&mut self, owner: &[u8], body: &str) {
        if let Some(names) = self.used(owner, body) {
            self.inlined.entry(owner.into()).or_default().extend(names);
        }
    }

    /// Reads the body of a function that is computed once if its arguments are constants.
    pub(super) fn computed(&mut self, owner: &[u8], body: &str) {
        self.used(owner, body);
    }

    /// PostgreSQL computes it once if its arguments are constants, whatever its language is.
    pub(super) fn immutable(&mut self, owner: &[u8]) {
        if !self.keepers.is_empty() {
            self.immutable.insert(owner.into());
        }
    }

    /// The names in a body; `None`: nothing keeps any.
    fn used(&mut self, owner: &[u8], body: &str) -> Option<Vec<Name>> {
        if self.keepers.is_empty() {
            return None;
        }
        let mut names: HashSet<Name> = HashSet::new();
        let (mut is_any, mut is_twice, mut by_values) = (false, false, false);
        scan::used(body.as_bytes(), &mut |used| match used {
            Used::Name(name) => {
                is_twice |= self.twice.contains(name);
                if !names.contains(name) {
                    names.insert(name.into());
                }
            }
            Used::Operators(run) => {
                let holds = |operator: &Name| memchr::memmem::find(run, operator).is_some();
                is_twice |= self.operators_twice.iter().any(holds);
            }
            Used::Value => by_values = true,
            Used::Any => is_any = true,
        });
        if is_twice || is_any && self.is_any_twice() {
            self.by_path.insert(owner.into());
        }
        if by_values {
            self.by_values.insert(owner.into());
        }
        // An empty name stands for any.
        names.extend(is_any.then(Name::default));
        Some(names.into_iter().collect())
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
            if self.by_values.contains(function) {
                add(&mut kept, function, Effects::BY_VALUES, &mut changed);
            }
        }
        while let Some(function) = changed.pop() {
            let effects = kept.get(&function).copied().unwrap_or_default();
            for user in users.get(&function).into_iter().flatten().filter(|user| reached.contains(*user)) {
                add(&mut kept, user, effects, &mut changed);
            }
        }
        let keepers = std::mem::take(&mut self.keepers).into_iter();
        let mut found: Vec<(Name, Effects)> = Vec::new();
        for (owner, used, computes) in keepers {
            let mut effects = kept.get(&used).copied().unwrap_or_default();
            if computes && self.immutable.contains(&used) {
                effects |= Effects::BY_VALUES;
            }
            if !effects.is_none() {
                found.push((owner, effects));
            }
        }
        for (name, owners) in std::mem::take(&mut self.makers) {
            if self.keeps_any || self.names.contains(element(&name)) {
                found.extend(owners.into_iter().map(|owner| (owner, Effects::TEMPORARY)));
            }
        }
        found
    }

    /// The functions that may run inside of the expressions that are kept.
    fn reached(&self, users: &HashMap<Name, Vec<Name>>, functions: &HashSet<Name>) -> HashSet<Name> {
        let mut reached: HashSet<Name> = self.keepers.iter().map(|(_, used, _)| used.clone()).collect();
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
