//! Errors in the client's words: names of statements as the client gave them.

use std::rc::Rc;

use bytes::{BufMut, BytesMut};

use super::{NOT_OURS, PREFIX};
use crate::wire::message::HEADER_BYTES;

/// Hexadecimal digits of a key in a statement's name.
const KEY_DIGITS: usize = 32;

/// The fields that say where in its source code the server made the error: left out if there is no room.
const SOURCE_FIELDS: [u8; 3] = [b'F', b'L', b'R'];

/// An ErrorResponse with the client's names of statements in place of Freehold's; no longer than it was.
/// `None`: it has none of those. `name_of` gives the client's name of the statement with this key.
pub(super) fn with_client_names(
    message: &[u8],
    name_of: impl Fn(u128) -> Option<Rc<[u8]>>,
) -> Option<BytesMut> {
    memchr::memmem::find(message, PREFIX.as_bytes())?;
    let body = message.get(HEADER_BYTES..)?;
    let fields = || body.split(|&byte| byte == 0).filter(|field| !field.is_empty());
    let no_name = |key| name_of(key).map(|_| Rc::from(&b""[..]));
    let is_of_source = |field: &&[u8]| SOURCE_FIELDS.contains(&field[0]);
    let fits = |rewritten: &BytesMut| rewritten.len() <= message.len();
    let whole = built(message[0], fields(), &name_of);
    let whole = if fits(&whole) {
        whole
    } else {
        built(message[0], fields().filter(|field| !is_of_source(field)), &name_of)
    };
    Some(if fits(&whole) { whole } else { built(message[0], fields(), &no_name) })
}

fn built<'f>(
    tag: u8,
    fields: impl Iterator<Item = &'f [u8]>,
    name_of: &dyn Fn(u128) -> Option<Rc<[u8]>>,
) -> BytesMut {
    let mut body = BytesMut::new();
    for field in fields {
        replace(&mut body, field, name_of);
        body.put_u8(0);
    }
    body.put_u8(0);
    let mut message = BytesMut::with_capacity(HEADER_BYTES + body.len());
    message.put_u8(tag);
    message.put_i32(i32::try_from(body.len() + 4).unwrap_or(i32::MAX));
    message.put_slice(&body);
    message
}

fn replace(out: &mut BytesMut, field: &[u8], name_of: &dyn Fn(u128) -> Option<Rc<[u8]>>) {
    let mut rest = field;
    while let Some(at) = memchr::memmem::find(rest, PREFIX.as_bytes()) {
        let (before, found) = rest.split_at(at);
        rest = &found[PREFIX.len()..];
        if let Some(before) = before.strip_suffix(NOT_OURS) {
            // A name of the client's own that begins like ours.
            out.put_slice(before);
            out.put_slice(PREFIX.as_bytes());
            continue;
        }
        out.put_slice(before);
        match rest.get(..KEY_DIGITS).and_then(key_of).and_then(name_of) {
            Some(name) => {
                out.put_slice(&name);
                rest = &rest[KEY_DIGITS..];
            }
            None => out.put_slice(PREFIX.as_bytes()),
        }
    }
    out.put_slice(rest);
}

fn key_of(digits: &[u8]) -> Option<u128> {
    u128::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(fields: &[&str]) -> Vec<u8> {
        let body = [fields.join("\0").as_bytes(), b"\0\0"].concat();
        [&b"E"[..], &(body.len() as i32 + 4).to_be_bytes(), &body].concat()
    }

    fn rewritten(fields: &[&str], name: &str) -> Option<BytesMut> {
        with_client_names(&error(fields), |key| (key == 7).then(|| Rc::from(name.as_bytes())))
    }

    #[test]
    fn a_name_of_ours_becomes_the_clients_and_the_message_never_longer() {
        let ours = format!("Mstatement \"freehold_{:032x}\" is not \"freehold_{:032x}\"", 7, 8);
        let named = |name: &str| format!("Mstatement \"{name}\" is not \"freehold_{:032x}\"", 8);
        let source = ["C26000", &ours, "Fprepare.c", "L434", "RFetchPreparedStatement"];
        assert_eq!(rewritten(&["C42601", "Mselect freehold"], "s1"), None);
        assert_eq!(
            rewritten(&source, "s1").unwrap(),
            error(&["C26000", &named("s1"), "Fprepare.c", "L434", "RFetchPreparedStatement"])
        );
        let longer = "s".repeat(60);
        assert_eq!(rewritten(&source, &longer).unwrap(), error(&["C26000", &named(&longer)]));
        let longest = "s".repeat(600);
        assert_eq!(rewritten(&source[..2], &longest).unwrap(), error(&["C26000", &named("")]));
    }

    #[test]
    fn a_clients_own_name_that_begins_like_ours_is_left_to_it() {
        let fields = ["C26000", "Mprepared statement \"client's freehold_x\" does not exist"];
        let expected = ["C26000", "Mprepared statement \"freehold_x\" does not exist"];
        assert_eq!(rewritten(&fields, "s1").unwrap(), error(&expected));
    }
}
