//! TLS towards servers whose certificate is not what it should be.

use freehold::lab::{Major, Postgres};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::impostor::Impostor;
use crate::stage::{Stage, refused};
use crate::support::until;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM.
struct Shown {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// For this name, valid until the beginning of a year.
    fn certify(&self, name: &str, until: i32) -> Shown {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        // The name of the subject is nobody's business since there are alternative names.
        params.distinguished_name.push(DnType::CommonName, "127.0.0.1");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Shown { certificate, key: key.serialize_pem() }
    }
}

fn self_signed() -> Shown {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    Shown { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// The server shows another certificate from its next connection on.
async fn show(server: &Postgres, shown: &Shown) {
    // The files keep their owner and their rights.
    std::fs::write(server.data_dir.join("server.crt"), &shown.certificate).unwrap();
    std::fs::write(server.data_dir.join("server.key"), &shown.key).unwrap();
    let loaded = "SELECT pg_conf_load_time()";
    let before = server.psql(loaded).unwrap();
    server.psql("SELECT pg_reload_conf()").unwrap();
    until("the server has read it", || async { server.psql(loaded).unwrap() != before }).await;
}

#[tokio::test]
async fn a_server_whose_certificate_is_not_good_is_spoken_to_by_nobody() {
    let (ours, others) = (Authority::new(), Authority::new());
    let good = ours.certify("127.0.0.1", 2100);
    let server = Postgres::builder(Major::oldest())
        .file("server.crt", good.certificate.clone())
        .file("server.key", good.key.clone())
        .setting("ssl", "on")
        .start_async()
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, &ours.pem).unwrap();
    let sections = format!("[server_tls]\nca = {ca:?}\n");
    let stage = Stage::before(server, "", "SSLMODE verify-full", &sections).await;
    let admin = stage.freehold.admin().await;
    let staying = stage.owner.connect().await;
    for (what, shown) in [
        ("another name", ours.certify("db.example.com", 2100)),
        ("a name that ends alike", ours.certify("x127.0.0.1", 2100)),
        ("expired", ours.certify("127.0.0.1", 2021)),
        ("another authority", others.certify("127.0.0.1", 2100)),
        ("nobody's word", self_signed()),
    ] {
        show(&stage.server, &shown).await;
        assert_eq!(refused(&stage.owner).await, "08006", "{what}");
        let again = format!("ALTER SYSTEM one PORT {}", stage.server.port);
        let error = admin.try_run(&again).await.expect_err(what);
        assert!(format!("{error:?}").contains("TLS"), "{what}: {error:?}");
        show(&stage.server, &good).await;
        stage.owner.connect().await;
    }
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE backend_type = 'client backend' AND application_name <> 'psql' AND client_addr IS NOT NULL";
    assert_eq!(stage.server.psql(encrypted).unwrap(), "t", "clients' connections and the platform's");
    staying.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_server_that_declines_tls_hears_nothing_more_where_tls_is_demanded() {
    let stage = Stage::set("").await;
    // It answers N, and passes on whatever comes then.
    let impostor = Impostor::before(stage.server.port);
    let admin = stage.freehold.admin().await;
    for sslmode in ["require", "verify-ca", "verify-full"] {
        let alter = format!("ALTER SYSTEM one PORT {} SSLMODE {sslmode}", impostor.port);
        let error = admin.try_run(&alter).await.expect_err(sslmode);
        assert!(format!("{error:?}").contains("TLS"), "{sslmode}: {error:?}");
    }
    stage.owner.connect().await;
}
