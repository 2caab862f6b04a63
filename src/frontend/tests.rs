use std::collections::HashMap;

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::auth::scram::{ClientLogin, Nonce, Offer, Verifier};
use crate::error::SqlState;
use crate::model::{
    Address, DatabaseId, DatabaseName, Login, Place, RoleName, RouteRecord, Service, SslMode, SystemName,
    UnixMillis,
};
use crate::wire::message::Header;
use crate::wire::message::backend::{Authentication, ErrorFields, parse_authentication, tag};
use crate::wire::message::frontend as ask;
use crate::wire::startup;

pub(super) const PASSWORD: &str = "open sesame";

fn record(service: Service) -> RouteRecord {
    let mut record = RouteRecord::first(
        DatabaseId::parse("db_1").unwrap(),
        DatabaseName::parse("shop").unwrap(),
        Place {
            system: SystemName::parse("one").unwrap(),
            address: Address { host: "127.0.0.1".to_owned(), port: 1 },
            dbname: "shop".to_owned(),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        },
        10,
    );
    record.terms.service = service;
    record
}

fn role(name: &str, verifier: Option<String>) -> Login {
    Login {
        role: RoleName::parse(name).unwrap(),
        verifier,
        can_login: true,
        can_connect: true,
        superuser: false,
        valid_until: None,
        groups: Vec::new(),
    }
}

pub(super) fn frontend_with(service: Service) -> Frontend {
    let routes = RouteTable::new(1);
    let route = routes.install(record(service));
    let verifier = Verifier::from_password(PASSWORD, &[7; 16], 4096.try_into().unwrap()).to_string();
    let logins = [
        role("app", Some(verifier.clone())),
        role("old", Some("md55e87d63541cc6aa9db2f7201171d13c0".to_owned())),
        role("bare", None),
        Login { can_login: false, ..role("group", Some(verifier.clone())) },
        Login { can_connect: false, ..role("revoked", Some(verifier.clone())) },
        Login { valid_until: Some(UnixMillis(1)), ..role("expired", Some(verifier)) },
    ];
    let by_role: HashMap<_, _> =
        logins.into_iter().map(|login| (login.role.to_string(), Arc::new(login))).collect();
    routes.set_logins(route.id(), by_role);
    Frontend {
        routes,
        acceptor: None,
        encryption: Encryption::Optional,
        login_time_max: Duration::from_secs(20),
        mock: MockSecret::from_random([3; 32]),
        access: Arc::default(),
    }
}

/// A client's socket, while the frontend receives the other end of it.
pub(super) struct TestClient {
    tcp: TcpStream,
    inbox: BytesMut,
    receiving: tokio::task::JoinHandle<Result<Incoming, FrontendError>>,
}

