//! Which messages the relay reads in passing, and what it learns from them.

use crate::error::{Severity, SqlState};
use crate::model::quotas::MESSAGE_SIZES;
use crate::session::state::{Bound, StateTracker};
use crate::session::statements::{Failure, ForwardAs, Schema, Statements, schema_after};
use crate::wire::Violation;
use crate::wire::exchange::Exchange;
use crate::wire::frame::{Part, Piece};
use crate::wire::message::Header;
use crate::wire::message::backend::{ErrorFields, tag as answer};
use crate::wire::message::frontend::{SMALL_BODY_BYTES_MAX, body_bytes_max, tag as request};

/// Requests that are read as a whole where they are small.
pub(in crate::session) fn wants_request(tag: u8) -> bool {
    use request::*;
    matches!(tag, QUERY | PARSE | BIND | DESCRIBE | EXECUTE | CLOSE | FUNCTION_CALL)
}

/// Answers that are read as a whole where they are small; rows only while the tracker asks for them.
pub(in crate::session) fn wants_answer(tag: u8, tracker: &StateTracker) -> bool {
    use answer::*;
    match tag {
        READY_FOR_QUERY | PARAMETER_STATUS | COMMAND_COMPLETE | ERROR_RESPONSE => true,
        DATA_ROW => tracker.notes().watches_rows(),
        PARAMETER_DESCRIPTION => tracker.state().is_following(),
        _ => false,
    }
}

// Every limit that can be set is above SMALL_BODY_BYTES_MAX, so small messages need no check.
const _: () = assert!(MESSAGE_SIZES.start().0 > SMALL_BODY_BYTES_MAX as u64);

/// Whether the request that begins with this piece is large enough to exceed a limit.
#[inline]
pub(in crate::session) fn may_be_too_long(piece: &Piece<'_>) -> bool {
    piece.part.begins() && (!piece.part.ends() || piece.bytes.len() > SMALL_BODY_BYTES_MAX)
}

/// Refuses a request longer than one of its kind can be, before any of it is forwarded.
pub(in crate::session) fn check_length(piece: &Piece<'_>) -> Result<(), Violation> {
    Header::parse(piece.bytes, body_bytes_max(piece.tag)).map(drop)
}

/// Passes the client's request to the tracker, before `exchange` counts it. `bound` is the statement that a
/// Bind names, where the connection is lent.
pub(in crate::session) fn track_request(
    tracker: &mut StateTracker,
    exchange: &Exchange,
    piece: &Piece<'_>,
    bound: Option<Bound<'_>>,
) {
    let body = piece.body();
    if exchange.skips() && piece.tag != request::SYNC {
        return;
    }
    if piece.part.begins() {
        tracker.on_request(piece.tag);
    }
    match (piece.part, piece.tag) {
        (Part::Whole, request::QUERY) => tracker.on_query(body),
        (Part::Whole, request::PARSE) => tracker.on_parse(body),
        (Part::Whole, request::BIND) => tracker.on_bind(body, bound),
        (Part::Whole, request::DESCRIBE) => tracker.on_describe(body),
        (Part::Whole, request::EXECUTE) => tracker.on_execute(body),
        (Part::Whole, request::CLOSE) => tracker.on_close(body),
        (Part::Whole, request::FUNCTION_CALL) => tracker.on_function_call(body),
        (_, tag) if !wants_request(tag) => {}
        (Part::First, tag) => tracker.on_large(tag, body, bound),
        (Part::Whole | Part::Middle | Part::Last, _) => tracker.on_large_part(body),
    }
}

/// Passes the outcome to the tracker. Called where a message begins.
pub(in crate::session) fn track_answer(tracker: &mut StateTracker, exchange: &Exchange, piece: &Piece<'_>) {
    match piece.tag {
        answer::COMMAND_COMPLETE => tracker.notes_mut().on_command_complete(piece.body()),
        answer::EMPTY_QUERY_RESPONSE | answer::PORTAL_SUSPENDED | answer::FUNCTION_CALL_RESPONSE => {
            tracker.notes_mut().on_no_command();
        }
        answer::ERROR_RESPONSE if exchange.goes_on_after_report() => tracker.on_error_in_pipeline(),
        answer::ERROR_RESPONSE => tracker.on_error(),
        answer::PARAMETER_DESCRIPTION if tracker.state().is_following() => {
            tracker.state_mut().on_parameter_description(piece.body());
        }
        answer::DATA_ROW if tracker.notes().watches_rows() => tracker.notes_mut().on_data_row(piece.body()),
        _ => {}
    }
}

/// Passes the outcome to the client's statements; returns what the client gets of it. Called where a message
/// begins, before `exchange` counts it.
pub(in crate::session) fn track_statements(
    statements: &mut Statements,
    exchange: &Exchange,
    piece: &Piece<'_>,
) -> ForwardAs {
    match piece.tag {
        answer::PARSE_COMPLETE | answer::CLOSE_COMPLETE => return statements.on_complete(),
        answer::COMMAND_COMPLETE => statements.on_command(piece.body()),
        answer::ERROR_RESPONSE => {
            let fields = ErrorFields::parse(piece.body()).ok();
            let failure = Failure {
                in_extended: exchange.is_in_extended(),
                request: exchange.failing_request(),
                is_unclear: exchange.would_skip_unclearly(),
                is_malformed: fields.as_ref().is_some_and(is_malformed),
            };
            match &fields {
                Some(fields) if is_outdated_plan(fields) => statements.schema = Schema::Changed,
                Some(fields) => statements.suspect(&failure, fields.sqlstate()),
                None => {}
            }
            let told = statements.on_error(failure);
            let ends = fields.is_some_and(|fields| fields.severity() == Severity::Fatal);
            return if ends { ForwardAs::AsItCame } else { told };
        }
        _ => {}
    }
    ForwardAs::AsItCame
}

/// "cached plan must not change result type": a statement was prepared before its tables were altered.
fn is_outdated_plan(fields: &ErrorFields) -> bool {
    fields.sqlstate() == SqlState::FEATURE_NOT_SUPPORTED && fields.message().contains("cached plan")
}

/// The server could not read the message.
fn is_malformed(fields: &ErrorFields) -> bool {
    [SqlState::PROTOCOL_VIOLATION, SqlState::CHARACTER_NOT_IN_REPERTOIRE].contains(&fields.sqlstate())
}

/// Whether the message reports that a command has changed definitions.
pub(in crate::session) fn defines(piece: &Piece<'_>) -> bool {
    piece.tag == answer::COMMAND_COMPLETE && schema_after(piece.body()) != Schema::Same
}

/// Whether a CommandComplete is of a command that makes a session forget the values that it drew.
pub(in crate::session) fn forgets_sequences(command: &[u8]) -> bool {
    matches!(command.strip_suffix(b"\0").unwrap_or(command), b"DISCARD ALL" | b"DISCARD SEQUENCES")
}

/// Whether an ErrorResponse ends the connection.
pub(in crate::session) fn is_fatal(body: &[u8]) -> bool {
    ErrorFields::parse(body).is_ok_and(|fields| fields.severity() == Severity::Fatal)
}
