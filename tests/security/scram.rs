//! SCRAM with Freehold as the server, message by message, beside what PostgreSQL makes of the same bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use freehold::auth::scram::Offer;
use freehold::model::SslMode;
use freehold::tls::{ClientTls, Connector, Roots};
use freehold::wire::startup;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use tokio::net::TcpStream;

use crate::office::Office;
use crate::raw::Client;
use crate::stage::{Stage, text};
use crate::support::Login;

const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const PLAIN: &str = "SCRAM-SHA-256";
const PLUS: &str = "SCRAM-SHA-256-PLUS";

/// SASLInitialResponse; `length` is what it says of its response.
fn initial(mechanism: &str, response: &str, length: i32) -> Vec<u8> {
    [mechanism.as_bytes(), b"\0", &length.to_be_bytes(), response.as_bytes()].concat()
}

fn first(mechanism: &str, response: &str) -> Vec<u8> {
    initial(mechanism, response, response.len() as i32)
}

/// The challenge to what the client has said first.
struct Challenge {
    bare: String,
    server_first: String,
    nonce: String,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl Challenge {
    fn read(client_first: &str, server_first: &[u8]) -> Challenge {
        let server_first = String::from_utf8(server_first.to_vec()).unwrap();
        let mut parts = server_first.split(',').map(|part| part[2..].to_owned());
        let mut next = || parts.next().unwrap();
        Challenge {
            bare: client_first.splitn(3, ',').nth(2).unwrap().to_owned(),
            nonce: next(),
            salt: STANDARD.decode(next()).unwrap(),
            iterations: next().parse().unwrap(),
            server_first,
        }
    }

    fn proof(&self, password: &str, without_proof: &str) -> String {
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            self.iterations,
            &self.salt,
            password.as_bytes(),
            &mut salted,
        );
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let message = format!("{},{},{without_proof}", self.bare, self.server_first);
        let signature = sign(stored_key.as_ref(), message.as_bytes());
        let proof = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign);
        STANDARD.encode(proof.collect::<Vec<_>>())
    }
}

/// What a login ends with: "" where it succeeds, else the SQLSTATE or "closed". `last` makes client-final of
/// the challenge.
async fn attempt(
    client: &mut Client,
    initial: &[u8],
    client_first: &str,
    last: impl Fn(&Challenge) -> String,
) -> String {
    match client.asked().await {
        Ok((10, _)) => {}
        other => panic!("{other:?}"),
    }
    client.say(b'p', initial).await;
    let challenge = match client.asked().await {
        Ok((11, challenge)) => Challenge::read(client_first, &challenge),
        Ok(other) => panic!("{other:?}"),
        Err(outcome) => return outcome,
    };
    client.say(b'p', last(&challenge).as_bytes()).await;
    client.outcome().await
}

/// client-final as it should be, with this binding.
fn finish(challenge: &Challenge, password: &str, binding: &[u8]) -> String {
    let without_proof = format!("c={},r={}", STANDARD.encode(binding), challenge.nonce);
    format!("{without_proof},p={}", challenge.proof(password, &without_proof))
}

/// The same at Freehold and at the server itself.
async fn at_both(
    stage: &Stage,
    initial: &[u8],
    client_first: &str,
    last: impl Fn(&Challenge) -> String,
) -> [String; 2] {
    let mut outcomes = [String::new(), String::new()];
    for (port, outcome) in [stage.owner.port, stage.server.port].into_iter().zip(&mut outcomes) {
        let mut client = Client::at(port).await;
        client.startup(&stage.owner, &[]).await;
        *outcome = attempt(&mut client, initial, client_first, &last).await;
    }
    outcomes
}

