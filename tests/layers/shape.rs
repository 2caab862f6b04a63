//! The shape inside a module: files that import in one direction, objects of a size that fits a head, one
//! name for one type. There are no exceptions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{code, root, rust_files};

/// Methods of a type, over all of its `impl` blocks: an object is a room, too.
const METHODS_MAX: usize = 40;
const FIELDS_MAX: usize = 20;

/// A module as the path from the crate's root: `["session", "relay"]`.
type Module = Vec<String>;

/// The modules of `src` without tests, and what each names of the others.
struct Tree {
    /// By module: its source without comments, literals and tests.
    sources: BTreeMap<Module, String>,
    /// By module: the names that it imports, with their paths.
    names: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
}

impl Tree {
    fn read() -> Tree {
        let files = rust_files(&root().join("src"));
        let files = files.iter().filter(|file| !is_test(file) && !file.ends_with("main.rs"));
        let sources: BTreeMap<Module, String> =
            files.map(|file| (module(file), without_tests(&code(file)))).collect();
        let mut names: BTreeMap<Module, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for (module, source) in &sources {
            let imported = names.entry(module.clone()).or_default();
            imported.extend(used(source).into_iter().map(|import| (import.name, import.path)));
        }
        Tree { sources, names }
    }

    /// Where the path leads from this module. `None`: out of the crate.
    fn start<'p>(&self, from: &Module, path: &'p [String]) -> Option<(Module, &'p [String])> {
        match path.first()?.as_str() {
            "crate" => Some((Vec::new(), &path[1..])),
            "self" => Some((from.clone(), &path[1..])),
            "super" => {
                let climbs = path.iter().take_while(|step| *step == "super").count();
                Some((from[..from.len().checked_sub(climbs)?].to_vec(), &path[climbs..]))
            }
            child => {
                let below = [&from[..], &[child.to_owned()]].concat();
                self.sources.contains_key(&below).then(|| (from.clone(), path))
            }
        }
    }

    /// The module that has what the path names, also where others hand it on.
    fn target(&self, from: &Module, path: &[String], depth: u32) -> Option<Module> {
        let (mut at, mut rest) = self.start(from, path)?;
        while let Some((step, behind)) = rest.split_first() {
            let below = [&at[..], std::slice::from_ref(step)].concat();
            if !self.sources.contains_key(&below) {
                break;
            }
            (at, rest) = (below, behind);
        }
        let handed_on = rest.first().and_then(|name| self.names.get(&at)?.get(name));
        let further = handed_on.filter(|_| depth > 0).and_then(|path| self.target(&at, path, depth - 1));
        Some(further.unwrap_or(at))
    }

    /// What each module imports of its own top-level module, but for its parents and children.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (from, source) in self.sources.iter().filter(|(module, _)| !module.is_empty()) {
            let paths = used(source).into_iter().map(|import| import.path).chain(named(source));
            let targets = paths.filter_map(|path| self.target(from, &path, 8));
            let inside = targets.filter(|to| to.first() == from.first() && !is_above(to, from));
            imports.entry(from.clone()).or_default().extend(inside.filter(|to| !is_above(from, to)));
        }
        imports
    }
}

#[test]
fn the_files_of_a_module_import_in_one_direction() {
    let imports = Tree::read().imports();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 300, "the imports were not found");
    let mut wrong = Vec::new();
    for (from, all) in &imports {
        for to in all.iter().filter(|to| reaches(&imports, to, from)) {
            wrong.push(format!("{} imports {}, which leads back", from.join("/"), to.join("/")));
        }
    }
    assert!(wrong.is_empty(), "only parent and child import each other:\n{}", wrong.join("\n"));
}

#[test]
fn no_type_has_more_methods_or_fields_than_fit_a_head() {
    let tree = Tree::read();
    let (mut methods, mut fields) = (BTreeMap::new(), BTreeMap::new());
    for (module, source) in &tree.sources {
        let top = module.first().cloned().unwrap_or_default();
        for (name, count) in methods_of(source) {
            *methods.entry((top.clone(), name)).or_insert(0) += count;
        }
        for (name, count) in fields_of(source) {
            let most: &mut usize = fields.entry((top.clone(), name)).or_default();
            *most = count.max(*most);
        }
    }
    assert!(methods.len() > 300 && fields.len() > 300, "the types were not found");
    let wrong = [oversized("methods", &methods, METHODS_MAX), oversized("fields", &fields, FIELDS_MAX)];
    let wrong = wrong.concat();
    assert!(wrong.is_empty(), "an object is a room, too:\n{}", wrong.join("\n"));
}

