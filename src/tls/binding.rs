//! The hash of a certificate that SCRAM-SHA-256-PLUS binds a login to.

use bytes::Bytes;
use ring::digest;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// `tls-server-end-point`: the certificate, hashed by the hash function of its own signature; MD5 and SHA-1
/// are replaced by SHA-256. `None` if the signature has no single hash function (Ed25519): then there is no
/// channel binding.
///
/// Source: RFC 5929, section 4.1; `X509_get_signature_info` as PostgreSQL uses it.
pub fn server_end_point(certificate: &[u8]) -> Option<Bytes> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let algorithm = match SignatureAlgorithm::try_from(&parsed.signature_algorithm).ok()? {
        SignatureAlgorithm::RSASSA_PSS(parameters) => {
            hash_of_digest(&parameters.hash_algorithm_oid().to_id_string())?
        }
        _ => hash_of_signature(&parsed.signature_algorithm.algorithm.to_id_string())?,
    };
    Some(Bytes::copy_from_slice(digest::digest(algorithm, certificate).as_ref()))
}

fn hash_of_signature(oid: &str) -> Option<&'static digest::Algorithm> {
    match oid {
        // md5, sha1 and sha256 with RSA; ECDSA with SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => Some(&digest::SHA256),
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => Some(&digest::SHA256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(&digest::SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(&digest::SHA512),
        _ => None,
    }
}

fn hash_of_digest(oid: &str) -> Option<&'static digest::Algorithm> {
    match oid {
        // md5, sha1, sha256
        "1.2.840.113549.2.5" | "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(&digest::SHA256),
        "2.16.840.1.101.3.4.2.2" => Some(&digest::SHA384),
        "2.16.840.1.101.3.4.2.3" => Some(&digest::SHA512),
        _ => None,
    }
}