#[tokio::test]
async fn cve_2026_6664_what_a_client_says_first_is_taken_and_refused_as_by_postgresql() {
    let stage = Stage::set("").await;
    let password = stage.owner.password.clone();
    let good = format!("n,,n=,r={NONCE}");
    let firsts: Vec<(String, &[u8])> = vec![
        (good.clone(), b"n,,"),
        // The name in it plays no part: it is the startup packet's that counts.
        (format!("n,,n=somebody_else,r={NONCE}"), b"n,,"),
        (format!("n,,n=a=2Cb=3Dc,r={NONCE}"), b"n,,"),
        (format!("n,,n=,r={NONCE},x=ignored,y=too"), b"n,,"),
        (format!("y,,n=,r={NONCE}"), b"y,,"),
        (format!("n,a=somebody_else,n=,r={NONCE}"), b"n,a=somebody_else,"),
        (format!("n,a=,n=,r={NONCE}"), b"n,a=,"),
        (format!("n,x,n=,r={NONCE}"), b"n,x,"),
        (format!("n,,m=needed,n=,r={NONCE}"), b"n,,"),
        (format!("n,,n=,r={NONCE}\u{7f}"), b"n,,"),
        (format!("n,,n=,r={NONCE} {NONCE}"), b"n,,"),
        (format!("n,,r={NONCE},n="), b"n,,"),
        ("n,,n=".to_owned(), b"n,,"),
        (format!("z,,n=,r={NONCE}"), b"z,,"),
        (format!("p=tls-server-end-point,,n=,r={NONCE}"), b"p=tls-server-end-point,,"),
        (",,,".to_owned(), b",,"),
        ("n".to_owned(), b"n,,"),
        (String::new(), b"n,,"),
    ];
    let mut different = Vec::new();
    for (client_first, binding) in firsts {
        let last = |challenge: &Challenge| finish(challenge, &password, binding);
        let [ours, theirs] = at_both(&stage, &first(PLAIN, &client_first), &client_first, last).await;
        if ours != theirs {
            different.push(format!("{client_first}: {ours}, {theirs}"));
        }
    }
    let length = good.len() as i32;
    for initial in [
        first(PLUS, &good),
        first("SCRAM-SHA-1", &good),
        first("", &good),
        first(PLAIN, &format!("n,,n=,r={}", "x".repeat(2000))),
        initial(PLAIN, &good, length + 1),
        initial(PLAIN, &good, length - 1),
        initial(PLAIN, &good, i32::MAX),
        initial(PLAIN, &good, i32::MIN),
        initial(PLAIN, &good, -1),
        b"SCRAM-SHA-256".to_vec(),
        b"\0".to_vec(),
        Vec::new(),
    ] {
        let last = |challenge: &Challenge| finish(challenge, &password, b"n,,");
        let [ours, theirs] = at_both(&stage, &initial, &good, last).await;
        if ours.is_empty() || theirs.is_empty() {
            let shown = String::from_utf8_lossy(&initial[..initial.len().min(60)]).into_owned();
            different.push(format!("{shown:?}: {ours}, {theirs}"));
        }
    }
    assert!(different.is_empty(), "ours, theirs: {different:#?}");
}

/// With salts that are made up anew at each start, asking before and after would tell which roles exist.
#[tokio::test]
async fn the_salt_of_a_role_is_the_same_after_a_restart_whether_it_exists_or_not() {
    let mut stage = Stage::set("").await;
    let salts = async |stage: &Stage| {
        let mut salts = Vec::new();
        for (port, role) in [
            (stage.owner.port, "shop"),
            (stage.owner.port, "nobody_here"),
            (stage.freehold.admin_config().get_ports()[0], "nobody_here"),
        ] {
            let client_first = format!("n,,n=,r={NONCE}");
            let mut client = Client::at(port).await;
            client.startup(&Login { role: role.to_owned(), ..stage.owner.clone() }, &[]).await;
            assert_eq!(client.asked().await.unwrap().0, 10);
            client.say(b'p', &first(PLAIN, &client_first)).await;
            let (_, challenge) = client.asked().await.unwrap();
            salts.push(Challenge::read(&client_first, &challenge).salt);
        }
        salts
    };
    let before = salts(&stage).await;
    assert_ne!(before[1], before[2], "told apart, the salts of two ports say where a role exists");
    crate::resources::ended(&mut stage).await;
    let _process = crate::resources::Process::start(&stage, "");
    crate::support::until("it serves", || async { stage.owner.try_connect().await.is_ok() }).await;
    assert_eq!(salts(&stage).await, before);
}

