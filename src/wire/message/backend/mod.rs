//! Messages that a server sends.
//!
//! Start with [`ErrorFields`]: an error of a server, kept whole so that a client gets the SQLSTATE it would
//! have got from the server itself.

use bytes::{BufMut, BytesMut};

use super::{TransactionStatus, put, put_count, put_cstr};
use crate::error::{Blame, Refusal, Severity, SqlState};
use crate::wire::cursor::Cursor;
use crate::wire::startup::Negotiation;
use crate::wire::{CANCEL_KEY_BYTES_MAX, CANCEL_KEY_BYTES_MIN, Violation};

/// Type bytes.
pub mod tag {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

// Builders.

pub fn error_response(out: &mut BytesMut, refusal: &Refusal) {
    put(out, tag::ERROR_RESPONSE, |body| put_fields(body, refusal));
}

pub fn notice_response(out: &mut BytesMut, refusal: &Refusal) {
    put(out, tag::NOTICE_RESPONSE, |body| put_fields(body, refusal));
}

fn put_fields(body: &mut BytesMut, refusal: &Refusal) {
    let severity = refusal.severity.as_str();
    let position = refusal.position.map(|position| position.to_string());
    let responsible = refusal.responsible();
    let fields = [
        (b'S', Some(severity)),
        (b'V', Some(severity)),
        (b'C', Some(refusal.sqlstate.as_str())),
        (b'M', Some(refusal.message.as_str())),
        (b'D', refusal.detail.as_deref()),
        (b'H', refusal.hint.as_deref()),
        (b'P', position.as_deref()),
        (b'W', responsible.as_deref()),
    ];
    for (field, value) in fields {
        if let Some(value) = value {
            body.put_u8(field);
            put_cstr(body, value.as_bytes());
        }
    }
    body.put_u8(0);
}

pub fn authentication_ok(out: &mut BytesMut) {
    put(out, tag::AUTHENTICATION, |body| body.put_i32(0));
}

pub fn authentication_cleartext_password(out: &mut BytesMut) {
    put(out, tag::AUTHENTICATION, |body| body.put_i32(3));
}

pub fn authentication_md5_password(out: &mut BytesMut, salt: [u8; 4]) {
    put(out, tag::AUTHENTICATION, |body| {
        body.put_i32(5);
        body.put_slice(&salt);
    });
}

pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    put(out, tag::AUTHENTICATION, |body| {
        body.put_i32(10);
        mechanisms.iter().for_each(|mechanism| put_cstr(body, mechanism.as_bytes()));
        body.put_u8(0);
    });
}

pub fn authentication_sasl_continue(out: &mut BytesMut, challenge: &[u8]) {
    put(out, tag::AUTHENTICATION, |body| {
        body.put_i32(11);
        body.put_slice(challenge);
    });
}

pub fn authentication_sasl_final(out: &mut BytesMut, outcome: &[u8]) {
    put(out, tag::AUTHENTICATION, |body| {
        body.put_i32(12);
        body.put_slice(outcome);
    });
}

pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    put(out, tag::PARAMETER_STATUS, |body| {
        put_cstr(body, name.as_bytes());
        put_cstr(body, value.as_bytes());
    });
}

pub fn backend_key_data(out: &mut BytesMut, pid: i32, key: &[u8]) {
    put(out, tag::BACKEND_KEY_DATA, |body| {
        body.put_i32(pid);
        body.put_slice(key);
    });
}

pub fn negotiate_protocol_version(out: &mut BytesMut, negotiation: &Negotiation) {
    put(out, tag::NEGOTIATE_PROTOCOL_VERSION, |body| {
        body.put_u16(crate::wire::PROTOCOL_MAJOR);
        body.put_u16(negotiation.minor);
        body.put_i32(i32::try_from(negotiation.unrecognized.len()).unwrap_or(i32::MAX));
        negotiation.unrecognized.iter().for_each(|name| put_cstr(body, name.as_bytes()));
    });
}

pub fn ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    put(out, tag::READY_FOR_QUERY, |body| body.put_u8(status.as_byte()));
}

pub fn command_complete(out: &mut BytesMut, command: &str) {
    put(out, tag::COMMAND_COMPLETE, |body| put_cstr(body, command.as_bytes()));
}

pub fn notification_response(out: &mut BytesMut, pid: i32, channel: &str, payload: &str) {
    put(out, tag::NOTIFICATION_RESPONSE, |body| {
        body.put_i32(pid);
        put_cstr(body, channel.as_bytes());
        put_cstr(body, payload.as_bytes());
    });
}

/// Values in the formats of the RowDescription; `None` is NULL.
pub fn data_row(out: &mut BytesMut, values: &[Option<&[u8]>]) {
    put(out, tag::DATA_ROW, |body| {
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
    });
}

// Parsers.

/// An Authentication request of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    /// The mechanisms, preferred first.
    Sasl(Vec<&'a str>),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI and anything newer: methods that Freehold cannot answer.
    Other(i32),
}

