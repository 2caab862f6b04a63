//! The rules that a compiler does not check: who imports whom, how long a function may be, what is absent.
//! [`shape`] has those about the inside of a module.
//!
//! The layers and the extra prohibitions are read out of `src/lib.rs`, so that the map and the territory
//! cannot differ.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "layers/shape.rs"]
mod shape;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Pronouns that stand for no noun, in a thousand words of comments: two or three make a sentence a riddle.
const RIDDLES_PER_MILLE_MAX: usize = 1;

/// Longest line of a comment. `cargo fmt` does not wrap comments.
const COMMENT_COLUMNS_MAX: usize = 110;

/// See "Shape" in the code style: the beauty of a codebase is in the tail of its functions.
const FUNCTION_LINES_MAX: usize = 75;

#[test]
fn no_import_points_up_or_sideways() {
    let map = Map::read();
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        let Some(from) = module_of(&file) else { continue };
        for import in imports(&file) {
            let allowed = map.row(&import.module) < map.row(&from) || import.module == from;
            if !allowed {
                wrong.push(format!("{}: {from} imports {}", import.place, import.module));
            }
        }
    }
    assert!(wrong.is_empty(), "a module imports only from rows above its own:\n{}", wrong.join("\n"));
}

#[test]
fn modules_that_must_not_know_each_other_do_not() {
    let map = Map::read();
    assert!(map.strangers.len() >= 5, "the sentence of prohibitions in src/lib.rs was not understood");
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        let Some(from) = module_of(&file) else { continue };
        for import in imports(&file) {
            if map.strangers.contains(&(from.clone(), import.module.clone())) {
                wrong.push(format!("{}: {from} imports {}", import.place, import.module));
            }
        }
    }
    assert!(wrong.is_empty(), "src/lib.rs forbids:\n{}", wrong.join("\n"));
}

#[test]
fn modules_that_may_not_await_know_no_runtime() {
    let map = Map::read();
    assert!(map.sans_io.len() >= 5, "the column \"may await\" of src/lib.rs was not understood");
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        if !module_of(&file).is_some_and(|module| map.sans_io.contains(&module)) {
            continue;
        }
        for (number, line) in code(&file).lines().enumerate() {
            if ["tokio::", "tokio_util::", ".await", "async "].iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{}: {}", shown(&file), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "src/lib.rs says that these may not await:\n{}", wrong.join("\n"));
}

#[test]
fn the_layer_table_names_every_module_once_and_no_other() {
    let named: Vec<String> = Map::read().rows.into_keys().collect();
    let mut present: Vec<String> = code(&root().join("src/lib.rs"))
        .lines()
        .filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned()))
        .collect();
    present.sort();
    assert_eq!(named, present);
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut long = Vec::new();
    for file in sources() {
        for (line, name, length) in functions(&code(&file)) {
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{line}: {name} has {length} lines", shown(&file)));
            }
        }
    }
    assert!(long.is_empty(), "at most {FUNCTION_LINES_MAX} lines:\n{}", long.join("\n"));
}

/// One style: the file of a module with a folder is `mod.rs` in that folder.
#[test]
fn no_module_is_in_two_places() {
    let beside = |file: &PathBuf| file.with_extension("").is_dir();
    let wrong: Vec<_> =
        rust_files(&root().join("src")).into_iter().filter(beside).map(|file| shown(&file)).collect();
    assert!(wrong.is_empty(), "a folder of that name is beside: {wrong:?}");
}

/// A path that a document or a comment names leads a reader to a file.
#[test]
fn paths_in_documents_and_comments_exist() {
    let documents = ["README.md", "SECURITY.md", "CONTRIBUTING.md"].map(|name| root().join(name));
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")).into_iter().chain(documents) {
        let text = fs::read_to_string(&file).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            // PostgreSQL has such folders, too, with files in C.
            let is_c = quoted.ends_with(".c") || quoted.ends_with(".h");
            let is_ours = !is_c && (quoted.starts_with("src/") || quoted.starts_with("tests/"));
            let is_path =
                quoted.chars().all(|letter| letter.is_ascii_alphanumeric() || "/_.-".contains(letter));
            if is_ours
                && is_path
                && !root().join(quoted).exists()
                && !root().join(format!("{quoted}.rs")).exists()
            {
                wrong.push(format!("{}: {quoted}", shown(&file)));
            }
        }
    }
    assert!(wrong.is_empty(), "there is no such file:\n{}", wrong.join("\n"));
}