#[tokio::test]
async fn a_client_may_say_nothing_first_and_is_asked_again() {
    let stage = Stage::set("").await;
    let client_first = format!("n,,n=,r={NONCE}");
    for port in [stage.owner.port, stage.server.port] {
        let mut client = Client::at(port).await;
        client.startup(&stage.owner, &[]).await;
        assert_eq!(client.asked().await.unwrap().0, 10);
        client.say(b'p', &initial(PLAIN, "", -1)).await;
        assert_eq!(client.asked().await, Ok((11, Vec::new())));
        client.say(b'p', client_first.as_bytes()).await;
        let (_, challenge) = client.asked().await.unwrap();
        let challenge = Challenge::read(&client_first, &challenge);
        client.say(b'p', finish(&challenge, &stage.owner.password, b"n,,").as_bytes()).await;
        assert_eq!(client.outcome().await, "");
    }
}

#[tokio::test]
async fn what_a_client_says_last_is_taken_and_refused_as_by_postgresql() {
    let stage = Stage::set("").await;
    let password = stage.owner.password.clone();
    let client_first = format!("n,,n=,r={NONCE}");
    type Last = Box<dyn Fn(&Challenge, &str) -> String>;
    let with_proof = |challenge: &Challenge, password: &str, without: String| {
        format!("{without},p={}", challenge.proof(password, &without))
    };
    let lasts: Vec<(&str, Last)> = vec![
        ("as it should be", Box::new(|challenge, password| finish(challenge, password, b"n,,"))),
        (
            "an extension",
            Box::new(move |challenge, password| {
                with_proof(challenge, password, format!("c=biws,r={},x=1", challenge.nonce))
            }),
        ),
        ("another password", Box::new(|challenge, _| finish(challenge, "wrong", b"n,,"))),
        ("no password", Box::new(|challenge, _| finish(challenge, "", b"n,,"))),
        ("another binding", Box::new(|challenge, password| finish(challenge, password, b"y,,"))),
        ("a binding to nothing", Box::new(|challenge, password| finish(challenge, password, b""))),
        (
            "the client's nonce alone",
            Box::new(move |challenge, password| with_proof(challenge, password, format!("c=biws,r={NONCE}"))),
        ),
        (
            "another nonce",
            Box::new(move |challenge, password| {
                with_proof(challenge, password, format!("c=biws,r={}x", challenge.nonce))
            }),
        ),
        (
            "no binding",
            Box::new(move |challenge, password| {
                with_proof(challenge, password, format!("r={}", challenge.nonce))
            }),
        ),
        ("no proof", Box::new(|challenge, _| format!("c=biws,r={}", challenge.nonce))),
        ("an empty proof", Box::new(|challenge, _| format!("c=biws,r={},p=", challenge.nonce))),
        ("a short proof", Box::new(|challenge, _| format!("c=biws,r={},p=eHh4", challenge.nonce))),
        (
            "a long proof",
            Box::new(|challenge, _| format!("c=biws,r={},p={}", challenge.nonce, STANDARD.encode([7; 64]))),
        ),
        (
            "a proof of 900 bytes",
            Box::new(|challenge, _| format!("c=biws,r={},p={}", challenge.nonce, STANDARD.encode([7; 650]))),
        ),
        ("no base64", Box::new(|challenge, _| format!("c=biws,r={},p=%%%%", challenge.nonce))),
        (
            "something behind the proof",
            Box::new(|challenge, password| format!("{},x=1", finish(challenge, password, b"n,,"))),
        ),
        ("nothing", Box::new(|_, _| String::new())),
    ];
    let mut different = Vec::new();
    for (what, last) in &lasts {
        let last = |challenge: &Challenge| last(challenge, &password);
        let [ours, theirs] = at_both(&stage, &first(PLAIN, &client_first), &client_first, last).await;
        if ours != theirs {
            different.push(format!("{what}: {ours}, {theirs}"));
        }
    }
    assert!(different.is_empty(), "ours, theirs: {different:#?}");
}

