use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::auth::ClientKeys;

/// RFC 7677, section 3.
const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn rounds(iterations: u32) -> NonZeroU32 {
    NonZeroU32::new(iterations).unwrap()
}

fn verifier(password: &str) -> Verifier {
    Verifier::from_password(password, b"0123456789abcdef", rounds(16))
}

fn nonce(seed: u8) -> Nonce {
    Nonce::from_random([seed; 18])
}

fn end_point(hash: &'static [u8]) -> Offer {
    Offer::EndPoint(Bytes::from_static(hash))
}

/// Runs client and server against each other.
fn login(server: ServerLogin, client: ClientLogin, password: &str) -> Result<ClientKeys, ScramError> {
    let (server_first, server) = server.first(client.mechanism, client.message.as_bytes(), &nonce(2))?;
    let challenge = client.next.challenge(server_first.as_bytes())?;
    let keys = challenge.derivation()?.keys(password);
    let (client_final, client) = challenge.answer(&keys);
    let (server_final, learned) = server.finish(client_final.as_bytes())?;
    client.finish(server_final.as_bytes())?;
    Ok(learned)
}

fn start(offer: &Offer, offered: &[&str]) -> ClientLogin {
    ClientLogin::start(offered, offer, &nonce(1)).unwrap()
}

#[test]
fn the_server_role_agrees_with_rfc_7677() {
    let verifier = Verifier::from_password("pencil", &STANDARD.decode(SALT).unwrap(), rounds(4096));
    let login = ServerLogin::new(verifier, Offer::Plain);
    let first = format!("n,,n=user,r={CLIENT_NONCE}");
    let server_nonce = Nonce(SERVER_NONCE.to_owned());
    let (server_first, login) = login.first(SCRAM_SHA_256, first.as_bytes(), &server_nonce).unwrap();
    assert_eq!(server_first, SERVER_FIRST);
    let (server_final, _) = login.finish(CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(server_final, SERVER_FINAL);
}

#[test]
fn the_client_role_agrees_with_rfc_7677() {
    let login = AwaitChallenge {
        nonce: CLIENT_NONCE.to_owned(),
        bare: format!("n=user,r={CLIENT_NONCE}"),
        binding: "biws".to_owned(),
    };
    let challenge = login.challenge(SERVER_FIRST.as_bytes()).unwrap();
    let keys = challenge.derivation().unwrap().keys("pencil");
    let (client_final, login) = challenge.answer(&keys);
    assert_eq!(client_final, CLIENT_FINAL);
    assert_eq!(login.finish(SERVER_FINAL.as_bytes()), Ok(()));
}

#[test]
fn a_verifier_is_read_and_written_as_postgresql_does() {
    // The form of pg_authid.rolpassword.
    let text = verifier("secret").to_string();
    assert_eq!(Verifier::parse(&text).unwrap().to_string(), text);
    assert_eq!(Verifier::parse("md5abc"), Err(VerifierError::Kind));
    for cut in "SCRAM-SHA-256$".len()..text.len() {
        assert_eq!(Verifier::parse(&text[..cut]), Err(VerifierError::Damaged), "cut at {cut}");
    }
    assert_eq!(Verifier::parse(&text.replace("$16:", "$0:")), Err(VerifierError::Damaged));
}

#[test]
fn keys_learned_from_a_proof_open_another_server_with_the_same_verifier() {
    let first = ServerLogin::new(verifier("secret"), Offer::Plain);
    let learned = login(first, start(&Offer::Plain, &[SCRAM_SHA_256]), "secret").unwrap();
    assert_eq!(learned.fingerprint(), verifier("secret").fingerprint());
    let second = ServerLogin::new(verifier("secret"), Offer::Plain);
    let client = start(&Offer::Plain, &[SCRAM_SHA_256]);
    let (server_first, second) =
        second.first(client.mechanism, client.message.as_bytes(), &nonce(9)).unwrap();
    let (client_final, client) = client.next.challenge(server_first.as_bytes()).unwrap().answer(&learned);
    let (server_final, _) = second.finish(client_final.as_bytes()).unwrap();
    assert_eq!(client.finish(server_final.as_bytes()), Ok(()));
}

#[test]
fn a_wrong_password_and_an_unknown_role_fail_alike() {
    let client = || start(&Offer::Plain, &[SCRAM_SHA_256]);
    let wrong = ServerLogin::new(verifier("secret"), Offer::Plain);
    assert_eq!(login(wrong, client(), "other").unwrap_err(), ScramError::Rejected);
    let secret = MockSecret::from_random([7; 32]);
    let unknown = ServerLogin::unknown(&secret, "nobody", rounds(16), Offer::Plain);
    assert_eq!(login(unknown, client(), "secret").unwrap_err(), ScramError::Rejected);
}

#[test]
fn an_unknown_role_has_the_same_salt_each_time_and_another_than_its_neighbour() {
    let secret = MockSecret::from_random([7; 32]);
    let first = |role: &str| {
        let login = ServerLogin::unknown(&secret, role, rounds(4096), Offer::Plain);
        login.first(SCRAM_SHA_256, b"n,,n=,r=abc", &nonce(2)).unwrap().0
    };
    assert_eq!(first("ann"), first("ann"));
    assert_ne!(first("ann"), first("bob"));
    let known = Verifier::from_password("secret", &[1; SALT_BYTES_DEFAULT], rounds(4096));
    let (known, _) =
        ServerLogin::new(known, Offer::Plain).first(SCRAM_SHA_256, b"n,,n=,r=abc", &nonce(2)).unwrap();
    assert_eq!(known.len(), first("ann").len());
}

#[test]
fn a_login_can_be_bound_to_the_certificate_and_fails_when_another_was_shown() {
    let offered = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
    let server = || ServerLogin::new(verifier("secret"), end_point(b"ours"));
    let client = start(&end_point(b"ours"), &offered);
    assert_eq!(client.mechanism, SCRAM_SHA_256_PLUS);
    assert!(login(server(), client, "secret").is_ok());
    let misled = start(&end_point(b"somebody else's"), &offered);
    assert_eq!(login(server(), misled, "secret").unwrap_err(), ScramError::Binding);
}

#[test]
fn a_client_that_was_told_that_binding_is_impossible_is_refused_where_it_is_not() {
    let misled = start(&end_point(b"ours"), &[SCRAM_SHA_256]);
    assert!(misled.message.starts_with("y,,"));
    let server = ServerLogin::new(verifier("secret"), end_point(b"ours"));
    assert_eq!(login(server, misled, "secret").unwrap_err(), ScramError::Downgrade);
    let honest = start(&end_point(b"ours"), &[SCRAM_SHA_256]);
    let server = ServerLogin::new(verifier("secret"), Offer::Plain);
    assert!(login(server, honest, "secret").is_ok());
}

#[test]
fn a_server_that_cannot_prove_itself_is_refused() {
    let client = start(&Offer::Plain, &[SCRAM_SHA_256]);
    let server = ServerLogin::new(verifier("secret"), Offer::Plain);
    let (server_first, _) = server.first(client.mechanism, client.message.as_bytes(), &nonce(2)).unwrap();
    let challenge = client.next.challenge(server_first.as_bytes()).unwrap();
    let keys = challenge.derivation().unwrap().keys("secret");
    let (_, outcome) = challenge.answer(&keys);
    let forged = format!("v={}", STANDARD.encode([0; 32]));
    assert_eq!(outcome.finish(forged.as_bytes()), Err(ScramError::ServerSignature));
}

#[test]
fn a_server_that_wants_absurd_work_or_repeats_our_nonce_is_refused() {
    let answer = |server_first: String| {
        let client = start(&Offer::Plain, &[SCRAM_SHA_256]);
        let challenge = client.next.challenge(server_first.as_bytes())?;
        challenge.derivation().map(drop)
    };
    let ours = nonce(1).0;
    assert_eq!(answer(format!("r={ours}x,s=AAAA,i=2000000000")), Err(ScramError::Iterations(2_000_000_000)));
    assert!(matches!(answer(format!("r={ours},s=AAAA,i=4096")), Err(ScramError::Malformed(_))));
    assert!(matches!(answer(format!("r={ours}x,s=AAAA,i=0")), Err(ScramError::Malformed(_))));
    assert!(matches!(answer("r=other,s=AAAA,i=4096".to_owned()), Err(ScramError::Malformed(_))));
}

#[test]
fn headers_that_postgresql_refuses_are_refused() {
    let first = |mechanism: &str, message: &str| {
        let login = ServerLogin::new(verifier("secret"), end_point(b"ours"));
        login.first(mechanism, message.as_bytes(), &nonce(2)).map(drop)
    };
    assert_eq!(first(SCRAM_SHA_256, "n,,n=,r=abc"), Ok(()));
    assert_eq!(first(SCRAM_SHA_256, "n,,n=,r=abc,x=extension"), Ok(()));
    assert_eq!(first("SCRAM-SHA-1", "n,,n=,r=abc"), Err(ScramError::Mechanism));
    assert_eq!(first(SCRAM_SHA_256, "n,a=root,n=,r=abc"), Err(ScramError::AuthorizationIdentity));
    assert_eq!(first(SCRAM_SHA_256, "n,,m=must,n=,r=abc"), Err(ScramError::Extension));
    for broken in ["", "n", "n,", "z,,n=,r=abc", "n,,n=", "n,,n=,r=", "n,,n=,r=a b", "n,,r=abc,n="] {
        assert!(matches!(first(SCRAM_SHA_256, broken), Err(ScramError::Malformed(_))), "{broken}");
    }
    let bound = "p=tls-server-end-point,,n=,r=abc";
    assert!(matches!(first(SCRAM_SHA_256, bound), Err(ScramError::Malformed(_))));
    assert!(matches!(first(SCRAM_SHA_256_PLUS, "n,,n=,r=abc"), Err(ScramError::Malformed(_))));
    assert!(matches!(first(SCRAM_SHA_256_PLUS, "p=tls-unique,,n=,r=abc"), Err(ScramError::Malformed(_))));
    let long = format!("n,,n=,r={}", "a".repeat(MESSAGE_BYTES_MAX));
    assert!(matches!(first(SCRAM_SHA_256, &long), Err(ScramError::TooLong { .. })));
}

#[test]
fn a_password_is_prepared_where_the_rules_allow_it_and_raw_where_not() {
    let same_as = |left: &str, right: &str| verifier(left) == verifier(right);
    // A roman numeral is normalized to its compatibility form; a soft hyphen is removed.
    assert!(same_as("\u{2168}", "IX"));
    assert!(same_as("I\u{ad}X", "IX"));
    // A control character is prohibited, so the raw bytes are used.
    assert!(!same_as("\u{2168}\u{7}", "IX\u{7}"));
    // Preparation leaves nothing, so the raw bytes are used.
    assert!(!same_as("\u{ad}", ""));
}

#[test]
fn nothing_secret_is_printed() {
    let verifier = verifier("secret");
    let server = ServerLogin::new(self::verifier("secret"), Offer::Plain);
    let keys = login(server, start(&Offer::Plain, &[SCRAM_SHA_256]), "secret").unwrap();
    for text in [format!("{verifier:?}"), format!("{keys:?}")] {
        assert!(!text.contains("key: ["), "{text}");
        assert!(text.len() < 60, "{text}");
    }
}

proptest! {
    #[test]
    fn hostile_messages_never_panic(message in "[npycrsivm=,a-z0-9+/]{0,80}", raw in proptest::collection::vec(any::<u8>(), 0..80)) {
        for bytes in [message.as_bytes(), &raw] {
            let server = || ServerLogin::new(verifier("x"), end_point(b"ours"));
            let _ = server().first(SCRAM_SHA_256, bytes, &nonce(2));
            let _ = server().first(SCRAM_SHA_256_PLUS, bytes, &nonce(2));
            let (_, next) = server().first(SCRAM_SHA_256, b"n,,n=,r=abc", &nonce(2)).unwrap();
            prop_assert!(next.finish(bytes).is_err());
            let _ = start(&Offer::Plain, &[SCRAM_SHA_256]).next.challenge(bytes);
            let challenge = start(&Offer::Plain, &[SCRAM_SHA_256]).next;
            let server_first = format!("r={}x,s=AAAA,i=1", nonce(1).0);
            let challenge = challenge.challenge(server_first.as_bytes()).unwrap();
            let keys = challenge.derivation().unwrap().keys("x");
            prop_assert!(challenge.answer(&keys).1.finish(bytes).is_err());
            let _ = Verifier::parse(&String::from_utf8_lossy(bytes));
        }
    }
}