impl TestClient {
    pub(super) async fn at(frontend: Frontend) -> TestClient {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, address) = listener.accept().await.unwrap();
        let receiving = tokio::spawn(async move {
            let mut received = frontend.receive(accepted.into(), Peer::tcp(address)).await;
            if let Ok(Incoming::Client(client)) = &mut received {
                // As the session does, which sends it with its own messages.
                client.stream.write_all_buf(&mut client.unsent).await.unwrap();
            }
            received
        });
        TestClient { tcp, inbox: BytesMut::new(), receiving }
    }

    pub(super) async fn send(&mut self, build: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        build(&mut out);
        self.tcp.write_all(&out).await.unwrap();
    }

    pub(super) async fn startup(&mut self, role: &str, database: &str) {
        self.send(|out| startup::startup_message(out, 0, [("user", role), ("database", database)])).await;
    }

    /// The next message; `None` at the end of the stream.
    async fn message(&mut self) -> Option<(u8, BytesMut)> {
        loop {
            if let Some(header) = Header::parse(&self.inbox, 1 << 20).unwrap()
                && self.inbox.len() >= header.message_bytes()
            {
                let body = self.inbox.split_to(header.message_bytes()).split_off(5);
                return Some((header.tag, body));
            }
            if self.tcp.read_buf(&mut self.inbox).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// Logs in like libpq. Returns the tags received, and the error if it ended with one.
    pub(super) async fn login(&mut self, password: &str) -> (String, Option<ErrorFields>) {
        let mut tags = String::new();
        let mut started = None;
        let mut challenged = None;
        while let Some((tag, body)) = self.message().await {
            tags.push(char::from(tag));
            match tag {
                tag::ERROR_RESPONSE => return (tags, Some(ErrorFields::parse(&body).unwrap())),
                tag::AUTHENTICATION => {}
                _ => continue,
            }
            match parse_authentication(&body).unwrap() {
                Authentication::Sasl(_) => {
                    let nonce = Nonce::from_random([9; 18]);
                    let login = ClientLogin::start(&["SCRAM-SHA-256"], &Offer::Plain, &nonce).unwrap();
                    let (mechanism, first) = (login.mechanism, login.message);
                    started = Some(login.next);
                    self.send(|out| ask::sasl_initial_response(out, mechanism, first.as_bytes())).await;
                }
                Authentication::SaslContinue(challenge) => {
                    let challenge = started.take().unwrap().challenge(challenge).unwrap();
                    let keys = challenge.derivation().unwrap().keys(password);
                    let (proof, next) = challenge.answer(&keys);
                    challenged = Some(next);
                    self.send(|out| ask::sasl_response(out, proof.as_bytes())).await;
                }
                Authentication::SaslFinal(outcome) => challenged.take().unwrap().finish(outcome).unwrap(),
                Authentication::CleartextPassword => {
                    self.send(|out| ask::password(out, password.as_bytes())).await
                }
                Authentication::Md5Password { salt } => {
                    let answer = crate::auth::md5::answer("old", password, salt);
                    self.send(|out| ask::password(out, answer.as_bytes())).await;
                }
                Authentication::Ok => return (tags, None),
                other => panic!("unexpected {other:?}"),
            }
        }
        (tags, None)
    }

    /// The salt and iterations in the challenge for the role.
    async fn salt(&mut self) -> String {
        self.message().await.unwrap();
        self.send(|out| ask::sasl_initial_response(out, "SCRAM-SHA-256", b"n,,n=,r=abc")).await;
        let (_, body) = self.message().await.unwrap();
        let challenge = String::from_utf8_lossy(&body).into_owned();
        challenge.split_once(",s=").unwrap().1.to_owned()
    }

    pub(super) async fn received(self) -> Result<Incoming, FrontendError> {
        drop(self.tcp);
        self.receiving.await.unwrap()
    }
}

#[tokio::test]
async fn a_client_with_the_right_password_is_admitted_and_its_keys_are_learned() {
    let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
    client_end.startup("app", "shop").await;
    let (tags, error) = client_end.login(PASSWORD).await;
    assert_eq!((tags.as_str(), error), ("RRRR", None));
    let Ok(Incoming::Client(client)) = client_end.received().await else { panic!("not a client") };
    assert_eq!((client.role.as_str(), client.route.id().as_str()), ("app", "db_1"));
}

#[tokio::test]
async fn a_wrong_password_an_unknown_role_and_an_unknown_database_take_the_same_messages() {
    let cases = [
        ("app", "shop", SqlState::INVALID_PASSWORD),
        ("nobody", "shop", SqlState::INVALID_PASSWORD),
        ("bare", "shop", SqlState::INVALID_PASSWORD),
        ("expired", "shop", SqlState::INVALID_PASSWORD),
        ("old", "shop", SqlState::INVALID_PASSWORD),
        ("app", "nowhere", SqlState::INVALID_PASSWORD),
        ("nobody", "nowhere", SqlState::INVALID_PASSWORD),
        ("expired", "nowhere", SqlState::INVALID_PASSWORD),
    ];
    for (role, database, sqlstate) in cases {
        let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
        client_end.startup(role, database).await;
        let (tags, error) = client_end.login("wrong").await;
        assert_eq!((tags.as_str(), error.unwrap().sqlstate()), ("RRE", sqlstate), "{role} {database}");
        assert!(client_end.received().await.is_err());
    }
}

#[tokio::test]
async fn who_proves_to_be_a_role_of_another_database_is_told_that_there_is_no_such_database() {
    for (role, sqlstate) in [
        ("app", SqlState::INVALID_CATALOG_NAME),
        ("nobody", SqlState::INVALID_PASSWORD),
        ("expired", SqlState::INVALID_PASSWORD),
    ] {
        let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
        client_end.startup(role, "nowhere").await;
        assert_eq!(client_end.login(PASSWORD).await.1.unwrap().sqlstate(), sqlstate, "{role}");
    }
}

/// With database `till`, in which no role can log in, beside `shop`.
fn with_another_database() -> Frontend {
    let frontend = frontend_with(Service::Serving);
    frontend.routes.install(RouteRecord {
        database: DatabaseId::parse("db_2").unwrap(),
        name: DatabaseName::parse("till").unwrap(),
        ..record(Service::Serving)
    });
    frontend
}

#[tokio::test]
async fn a_salt_tells_neither_whether_there_is_a_role_nor_a_database() {
    for role in ["app", "nobody", "bare", "expired"] {
        let mut salts = std::collections::HashSet::new();
        for database in ["shop", "till", "nowhere"] {
            let mut client_end = TestClient::at(with_another_database()).await;
            client_end.startup(role, database).await;
            salts.insert(client_end.salt().await);
        }
        assert_eq!(salts.len(), 1, "{role}: {salts:?}");
    }
}

#[tokio::test]
async fn a_password_that_is_right_elsewhere_opens_no_other_database() {
    let mut client_end = TestClient::at(with_another_database()).await;
    client_end.startup("app", "till").await;
    let (tags, error) = client_end.login(PASSWORD).await;
    assert_eq!((tags.as_str(), error.unwrap().sqlstate()), ("RRE", SqlState::INVALID_PASSWORD));
}

#[tokio::test]
async fn the_right_password_does_not_help_where_the_role_is_expired_or_may_not_log_in() {
    for (role, sqlstate) in [
        ("expired", SqlState::INVALID_PASSWORD),
        ("group", SqlState::INVALID_AUTHORIZATION),
        ("revoked", SqlState::INSUFFICIENT_PRIVILEGE),
    ] {
        let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
        client_end.startup(role, "shop").await;
        assert_eq!(client_end.login(PASSWORD).await.1.unwrap().sqlstate(), sqlstate);
    }
}

#[tokio::test]
async fn a_role_with_an_md5_password_is_told_no_more_than_a_role_that_does_not_exist() {
    let mut told = Vec::new();
    for role in ["old", "nobody_here"] {
        let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
        client_end.startup(role, "shop").await;
        let error = client_end.login(PASSWORD).await.1.unwrap();
        told.push(format!("{error:?}").replace(role, "?"));
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn a_refused_database_says_why_only_to_those_who_have_proved_who_they_are() {
    let refused = || Service::Refused {
        sqlstate: "57P03".to_owned(),
        message: "database \"shop\" is quarantined".to_owned(),
        detail: None,
        hint: "Ask its owner.".to_owned(),
    };
    for (password, sqlstate) in
        [(PASSWORD, SqlState::CANNOT_CONNECT_NOW), ("wrong", SqlState::INVALID_PASSWORD)]
    {
        let mut client_end = TestClient::at(frontend_with(refused())).await;
        client_end.startup("app", "shop").await;
        assert_eq!(client_end.login(password).await.1.unwrap().sqlstate(), sqlstate);
    }
}

#[tokio::test]
async fn a_deprecated_database_warns_at_the_login() {
    let warning = Service::Warning {
        sqlstate: "01P01".to_owned(),
        message: "database \"shop\" goes away".to_owned(),
        detail: None,
        hint: "Move on.".to_owned(),
    };
    let mut client_end = TestClient::at(frontend_with(warning)).await;
    client_end.startup("app", "shop").await;
    assert_eq!(client_end.login(PASSWORD).await.1, None);
    let (tag, body) = client_end.message().await.unwrap();
    assert_eq!(tag, tag::NOTICE_RESPONSE);
    assert_eq!(ErrorFields::parse(&body).unwrap().sqlstate(), SqlState::DEPRECATED_FEATURE);
}

#[tokio::test]
async fn the_name_of_the_admin_database_is_refused_with_a_hint() {
    let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
    client_end.startup("app", "freehold").await;
    let (tags, error) = client_end.login(PASSWORD).await;
    assert_eq!(tags, "E");
    assert!(error.unwrap().hint().unwrap().contains("admin port"));
}

#[tokio::test]
async fn encryption_requests_are_answered_once_each_in_any_order() {
    let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
    for request in [startup::gssenc_request as fn(&mut BytesMut), startup::ssl_request] {
        client_end.send(request).await;
        assert_eq!(client_end.tcp.read_u8().await.unwrap(), b'N');
    }
    client_end.startup("app", "shop").await;
    assert_eq!(client_end.login(PASSWORD).await.0, "RRRR");

    let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
    client_end.send(startup::ssl_request).await;
    assert_eq!(client_end.tcp.read_u8().await.unwrap(), b'N');
    client_end.send(startup::ssl_request).await;
    assert_eq!(client_end.login(PASSWORD).await.1.unwrap().sqlstate(), SqlState::PROTOCOL_VIOLATION);
}

#[tokio::test]
async fn bytes_that_follow_a_request_for_encryption_unasked_end_the_connection() {
    let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
    client_end
        .send(|out| {
            startup::ssl_request(out);
            startup::startup_message(out, 0, [("user", "app"), ("database", "shop")]);
        })
        .await;
    assert_eq!(client_end.login(PASSWORD).await.1.unwrap().sqlstate(), SqlState::PROTOCOL_VIOLATION);
}

#[tokio::test]
async fn what_is_no_startup_packet_is_closed_without_a_word() {
    // node-postgres sends Terminate if it is told to close before its startup packet.
    for opening in [ask::terminate as fn(&mut BytesMut), |out| out.put_slice(b"GET / HTTP/1.1\r\n\r\n")] {
        let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
        client_end.send(opening).await;
        assert_eq!(client_end.message().await, None);
    }
}

#[tokio::test]
async fn a_client_without_tls_is_refused_where_tls_is_required() {
    let frontend = Frontend { encryption: Encryption::Required, ..frontend_with(Service::Serving) };
    let mut client_end = TestClient::at(frontend).await;
    client_end.startup("app", "shop").await;
    assert_eq!(client_end.login(PASSWORD).await.1.unwrap().sqlstate(), SqlState::INVALID_AUTHORIZATION);
}

#[tokio::test]
async fn a_cancel_request_is_handed_on() {
    let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
    client_end.send(|out| startup::cancel_request(out, 42, &[1, 2, 3, 4])).await;
    let Ok(Incoming::Cancel { request, .. }) = client_end.received().await else {
        panic!("not a cancel request")
    };
    assert_eq!((request.pid, &request.key[..]), (42, &[1, 2, 3, 4][..]));
}

#[tokio::test]
async fn a_newer_protocol_is_negotiated_down_once() {
    let mut client_end = TestClient::at(frontend_with(Service::Serving)).await;
    client_end
        .send(|out| {
            startup::startup_message(out, 9999, [("user", "app"), ("database", "shop"), ("_pq_.test", "1")]);
        })
        .await;
    assert_eq!(client_end.login(PASSWORD).await.0, "vRRRR");
}

#[tokio::test]
async fn a_visitor_who_says_nothing_is_dropped_in_time() {
    let frontend = Frontend { login_time_max: Duration::from_millis(50), ..frontend_with(Service::Serving) };
    let mut client_end = TestClient::at(frontend).await;
    client_end.send(|out| out.put_slice(&[0, 0])).await;
    assert_eq!(client_end.message().await.map(|(tag, _)| tag), Some(tag::ERROR_RESPONSE));
    assert!(matches!(client_end.receiving.await.unwrap(), Err(FrontendError::TooSlow)));
}
