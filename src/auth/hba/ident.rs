//! Maps the name in a client certificate to the roles it may log in as: `pg_ident.conf`.
//!
//! ```text
//! # MAP    NAME                 ROLE
//! staff    ann@example.com      ann
//! staff    /^(.*)@ops\.local$   \1
//! staff    root-of-all          all
//! ```

use regex::Regex;

use super::HbaError;
use super::parse::pattern;
use super::words::{self, Line, Word};

/// Stands in a role for what the name's group captured.
const PLACE: &str = "\\1";

/// All maps.
#[derive(Debug, Clone, Default)]
pub struct IdentMaps(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    map: String,
    name: Name,
    role: Role,
}

#[derive(Debug, Clone)]
enum Name {
    Exact(String),
    Pattern(Regex),
}

#[derive(Debug, Clone)]
enum Role {
    All,
    Exact(String),
    /// `\1` is replaced by what the name's pattern captured.
    Caught(String),
    Pattern(Regex),
}

impl IdentMaps {
    /// Parses the text of a file. Reports every mistake.
    pub fn parse(text: &str) -> Result<IdentMaps, Vec<HbaError>> {
        let mut entries = Vec::new();
        let mut problems = Vec::new();
        for line in words::lines(text) {
            let number = match &line {
                Ok(line) => line.number,
                Err(number) => *number,
            };
            match line.map_err(|_| "a quote is not closed".to_owned()).and_then(|line| entry(&line)) {
                Ok(entry) => entries.push(entry),
                Err(message) => problems.push(HbaError { line: number, message }),
            }
        }
        if problems.is_empty() { Ok(IdentMaps(entries)) } else { Err(problems) }
    }

    pub fn has(&self, map: &str) -> bool {
        self.0.iter().any(|entry| entry.map == map)
    }

    /// Whether `name` may log in as `role`. Without a map they must be equal.
    pub fn allows(&self, map: Option<&str>, name: &str, role: &str) -> bool {
        match map {
            None => name == role,
            Some(map) => self.0.iter().any(|entry| entry.map == map && entry.allows(name, role)),
        }
    }
}

impl Entry {
    fn allows(&self, name: &str, role: &str) -> bool {
        let caught = match &self.name {
            Name::Exact(own) if own == name => None,
            Name::Exact(_) => return false,
            Name::Pattern(pattern) => match pattern.captures(name) {
                Some(captures) => captures.get(1).map(|caught| caught.as_str().to_owned()),
                None => return false,
            },
        };
        match &self.role {
            Role::All => true,
            Role::Exact(own) => own == role,
            // Only the first `\1` is replaced, as in PostgreSQL.
            Role::Caught(own) => caught.is_some_and(|caught| own.replacen(PLACE, &caught, 1) == role),
            Role::Pattern(pattern) => pattern.is_match(role),
        }
    }
}

fn entry(line: &Line) -> Result<Entry, String> {
    let [map, name, role] = line.fields.as_slice() else {
        return Err("a line has three fields: map, name, role".to_owned());
    };
    let ([map], [name], [role]) = (map.as_slice(), name.as_slice(), role.as_slice()) else {
        return Err("a field is one word; quote commas".to_owned());
    };
    if map.is("include") || map.is("include_if_exists") || map.is("include_dir") {
        return Err("other files are not included; write the lines here".to_owned());
    }
    let name = match name.text.strip_prefix('/') {
        Some(source) => Name::Pattern(pattern(source)?),
        None => Name::Exact(name.text.clone()),
    };
    let role = self::role(role, &name)?;
    Ok(Entry { map: map.text.clone(), name, role })
}

fn role(word: &Word, name: &Name) -> Result<Role, String> {
    if word.is("all") {
        return Ok(Role::All);
    }
    if !word.quoted && word.text.starts_with('+') {
        return Err(format!(
            "\"{}\" asks for members of a role, and those are known to the server alone; name the roles",
            word.text
        ));
    }
    if let Some(source) = word.text.strip_prefix('/') {
        return pattern(source).map(Role::Pattern);
    }
    match name {
        _ if !word.text.contains(PLACE) => Ok(Role::Exact(word.text.clone())),
        Name::Pattern(pattern) if pattern.captures_len() > 1 => Ok(Role::Caught(word.text.clone())),
        Name::Pattern(_) => Err(format!("\"{}\" needs a group in parentheses in the name", word.text)),
        Name::Exact(_) => Ok(Role::Exact(word.text.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "# who is who\nstaff ann@example.com ann\nstaff /^(.*)@ops\\.local$ \\1\nstaff root all\n\
                        other \"/^app[0-9]{1,2}$\" /^app_\nfixed /^(a)b$ x_\\1_\\1\n";

    #[test]
    fn a_name_stands_for_the_roles_of_its_lines() {
        let maps = IdentMaps::parse(MAPS).unwrap();
        let cases = [
            ("staff", "ann@example.com", "ann", true),
            ("staff", "ann@example.com", "bob", false),
            ("staff", "bob@ops.local", "bob", true),
            ("staff", "bob@ops.local", "ann", false),
            ("staff", "bob@ops.locals", "bob", false),
            ("staff", "root", "whoever", true),
            ("staff", "nobody", "nobody", false),
            ("other", "app12", "app_shop", true),
            ("other", "app123", "app_shop", false),
            ("other", "app12", "shop", false),
            ("fixed", "ab", "x_a_\\1", true),
            ("none", "ann", "ann", false),
        ];
        for (map, name, role, allowed) in cases {
            assert_eq!(maps.allows(Some(map), name, role), allowed, "{map} {name} {role}");
        }
        assert!(maps.has("staff") && !maps.has("none"));
    }

    #[test]
    fn without_a_map_name_and_role_are_the_same() {
        let maps = IdentMaps::default();
        assert!(maps.allows(None, "ann", "ann") && !maps.allows(None, "ann", "Ann"));
    }

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let text = "a b\nok x y\na /( b\na b +group\na /^b$ \\1\ninclude x y\na b,c d\na \"b c\n";
        let problems = IdentMaps::parse(text).unwrap_err();
        let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8], "{problems:?}");
    }
}