#[tokio::test]
async fn a_login_that_was_heard_opens_nothing_when_it_is_said_again() {
    let stage = Stage::set("").await;
    let client_first = format!("n,,n=,r={NONCE}");
    let heard = std::sync::Mutex::new(String::new());
    let mut client = Client::at(stage.owner.port).await;
    client.startup(&stage.owner, &[]).await;
    let last = |challenge: &Challenge| {
        let last = finish(challenge, &stage.owner.password, b"n,,");
        heard.lock().unwrap().clone_from(&last);
        last
    };
    assert_eq!(attempt(&mut client, &first(PLAIN, &client_first), &client_first, last).await, "");
    let mut client = Client::at(stage.owner.port).await;
    client.startup(&stage.owner, &[]).await;
    let again = |_: &Challenge| heard.lock().unwrap().clone();
    assert_ne!(attempt(&mut client, &first(PLAIN, &client_first), &client_first, again).await, "");
}

#[tokio::test]
async fn a_password_message_behind_a_login_is_no_second_one() {
    let stage = Stage::set("").await;
    for port in [stage.owner.port, stage.server.port] {
        let mut client = Client::logged_in(&Login { port, ..stage.owner.clone() }).await;
        client.say(b'p', b"secret\0").await;
        assert_eq!(client.outcome().await, "08P01");
    }
}

/// Under TLS of the office, with the hash that a login is bound to.
async fn under_tls(stage: &Stage, office: &Office) -> (Client, Vec<u8>) {
    let connector =
        Connector::open(ClientTls { roots: Roots::File(office.path("ca.crt")), identity: None }).unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", stage.owner.port)).await.unwrap();
    let mut request = bytes::BytesMut::new();
    startup::ssl_request(&mut request);
    tokio::io::AsyncWriteExt::write_all(&mut tcp, &request).await.unwrap();
    assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut tcp).await.unwrap(), b'S');
    let connected = connector.connect(tcp, "localhost", SslMode::VerifyFull).await.unwrap();
    let mut client = Client::on(connected.stream);
    client.startup(&stage.owner, &[]).await;
    (client, connected.end_point.unwrap().to_vec())
}

#[tokio::test]
async fn a_login_under_tls_is_bound_to_the_certificate_and_not_downgraded() {
    let office = Office::open();
    let stage = Stage::set_with_tls(&office, "").await;
    let header = b"p=tls-server-end-point,,";
    // Mechanism, client-first's header, what is bound, and how it ends.
    let right = |hash: &[u8]| [header, hash].concat();
    let wrong = |hash: &[u8]| [header, &hash[1..], b"x"].concat();
    let nothing = |_: &[u8]| header.to_vec();
    let plain = |_: &[u8]| b"n,,".to_vec();
    let lie = |_: &[u8]| b"y,,".to_vec();
    type Bound<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, &str, Bound<'_>, &str); 9] = [
        (PLUS, "p=tls-server-end-point,,", &right, ""),
        (PLUS, "p=tls-server-end-point,,", &wrong, "28000"),
        (PLUS, "p=tls-server-end-point,,", &nothing, "28000"),
        (PLUS, "p=tls-server-end-point,,", &plain, "28000"),
        (PLUS, "p=tls-unique,,", &right, "08P01"),
        (PLUS, "n,,", &plain, "08P01"),
        // It could bind and was told that we cannot: somebody in between took the better mechanism off our
        // list.
        (PLAIN, "y,,", &lie, "28000"),
        (PLAIN, "p=tls-server-end-point,,", &right, "08P01"),
        (PLAIN, "n,,", &plain, ""),
    ];
    for (mechanism, flag, bound, outcome) in cases {
        let (mut client, hash) = under_tls(&stage, &office).await;
        let client_first = format!("{flag}n=,r={NONCE}");
        let last = |challenge: &Challenge| finish(challenge, &stage.owner.password, &bound(&hash));
        let ended = attempt(&mut client, &first(mechanism, &client_first), &client_first, last).await;
        assert_eq!(ended, outcome, "{mechanism} {client_first}");
    }
    let (mut client, hash) = under_tls(&stage, &office).await;
    assert_eq!(client.prove(&stage.owner.password, &Offer::EndPoint(hash.into())).await, "");
}

