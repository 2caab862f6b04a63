//! The function that restores `currval` and `lastval` in a session, without a lasting change of the
//! sequences.
//!
//! A session that goes on with another server connection has drawn no value there. Its client may ask for the
//! value that it drew before. The proxies read that from the old connection, and call this function on the
//! new one before they forward the client's query.
//!
//! # Why
//! * Only `nextval` defines `lastval`. So the sequence is restarted at the value and the value is drawn, in a
//!   subtransaction that is rolled back: the rollback undoes the restart and the draw, and releases the lock;
//!   the backend's memory of the draw stays. A restart gives a sequence a new relfilenode, so values cached
//!   before it are discarded.
//! * A restart needs the sequence's owner, so the function runs with the platform's privileges (SECURITY
//!   DEFINER). It serves a caller that may draw from the sequence, and does nothing else for it. It refuses
//!   calls from code of the database: the caller would be the owner of that code, which cannot be determined.
//! * A restart waits for transactions that drew a value, and further draws wait behind it. So its lock wait
//!   is short.
//! * If `lastval` is defined on the new connection, because a value was drawn there, that value is drawn once
//!   more in the same way, as the last one. Values that this session had cached with that sequence are lost,
//!   as they are when a session ends.

use super::names::{HELPER_SCHEMA, quote_literal};
use super::{Session, SystemError};

/// First version in which event triggers can be switched off.
const EVENT_TRIGGERS: u32 = 170_000;

/// Creates the function, replacing an older one. The helper schema must exist. `version_num` is the server's.
pub async fn install(session: &Session, version_num: u32) -> Result<(), SystemError> {
    // Users' event triggers must not run with these privileges.
    let quiet = match version_num >= EVENT_TRIGGERS {
        true => "event_triggers = off",
        false => "session_replication_role = replica",
    };
    let sql = format!(
        "GRANT USAGE ON SCHEMA {HELPER_SCHEMA} TO PUBLIC;
         CREATE OR REPLACE FUNCTION {HELPER_SCHEMA}.recall_sequences(
             names text[], numbers bigint[], last_name text, last_number bigint, wants_last boolean)
         RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
         SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' SET {quiet}
         AS {}",
        quote_literal(BODY)
    );
    session.batch("creating the function that restores sequences' memory", &sql).await
}

/// Names are those of sequences, with their schemas, as hexadecimal UTF-8. `last_name` is the sequence of
/// `lastval`; NULL if it does not matter any more. Returns whether `lastval` is defined now.
///
/// All locks are taken before the first value is drawn: the effect of a draw on the session cannot be undone.
const BODY: &str = "
#variable_conflict use_variable
DECLARE
    context text;
    caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;
    has_last boolean := true;
    last_here bigint;
    last_is oid;
    seq oid;
    number bigint;
    bounds record;
    chosen oid[] := '{}';
    drawn bigint[] := '{}';
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    IF strpos(context, chr(10)) > 0 THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function is not for code of the database';
    END IF;
    BEGIN
        last_here := lastval();
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        has_last := false;
    END;
    FOR seq, number IN
        SELECT c.oid, u.given
        FROM unnest(names || last_name, numbers || last_number) WITH ORDINALITY u (hex, given, place)
            JOIN pg_class c ON c.oid = to_regclass(convert_from(decode(u.hex, 'hex'), 'UTF8'))
        WHERE CASE WHEN u.place > cardinality(names) THEN NOT has_last
                ELSE has_last OR u.hex IS DISTINCT FROM last_name END
            AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(caller, c.oid, 'USAGE,UPDATE') END
        ORDER BY u.place
    LOOP
        BEGIN
            PERFORM currval(seq);
        EXCEPTION WHEN object_not_in_prerequisite_state THEN
            chosen := chosen || seq;
            drawn := drawn || number;
        END;
    END LOOP;
    IF cardinality(chosen) = 0 THEN
        RETURN has_last;
    END IF;
    IF has_last THEN
        -- To ask for the last value locks its sequence.
        FOR seq IN
            SELECT c.oid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
                AND l.relation <> ALL (chosen)
                AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(caller, c.oid, 'USAGE,UPDATE') END
        LOOP
            BEGIN
                last_is := CASE currval(seq) WHEN last_here THEN seq END;
                EXIT WHEN last_is IS NOT NULL;
            EXCEPTION WHEN object_not_in_prerequisite_state THEN
                NULL;
            END;
        END LOOP;
        chosen := chosen || last_is;
        drawn := drawn || last_here;
    ELSE
        last_is := to_regclass(convert_from(decode(last_name, 'hex'), 'UTF8'));
    END IF;
    -- Otherwise lastval would be that of another sequence.
    IF last_is IS NULL OR last_is <> chosen[cardinality(chosen)]
        OR NOT (has_last OR wants_last OR last_name = ANY (names) OR cardinality(chosen) > 1) THEN
        RETURN has_last;
    END IF;
    BEGIN
        FOR i IN 1..cardinality(chosen) LOOP
            -- The bounds may have been changed since the value was drawn.
            SELECT least(s.seqmin, drawn[i]) AS low, greatest(s.seqmax, drawn[i]) AS high
                INTO bounds FROM pg_sequence s WHERE s.seqrelid = chosen[i];
            EXECUTE format('ALTER SEQUENCE %s MINVALUE %s MAXVALUE %s CACHE 1 RESTART WITH %s',
                chosen[i]::regclass, bounds.low, bounds.high, drawn[i]);
        END LOOP;
        FOR i IN 1..cardinality(chosen) LOOP
            PERFORM nextval(chosen[i]);
        END LOOP;
        RAISE EXCEPTION USING ERRCODE = 'FH000';
    EXCEPTION WHEN SQLSTATE 'FH000' THEN
        RETURN true;
    END;
END";
