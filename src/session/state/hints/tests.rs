use super::*;

fn row(kind: &str, values: &[Option<&str>]) -> Vec<Option<String>> {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut row = vec![Some(kind.to_owned())];
    row.extend(values.iter().map(|value| value.map(hex)));
    row.resize(6, None);
    row
}

fn function(
    name: &str,
    language: &str,
    volatility: &str,
    extension: Option<&str>,
    body: Option<&str>,
) -> Vec<Option<String>> {
    let mut row = row("function", &[Some(name), Some(language), None, extension, body]);
    row[3] = Some(volatility.to_owned());
    row
}

/// It never waits for IO.
fn read(rows: &Rows) -> Result<Hints, SnapshotError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(Hints::from_rows(rows))
}

fn server(major: u32) -> Vec<Option<String>> {
    let mut row = row("server", &[]);
    row[1] = Some((major * 10_000 + 3).to_string());
    row[2] = Some("7".to_owned());
    row
}

/// The effects that were found in it.
fn effects(hints: &Hints, name: &str) -> Effects {
    hints.names().effects(name.as_bytes()).without(Effects::UNPROVEN | Effects::STATEMENTS | Effects::VALUES)
}

#[test]
fn a_name_has_the_effects_of_whatever_it_uses() {
    let rows = vec![
        server(18),
        function("plain", "plpgsql", "v", None, Some("BEGIN RETURN 1; END")),
        function("sets", "plpgsql", "v", None, Some("BEGIN PERFORM set_config('app.user', '1', false); END")),
        function("calls", "sql", "v", None, Some("SELECT sets()")),
        function("dynamic", "plpgsql", "v", None, Some("BEGIN EXECUTE a; END")),
        row("uses", &[Some("a_view"), Some("calls")]),
        row("uses", &[Some("a_table"), Some("dynamic")]),
        row("uses", &[Some("parent"), Some("a_table")]),
        row("uses", &[Some("lock_view"), Some("pg_advisory_lock")]),
        row("opaque", &[Some("settings_view")]),
    ];
    let hints = read(&rows).unwrap();
    assert!(effects(&hints, "plain").is_none());
    for name in ["plain", "calls", "a_view", "parent"] {
        assert!(hints.names().effects(name.as_bytes()).has(Effects::UNPROVEN), "{name} runs code of users");
    }
    for name in ["sets", "calls", "a_view"] {
        assert_eq!(effects(&hints, name), Effects::ASKS, "{name}");
    }
    for name in ["dynamic", "a_table", "parent", "settings_view"] {
        assert!(effects(&hints, name).has(Effects::OPAQUE), "{name}");
    }
    assert_eq!(effects(&hints, "lock_view"), Effects::ASKS | Effects::LOCKS);
    assert_eq!(hints.settings, ["app.user"]);
    assert_eq!(hints.definitions, Some(7));
    assert!(hints.names().call(b"plain").is_none());
    assert_eq!(hints.names().call(b"nobody"), Effects::ASKS);
}

#[test]
fn functions_in_other_languages_are_as_harmless_as_they_are_known() {
    let rows = vec![
        server(18),
        function("similar", "c", "i", Some("anything"), None),
        function("uuid", "c", "v", Some("uuid-ossp"), None),
        function("odd", "c", "v", Some("anything"), None),
        function("crosstab", "c", "s", Some("tablefunc"), None),
        function("python", "plpython3u", "i", None, Some("return 1")),
        function("alias", "internal", "v", None, Some("set_config")),
        function("sine", "internal", "i", None, None),
    ];
    let hints = read(&rows).unwrap();
    for name in ["similar", "uuid", "sine"] {
        assert!(effects(&hints, name).is_none(), "{name}");
    }
    for name in ["odd", "crosstab", "python", "alias"] {
        assert!(effects(&hints, name).has(Effects::OPAQUE), "{name}");
    }
}

#[test]
fn operators_and_newer_majors_hold_for_every_text() {
    let operator = vec![
        server(18),
        function("dynamic", "plpgsql", "v", None, Some("BEGIN EXECUTE a; END")),
        row("uses", &[Some(""), Some("dynamic")]),
    ];
    assert!(read(&operator).unwrap().names().implied().has(Effects::OPAQUE));
    assert!(read(&vec![server(18)]).unwrap().names().implied().is_none());
    assert!(read(&vec![server(99)]).unwrap().names().implied().has(Effects::OPAQUE));
}

#[test]
fn names_in_other_characters_count_however_they_are_encoded() {
    let rows = vec![server(18), function("größe", "plpgsql", "v", None, Some("BEGIN EXECUTE a; END"))];
    let hints = read(&rows).unwrap();
    assert!(hints.names().effects(b"gr\xf6\xdfe").has(Effects::OPAQUE));
    assert!(hints.names().effects(b"groesse").is_none());
}

#[test]
fn a_setting_is_read_from_the_constant_of_a_tree() {
    let mut constant = row("constant", &[]);
    constant[2] = Some("48 0 0 0 97 112 112 46 100 102 108 116".to_owned());
    let hints = read(&vec![server(18), constant]).unwrap();
    assert_eq!(hints.settings, ["app.dflt"]);
}