/// A server offers one or two; the limit bounds the allocation.
const MECHANISMS_MAX: usize = 32;

pub fn parse_authentication(body: &[u8]) -> Result<Authentication<'_>, Violation> {
    let mut cursor = Cursor::new("Authentication", body);
    let request = match cursor.i32()? {
        0 => Authentication::Ok,
        3 => Authentication::CleartextPassword,
        5 => Authentication::Md5Password { salt: cursor.four()? },
        10 => Authentication::Sasl(parse_mechanisms(&mut cursor)?),
        11 => Authentication::SaslContinue(cursor.rest()),
        12 => Authentication::SaslFinal(cursor.rest()),
        other => return Ok(Authentication::Other(other)),
    };
    cursor.end()?;
    Ok(request)
}

fn parse_mechanisms<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<&'a str>, Violation> {
    let mut mechanisms = Vec::new();
    loop {
        let mechanism = cursor.text()?;
        if mechanism.is_empty() {
            return Ok(mechanisms);
        }
        if mechanisms.len() == MECHANISMS_MAX {
            return Err(cursor.invalid(MECHANISMS_MAX as i64 + 1));
        }
        mechanisms.push(mechanism);
    }
}

/// The SQLSTATE of an ErrorResponse, which may be cut off behind it. XX000 if there is none.
pub fn sqlstate_of(body: &[u8]) -> SqlState {
    let mut fields = body.split(|&byte| byte == 0);
    let code = fields.find_map(|field| field.strip_prefix(b"C"));
    code.and_then(|code| std::str::from_utf8(code).ok()).map_or(SqlState::INTERNAL_ERROR, SqlState::parse)
}

/// The fields of an ErrorResponse or NoticeResponse, as text. Invalid UTF-8 is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields {
    /// Field type and value, in the order in which they came.
    fields: Vec<(u8, String)>,
}

impl ErrorFields {
    pub fn parse(body: &[u8]) -> Result<ErrorFields, Violation> {
        let mut cursor = Cursor::new("ErrorResponse", body);
        let mut fields = Vec::new();
        loop {
            match cursor.byte()? {
                0 => break,
                field => fields.push((field, String::from_utf8_lossy(cursor.cstr()?).into_owned())),
            }
        }
        cursor.end()?;
        Ok(ErrorFields { fields })
    }

    /// One field by its type byte: `b'S'` severity, `b'P'` position, ...
    pub fn field(&self, field: u8) -> Option<&str> {
        self.fields.iter().find(|(kind, _)| *kind == field).map(|(_, value)| value.as_str())
    }

    /// XX000 if the server sent none.
    pub fn sqlstate(&self) -> SqlState {
        self.field(b'C').map_or(SqlState::INTERNAL_ERROR, SqlState::parse)
    }

    /// Never translated, unlike field `S`. ERROR if the server sent none or an unknown one.
    pub fn severity(&self) -> Severity {
        match self.field(b'V').or_else(|| self.field(b'S')) {
            Some("FATAL" | "PANIC") => Severity::Fatal,
            Some("WARNING") => Severity::Warning,
            Some("NOTICE" | "DEBUG" | "INFO" | "LOG") => Severity::Notice,
            _ => Severity::Error,
        }
    }

    pub fn message(&self) -> &str {
        self.field(b'M').unwrap_or_default()
    }

    pub fn detail(&self) -> Option<&str> {
        self.field(b'D')
    }

    pub fn hint(&self) -> Option<&str> {
        self.field(b'H')
    }

    /// The fields that a client may see: all except the position in the server's source code.
    pub fn refusal(&self) -> Refusal {
        Refusal {
            severity: self.severity(),
            sqlstate: self.sqlstate(),
            message: self.message().to_owned(),
            detail: self.detail().map(str::to_owned),
            hint: self.hint().map(str::to_owned),
            position: self.field(b'P').and_then(|position| position.parse().ok()),
            blame: Blame::Server,
        }
    }

    /// Changes the text of every field: used to remove data before a client reads it.
    pub fn map_text(&mut self, change: impl Fn(&str) -> String) {
        for (_, value) in &mut self.fields {
            *value = change(value);
        }
    }
}

