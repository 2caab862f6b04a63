//! Messages that a client sends.
//!
//! Names and SQL are bytes and not text: a client may use any encoding, and forwarded text is not checked.

use bytes::{BufMut, BytesMut};

use super::{MESSAGE_BYTES_MAX, Target, put, put_count, put_cstr};
use crate::wire::Violation;
use crate::wire::cursor::Cursor;

/// Type bytes.
pub mod tag {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse: the request before it tells which.
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Whether a server accepts a message with this tag once a client is logged in; with any other it ends the
/// connection with an error.
pub fn is_request(tag: u8) -> bool {
    use tag::*;
    matches!(
        tag,
        BIND | CLOSE
            | COPY_DATA
            | COPY_DONE
            | COPY_FAIL
            | DESCRIBE
            | EXECUTE
            | FLUSH
            | FUNCTION_CALL
            | PARSE
            | QUERY
            | SYNC
            | TERMINATE
    )
}

/// The longest body of a message that only contains names: `PQ_SMALL_MESSAGE_LIMIT` of PostgreSQL, which
/// includes the length field.
pub const SMALL_BODY_BYTES_MAX: usize = 10_000 - 4;

/// The longest body of a message in a session. Messages with SQL or data may be as long as PostgreSQL allows;
/// the others contain only names.
pub fn body_bytes_max(tag: u8) -> usize {
    match tag {
        tag::QUERY | tag::FUNCTION_CALL | tag::PARSE | tag::BIND | tag::COPY_DATA => MESSAGE_BYTES_MAX,
        _ => SMALL_BODY_BYTES_MAX,
    }
}

/// Formats of values: 0 is text, 1 is binary.
pub const TEXT: i16 = 0;
pub const BINARY: i16 = 1;

pub fn query(out: &mut BytesMut, sql: &str) {
    put(out, tag::QUERY, |body| put_cstr(body, sql.as_bytes()));
}

/// There may be fewer parameter types than parameters; 0 lets the server choose one.
pub fn parse(out: &mut BytesMut, statement: &[u8], sql: &[u8], parameter_types: &[u32]) {
    put(out, tag::PARSE, |body| {
        put_cstr(body, statement);
        put_cstr(body, sql);
        put_count(body, parameter_types.len());
        parameter_types.iter().for_each(|&oid| body.put_u32(oid));
    });
}

/// Parameters in text format, results in text format; `None` is NULL.
pub fn bind(out: &mut BytesMut, portal: &[u8], statement: &[u8], parameters: &[Option<&[u8]>]) {
    put(out, tag::BIND, |body| {
        put_cstr(body, portal);
        put_cstr(body, statement);
        put_count(body, 0);
        put_values(body, parameters);
        put_count(body, 0);
    });
}

fn put_values(body: &mut BytesMut, values: &[Option<&[u8]>]) {
    put_count(body, values.len());
    for value in values {
        match value {
            None => body.put_i32(-1),
            Some(value) => {
                body.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
                body.put_slice(value);
            }
        }
    }
}

pub fn describe(out: &mut BytesMut, target: Target, name: &[u8]) {
    put(out, tag::DESCRIBE, |body| {
        body.put_u8(target.as_byte());
        put_cstr(body, name);
    });
}

pub fn close(out: &mut BytesMut, target: Target, name: &[u8]) {
    put(out, tag::CLOSE, |body| {
        body.put_u8(target.as_byte());
        put_cstr(body, name);
    });
}

/// `rows_max` 0 means all rows.
pub fn execute(out: &mut BytesMut, portal: &[u8], rows_max: i32) {
    put(out, tag::EXECUTE, |body| {
        put_cstr(body, portal);
        body.put_i32(rows_max);
    });
}

/// Calls a function by its OID; arguments and result are texts.
pub fn function_call(out: &mut BytesMut, function: u32, arguments: &[Option<&[u8]>]) {
    put(out, tag::FUNCTION_CALL, |body| {
        body.put_u32(function);
        put_count(body, 0);
        put_values(body, arguments);
        body.put_i16(0);
    });
}

/// A Parse with this body.
pub fn parse_again(out: &mut BytesMut, body: &[u8]) {
    put(out, tag::PARSE, |out| out.extend_from_slice(body));
}

pub fn sync(out: &mut BytesMut) {
    put(out, tag::SYNC, |_| ());
}

pub fn flush(out: &mut BytesMut) {
    put(out, tag::FLUSH, |_| ());
}

pub fn terminate(out: &mut BytesMut) {
    put(out, tag::TERMINATE, |_| ());
}

pub fn copy_data(out: &mut BytesMut, data: &[u8]) {
    put(out, tag::COPY_DATA, |body| body.put_slice(data));
}

pub fn copy_done(out: &mut BytesMut) {
    put(out, tag::COPY_DONE, |_| ());
}

pub fn copy_fail(out: &mut BytesMut, reason: &str) {
    put(out, tag::COPY_FAIL, |body| put_cstr(body, reason.as_bytes()));
}

/// Answers AuthenticationCleartextPassword and AuthenticationMD5Password.
pub fn password(out: &mut BytesMut, password: &[u8]) {
    put(out, tag::PASSWORD, |body| put_cstr(body, password));
}

pub fn sasl_initial_response(out: &mut BytesMut, mechanism: &str, response: &[u8]) {
    put(out, tag::PASSWORD, |body| {
        put_cstr(body, mechanism.as_bytes());
        body.put_i32(i32::try_from(response.len()).unwrap_or(i32::MAX));
        body.put_slice(response);
    });
}

pub fn sasl_response(out: &mut BytesMut, response: &[u8]) {
    put(out, tag::PASSWORD, |body| body.put_slice(response));
}

/// The SQL of a Query.
pub fn parse_query(body: &[u8]) -> Result<&[u8], Violation> {
    let mut cursor = Cursor::new("Query", body);
    let sql = cursor.cstr()?;
    cursor.end()?;
    Ok(sql)
}

/// A Parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty: the unnamed statement.
    pub statement: &'a [u8],
    pub sql: &'a [u8],
    /// Four bytes for each, see [`Parse::parameter_types`].
    types: &'a [u8],
}

