//! What a server that an attacker has taken can do to clients of other databases: nothing.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use freehold::lab::{Major, Postgres};

use crate::impostor::{Impostor, Whose, authentication, flood, heard, message, wait};
use crate::support::{Freehold, Login, create_system, until};

/// What a flood goes on with, by number.
type Next = fn(u64) -> Vec<u8>;
/// A challenge for a client's nonce.
type Answer = Box<dyn Fn(&str) -> String + Send + Sync>;

/// Database `shop` on an honest system, `bad` on one that is not; one worker serves both.
struct Ring {
    // Dropped in this order.
    freehold: Freehold,
    shop: Login,
    bad: Login,
    impostor: Impostor,
    servers: [Postgres; 2],
}

/// More than this is taken by nobody's misbehaviour.
const GROWTH_MAX: u64 = 48 << 20;

impl Ring {
    async fn set() -> Ring {
        let start = || Postgres::start_async(Major::oldest());
        let (honest, taken) = tokio::try_join!(start(), start()).unwrap();
        let impostor = Impostor::before(taken.port);
        let freehold = Freehold::start_with("workers = 1\n", "logins_interval = \"100ms\"\n", &[&honest]);
        let admin = freehold.admin().await;
        admin.run(&create_system("one", &honest)).await;
        let port = |port: u16| format!("PORT {port} ");
        let two = create_system("two", &taken).replace(&port(taken.port), &port(impostor.port));
        admin.run(&two).await;
        admin.run("CREATE TEAM payments CONTACT '#payments'").await;
        let mut logins = Vec::new();
        for (name, system) in [("shop", "one"), ("bad", "two")] {
            let create = format!(
                "CREATE DATABASE {name} OWNER payments PURPOSE 'One of two databases, side by side' ON SYSTEM {system}"
            );
            let row = &admin.run(&create).await[0];
            let (role, password) = (row["role"].clone(), row["password"].clone());
            let login = Login { port: freehold.proxy_port, dbname: name.into(), role, password };
            until("it takes clients", || async { login.try_connect().await.is_ok() }).await;
            logins.push(login);
        }
        let bad = logins.pop().unwrap();
        Ring { freehold, shop: logins.pop().unwrap(), bad, impostor, servers: [honest, taken] }
    }

    /// Memory of the process.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.freehold.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Clients of the other database, and administrators, are served without delay.
    async fn others_are_served(&self, when: &str) {
        let begun = Instant::now();
        let served = async {
            self.shop.connect().await.simple_query("SELECT 1").await.unwrap();
            self.freehold.admin().await.run("SHOW DATABASES").await;
        };
        let served = tokio::time::timeout(Duration::from_secs(5), served).await;
        assert!(served.is_ok(), "{when}: others wait for {:?}", begun.elapsed());
    }

    /// Looks on for a while: others are served all the time, and memory stays.
    async fn stands(&self, before: u64, when: &str) {
        let until = Instant::now() + Duration::from_millis(700);
        while Instant::now() < until {
            self.others_are_served(when).await;
            let grown = self.memory().saturating_sub(before);
            assert!(grown < GROWTH_MAX, "{when}: {} MiB more", grown >> 20);
        }
    }
}

/// What a client of the database is told, within a bound.
async fn told(login: &Login, what: &str) -> String {
    let trying = tokio::time::timeout(Duration::from_secs(8), login.try_connect());
    match trying.await.unwrap_or_else(|_| panic!("{what}: no answer")) {
        Ok(_) => "came in".to_owned(),
        Err(error) => error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned()),
    }
}

fn notice(text: &str) -> Vec<u8> {
    message(b'N', format!("SNOTICE\0VNOTICE\0C00000\0M{text}\0\0").as_bytes())
}

