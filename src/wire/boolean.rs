//! Booleans in texts.

/// As PostgreSQL reads a boolean: in any case, and abbreviated where that is clear. `None`: it is none.
///
/// Source: `parse_bool` of PostgreSQL.
pub fn parse_bool(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let abbreviates = |word: &str, bytes_min: usize| value.len() >= bytes_min && word.starts_with(&value);
    if abbreviates("true", 1) || abbreviates("yes", 1) || value == "on" || value == "1" {
        return Some(true);
    }
    let is_false = abbreviates("false", 1) || abbreviates("no", 1) || abbreviates("off", 2) || value == "0";
    is_false.then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abbreviations_are_read_as_postgresql_reads_them() {
        for value in ["true", "TRUE", "t", "tru", "yes", "y", "Ye", "on", "ON", "1"] {
            assert_eq!(parse_bool(value), Some(true), "{value}");
        }
        for value in ["false", "FALSE", "f", "fals", "no", "n", "N", "off", "of", "Off", "0"] {
            assert_eq!(parse_bool(value), Some(false), "{value}");
        }
        for value in ["", "o", "trues", "yess", "database", "offs", "00", "2", " t"] {
            assert_eq!(parse_bool(value), None, "{value}");
        }
    }
}
