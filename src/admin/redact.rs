//! Takes secrets out of a command before it is written down.
//!
//! # Why
//! No command of ours takes a password. People type one all the same (`... PASSWORD 'geheim'`), and the mistake is
//! audited like everything else: so whatever string follows the word PASSWORD is replaced, except the path after FILE.

use super::token::{Kind, tokens};

/// The command with secrets replaced by `'***'`.
pub(super) fn redacted(text: &str) -> String {
    let Ok(tokens) = tokens(text) else { return "(not understood)".to_owned() };
    let mut shown = String::with_capacity(text.len());
    let mut copied = 0;
    let mut secret = false;
    for token in &tokens {
        match &token.kind {
            Kind::Word(word) => {
                secret =
                    word.to_uppercase().contains("PASSWORD") || (secret && !word.eq_ignore_ascii_case("FILE"))
            }
            Kind::Text(_) if secret => {
                shown.push_str(text.get(copied..token.span.start).unwrap_or(""));
                shown.push_str("'***'");
                copied = token.span.end;
                secret = false;
            }
            _ => {}
        }
    }
    shown.push_str(text.get(copied..).unwrap_or(""));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_password_is_replaced_and_a_path_is_not() {
        assert_eq!(redacted("CREATE SYSTEM a PASSWORD 'x' PORT 1"), "CREATE SYSTEM a PASSWORD '***' PORT 1");
        assert_eq!(redacted("CREATE SYSTEM a PASSWORD FILE '/x'"), "CREATE SYSTEM a PASSWORD FILE '/x'");
        assert_eq!(redacted("SET my.password = 'x'"), "SET my.password = '***'");
        assert_eq!(redacted("MOVE DATABASE a TO b REASON 'x'"), "MOVE DATABASE a TO b REASON 'x'");
    }
}