#[test]
fn thousands_of_functions_that_reach_any_other_are_read_in_turns() {
    const FUNCTIONS: usize = 20_000;
    let body = "BEGIN ANALYZE; PERFORM set_config('a.b', '1', false); RETURN 1; END";
    let mut rows = vec![server(18)];
    rows.extend((0..FUNCTIONS).map(|at| function(&format!("f{at}"), "plpgsql", "v", None, Some(body))));
    let mut reading = Box::pin(Hints::from_rows(&rows));
    let mut turns = 0;
    let waker = std::task::Waker::noop();
    let hints = loop {
        turns += 1;
        match reading.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
            std::task::Poll::Ready(hints) => break hints.unwrap(),
            std::task::Poll::Pending => {}
        }
    };
    assert!(turns > FUNCTIONS * body.len() / 10_000, "{turns} turns");
    for name in ["f0", "f19999"] {
        assert!(effects(&hints, name).has(Effects::ASKS), "{name}");
    }
}

#[test]
fn whoever_may_reach_any_function_has_the_effects_of_all() {
    let rows = vec![
        server(18),
        function("reaches", "plpgsql", "v", None, Some("BEGIN ANALYZE; END")),
        function("calls", "sql", "v", None, Some("SELECT reaches()")),
        function("dynamic", "plpgsql", "v", None, Some("BEGIN EXECUTE a; END")),
        function("locks", "sql", "v", None, Some("SELECT pg_advisory_lock(1)")),
    ];
    let hints = read(&rows).unwrap();
    for name in ["reaches", "calls"] {
        assert!(effects(&hints, name).has(Effects::OPAQUE), "{name}");
        assert!(effects(&hints, name).has(Effects::LOCKS), "{name}");
    }
    assert!(!effects(&hints, "locks").has(Effects::OPAQUE));
}

#[test]
fn names_are_found_in_a_large_text_however_they_are_written() {
    let names = |names: &[&'static [u8]]| OpaqueNames::of(names.iter().copied());
    assert!(names(&[b"do_it", b"other"]).are_in(b"insert into t select DO_IT(1)"));
    assert!(!names(&[b"do_it", b"other"]).are_in(b"insert into t select 1"));
    assert!(!names(&[]).are_in(b"anything"));
    for odd in [&b"\xc3\xa4"[..], b"a\"b", b""] {
        assert!(OpaqueNames::of([odd].into_iter()).are_in(b"nothing of it"));
    }
}

/// Many operators that exist twice, and a long body of operators: work must not be their product.
#[test]
fn thousands_of_operators_cost_no_more_than_a_few() {
    const OPERATORS: usize = 2_000;
    let body = format!("SELECT $1 {}", "+ 1 ".repeat(15_000));
    let mut rows = vec![server(18), row("keeps", &[Some(""), Some("f")])];
    for at in 0..OPERATORS {
        let mut twice = row("twice", &[Some(&format!("<{at:b}>").replace('0', "~").replace('1', "@"))]);
        twice[2] = Some("operator".to_owned());
        rows.push(twice);
    }
    let mut reading = Reading::default();
    for row in &rows {
        reading.names_row(&Fields::of(row)).unwrap();
    }
    let called = function("f", "sql", "v", None, Some(&body));
    reading.row(&Fields::of(&called)).unwrap();
    let work = reading.work();
    assert!((body.len()..3 * body.len()).contains(&work), "{work} for {} bytes", body.len());
    // The longest possible run: the lookups must match the counted work.
    let run = format!("SELECT $1 {} 1", "+".repeat(30_000));
    reading.row(&Fields::of(&function("g", "sql", "v", None, Some(&run)))).unwrap();
    assert!(reading.work() - work > 50 * run.len(), "the work counts");
}

/// Hints of a database whose code could not be read this long ago, before a pause of `rest`.
fn unread(ago: Duration, rest: Duration) -> HintsCell {
    let mut hints = Hints::unread(rest);
    hints.unread = Some(Unread { at: Instant::now().checked_sub(ago).unwrap(), rest });
    HintsCell::of(Arc::new(hints))
}

#[test]
fn a_question_that_fails_again_and_again_is_asked_less_and_less_often() {
    let rest_of = |hints: &Hints| hints.unread.unwrap().rest;
    let second = Duration::from_secs(1);
    let mut rest = rest_of(&HintsCell::default().unread());
    assert_eq!(rest, REST_MIN);
    for _ in 0..10 {
        let during = unread(rest - second, rest);
        for cell in [during.to_be_checked(), during.outdated()] {
            assert!(cell.get().is_some_and(|hints| hints.is_resting()), "it is not asked during the pause");
        }
        let after = unread(rest + second, rest);
        for cell in [after.to_be_checked(), after.outdated()] {
            assert!(cell.get().is_none(), "it is asked after the pause");
            assert_eq!(rest_of(&cell.unread()), (rest * 2).min(REST_MAX));
        }
        rest = (rest * 2).min(REST_MAX);
    }
    assert_eq!(rest, REST_MAX);
    let read = HintsCell::of(Arc::new(Hints::default()));
    assert!(read.outdated().get().is_none() && read.to_be_checked().get().is_none());
    assert_eq!(rest_of(&read.to_be_checked().unread()), REST_MIN);
}
