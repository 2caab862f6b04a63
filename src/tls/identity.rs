//! The identity in a verified client certificate.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The names of a certificate that rules can match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Of the subject. `None`: there is none, there are several, or it cannot be a role's name.
    pub common_name: Option<String>,
    /// DNS names, email addresses and URIs.
    pub alternative_names: Vec<String>,
}

impl ClientIdentity {
    /// `certificate` must have been verified: its authority vouches for the names.
    pub fn of(certificate: &[u8]) -> ClientIdentity {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return ClientIdentity::default();
        };
        let mut common_names = parsed.subject().iter_common_name();
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(only), None) => only.as_str().ok().filter(|name| is_plain(name)).map(str::to_owned),
            _ => None,
        };
        let extension = parsed.subject_alternative_name().ok().flatten();
        let names = extension.iter().flat_map(|extension| &extension.value.general_names);
        let alternative_names = names.filter_map(text_of).filter(|name| is_plain(name)).map(str::to_owned);
        ClientIdentity { common_name, alternative_names: alternative_names.collect() }
    }
}

fn text_of<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => Some(text),
        _ => None,
    }
}

/// Some readers end a name at a zero byte and others do not: a certificate for `admin\0.example.com` is not
/// one for `admin` (CVE-2009-4034).
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0')
}
