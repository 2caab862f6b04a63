//! What the login of both planes gives to whom.

use std::time::Duration;

use freehold::auth::md5::Md5Secret;
use freehold::auth::scram::ScramError;
use freehold::backend::{ConnectError, ConnectRequest, Credential, ServerConnection, connect};
use freehold::error::{Blame, Explain};
use freehold::model::{Address, Place, RoleName, ServerAuth, SslMode, SystemName};
use freehold::tls::{Acceptor, ClientCertificates, ClientTls, Connector, Roots, ServerTls};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::impostor::{Asks, Impostor};
use crate::office::Office;

const SECRET: &str = "the platform's own secret";

fn password() -> Credential {
    Credential::Password(Zeroizing::new(SECRET.to_owned()))
}

pub(crate) fn acceptor(office: &Office) -> Acceptor {
    Acceptor::open(ServerTls {
        certificate: office.path("server.crt"),
        key: office.path("server.key"),
        client_certificates: ClientCertificates::Ignored,
    })
    .unwrap()
}

/// Trusts this office alone.
fn trusting(office: &Office) -> Connector {
    Connector::open(ClientTls { roots: Roots::File(office.path("ca.crt")), identity: None }).unwrap()
}

async fn log_in(
    impostor: &Impostor,
    connector: &Connector,
    sslmode: SslMode,
    auth: ServerAuth,
    credential: Credential,
) -> Result<ServerConnection, ConnectError> {
    let place = Place {
        system: SystemName::parse("one").unwrap(),
        address: Address { host: "localhost".into(), port: impostor.port },
        dbname: "postgres".into(),
        sslmode,
        auth,
    };
    let role = RoleName::parse("freehold").unwrap();
    let request = ConnectRequest { place, role, startup: Vec::new(), credential };
    connect(&request, connector, Instant::now() + Duration::from_secs(20)).await
}