fn oversized(what: &str, counts: &BTreeMap<(String, String), usize>, max: usize) -> Vec<String> {
    let over = counts.iter().filter(|(_, count)| **count > max);
    over.map(|((module, name), count)| format!("{module}: {name} has {count} {what}, and may have {max}"))
        .collect()
}

#[test]
fn no_two_public_types_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (module, source) in &Tree::read().sources {
        for name in source.lines().filter_map(public_type) {
            places.entry(name).or_default().push(module.join("/"));
        }
    }
    assert!(places.len() > 300, "the types were not found");
    let shared = places.iter().filter(|(_, modules)| modules.len() > 1);
    let wrong: Vec<String> =
        shared.map(|(name, modules)| format!("{name}: {}", modules.join(", "))).collect();
    assert!(wrong.is_empty(), "one name, one type:\n{}", wrong.join("\n"));
}

fn is_test(file: &Path) -> bool {
    file.to_string_lossy().ends_with("tests.rs")
}

fn module(file: &Path) -> Module {
    let relative = file.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut steps: Module = relative.iter().map(|step| step.to_string_lossy().into_owned()).collect();
    if steps.last().is_some_and(|last| last == "mod" || last == "lib") {
        steps.pop();
    }
    steps
}

/// The lines before the first inline module, which is one of tests.
fn without_tests(source: &str) -> String {
    let own = source.lines().take_while(|line| !(line.starts_with("mod ") && line.ends_with('{')));
    own.collect::<Vec<_>>().join("\n")
}

fn is_above(upper: &[String], lower: &[String]) -> bool {
    lower.starts_with(upper)
}

fn reaches(imports: &BTreeMap<Module, BTreeSet<Module>>, from: &Module, to: &Module) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        if at == to {
            return true;
        }
        if seen.insert(at) {
            next.extend(imports.get(at).into_iter().flatten());
        }
    }
    false
}

/// One name of a `use` declaration, and what it stands for.
struct Import {
    name: String,
    path: Vec<String>,
}

/// All `use` declarations, one for each name of a group.
fn used(source: &str) -> Vec<Import> {
    let mut imports = Vec::new();
    for (at, line) in source.lines().enumerate() {
        let Some(first) = behind_use(line) else { continue };
        let more = source.lines().skip(at + 1).take(if first.contains(';') { 0 } else { usize::MAX });
        let mut whole = String::from(first);
        for line in more {
            whole.push_str(line);
            if line.contains(';') {
                break;
            }
        }
        unfold(&[], whole.split(';').next().unwrap_or_default(), &mut imports);
    }
    imports
}

/// What stands behind `use` in a line that begins such a declaration.
fn behind_use(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let visible = line.strip_prefix("pub").map(|rest| match rest.strip_prefix('(') {
        Some(inner) => inner.split_once(')').map_or("", |(_, rest)| rest),
        None => rest,
    });
    visible.unwrap_or(line).trim_start().strip_prefix("use ")
}

/// `a::{b, c::d as e}` is `a::b` and `a::c::d`.
fn unfold(before: &[String], tree: &str, imports: &mut Vec<Import>) {
    let (mut depth, mut start) = (0, 0);
    let ends = tree.char_indices().chain([(tree.len(), ',')]);
    for (at, letter) in ends {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = tree[start..at].trim();
                start = (at + 1).min(tree.len());
                let (steps, group) = match item.split_once('{') {
                    Some((steps, group)) => {
                        (steps, Some(group.trim_end().strip_suffix('}').unwrap_or(group)))
                    }
                    None => (item, None),
                };
                let (steps, alias) = match steps.split_once(" as ") {
                    Some((steps, alias)) => (steps, Some(alias.to_owned())),
                    None => (steps, None),
                };
                let steps = steps.split("::").map(str::trim);
                let steps = steps.filter(|step| !matches!(*step, "" | "*")).map(str::to_owned);
                let mut path: Vec<String> = before.iter().cloned().chain(steps).collect();
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                match (group, alias.or_else(|| path.last().cloned())) {
                    (Some(group), _) => unfold(&path, group, imports),
                    (None, Some(name)) if !item.is_empty() => imports.push(Import { name, path }),
                    (None, _) => {}
                }
            }
            _ => {}
        }
    }
}

