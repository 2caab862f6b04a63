//! Verification of a server's certificate.
//!
//! # Why
//! webpki alone refuses two kinds of certificates that PostgreSQL's own manual creates and libpq accepts: a
//! self-signed server certificate that is its own root, and a host name in the common name only. Both are
//! accepted here under the conditions that libpq sets; webpki decides everything else.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

/// What to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VerifyScope {
    /// Nothing: any certificate is accepted.
    Encryption,
    Chain,
    ChainAndName,
}

#[derive(Debug, Clone)]
pub(super) struct ServerVerifier {
    roots: Arc<RootCertStore>,
    /// Certificates that are trusted directly when a server presents one of them.
    exact: Arc<Vec<CertificateDer<'static>>>,
    demand: VerifyScope,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(roots: RootCertStore, exact: Vec<CertificateDer<'static>>) -> ServerVerifier {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        ServerVerifier {
            roots: Arc::new(roots),
            exact: Arc::new(exact),
            demand: VerifyScope::ChainAndName,
            algorithms,
        }
    }

    pub(super) fn demanding(&self, demand: VerifyScope) -> ServerVerifier {
        ServerVerifier { demand, ..self.clone() }
    }

    pub(super) fn trusts_nobody(&self) -> bool {
        self.roots.is_empty()
    }

    fn check_chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.exact.iter().any(|known| known.as_ref() == certificate.as_ref()) {
            return check_period(certificate, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
    }
}

fn check_period(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    let now = ASN1Time::from_timestamp(seconds).map_err(|_| CertificateError::Expired)?;
    match parsed.validity() {
        period if now < period.not_before => Err(CertificateError::NotValidYet.into()),
        period if now > period.not_after => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}

fn check_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let Err(error) = verify_server_name(&parsed, name) else {
        return Ok(());
    };
    match name {
        ServerName::DnsName(host) if common_name_matches(certificate, host.as_ref()) => Ok(()),
        _ => Err(error),
    }
}

/// libpq uses the common name only if the certificate has no other host name.
fn common_name_matches(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let names_hosts = match parsed.subject_alternative_name() {
        Ok(None) => false,
        Ok(Some(names)) => names
            .value
            .general_names
            .iter()
            .any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_))),
        Err(_) => true,
    };
    if names_hosts {
        return false;
    }
    let common_name = parsed.subject().iter_common_name().last();
    common_name.and_then(|name| name.as_str().ok()).is_some_and(|pattern| host_matches(pattern, host))
}

/// A `*` matches exactly one label, the first one, as in libpq.
fn host_matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return !pattern.is_empty();
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(parent), Some((label, rest))) => {
            !label.is_empty() && parent.contains('.') && parent.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.demand != VerifyScope::Encryption {
            self.check_chain(end_entity, intermediates, now)?;
        }
        if self.demand == VerifyScope::ChainAndName {
            check_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label_and_never_for_a_whole_domain() {
        assert!(host_matches("db.example.com", "DB.example.com"));
        assert!(host_matches("*.example.com", "db.example.com"));
        assert!(!host_matches("*.example.com", "a.db.example.com"));
        assert!(!host_matches("*.example.com", "example.com"));
        assert!(!host_matches("*.com", "example.com"));
        assert!(!host_matches("", ""));
    }
}