#[test]
fn comments_are_plain_english() {
    let (mut words, mut riddles) = (0, Vec::new());
    for file in rust_files(&root().join("src")) {
        for (number, comment) in comments(&fs::read_to_string(&file).unwrap()) {
            let of_line =
                comment.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty());
            for word in of_line {
                words += 1;
                if is_riddle(word) {
                    riddles.push(format!("{}:{number}: {}", shown(&file), comment.trim()));
                }
            }
        }
    }
    let most = words * RIDDLES_PER_MILLE_MAX / 1_000;
    assert!(words > 50_000, "{words} words: the comments were not found");
    assert!(riddles.len() <= most, "{} of at most {most}:\n{}", riddles.len(), riddles.join("\n"));
}

fn is_riddle(word: &str) -> bool {
    const WORDS: [&str; 11] = [
        "who",
        "whoever",
        "whose",
        "whom",
        "nobody",
        "somebody",
        "anybody",
        "everybody",
        "someone",
        "anyone",
        "everyone",
    ];
    let word = word.strip_suffix("'s").unwrap_or(word);
    WORDS.iter().any(|riddle| word.eq_ignore_ascii_case(riddle))
}

#[test]
fn comments_are_wrapped() {
    let mut long = Vec::new();
    // The documents of settings and metrics are rendered from these rows.
    let is_table = |file: &PathBuf| {
        ["src/config/settings.rs", "src/telemetry/metrics.rs"].iter().any(|table| shown(file) == *table)
    };
    for file in sources().into_iter().filter(|file| !is_table(file)) {
        let is_drawn = |comment: &str| comment.starts_with(['|', ' ']) || comment.contains("://");
        let mut is_fenced = false;
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let Some(comment) = comment_of(line) else { continue };
            is_fenced ^= comment.trim_start().starts_with("```");
            let comment = comment.strip_prefix(' ').unwrap_or(comment);
            if line.chars().count() > COMMENT_COLUMNS_MAX && !is_fenced && !is_drawn(comment) {
                long.push(format!("{}:{}", shown(&file), number + 1));
            }
        }
    }
    assert!(long.is_empty(), "longer than {COMMENT_COLUMNS_MAX} columns:\n{}", long.join("\n"));
}

/// What stands behind the slashes of a line that is a comment.
fn comment_of(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("//")?;
    Some(rest.strip_prefix(['/', '!']).unwrap_or(rest))
}

fn comments(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source.lines().enumerate().filter_map(|(at, line)| Some((at + 1, comment_of(line)?)))
}