/// Paths in code that begin at the crate's root, or at a parent.
fn named(source: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    for line in source.lines().filter(|line| behind_use(line).is_none()) {
        for head in ["crate::", "super::"] {
            for (at, _) in line.match_indices(head) {
                if line[..at].ends_with(is_word) || line[..at].ends_with([':', '$']) {
                    continue;
                }
                let path = line[at..].split(|letter| !is_word(letter) && letter != ':').next();
                let steps = path.unwrap_or_default().split("::").filter(|step| !step.is_empty());
                paths.push(steps.map(str::to_owned).collect());
            }
        }
    }
    paths
}

/// The number of functions in each `impl` block that stands at the margin, by type.
fn methods_of(source: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        if !(line.starts_with("impl ") || line.starts_with("impl<")) {
            continue;
        }
        let Some(length) = lines[start..].iter().position(|line| line.starts_with('}')) else { continue };
        let block = &lines[start..start + length];
        let opens = block.iter().position(|line| line.ends_with('{')).unwrap_or_default();
        let header = block[..=opens].join(" ");
        let is_method = |line: &&&str| {
            let is_inside = line.starts_with("    ") && !line.starts_with("     ");
            is_inside && super::function_name(line.trim_start()).is_some()
        };
        found.push((implemented(&header), block.iter().filter(is_method).count()));
    }
    found
}

/// The type of an `impl`, without its path and parameters.
fn implemented(header: &str) -> String {
    let header = header.trim_start_matches("impl").trim_end_matches('{');
    let behind = if header.starts_with('<') { behind_parameters(header) } else { header };
    let of_type =
        behind.split(" where ").next().unwrap_or_default().rsplit(" for ").next().unwrap_or_default();
    let path = of_type.trim().trim_start_matches('&').split(['<', ' ']).next().unwrap_or_default();
    path.rsplit("::").next().unwrap_or_default().to_owned()
}

fn behind_parameters(header: &str) -> &str {
    let mut depth = 0;
    for (at, letter) in header.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' if !header[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &header[at + 1..];
        }
    }
    ""
}

/// The number of fields of each `struct` that stands at the margin.
fn fields_of(source: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some((visible, rest)) = line.split_once("struct ") else { continue };
        if !(visible.is_empty() || visible.starts_with("pub")) || !line.ends_with('{') {
            continue;
        }
        let name: String = rest.chars().take_while(|letter| letter.is_alphanumeric()).collect();
        let fields = lines[start + 1..].iter().take_while(|line| !line.starts_with('}'));
        let is_field = |line: &&&str| {
            let is_inside = line.starts_with("    ") && !line.starts_with("     ");
            is_inside && line.contains(": ") && !line.trim_start().starts_with(['#', ')', '}'])
        };
        found.push((name, fields.filter(is_field).count()));
    }
    found
}

/// The name of the type that a line defines for all to see.
fn public_type(line: &str) -> Option<String> {
    let rest = line.strip_prefix("pub ")?;
    let name = ["struct ", "enum ", "trait ", "type "].iter().find_map(|kind| rest.strip_prefix(kind))?;
    Some(name.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect())
}

#[test]
fn the_checker_reads_declarations_and_paths() {
    let source = "use super::{a, b::{self, C as D}};\npub(super) use self::e::F;\n    x(crate::g::H::new(), my_crate::i);\n";
    let imports = used(source).into_iter().map(|import| (import.name, import.path.join("::")));
    let of = |name: &str, path: &str| (name.to_owned(), path.to_owned());
    let expected = [of("a", "super::a"), of("b", "super::b"), of("D", "super::b::C"), of("F", "self::e::F")];
    assert_eq!(imports.collect::<Vec<_>>(), expected);
    assert_eq!(named(source), [["crate", "g", "H", "new"]]);
    assert_eq!(implemented("impl<'a, T: Fn(u8) -> u8> fmt::Debug for x::Y<'a, T> {"), "Y");
    assert_eq!(implemented("impl Relay {"), "Relay");
    let block = "impl A {\n    pub fn b() {\n        fn inner() {}\n    }\n    fn c() {}\n}\n";
    assert_eq!(methods_of(block), [("A".to_owned(), 2)]);
    assert_eq!(fields_of("pub struct S<T> {\n    a: u8,\n    pub b: T,\n}\n"), [("S".to_owned(), 2)]);
    assert_eq!(public_type("pub(crate) struct X;"), None);
    assert_eq!(public_type("pub enum Kind {").as_deref(), Some("Kind"));
}