#[tokio::test]
async fn a_verifier_that_nobody_can_use_lets_nobody_in_and_harms_no_other_role() {
    let stage = Stage::set("").await;
    let keys = "$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let salt = "c2FsdHNhbHRzYWx0c2FsdA==";
    for (role, verifier) in [
        ("never", format!("SCRAM-SHA-256$0:{salt}{keys}")),
        ("ages", format!("SCRAM-SHA-256$4294967295:{salt}{keys}")),
        ("beyond", format!("SCRAM-SHA-256$99999999999999999999:{salt}{keys}")),
        ("negative", format!("SCRAM-SHA-256$-1:{salt}{keys}")),
        ("saltless", format!("SCRAM-SHA-256$4096:{keys}")),
        ("halved", "SCRAM-SHA-256$4096:".to_owned()),
        ("md5ish", "md5".to_owned()),
    ] {
        stage.create_role(role, "").await;
        let write = format!("UPDATE pg_authid SET rolpassword = '{verifier}' WHERE rolname = '{role}'");
        stage.server.psql(&write).unwrap();
    }
    stage.create_role("once", "").await;
    let one_round = freehold::auth::scram::Verifier::from_password("quick", &[3; 16], NonZeroU32::MIN);
    stage.server.psql(&format!("ALTER ROLE once PASSWORD '{one_round}'")).unwrap();
    let once = stage.login("once", "quick");
    crate::support::until("its verifier is known", || async { once.try_connect().await.is_ok() }).await;
    for method in ["password", "scram-sha-256"] {
        stage.rule(&format!("host all all all {method}\n"), "cleartext_passwords = true").await;
        for role in ["never", "beyond", "negative", "saltless", "halved", "md5ish"] {
            assert_eq!(crate::stage::refused(&stage.login(role, "0")).await, "28P01", "{role} {method}");
        }
        once.connect().await;
        stage.owner.connect().await;
    }
    // By SCRAM it is the client that would work for an hour.
    let mut client = Client::at(stage.owner.port).await;
    client.startup(&stage.login("ages", ""), &[]).await;
    let client_first = format!("n,,n=,r={NONCE}");
    let guess =
        |challenge: &Challenge| format!("c=biws,r={},p={}", challenge.nonce, STANDARD.encode([7; 32]));
    assert_eq!(attempt(&mut client, &first(PLAIN, &client_first), &client_first, guess).await, "28P01");
}

#[tokio::test]
async fn passwords_are_prepared_as_postgresql_prepares_them() {
    let stage = Stage::set("").await;
    // As it was set, another way to write it, and whether that is the same.
    let passwords = [
        ("p\u{e4}ssw\u{f6}rd", "pa\u{308}ssw\u{f6}rd", true),
        ("I\u{ad}X", "IX", true),
        ("\u{2168}", "IX", true),
        ("two\u{a0}words", "two words", true),
        ("\u{fb01}ne", "fine", true),
        ("case", "CASE", false),
        ("\u{627}1", "\u{627}1", true),
        ("tab\u{9}bed", "tab\u{9}bed", true),
        ("\u{378}unassigned", "\u{378}unassigned", true),
        ("\u{ad}", "\u{ad}", true),
        ("\u{ad}", "", false),
        ("\u{1f600}", "\u{1f600}", true),
    ];
    for (number, (set, _, _)) in passwords.iter().enumerate() {
        stage.create_role(&format!("role{number}"), &format!("PASSWORD '{set}'")).await;
    }
    for method in ["scram-sha-256", "password"] {
        stage.rule(&format!("host all all all {method}\n"), "cleartext_passwords = true").await;
        for (number, (set, other, same)) in passwords.iter().enumerate() {
            let role = format!("role{number}");
            let comes_in = |password: &str| {
                let told = stage.psql(&format!("user={role} password='{password}'"));
                (text(&told.stdout) == role, text(&told.stderr))
            };
            let (came_in, error) = comes_in(set);
            assert!(came_in, "{set:?} by {method}: {error}");
            assert_eq!(comes_in(other).0, *same, "{set:?} as {other:?} by {method}");
        }
    }
}