#[test]
fn there_is_no_global_state_no_gap_and_no_ignored_test() {
    let mut wrong = Vec::new();
    for file in sources() {
        // A test may keep its own dice.
        let is_test = file.to_string_lossy().ends_with("tests.rs") || !file.starts_with(root().join("src"));
        // The allocator of the binary is a static, and has no state of its own.
        let is_program = file.ends_with("src/main.rs");
        // A thread knows the event loop that it runs: that is no state of the process.
        let is_event_loop = file.starts_with(root().join("src/event_loop"));
        for (number, line) in code(&file).lines().enumerate() {
            let gap =
                ["todo!(", "unimplemented!(", "#[ignore", "dbg!("].iter().any(|word| line.contains(word));
            let may_be_static = is_test || is_program || (is_event_loop && is_of_thread(line));
            if gap || (!may_be_static && is_static(line)) {
                wrong.push(format!("{}:{}: {}", shown(&file), number + 1, line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "two proxies run in one test process, and nothing is half done:\n{}",
        wrong.join("\n")
    );
}

fn is_static(line: &str) -> bool {
    let item = line.trim_start();
    let item = ["pub ", "pub(crate) ", "pub(super) "]
        .iter()
        .find_map(|word| item.strip_prefix(word))
        .unwrap_or(item);
    item.starts_with("static ") || item.starts_with("thread_local!")
}

fn is_of_thread(line: &str) -> bool {
    line.starts_with("thread_local!") || line.starts_with("    static ")
}

/// The layer table and the prohibitions of `src/lib.rs`.
struct Map {
    rows: BTreeMap<String, u32>,
    /// Modules that may not await.
    sans_io: Vec<String>,
    /// The first never imports the second, whatever the rows say.
    strangers: Vec<(String, String)>,
}

impl Map {
    fn read() -> Map {
        let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
        let doc: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("//!")).collect();
        let table: Vec<TableRow> = doc.iter().filter_map(|line| table_row(line)).collect();
        let rows: BTreeMap<String, u32> = table
            .iter()
            .flat_map(|row| row.modules.iter().map(|module| (module.clone(), row.number)))
            .collect();
        assert!(rows.len() > 10, "the layer table in src/lib.rs was not understood");
        let sans_io = table.into_iter().filter(|row| !row.may_await).flat_map(|row| row.modules).collect();
        Map { rows, sans_io, strangers: prohibitions(&doc.join(" ")) }
    }

    fn row(&self, module: &str) -> u32 {
        *self
            .rows
            .get(module)
            .unwrap_or_else(|| panic!("{module} has no row in the layer table of src/lib.rs"))
    }
}

struct TableRow {
    number: u32,
    modules: Vec<String>,
    may_await: bool,
}

/// `| 3 | wire, auth | no | ... |` puts `wire` and `auth`, which may not await, into row 3.
fn table_row(line: &str) -> Option<TableRow> {
    let mut cells = line.trim().strip_prefix('|')?.split('|').map(str::trim);
    let number: u32 = cells.next()?.parse().ok()?;
    let modules = cells.next()?.split(", ").map(str::to_owned).collect();
    let may_await = match cells.next()? {
        "yes" => true,
        "no" => false,
        other => panic!("\"may await\" is yes or no, not {other}"),
    };
    Some(TableRow { number, modules, may_await })
}

/// Reads "`a` never imports `b` nor `c`, `d` never imports `e`: ..." out of the text.
fn prohibitions(doc: &str) -> Vec<(String, String)> {
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let parts: Vec<&str> = doc.split("never imports").collect();
    let mut pairs = Vec::new();
    for index in 1..parts.len() {
        let subject = quoted(parts[index - 1]).pop().expect("a module before `never imports`");
        let mut objects = quoted(parts[index].split(':').next().unwrap());
        if index + 1 < parts.len() {
            objects.pop();
        }
        pairs.extend(objects.into_iter().map(|object| (subject.clone(), object)));
    }
    pairs
}

struct Import {
    module: String,
    place: String,
}

/// The top-level modules that a file names by `crate::`, also in groups; and by as many `super::` as lead to
/// the crate's root.
fn imports(file: &Path) -> Vec<Import> {
    let code = code(file);
    let mut imports = Vec::new();
    for (offset, _) in code.match_indices("crate::") {
        let own_word = code[..offset].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let after = &code[offset + "crate::".len()..];
        if !own_word || code[..offset].ends_with('$') {
            continue;
        }
        let line = code[..offset].lines().count();
        for module in heads(after) {
            imports.push(Import { module, place: format!("{}:{}", shown(file), line.max(1)) });
        }
    }
    for (line, module) in climbs(&code, depth(file)) {
        imports.push(Import { module, place: format!("{}:{line}", shown(file)) });
    }
    imports
}

/// How many `super::` lead from a file to the crate's root: one from `src/route.rs` and `src/route/mod.rs`.
fn depth(file: &Path) -> usize {
    let parts = file.strip_prefix(root().join("src")).unwrap().components().count();
    if file.ends_with("mod.rs") { parts - 1 } else { parts }
}

/// Line and head of each path that climbs exactly so high. What is in an inline module stands one step lower,
/// and is a test.
fn climbs(code: &str, height: usize) -> Vec<(usize, String)> {
    let climb = "super::".repeat(height);
    let own = code.lines().take_while(|line| !(line.starts_with("mod ") && line.ends_with('{')));
    let mut found = Vec::new();
    for (number, line) in own.enumerate().filter(|_| height > 0) {
        for (at, _) in line.match_indices(&climb) {
            let after = &line[at + climb.len()..];
            if !line[..at].ends_with("super::") && !after.starts_with("super::") {
                found.extend(heads(after).into_iter().map(|head| (number + 1, head)));
            }
        }
    }
    found
}

/// The first names of a path: one, or those of a group `{a::b, c::{d, e}}`.
fn heads(path: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        let head = word(path);
        return if head.is_empty() { Vec::new() } else { vec![head] };
    };
    let mut heads = vec![word(group)];
    let mut depth = 0;
    for (offset, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(word(&group[offset + 1..])),
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Line, name and number of lines of each function; relies on rustfmt putting the closing brace below the
/// `fn`.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else { continue };
        let closing = format!("{}}}", " ".repeat(indent));
        let bodiless = lines[start..].iter().find(|line| line.ends_with([';', '{', '}']));
        if bodiless.is_none_or(|line| !line.ends_with('{')) {
            continue;
        }
        if let Some(end) = lines[start..].iter().position(|line| *line == closing) {
            found.push((start + 1, name, end + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line;
    if line.starts_with("pub(") {
        rest = line.split_once(") ").map_or(line, |(_, rest)| rest);
    }
    for word in ["pub ", "const ", "async "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    Some(rest.strip_prefix("fn ")?.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

/// The source without the contents of comments and literals; lines stay where they are.
fn code(file: &Path) -> String {
    strip(&fs::read_to_string(file).unwrap())
}

fn strip(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_blank(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn end_of_blank(chars: &[char], at: usize) -> usize {
    let next = |ahead: usize| chars.get(at + ahead).copied().unwrap_or(' ');
    let find = |from: usize, wanted: &[char]| {
        let found = chars[from.min(chars.len())..].windows(wanted.len()).position(|window| window == wanted);
        found.map_or(chars.len(), |offset| from + offset + wanted.len())
    };
    match (chars[at], next(1)) {
        ('/', '/') => find(at, &['\n']) - usize::from(find(at, &['\n']) < chars.len()),
        ('/', '*') => find(at + 2, &['*', '/']),
        ('"', _) => end_of_string(chars, at),
        ('r', '"' | '#') if at == 0 || !chars[at - 1].is_alphanumeric() || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            if chars.get(at + 1 + hashes) != Some(&'"') {
                return at;
            }
            let mut closing = vec!['"'];
            closing.resize(hashes + 1, '#');
            find(at + 2 + hashes, &closing)
        }
        ('\'', '\\') => find(at + 3, &['\'']),
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != '"' {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(chars.len())
}

/// The top-level module of a file; none for `lib.rs` and `main.rs`, which are above the layers.
fn module_of(file: &Path) -> Option<String> {
    let relative = file.strip_prefix(root().join("src")).unwrap();
    let first = relative.components().next()?.as_os_str().to_str()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(module, "lib" | "main")).then(|| module.to_owned())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap().display().to_string()
}

fn sources() -> Vec<PathBuf> {
    ["src", "tests", "benches"].iter().flat_map(|directory| rust_files(&root().join(directory))).collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in directory.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn the_checker_sees_imports_and_not_comments_or_strings() {
    let source =
        "use crate::{a::b, c::{d, e}, f};\n// crate::g\nlet h = \"crate::i\"; let j = '\"'; crate::k::l();";
    let code = strip(source);
    let seen: Vec<String> =
        code.match_indices("crate::").flat_map(|(at, word)| heads(&code[at + word.len()..])).collect();
    assert_eq!(seen, ["a", "c", "f", "k"]);
}

#[test]
fn the_checker_sees_paths_that_climb_to_the_root() {
    let code = "use super::session::X;\nuse super::super::gate;\nmod tests {\n    use super::control;\n}";
    assert_eq!(climbs(code, 1), [(1, "session".to_owned())]);
    assert_eq!(climbs(code, 2), [(2, "gate".to_owned())]);
    assert_eq!(depth(&root().join("src/route/mod.rs")), 1);
    assert_eq!(depth(&root().join("src/app.rs")), 1);
    assert_eq!(depth(&root().join("src/route/follow/mod.rs")), 2);
}

#[test]
fn the_checker_measures_functions() {
    let code = "impl A {\n    pub async fn long(\n        &self,\n    ) {\n        x;\n    }\n    fn none();\n}\nfn b() {}\n";
    assert_eq!(functions(code), [(2, "long".to_owned(), 5)]);
}