fn parameter(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

/// Forgets what its client has proved, and asks for SCRAM with this challenge.
fn challenge(visitor: &mut TcpStream, answer: impl Fn(&str) -> String) {
    use std::io::Write;
    let _ = visitor.write_all(&authentication(10, b"SCRAM-SHA-256\0\0"));
    let first = heard(visitor);
    let first = String::from_utf8_lossy(&first);
    let nonce = first.rsplit_once("r=").map_or("", |(_, nonce)| nonce).to_owned();
    let _ = visitor.write_all(&authentication(11, answer(&nonce).as_bytes()));
    heard(visitor);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_goes_wrong_in_any_way_is_told_as_an_error_and_concerns_nobody_else() {
    let ring = Ring::set().await;
    let ok = authentication(0, b"");
    let mut scripts: Vec<(&str, Vec<u8>)> = vec![
        ("a negative length", b"R\x80\0\0\0".to_vec()),
        ("a length of 2 GiB", b"R\x7f\xff\xff\xff\0\0\0\0".to_vec()),
        ("a length of 2 GiB behind the login", [&ok[..], b"S\x7f\xff\xff\xffname"].concat()),
        ("a challenge that nobody asked for", authentication(11, b"r=x,s=eA==,i=1")),
        ("an outcome that nobody asked for", authentication(12, b"v=eA==")),
        ("a method that nobody knows", authentication(99, b"")),
        ("the login twice", [&ok[..], &ok[..]].concat()),
        ("a row before any query", message(b'D', b"\0\0")),
        ("a row behind the login", [&ok[..], &message(b'D', b"\0\0")].concat()),
        ("ready before the login", message(b'Z', b"I").repeat(1000)),
        ("ready in a transaction", [&ok[..], &message(b'Z', b"T")].concat()),
        ("ready in no state", [&ok[..], &message(b'Z', b"x")].concat()),
        ("a key of three bytes", [&ok[..], &message(b'K', b"\0\0\0\x01abc")].concat()),
        ("a key of one byte too many", [&ok[..], &message(b'K', &[7; 4 + 257])].concat()),
        ("a key without a process", [&ok[..], &message(b'K', b"\0")].concat()),
        ("a name without an end", [&ok[..], &message(b'S', b"name")].concat()),
        ("mechanisms without an end", authentication(10, &b"X\0".repeat(100))),
        ("a mechanism that is long", authentication(10, &[&[b'A'; 60_000][..], b"\0\0"].concat())),
        ("an error without an end", message(b'E', b"SFATAL\0Mgone")),
        ("an error without anything", message(b'E', b"\0")),
        ("nothing", Vec::new()),
    ];
    scripts.push(("words of another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    for (what, bytes) in scripts {
        ring.impostor.instead(Whose::Clients, move |visitor| {
            use std::io::Write;
            let _ = visitor.write_all(&bytes);
        });
        let told = told(&ring.bad, what).await;
        assert!(told.len() == 5 && told != "came in", "{what}: {told}");
    }
    ring.others_are_served("afterwards").await;
    ring.impostor.be_honest();
    ring.bad.connect().await.simple_query("SELECT 1").await.unwrap();
}

/// PgBouncer's was an overflow of the stack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2026_6665_fields_of_a_servers_scram_messages_have_bounds() {
    let ring = Ring::set().await;
    let salt = "c2FsdA==";
    let long = |letter: &str, bytes: usize| letter.repeat(bytes);
    let challenges: Vec<(&str, Answer)> = vec![
        ("no nonce", Box::new(move |_| format!("s={salt},i=4096"))),
        ("another nonce", Box::new(move |_| format!("r=other,s={salt},i=4096"))),
        ("the client's nonce alone", Box::new(move |nonce| format!("r={nonce},s={salt},i=4096"))),
        ("a nonce of 60 kB", Box::new(move |nonce| format!("r={nonce}{},s={salt},i=1", long("x", 60_000)))),
        ("a salt of 60 kB", Box::new(move |nonce| format!("r={nonce}x,s={},i=1", long("eHh4", 15_000)))),
        ("a salt that is none", Box::new(|nonce| format!("r={nonce}x,s=%,i=1"))),
        ("no rounds", Box::new(move |nonce| format!("r={nonce}x,s={salt},i=0"))),
        ("negative rounds", Box::new(move |nonce| format!("r={nonce}x,s={salt},i=-1"))),
        ("rounds for an hour", Box::new(move |nonce| format!("r={nonce}x,s={salt},i=4294967295"))),
        (
            "rounds beyond counting",
            Box::new(move |nonce| format!("r={nonce}x,s={salt},i={}", long("9", 400))),
        ),
        ("an extension", Box::new(move |nonce| format!("m=x,r={nonce}x,s={salt},i=1"))),
        ("nothing", Box::new(|_| String::new())),
    ];
    for (what, answer) in challenges {
        ring.impostor.instead(Whose::Clients, move |visitor| challenge(visitor, &answer));
        let told = told(&ring.bad, what).await;
        assert!(told.len() == 5 && told != "came in", "{what}: {told}");
    }
    ring.others_are_served("afterwards").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_in_a_login_ends_it() {
    let ring = Ring::set().await;
    let before = ring.memory();
    let ok = authentication(0, b"");
    let floods: Vec<(&str, bool, Next)> = vec![
        ("notices before the login", false, |_| notice(&"x".repeat(1000))),
        ("notices behind the login", true, |_| notice(&"x".repeat(1000))),
        ("parameters", true, |number| parameter(&format!("name_{number}"), "value")),
        ("one parameter", true, |number| parameter("name", &number.to_string())),
        ("long parameters", true, |number| parameter(&format!("n{number}"), &"x".repeat(60_000))),
        ("keys", true, |_| message(b'K', &[1; 8])),
        ("versions", false, |_| message(b'v', &[0; 8])),
    ];
    for (what, inside, next) in floods {
        let ok = ok.clone();
        ring.impostor.instead(Whose::Clients, move |visitor| {
            use std::io::Write;
            if inside {
                let _ = visitor.write_all(&ok);
            }
            flood(visitor, next);
        });
        let told = told(&ring.bad, what).await;
        assert!(told.len() == 5 && told != "came in", "{what}: {told}");
        let grown = ring.memory().saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{what}: {} MiB more", grown >> 20);
    }
    ring.others_are_served("afterwards").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_server_floods_it_takes_no_memory_and_no_time_of_others() {
    let ring = Ring::set().await;
    let floods: Vec<(&str, Next)> = vec![
        ("parameters", |number| {
            let some = (0..200).map(|more| parameter(&format!("name_{number}_{more}"), "value"));
            some.collect::<Vec<_>>().concat()
        }),
        ("long parameters", |number| parameter(&format!("n{number}"), &"x".repeat(7_000))),
        ("a parameter that changes", |number| parameter("application_name", &number.to_string()).repeat(100)),
        ("notices", |_| notice(&"x".repeat(60_000))),
        ("ready", |_| message(b'Z', b"I").repeat(1000)),
        ("rows", |_| message(b'D', b"\0\x01\0\0\0\x01x").repeat(1000)),
        ("errors", |_| message(b'E', b"SERROR\0VERROR\0CXX000\0Mx\0\0").repeat(1000)),
        ("columns", |_| message(b'T', &[&b"\xff\xff"[..], &[0; 19 * 65_535]].concat())),
        ("notifications", |_| message(b'A', b"\0\0\0\x01channel\0payload\0").repeat(1000)),
        ("requests for data", |_| message(b'G', b"\0\0\0").repeat(1000)),
    ];
    for (what, next) in floods {
        ring.impostor.be_honest();
        let reading = ring.bad.connect().await;
        let deaf = crate::raw::Client::logged_in(&ring.bad).await;
        let before = ring.memory();
        ring.impostor.turn(Whose::Clients, move |visitor| flood(visitor, next));
        ring.stands(before, what).await;
        drop((reading, deaf));
        let admin = ring.freehold.admin().await;
        until("both have ended", || async { admin.run("SHOW CLIENTS").await.is_empty() }).await;
    }
}

/// A driver could answer with its password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_login_in_the_middle_of_a_session_go_to_no_client() {
    let ring = Ring::set().await;
    let of_a_login: [(u8, &'static [u8]); 5] = [
        (b'R', &[0, 0, 0, 3]),
        (b'R', &[0, 0, 0, 5, 1, 2, 3, 4]),
        (b'R', &[0, 0, 0, 0]),
        (b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        (b'v', &[0, 3, 0, 2, 0, 0, 0, 0]),
    ];
    for (tag, body) in of_a_login {
        ring.impostor.be_honest();
        let mut client = crate::raw::Client::logged_in(&ring.bad).await;
        ring.impostor.turn(Whose::Clients, move |visitor| {
            use std::io::Write;
            let _ = visitor.write_all(&message(tag, body));
        });
        assert_eq!(client.outcome().await, "XX000", "{} {body:?}", char::from(tag));
    }
    ring.others_are_served("afterwards").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_connection_that_is_flooded_while_nobody_has_it_harms_nobody() {
    let ring = Ring::set().await;
    let admin = ring.freehold.admin().await;
    admin.run("ALTER DATABASE bad POOLING transaction POOL_SIZE 2").await;
    let floods: Vec<(&str, Next)> = vec![
        ("notices", |_| notice(&"x".repeat(60_000))),
        ("parameters", |number| parameter(&format!("name_{number}"), &"x".repeat(60_000))),
        ("ready", |_| message(b'Z', b"I").repeat(10_000)),
    ];
    for (what, next) in floods {
        ring.impostor.be_honest();
        let client = ring.bad.connect().await;
        until("it is served", || async { client.simple_query("SELECT 1").await.is_ok() }).await;
        let before = ring.memory();
        ring.impostor.turn(Whose::Clients, move |visitor| flood(visitor, next));
        // The impostor turns within a few milliseconds; a query that comes before that is answered.
        let asking = tokio::spawn(async move { while client.simple_query("SELECT 1").await.is_ok() {} });
        ring.stands(before, what).await;
        asking.abort();
    }
}

/// PgBouncer's was a pointer to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2026_6666_an_error_of_a_server_without_a_sqlstate_is_an_internal_one() {
    let ring = Ring::set().await;
    for fields in ["SFATAL\0Mno code\0\0", "M\0\0", "SFATAL\0VFATAL\0C\0Mempty code\0\0", "Cxx\0\0", "\0"] {
        ring.impostor.instead(Whose::Clients, move |visitor| {
            use std::io::Write;
            let _ = visitor.write_all(&message(b'E', fields.as_bytes()));
        });
        let told = told(&ring.bad, fields).await;
        assert!(told.len() == 5, "{fields:?}: {told}");
        ring.impostor.be_honest();
        let mut client = crate::raw::Client::logged_in(&ring.bad).await;
        ring.impostor.turn(Whose::Clients, move |visitor| {
            use std::io::Write;
            let _ = visitor.write_all(&message(b'E', fields.as_bytes()));
        });
        assert_ne!(client.outcome().await, "", "{fields:?}");
    }
    ring.others_are_served("afterwards").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_that_a_server_answers_without_an_end_ends() {
    let ring = Ring::set().await;
    let mut client = crate::raw::Client::logged_in(&ring.bad).await;
    let (pid, key) = (client.pid, client.key.clone());
    let waiting = tokio::spawn(async move { client.ask("SELECT pg_sleep(600)").await });
    let before = ring.memory();
    ring.impostor.instead(Whose::Clients, |visitor| flood(visitor, |_| vec![b'x'; 65_536]));
    for _ in 0..20 {
        let mut packet = bytes::BytesMut::new();
        freehold::wire::startup::cancel_request(&mut packet, pid, &key);
        crate::raw::Client::at(ring.bad.port).await.send(&packet).await;
    }
    ring.stands(before, "answers to cancel requests").await;
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_deceives_the_platform_itself_holds_up_nothing_else() {
    let ring = Ring::set().await;
    let before = ring.memory();
    let salt = "c2FsdA==";
    type Deceit = Box<dyn Fn(&mut TcpStream) + Send + Sync>;
    let rounds = move |nonce: &str| format!("r={nonce}x,s={salt},i=4294967295");
    let logins: Vec<(&str, Deceit)> = vec![
        ("rounds for an hour", Box::new(move |visitor| challenge(visitor, rounds))),
        (
            "a message without an end",
            Box::new(|visitor| {
                use std::io::Write;
                let _ = visitor.write_all(b"N\x7f\xff\xff\xff");
                flood(visitor, |_| vec![b'x'; 65_536]);
            }),
        ),
        ("notices before the login", Box::new(|visitor| flood(visitor, |_| notice(&"x".repeat(60_000))))),
        ("silence", Box::new(wait)),
    ];
    for (what, script) in logins {
        ring.impostor.instead(Whose::Platform, script);
        let port = ring.impostor.port;
        let connecting = connect_as_platform(&ring, port);
        ring.stands(before, what).await;
        connecting.abort();
    }
    let floods: Vec<(&str, Next)> = vec![
        ("parameters", |number| parameter(&format!("n{number}"), &"x".repeat(60_000))),
        ("notices", |_| notice(&"x".repeat(60_000))),
        ("rows", |_| message(b'D', b"\0\x01\0\0\0\x01x").repeat(1000)),
        ("a row without an end", |number| match number {
            0 => b"D\x7f\xff\xff\xff".to_vec(),
            _ => vec![b'x'; 65_536],
        }),
    ];
    for (what, next) in floods {
        ring.impostor.be_honest();
        until("the platform is served again", || async {
            let admin = ring.freehold.admin().await;
            admin.try_run("ALTER SYSTEM two UNCORDON").await.is_ok()
                && told(&ring.bad, "afterwards").await == "came in"
        })
        .await;
        ring.impostor.turn(Whose::Platform, move |visitor| flood(visitor, next));
        let connecting = connect_as_platform(&ring, ring.impostor.port);
        ring.stands(before, what).await;
        connecting.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_keeps_no_other_servers_roles_from_being_read() {
    let ring = Ring::set().await;
    ring.impostor.turn(Whose::Platform, wait);
    let [honest, _] = &ring.servers;
    for password in ["one", "two"] {
        honest.psql(&format!("ALTER ROLE {} PASSWORD '{password}'", ring.shop.role)).unwrap();
        let changed = Instant::now();
        let login = Login { password: password.to_owned(), ..ring.shop.clone() };
        until("the new password is known", || async { login.try_connect().await.is_ok() }).await;
        assert!(changed.elapsed() < Duration::from_secs(3), "{:?}", changed.elapsed());
    }
}

/// An administrator names the system again and again, so that it is connected to.
fn connect_as_platform(ring: &Ring, port: u16) -> tokio::task::JoinHandle<()> {
    let login = Login { port: ring.freehold.admin_port, ..ring.shop.clone() };
    tokio::spawn(async move {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(login.port).dbname("freehold");
        config.user(crate::support::ADMIN).password(crate::support::ADMIN_PASSWORD);
        loop {
            let Ok((client, connection)) = config.connect(tokio_postgres::NoTls).await else { continue };
            let driver = tokio::spawn(connection);
            let alter = format!("ALTER SYSTEM two PORT {port}");
            let _ = client.simple_query(&alter).await;
            driver.abort();
        }
    })
}
