use proptest::prelude::*;

use super::*;
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX};

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
fn a_refusal_travels_with_every_field() {
    let refusal = Refusal::fatal(SqlState::TOO_MANY_CONNECTIONS, "too many")
        .with_detail("100 of 100 are used.")
        .with_hint("Raise the contract's limit.");
    let body = built(|out| error_response(out, &refusal));
    let fields = ErrorFields::parse(&body).unwrap();
    // Read back, it is the error of the server that sent it.
    assert_eq!(fields.refusal(), refusal.with_blame(Blame::Server));
    assert_eq!(fields.field(b'W'), Some("Responsible: the product team."));
    assert_eq!(fields.field(b'S'), Some("FATAL"));
    refused_when_cut_or_longer(&body, |body| ErrorFields::parse(body).map(drop));
}

#[test]
fn an_error_without_a_sqlstate_is_an_internal_error() {
    let fields = ErrorFields::parse(b"Moops\0\0").unwrap();
    assert_eq!(fields.sqlstate(), SqlState::INTERNAL_ERROR);
    assert_eq!(fields.severity(), Severity::Error);
    assert_eq!(fields.message(), "oops");
}

#[test]
fn a_translated_severity_is_not_mistaken() {
    let fields = ErrorFields::parse("SFATALE\0VFATAL\0C28P01\0Mnon\0\0".as_bytes()).unwrap();
    assert_eq!(fields.severity(), Severity::Fatal);
}

#[test]
fn authentication_requests_are_read_back_and_refused_when_cut() {
    let body = built(authentication_ok);
    assert_eq!(parse_authentication(&body), Ok(Authentication::Ok));
    let body = built(|out| authentication_sasl(out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]));
    let read = parse_authentication(&body).unwrap();
    assert_eq!(read, Authentication::Sasl(vec!["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]));
    refused_when_cut_or_longer(&body, |body| parse_authentication(body).map(drop));
    let body = built(|out| authentication_sasl_continue(out, b"r=x"));
    assert_eq!(parse_authentication(&body), Ok(Authentication::SaslContinue(b"r=x")));
    let body = built(|out| authentication_sasl_final(out, b"v=x"));
    assert_eq!(parse_authentication(&body), Ok(Authentication::SaslFinal(b"v=x")));
    assert_eq!(parse_authentication(b"\0\0\0\x05salt"), Ok(Authentication::Md5Password { salt: *b"salt" }));
    assert_eq!(parse_authentication(b"\0\0\0\x07"), Ok(Authentication::Other(7)));
}

#[test]
fn a_list_of_mechanisms_without_reason_is_refused() {
    let many = vec!["M"; MECHANISMS_MAX + 1];
    let body = built(|out| authentication_sasl(out, &many));
    assert!(matches!(parse_authentication(&body), Err(Violation::Value { .. })));
}

#[test]
fn what_a_server_tells_at_startup_is_read_back_and_refused_when_cut() {
    let body = built(|out| parameter_status(out, "TimeZone", "UTC"));
    assert_eq!(parse_parameter_status(&body), Ok(("TimeZone", "UTC")));
    refused_when_cut_or_longer(&body, |body| parse_parameter_status(body).map(drop));

    let body = built(|out| ready_for_query(out, TransactionStatus::Failed));
    assert_eq!(parse_ready_for_query(&body), Ok(TransactionStatus::Failed));
    refused_when_cut_or_longer(&body, parse_ready_for_query);
    assert!(parse_ready_for_query(b"?").is_err());

    for (length, allowed) in [(0, false), (3, false), (4, true), (256, true), (257, false)] {
        let body = built(|out| backend_key_data(out, 5, &vec![1; length]));
        assert_eq!(parse_backend_key_data(&body).is_ok(), allowed, "{length}");
    }

    let negotiation = Negotiation { minor: 2, unrecognized: vec!["_pq_.x".to_owned()] };
    let body = built(|out| negotiate_protocol_version(out, &negotiation));
    assert_eq!(parse_negotiate_protocol_version(&body), Ok(negotiation));
    refused_when_cut_or_longer(&body, parse_negotiate_protocol_version);
}

#[test]
fn rows_are_read_back_and_refused_when_cut() {
    let column = |name: &[u8]| [name, b"\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01"].concat();
    let body = [b"\0\x02".to_vec(), column(b"a"), column(b"b")].concat();
    let columns = parse_row_description(&body).unwrap();
    assert_eq!(columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((columns[1].type_oid, columns[1].type_bytes, columns[1].format), (23, 4, 1));
    refused_when_cut_or_longer(&body, parse_row_description);

    let body = built(|out| data_row(out, &[Some(b"1"), None, Some(b"")]));
    assert_eq!(parse_data_row(&body), Ok(vec![Some(&b"1"[..]), None, Some(&b""[..])]));
    refused_when_cut_or_longer(&body, |body| parse_data_row(body).map(drop));

    let body = built(|out| command_complete(out, "INSERT 0 1"));
    assert_eq!(parse_command_complete(&body), Ok("INSERT 0 1"));
    refused_when_cut_or_longer(&body, |body| parse_command_complete(body).map(drop));

    let body = built(|out| notification_response(out, 7, "jobs", "new"));
    let notification = Notification { pid: 7, channel: b"jobs", payload: b"new" };
    assert_eq!(parse_notification(&body), Ok(notification));
    refused_when_cut_or_longer(&body, |body| parse_notification(body).map(drop));

    assert_eq!(parse_parameter_description(b"\0\x01\0\0\0\x17"), Ok(vec![23]));
}

proptest! {
    #[test]
    fn hostile_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200), kind in 0i32..14) {
        let _ = ErrorFields::parse(&body).map(|fields| fields.to_string());
        let _ = parse_parameter_status(&body);
        let _ = parse_backend_key_data(&body);
        let _ = parse_ready_for_query(&body);
        let _ = parse_command_complete(&body);
        let _ = parse_notification(&body);
        let _ = parse_negotiate_protocol_version(&body);
        let _ = parse_row_description(&body);
        let _ = parse_data_row(&body);
        let _ = parse_parameter_description(&body);
        let _ = parse_authentication(&[&kind.to_be_bytes()[..], &body].concat());
    }
}

#[test]
fn the_sqlstate_is_read_without_the_rest() {
    let whole = "SFATALE\0VFATAL\0C57P01\0MCould not go on\0\0".as_bytes();
    assert_eq!(sqlstate_of(whole), SqlState::ADMIN_SHUTDOWN);
    assert_eq!(sqlstate_of(&whole[..24]), SqlState::ADMIN_SHUTDOWN, "the message is still to come");
    for body in [&whole[..18], b"MCould not go on\0\0", b"C1\0", b"", b"\0"] {
        assert_eq!(sqlstate_of(body), SqlState::INTERNAL_ERROR, "{body:?}");
    }
}
