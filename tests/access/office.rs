//! An authority, and certificates that it signs.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// A directory of PEM files.
pub(crate) struct Office {
    directory: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Office {
    /// `ca.crt`, and `server.crt` with its key for 127.0.0.1.
    pub(crate) fn open() -> Office {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        std::fs::write(directory.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let office = Office { directory, ca: Issuer::new(params, key) };
        office.issue("server", "server", &["127.0.0.1", "localhost"]);
        office
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `<file>.crt` and `<file>.key`.
    pub(crate) fn issue(&self, file: &str, common_name: &str, names: &[&str]) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(serial(file));
        let key = KeyPair::generate().unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), params.signed_by(&key, &self.ca).unwrap().pem())
            .unwrap();
        let path = self.path(&format!("{file}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        // libpq refuses a key that others can read.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes `clients.crl`: certificates that hold no longer, until a year.
    pub(crate) fn revoke(&self, files: &[&str], until: i32) {
        let revoked = |file: &&str| RevokedCertParams {
            serial_number: serial(file),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: files.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        std::fs::write(self.path("clients.crl"), list.signed_by(&self.ca).unwrap().pem().unwrap()).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Lines of `[proxy]`: TLS, and client certificates of this office.
    pub(crate) fn proxy_section(&self) -> String {
        format!(
            "tls_cert = {:?}\ntls_key = {:?}\ntls_client_ca = {:?}\n",
            self.path("server.crt"),
            self.path("server.key"),
            self.path("ca.crt")
        )
    }

    /// For psql: the certificate of a client.
    pub(crate) fn shown(&self, file: &str) -> String {
        format!(
            "sslmode=require sslcert={} sslkey={}",
            self.path(&format!("{file}.crt")).display(),
            self.path(&format!("{file}.key")).display()
        )
    }
}

fn serial(file: &str) -> SerialNumber {
    SerialNumber::from_slice(file.as_bytes())
}