impl Parse<'_> {
    /// The types that the client specified; 0 if the server chooses.
    pub fn parameter_types(&self) -> impl Iterator<Item = u32> {
        self.types.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

pub fn parse_parse(body: &[u8]) -> Result<Parse<'_>, Violation> {
    let mut cursor = Cursor::new("Parse", body);
    let statement = cursor.cstr()?;
    let sql = cursor.cstr()?;
    let count = cursor.count()?;
    let types = cursor.bytes(count * 4)?;
    cursor.end()?;
    Ok(Parse { statement, sql, types })
}

/// The names of a Bind; its values are not parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindNames<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
}

/// Reads the names at the front of a Bind; the body may be cut after them.
pub fn parse_bind_names(body: &[u8]) -> Result<BindNames<'_>, Violation> {
    let mut cursor = Cursor::new("Bind", body);
    Ok(BindNames { portal: cursor.cstr()?, statement: cursor.cstr()? })
}

/// The result format codes of a Bind: none means text for all columns, one applies to all columns.
pub fn parse_bind_result_formats(body: &[u8]) -> Result<Vec<i16>, Violation> {
    let mut cursor = Cursor::new("Bind", body);
    let _ = (cursor.cstr()?, cursor.cstr()?);
    for _ in 0..cursor.count()? {
        cursor.i16()?;
    }
    for _ in 0..cursor.count()? {
        cursor.value()?;
    }
    let formats = (0..cursor.count()?).map(|_| cursor.i16()).collect::<Result<_, _>>()?;
    cursor.end()?;
    Ok(formats)
}

/// The name in a Describe or a Close.
pub fn parse_target(body: &[u8]) -> Result<(Target, &[u8]), Violation> {
    let mut cursor = Cursor::new("Describe or Close", body);
    let target = match cursor.byte()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        other => return Err(cursor.invalid(i64::from(other))),
    };
    let name = cursor.cstr()?;
    cursor.end()?;
    Ok((target, name))
}

/// The portal and the row limit of an Execute.
pub fn parse_execute(body: &[u8]) -> Result<(&[u8], i32), Violation> {
    let mut cursor = Cursor::new("Execute", body);
    let portal = cursor.cstr()?;
    let rows_max = cursor.i32()?;
    cursor.end()?;
    Ok((portal, rows_max))
}

/// A PasswordMessage.
pub fn parse_password(body: &[u8]) -> Result<&[u8], Violation> {
    let mut cursor = Cursor::new("PasswordMessage", body);
    let password = cursor.cstr()?;
    cursor.end()?;
    Ok(password)
}

/// A SASLInitialResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    pub mechanism: &'a str,
    /// `None`: the client sent no response with it.
    pub response: Option<&'a [u8]>,
}