#[tokio::test]
async fn who_asks_for_the_password_or_for_md5_hears_nothing() {
    let connector = Connector::native().unwrap();
    let md5 = Credential::Md5(Md5Secret::from_password("freehold", SECRET));
    for (asks, credential) in [(Asks::Cleartext, password()), (Asks::Md5, password()), (Asks::Md5, md5)] {
        // No TLS at all, and the answer N to the request for it.
        for sslmode in [SslMode::Disable, SslMode::Prefer] {
            for auth in [ServerAuth::Scram, ServerAuth::Md5, ServerAuth::Password] {
                let impostor = Impostor::listen(asks, None).await;
                let error =
                    log_in(&impostor, &connector, sslmode, auth, credential.clone()).await.unwrap_err();
                let expected = match auth {
                    ServerAuth::Scram => matches!(error, ConnectError::Withheld { .. }),
                    _ => matches!(error, ConnectError::Unverified { .. }),
                };
                assert!(expected, "{asks:?} {auth:?}: {error:?}");
                assert_eq!(error.blame(), Blame::Platform);
                assert!(error.detail().unwrap().contains("The server asks for") && error.hint().is_some());
                assert!(!format!("{error} {error:?}").contains(SECRET));
                assert_eq!(impostor.heard(), [], "{asks:?} {sslmode:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_verified_server_gets_what_it_may_ask_for_and_no_more() {
    let office = Office::open();
    let connector = trusting(&office);
    for (asks, needed) in [(Asks::Cleartext, ServerAuth::Password), (Asks::Md5, ServerAuth::Md5)] {
        for auth in [ServerAuth::Scram, ServerAuth::Md5, ServerAuth::Password] {
            for sslmode in [SslMode::VerifyCa, SslMode::VerifyFull] {
                let impostor = Impostor::listen(asks, Some(acceptor(&office))).await;
                let logged_in = log_in(&impostor, &connector, sslmode, auth, password());
                let outcome = tokio::time::timeout(Duration::from_millis(500), logged_in).await;
                match auth >= needed {
                    // The impostor answers no more.
                    true => assert!(outcome.is_err() && impostor.heard().len() == 1, "{outcome:?}"),
                    false => {
                        assert!(matches!(outcome, Ok(Err(ConnectError::Withheld { .. }))), "{outcome:?}");
                        assert_eq!(impostor.heard(), []);
                    }
                }
                let told = asks == Asks::Cleartext && auth == ServerAuth::Password;
                assert_eq!(impostor.heard_of(SECRET), told);
            }
        }
    }
}

#[tokio::test]
async fn authorities_that_vouch_for_everybody_prove_nobody() {
    // Encrypted, and nothing more: require with the roots of the operating system.
    let office = Office::open();
    let connector = Connector::native().unwrap();
    for asks in [Asks::Cleartext, Asks::Md5] {
        for sslmode in [SslMode::Prefer, SslMode::Require] {
            let impostor = Impostor::listen(asks, Some(acceptor(&office))).await;
            let error =
                log_in(&impostor, &connector, sslmode, ServerAuth::Password, password()).await.unwrap_err();
            assert!(matches!(error, ConnectError::Unverified { .. }), "{error:?}");
            assert_eq!(impostor.heard(), []);
        }
    }
}

#[tokio::test]
async fn a_login_that_should_be_bound_to_the_certificate_is_bound_or_does_not_happen() {
    let office = Office::open();
    let connector = Connector::native().unwrap();
    for asks in [Asks::WrongSignature, Asks::Nothing] {
        let impostor = Impostor::listen(asks, Some(acceptor(&office))).await;
        let error =
            log_in(&impostor, &connector, SslMode::Require, ServerAuth::Scram, password()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unbound { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("server_tls.ca"));
        assert_eq!(impostor.heard(), [], "{asks:?}");
    }
    let impostor = Impostor::listen(Asks::Nothing, Some(acceptor(&office))).await;
    let md5 = Credential::Md5(Md5Secret::from_password("freehold", SECRET));
    let error = log_in(&impostor, &connector, SslMode::Require, ServerAuth::Md5, md5).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unbound { .. }), "{error:?}");
    // Nothing is at hand that could be bound, and nothing is lost.
    let impostor = Impostor::listen(Asks::Nothing, Some(acceptor(&office))).await;
    log_in(&impostor, &connector, SslMode::Require, ServerAuth::Scram, Credential::Trust).await.unwrap();

    // Elsewhere the server hears that it could have been ("y"): a real one that was robbed of its offer
    // refuses that.
    for (sslmode, connector) in [(SslMode::Prefer, connector), (SslMode::VerifyFull, trusting(&office))] {
        let impostor = Impostor::listen(Asks::WrongSignature, Some(acceptor(&office))).await;
        let outcome = log_in(&impostor, &connector, sslmode, ServerAuth::Scram, password()).await;
        assert!(matches!(outcome, Err(ConnectError::Scram { .. })), "{outcome:?}");
        assert!(impostor.heard_of("y,,n=,r="), "{sslmode:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_go_through_with_scram_is_refused() {
    let connector = Connector::native().unwrap();
    for (asks, messages) in [
        (Asks::NothingAmidScram, 1),
        (Asks::NothingAfterTheProof, 2),
        (Asks::WrongSignature, 2),
        (Asks::FinalFirst, 0),
        (Asks::CleartextAmidScram, 1),
        (Asks::OneRound, 1),
    ] {
        let impostor = Impostor::listen(asks, None).await;
        let error =
            log_in(&impostor, &connector, SslMode::Prefer, ServerAuth::Scram, password()).await.unwrap_err();
        let expected = match (asks, &error) {
            (Asks::NothingAmidScram | Asks::NothingAfterTheProof, error) => {
                matches!(error, ConnectError::Unproven { .. })
            }
            (Asks::WrongSignature, ConnectError::Scram { source, .. }) => {
                *source == ScramError::ServerSignature
            }
            (Asks::OneRound, ConnectError::Scram { source, .. }) => *source == ScramError::Iterations(1),
            (Asks::FinalFirst | Asks::CleartextAmidScram, error) => {
                matches!(error, ConnectError::Unexpected { tag: b'R', .. })
            }
            _ => false,
        };
        assert!(expected, "{asks:?}: {error:?}");
        assert_eq!(impostor.heard().len(), messages, "{asks:?}");
        assert!(!impostor.heard_of(SECRET));
    }
}

#[tokio::test]
async fn a_server_that_asks_for_nothing_is_reached_and_told_nothing() {
    let impostor = Impostor::listen(Asks::Nothing, None).await;
    let connector = Connector::native().unwrap();
    for credential in [password(), Credential::Trust] {
        log_in(&impostor, &connector, SslMode::Prefer, ServerAuth::Scram, credential).await.unwrap();
    }
    assert_eq!(impostor.heard(), []);
}
