//! An authority, and certificates that it signs.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

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
        let key = KeyPair::generate().unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), params.signed_by(&key, &self.ca).unwrap().pem())
            .unwrap();
        let path = self.path(&format!("{file}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        // libpq refuses a key that others can read.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
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