impl std::fmt::Display for ErrorFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = self.field(b'V').or_else(|| self.field(b'S')).unwrap_or("ERROR");
        write!(f, "{severity}: {} ({})", self.message(), self.sqlstate())?;
        match self.detail() {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

/// Name and value of a ParameterStatus.
pub fn parse_parameter_status(body: &[u8]) -> Result<(&str, &str), Violation> {
    let mut cursor = Cursor::new("ParameterStatus", body);
    let pair = (cursor.text()?, cursor.text()?);
    cursor.end()?;
    Ok(pair)
}

/// Process id and secret of a BackendKeyData; the secret has 4 to 256 bytes.
pub fn parse_backend_key_data(body: &[u8]) -> Result<(i32, &[u8]), Violation> {
    let mut cursor = Cursor::new("BackendKeyData", body);
    let pid = cursor.i32()?;
    let key = cursor.rest();
    if !(CANCEL_KEY_BYTES_MIN..=CANCEL_KEY_BYTES_MAX).contains(&key.len()) {
        return Err(Violation::CancelKey { bytes: key.len() });
    }
    Ok((pid, key))
}

pub fn parse_ready_for_query(body: &[u8]) -> Result<TransactionStatus, Violation> {
    let mut cursor = Cursor::new("ReadyForQuery", body);
    let byte = cursor.byte()?;
    let status = TransactionStatus::from_byte(byte).ok_or_else(|| cursor.invalid(i64::from(byte)))?;
    cursor.end()?;
    Ok(status)
}

/// The tag of a CommandComplete: `INSERT 0 1`.
pub fn parse_command_complete(body: &[u8]) -> Result<&str, Violation> {
    let mut cursor = Cursor::new("CommandComplete", body);
    let command = cursor.text()?;
    cursor.end()?;
    Ok(command)
}

/// A NotificationResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    pub pid: i32,
    pub channel: &'a [u8],
    pub payload: &'a [u8],
}

pub fn parse_notification(body: &[u8]) -> Result<Notification<'_>, Violation> {
    let mut cursor = Cursor::new("NotificationResponse", body);
    let notification = Notification { pid: cursor.i32()?, channel: cursor.cstr()?, payload: cursor.cstr()? };
    cursor.end()?;
    Ok(notification)
}

/// A NegotiateProtocolVersion: the newest minor version that the server supports, and the parameters that it
/// does not know.
pub fn parse_negotiate_protocol_version(body: &[u8]) -> Result<Negotiation, Violation> {
    let mut cursor = Cursor::new("NegotiateProtocolVersion", body);
    let [_, _, high, low] = cursor.four()?;
    let count = cursor.i32()?;
    let count = usize::try_from(count).map_err(|_| cursor.invalid(i64::from(count)))?;
    // A name is at least its NUL: the count cannot ask for more memory than the body has bytes.
    if count > cursor.remaining() {
        return Err(cursor.invalid(count as i64));
    }
    let unrecognized = (0..count).map(|_| cursor.text().map(str::to_owned)).collect::<Result<_, _>>()?;
    cursor.end()?;
    Ok(Negotiation { minor: u16::from_be_bytes([high, low]), unrecognized })
}

/// One column of a RowDescription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDescription {
    pub name: String,
    /// The table it comes from; 0 if there is none.
    pub table: u32,
    /// Its number in that table; 0 if there is none.
    pub attribute: i16,
    pub type_oid: u32,
    pub type_bytes: i16,
    pub type_modifier: i32,
    /// 0 is text, 1 is binary.
    pub format: i16,
}

/// A column has at least its NUL and 18 bytes.
const COLUMN_BYTES_MIN: usize = 19;

pub fn parse_row_description(body: &[u8]) -> Result<Vec<FieldDescription>, Violation> {
    let mut cursor = Cursor::new("RowDescription", body);
    let count = cursor.count()?;
    let mut columns = Vec::with_capacity(count.min(cursor.remaining() / COLUMN_BYTES_MIN));
    for _ in 0..count {
        columns.push(FieldDescription {
            name: String::from_utf8_lossy(cursor.cstr()?).into_owned(),
            table: cursor.u32()?,
            attribute: cursor.i16()?,
            type_oid: cursor.u32()?,
            type_bytes: cursor.i16()?,
            type_modifier: cursor.i32()?,
            format: cursor.i16()?,
        });
    }
    cursor.end()?;
    Ok(columns)
}

/// The values of a DataRow; `None` is NULL.
pub fn parse_data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Violation> {
    let mut cursor = Cursor::new("DataRow", body);
    let count = cursor.count()?;
    let mut values = Vec::with_capacity(count.min(cursor.remaining() / 4));
    for _ in 0..count {
        values.push(cursor.value()?);
    }
    cursor.end()?;
    Ok(values)
}

/// The value of a FunctionCallResponse; `None` is NULL.
pub fn parse_function_call_response(body: &[u8]) -> Result<Option<&[u8]>, Violation> {
    let mut cursor = Cursor::new("FunctionCallResponse", body);
    let value = cursor.value()?;
    cursor.end()?;
    Ok(value)
}

/// The parameter types of a ParameterDescription.
pub fn parse_parameter_description(body: &[u8]) -> Result<Vec<u32>, Violation> {
    let mut cursor = Cursor::new("ParameterDescription", body);
    // PostgreSQL counts up to 65535 parameters in this field.
    let count = usize::from(cursor.i16()? as u16);
    let mut types = Vec::with_capacity(count.min(cursor.remaining() / 4));
    for _ in 0..count {
        types.push(cursor.u32()?);
    }
    cursor.end()?;
    Ok(types)
}

#[cfg(test)]
mod tests;
