//! The bodies of messages.

use bytes::BytesMut;
use freehold::wire::message::{HEADER_BYTES, backend, frontend};
use rand::RngExt;
use rand::rngs::StdRng;

use super::Choices;

/// What a parser accepts is built back to the byte, where there is a builder; what it makes is no more than
/// it was given.
pub(super) fn check(input: &[u8]) {
    let mut choices = Choices(input);
    let parser = choices.below(PARSERS.len());
    let body = choices.0;
    if let Some(built) = PARSERS[parser](body) {
        assert_eq!(built[HEADER_BYTES..], *body, "parser {parser}");
    }
}

fn built(build: impl FnOnce(&mut BytesMut)) -> Option<BytesMut> {
    let mut out = BytesMut::new();
    build(&mut out);
    Some(out)
}

type Parser = fn(&[u8]) -> Option<BytesMut>;

const PARSERS: [Parser; 19] = [
    |body| {
        let sql = std::str::from_utf8(frontend::parse_query(body).ok()?).ok()?;
        built(|out| frontend::query(out, sql))
    },
    |body| {
        let parse = frontend::parse_parse(body).ok()?;
        let types: Vec<u32> = parse.parameter_types().collect();
        built(|out| frontend::parse(out, parse.statement, parse.sql, &types))
    },
    |body| {
        let names = frontend::parse_bind_names(body).ok()?;
        assert!(names.portal.len() + names.statement.len() + 2 <= body.len());
        None
    },
    |body| {
        let (target, name) = frontend::parse_target(body).ok()?;
        built(|out| frontend::describe(out, target, name))
    },
    |body| {
        let (portal, rows_max) = frontend::parse_execute(body).ok()?;
        built(|out| frontend::execute(out, portal, rows_max))
    },
    |body| {
        let password = frontend::parse_password(body).ok()?;
        built(|out| frontend::password(out, password))
    },
    |body| {
        let initial = frontend::parse_sasl_initial_response(body).ok()?;
        let response = initial.response?;
        built(|out| frontend::sasl_initial_response(out, initial.mechanism, response))
    },
    |body| match backend::parse_authentication(body).ok()? {
        backend::Authentication::Ok => built(backend::authentication_ok),
        backend::Authentication::Sasl(mechanisms) => {
            built(|out| backend::authentication_sasl(out, &mechanisms))
        }
        backend::Authentication::SaslContinue(challenge) => {
            built(|out| backend::authentication_sasl_continue(out, challenge))
        }
        backend::Authentication::SaslFinal(outcome) => {
            built(|out| backend::authentication_sasl_final(out, outcome))
        }
        _ => None,
    },
    error_fields,
    |body| {
        let (name, value) = backend::parse_parameter_status(body).ok()?;
        built(|out| backend::parameter_status(out, name, value))
    },
    |body| {
        let (pid, key) = backend::parse_backend_key_data(body).ok()?;
        built(|out| backend::backend_key_data(out, pid, key))
    },
    |body| {
        let status = backend::parse_ready_for_query(body).ok()?;
        built(|out| backend::ready_for_query(out, status))
    },
    |body| {
        let command = backend::parse_command_complete(body).ok()?;
        built(|out| backend::command_complete(out, command))
    },
    |body| {
        let told = backend::parse_notification(body).ok()?;
        let (channel, payload) =
            (std::str::from_utf8(told.channel).ok()?, std::str::from_utf8(told.payload).ok()?);
        built(|out| backend::notification_response(out, told.pid, channel, payload))
    },
    |body| {
        let negotiation = backend::parse_negotiate_protocol_version(body).ok()?;
        assert!(negotiation.unrecognized.len() <= body.len());
        None
    },
    |body| {
        let columns = backend::parse_row_description(body).ok()?;
        assert!(columns.len() * 19 <= body.len());
        None
    },
    |body| {
        let values = backend::parse_data_row(body).ok()?;
        built(|out| backend::data_row(out, &values))
    },
    |body| {
        let types = backend::parse_parameter_description(body).ok()?;
        assert_eq!(types.len() * 4 + 2, body.len());
        None
    },
    |body| {
        let mut fields = backend::ErrorFields::parse(body).ok()?;
        fields.map_text(|text| text.to_uppercase());
        None
    },
];

/// What a client may know of an error survives being said again.
fn error_fields(body: &[u8]) -> Option<BytesMut> {
    let refusal = backend::ErrorFields::parse(body).ok()?.refusal();
    let mut said = BytesMut::new();
    backend::error_response(&mut said, &refusal);
    assert_eq!(backend::ErrorFields::parse(&said[HEADER_BYTES..]).unwrap().refusal(), refusal);
    None
}

pub(super) fn generate(rng: &mut StdRng) -> Vec<u8> {
    let parser = rng.random_range(0..PARSERS.len());
    let mut body = vec![parser as u8];
    for _ in 0..rng.random_range(0..8) {
        match rng.random_range(0..6) {
            0 => body.extend(b"name\0"),
            1 => body.extend(rng.random_range(-2..4i16).to_be_bytes()),
            2 => body.extend(rng.random_range(-2..13i32).to_be_bytes()),
            3 => body.push(0),
            4 => body.extend("SERROR\0C42601\0M\u{e4}\0P7\0".as_bytes()),
            _ => body.extend((0..rng.random_range(0..6)).map(|_| rng.random::<u8>())),
        }
    }
    body
}
