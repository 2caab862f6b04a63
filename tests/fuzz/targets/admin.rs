//! Commands of administrators.

use freehold::admin::{self, Parsed};
use freehold::error::Explain;
use rand::RngExt;
use rand::rngs::StdRng;

use super::pick;

/// Statements say their own text, which is understood like them; mistakes stand inside the text; a text that
/// is understood is understood twice in a row.
pub(super) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match admin::parse(&text) {
        Ok(statements) => {
            statements.iter().for_each(|parsed| check_statement(&text, parsed));
            let twice = format!("{text}\n;{text}");
            if twice.len() <= admin::TEXT_BYTES_MAX
                && let Ok(again) = admin::parse(&twice)
            {
                assert_eq!(again, [&statements[..], &statements[..]].concat());
            }
        }
        Err(mistake) => {
            assert!(!mistake.message.is_empty());
            assert_eq!(mistake.sqlstate().as_str().len(), 5);
            let is_too_long = text.len() > admin::TEXT_BYTES_MAX;
            assert!(is_too_long || text.get(mistake.span.clone()).is_some(), "{mistake:?} in {text:?}");
            assert!((1..=text.chars().count() + 1).contains(&mistake.position(&text)));
        }
    }
}

fn check_statement(text: &str, parsed: &Parsed) {
    assert!(text.contains(&parsed.text));
    match admin::parse(&parsed.text).as_deref() {
        Ok([again]) => assert_eq!(again.statement, parsed.statement),
        other => panic!("{:?} is {:?}, and alone {other:?}", parsed.text, parsed.statement),
    }
}

const WORDS: [&str; 52] = [
    "SHOW",
    "CREATE",
    "ALTER",
    "DROP",
    "ADOPT",
    "PLAN",
    "MOVE",
    "UNDO",
    "CANCEL",
    "FINISH",
    "PAUSE",
    "RESUME",
    "DATABASE",
    "SYSTEM",
    "TEAM",
    "OWNER",
    "PURPOSE",
    "TO",
    "ON",
    "WAIT",
    "CONTACT",
    "HOST",
    "PORT",
    "ROLE",
    "PASSWORD",
    "FILE",
    "TIER",
    "dev",
    "CONFIRM",
    "REASON",
    "MAX",
    "SSLMODE",
    "shop",
    "\"Shop\"",
    "'text'",
    "'it''s'",
    "$$a$$",
    "E'\\''",
    "1",
    "5433",
    "-1",
    "1.5",
    ";",
    ",",
    "(",
    ")",
    "=",
    "--x\n",
    "/* /* */ */",
    "é",
    "MOVES",
    "SELECT",
];

pub(super) fn generate(rng: &mut StdRng) -> Vec<u8> {
    let whole = [
        "CREATE DATABASE shop OWNER payments PURPOSE 'orders and payments of the shop' ON SYSTEM old",
        "MOVE DATABASE shop TO SYSTEM new WAIT",
        "SHOW DATABASES",
        "CREATE TEAM payments CONTACT '#payments'",
        "set client_encoding to 'UTF8'",
        "SELECT 1",
    ];
    let mut text = String::new();
    for _ in 0..rng.random_range(1..12) {
        match rng.random_range(0..5) {
            0 => text.push_str(pick(rng, &whole)),
            _ => text.push_str(pick(rng, &WORDS)),
        }
        text.push_str(pick(rng, &[" ", "\n", "", " ; "]));
    }
    text.into_bytes()
}
