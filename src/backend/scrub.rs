//! Removes addresses from a server's messages before a client reads them.
//!
//! # Why
//! A client needs `no pg_hba.conf entry for host "10.0.3.7", user ...` without the 10.0.3.7: it is the
//! proxy's address as the server sees it, and clients must not learn internal addresses of the platform.

use std::net::IpAddr;

use crate::model::Address;
use crate::wire::message::backend::ErrorFields;

const PLACEHOLDER: &str = "...";

/// Replaces every IP address, and the host name of the server.
pub(super) fn addresses(fields: &mut ErrorFields, address: &Address) {
    fields.map_text(|text| hide(text, &address.host));
}

fn hide(text: &str, host: &str) -> String {
    // Contains the host name that the server resolved for the proxy.
    if text.starts_with("Client IP address resolved to") {
        return PLACEHOLDER.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(belongs_to_word) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !belongs_to_word(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        out.push_str(&hide_word(word, host));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Characters of host names, addresses and socket directories.
fn belongs_to_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '/' | '%')
}

fn hide_word(word: &str, host: &str) -> String {
    let bare = word.trim_end_matches(['.', ':']);
    let tail = &word[bare.len()..];
    // A host name of a single label could also be the name of a role or a database.
    let names_host = host.contains(['.', ':', '/']) && bare.eq_ignore_ascii_case(host);
    match is_address(bare) || names_host {
        true => format!("{PLACEHOLDER}{tail}"),
        false => word.to_owned(),
    }
}

/// `10.0.0.7`, `fe80::1%eth0`, `10.0.0.7:5432`, `10.0.0.0/8`
fn is_address(word: &str) -> bool {
    let plain = word.split(['%', '/']).next().unwrap_or_default();
    let without_port = plain.rsplit_once(':').map_or(plain, |(head, _)| head);
    [plain, without_port].iter().any(|text| text.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hidden_and_everything_else_stays() {
        let hidden = |text: &str| hide(text, "db7.internal.example");
        assert_eq!(
            hidden(r#"no pg_hba.conf entry for host "10.0.3.7", user "ann", database "shop", no encryption"#),
            r#"no pg_hba.conf entry for host "...", user "ann", database "shop", no encryption"#
        );
        assert_eq!(hidden("from fe80::1%eth0: 10.0.0.7:5432, 10.0.0.0/8"), "from ...: ..., ...");
        assert_eq!(hidden("Is db7.internal.example."), "Is ....");
        assert_eq!(hidden("Client IP address resolved to \"x\"."), "...");
        for text in ["", "type text: 1.5", "role \"ann\" does not exist", "at 12:30:05", "größer/als::text"]
        {
            assert_eq!(hidden(text), text);
        }
    }

    #[test]
    fn a_host_name_of_one_label_is_left_alone() {
        assert_eq!(hide("database \"db\" does not exist", "db"), "database \"db\" does not exist");
    }
}
