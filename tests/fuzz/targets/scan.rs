//! What SQL may do to its session.

use freehold::session::scan::{Backslashes, Scan, ScanFinding, StatementEffect, prepare_statements, scan};
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Choices, pick, put_cuts};

/// Any bytes are scanned, also twice the same way; blank and comments around a text change nothing; what is
/// found in a statement is found in a list of them, too.
pub(super) fn check(input: &[u8]) {
    let mut choices = Choices(input);
    let backslashes = [Backslashes::Literal, Backslashes::Escape][choices.below(2)];
    let (text, pieces) = choices.pieces();
    let found = findings(text, backslashes);
    assert!(found.1.len() <= text.len());
    let around = [b" /* a /* b */ c */ \n", text, b"\n-- end\n"].concat();
    if is_closed(text, backslashes) {
        assert_eq!(findings(&around, backslashes), found, "{}", String::from_utf8_lossy(text));
    }
    if let Ok(text) = std::str::from_utf8(text)
        && let Some(Some(prepared)) = prepare_statements(text).get("p").copied()
    {
        assert!(text.contains(prepared));
        assert_eq!(prepare_statements(prepared).get("p"), Some(&Some(prepared)));
    }
    check_list(&pieces, backslashes);
}

/// Of the pieces, those that are closed texts, one behind the other.
fn check_list(pieces: &[&[u8]], backslashes: Backslashes) {
    let closed: Vec<&[u8]> = pieces.iter().copied().filter(|piece| is_closed(piece, backslashes)).collect();
    let (list, all) = findings(&closed.join(&b"\n;\n"[..]), backslashes);
    let mut at = all.iter();
    for piece in closed {
        let (alone, found) = findings(piece, backslashes);
        assert!(list.effect >= alone.effect, "{:?} hides {:?}", list, String::from_utf8_lossy(piece));
        assert!(list.statements >= alone.statements);
        for finding in found.iter().filter(|finding| !matches!(finding, ScanFinding::Lock(_))) {
            assert!(
                at.any(|one| one == finding),
                "{finding:?} of {:?} is lost",
                String::from_utf8_lossy(piece)
            );
        }
    }
}

fn findings(text: &[u8], backslashes: Backslashes) -> (Scan, Vec<ScanFinding>) {
    let mut found = Vec::new();
    let summary = scan(text, backslashes, &mut |finding| found.push(finding));
    assert!(
        summary.statements > 0 || summary.effect == StatementEffect::None,
        "something without a statement"
    );
    (summary, found)
}

/// A semicolon and a statement behind the text are seen as such: no quote, comment or bracket is open.
fn is_closed(text: &[u8], backslashes: Backslashes) -> bool {
    let (alone, _) = findings(text, backslashes);
    let (with, _) = findings(&[text, b"\n;\nSELECT 1"].concat(), backslashes);
    let (with_two, _) = findings(&[text, b"\n;\nSELECT 1;SELECT 2"].concat(), backslashes);
    with.statements == alone.statements.saturating_add(1)
        && with_two.statements == with.statements.saturating_add(1)
}

pub(super) fn generate(rng: &mut StdRng) -> Vec<u8> {
    let parts = [
        "SELECT 1",
        "SET app.user = 'x'",
        "set_config('a.b', 'c', false)",
        "SELECT pg_advisory_lock(1)",
        "PREPARE p AS",
        "EXECUTE p(1)",
        "DO $$ BEGIN",
        "END $$",
        "$tag$",
        "'it''s'",
        "E'\\'",
        "\"q\"\"q\"",
        "--",
        "/*",
        "*/",
        "\n",
        ";",
        "(",
        ")",
        "CREATE TEMP TABLE t ()",
        "DISCARD ALL",
        "LISTEN c",
        "currval('s')",
        "U&'\\0041'",
        "B'01'",
        "$1",
        "RESET app.user",
        "SHOW app.user",
        "dblink_connect('x')",
        "BEGIN",
        "COMMIT",
        "::text",
        "é",
        "e1.5",
        "pg_temp",
    ];
    let mut out = vec![rng.random()];
    put_cuts(rng, &mut out);
    for _ in 0..rng.random_range(1..10) {
        out.extend(pick(rng, &parts).as_bytes());
        out.extend(pick(rng, &[" ", "", ";", "\n", ","]).as_bytes());
    }
    out
}