pub fn parse_sasl_initial_response(body: &[u8]) -> Result<SaslInitialResponse<'_>, Violation> {
    let mut cursor = Cursor::new("SASLInitialResponse", body);
    let mechanism = cursor.text()?;
    let response = cursor.value()?;
    cursor.end()?;
    Ok(SaslInitialResponse { mechanism, response })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::message::{HEADER_BYTES, Header};

    fn built(build: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::from(&b"before"[..]);
        build(&mut out);
        let message = out.split_off(6);
        let header = Header::parse(&message, MESSAGE_BYTES_MAX).unwrap().unwrap();
        assert_eq!(header.message_bytes(), message.len());
        message[HEADER_BYTES..].to_vec()
    }

    fn refused_when_cut_or_longer<T>(body: &[u8], parse: impl Fn(&[u8]) -> Result<T, Violation>) {
        assert!(parse(body).is_ok());
        for cut in 0..body.len() {
            assert!(parse(&body[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [body, b"x"].concat();
        assert!(parse(&longer).is_err(), "one byte too many");
    }

    #[test]
    fn what_is_built_is_read_back_and_refused_when_cut_at_any_byte() {
        let body = built(|out| query(out, "select 1"));
        assert_eq!(parse_query(&body), Ok(&b"select 1"[..]));
        refused_when_cut_or_longer(&body, |body| parse_query(body).map(drop));

        let body = built(|out| parse(out, b"s1", b"select $1", &[23, 0]));
        let read = parse_parse(&body).unwrap();
        assert_eq!((read.statement, read.sql), (&b"s1"[..], &b"select $1"[..]));
        assert_eq!(read.parameter_types().collect::<Vec<_>>(), [23, 0]);
        refused_when_cut_or_longer(&body, |body| parse_parse(body).map(drop));

        let body = built(|out| describe(out, Target::Portal, b"p1"));
        assert_eq!(parse_target(&body), Ok((Target::Portal, &b"p1"[..])));
        refused_when_cut_or_longer(&body, |body| parse_target(body).map(drop));

        let body = built(|out| execute(out, b"p1", 50));
        assert_eq!(parse_execute(&body), Ok((&b"p1"[..], 50)));
        refused_when_cut_or_longer(&body, |body| parse_execute(body).map(drop));

        let body = built(|out| sasl_initial_response(out, "SCRAM-SHA-256", b"n,,n=,r=x"));
        let read = parse_sasl_initial_response(&body).unwrap();
        assert_eq!((read.mechanism, read.response), ("SCRAM-SHA-256", Some(&b"n,,n=,r=x"[..])));
        refused_when_cut_or_longer(&body, |body| parse_sasl_initial_response(body).map(drop));

        let body = built(|out| password(out, b"secret"));
        assert_eq!(parse_password(&body), Ok(&b"secret"[..]));
        refused_when_cut_or_longer(&body, |body| parse_password(body).map(drop));
    }

    #[test]
    fn the_names_of_a_bind_are_read_from_its_front() {
        let body = built(|out| bind(out, b"p1", b"s1", &[None, Some(b"7")]));
        let names = BindNames { portal: b"p1", statement: b"s1" };
        for cut in 0..body.len() {
            assert_eq!(parse_bind_names(&body[..cut]).ok(), (cut >= 6).then_some(names), "cut at {cut}");
        }
    }

    #[test]
    fn the_formats_of_results_are_behind_the_parameters() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x017\xff\xff\xff\xff\0\x02\0\x01\0\0";
        assert_eq!(parse_bind_result_formats(body).unwrap(), [1, 0]);
        for cut in 0..body.len() {
            assert!(parse_bind_result_formats(&body[..cut]).is_err(), "cut at {cut}");
        }
        let plain = built(|out| bind(out, b"", b"", &[]));
        assert!(parse_bind_result_formats(&plain).unwrap().iter().all(|format| *format == TEXT));
    }

    #[test]
    fn a_negative_count_or_length_is_refused() {
        assert!(matches!(parse_parse(b"\0\0\xff\xff"), Err(Violation::Value { value: -1, .. })));
        assert!(matches!(
            parse_sasl_initial_response(b"m\0\xff\xff\xff\xfe"),
            Err(Violation::Length { length: -2, .. })
        ));
    }

    proptest! {
        #[test]
        fn hostile_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_query(&body);
            let _ = parse_parse(&body).map(|parse| parse.parameter_types().count());
            let _ = parse_bind_names(&body);
            let _ = parse_bind_result_formats(&body);
            let _ = parse_target(&body);
            let _ = parse_execute(&body);
            let _ = parse_password(&body);
            let _ = parse_sasl_initial_response(&body);
        }
    }
}
