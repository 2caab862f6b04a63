//! Real clients, the data plane, a real PostgreSQL server.
//!
//! Where proxies of PostgreSQL have gone wrong, and which test holds it here:
//!
//! | case | test |
//! |---|---|
//! | plaintext after SSLRequest, GSSENCRequest | `opening::plaintext_after_a_request_for_encryption_ends_the_connection`; towards servers `tests/backend.rs`: `words_before_the_tls_handshake_are_not_believed` |
//! | repeated SSLRequest, GSSENCRequest | `opening::repeated_requests_for_encryption_end_the_connection`, `opening::under_tls_no_encryption_is_asked_for_again` |
//! | direct TLS | `encryption::direct_tls_needs_no_request`, `opening::direct_tls_without_a_certificate_of_ours_ends_the_connection`; ALPN `tls::tests::direct_tls_must_name_the_protocol` |
//! | startup length | `opening::startup_length`, `wire::startup::tests` |
//! | malformed SCRAM | `auth::scram::tests` |
//! | ErrorResponse without SQLSTATE | `wire::message::backend::tests::an_error_without_a_sqlstate_is_an_internal_error` |
//! | expired roles | `frontend::tests::the_right_password_does_not_help_where_the_role_is_expired_or_may_not_log_in` |
//! | NegotiateProtocolVersion | `versions::negotiate_protocol_version`, `versions::another_major_version_is_refused_with_0a000` |
//! | BackendKeyData of protocol 3.2 | `versions::a_long_cancel_key_cancels_and_nothing_like_it_does`, `versions::psql_speaks_protocol_3_2_and_cancels_with_a_long_key` |
//! | CancelRequest | `versions::a_cancel_key_out_of_bounds_ends_the_connection_without_a_word`, `opening::a_cancel_request_may_come_over_tls_and_without_it_where_tls_is_required`, `opening::cancel_requests_are_limited_per_address`, `relay::a_cancel_request_ends_the_query_of_its_session_and_no_other`, `orders::a_cancel_request_after_a_move_reaches_the_new_server` |
//! | Sync and Flush | `raw::a_flush_without_sync_brings_answers_and_keeps_the_transaction` |
//! | error inside extended | `edges::error_inside_extended_skips_to_the_sync_and_a_query_in_the_batch_with_it` |
//! | Query after Parse, Bind, Execute without Sync | `edges::mixed_query_after_extended_without_sync_yields_its_own_ready_for_query` |
//! | Sync during COPY IN | `edges::sync_during_copy_in_is_ignored` |
//! | late CopyData after an error | `edges::late_copy_data_after_a_server_error_is_ignored_and_nothing_stays_active` |
//! | CopyBoth | `edges::copy_both_goes_both_ways_and_either_side_ends_it` |
//! | FunctionCall | `raw::a_function_call_is_answered` |
//! | notices, notifications, parameters at any time | `edges::a_notice_at_any_time_reaches_an_idle_client`, `relay::notifications_and_settings_reach_an_idle_client` |
//! | ParameterStatus after another server | `orders::a_client_is_told_what_the_new_server_reports_differently` |
//! | quoting of search_path | `tests/session_state`: `settings_travel` |
//! | empty query | `edges::empty_query` |
//! | several statements in a Query | `edges::multi_statement_query_with_a_transaction_in_it` |
//! | ReadyForQuery `E` | `edges::ready_for_query_of_a_failed_transaction_holds_the_server_until_it_ends` |
//! | portals across Sync, Close of a portal | `edges::portals_live_across_a_sync_in_a_transaction_and_closing_one_leaves_its_statement` |
//! | Parse that fails | `edges::parse_failure_leaves_its_name_free_and_a_second_parse_of_a_name_is_42p05` |
//! | FATAL in a pipeline | `edges::server_fatal_mid_pipeline_is_told_once_and_nothing_is_sent_again` |
//! | server closes while idle | `raw::an_idle_client_hears_why_its_server_connection_ended`, `raw::a_client_is_told_when_the_server_vanishes_without_a_word` |
//! | oversized message | `edges::oversized_message_is_refused_by_its_kind_before_any_of_it_goes_on`, `raw::a_query_of_twenty_megabytes_passes_with_and_without_a_gate` |
//! | half-close | `raw::a_client_that_closes_its_side_still_reads_the_answers`, `relay::the_transaction_of_a_client_that_vanishes_is_rolled_back` |
//! | TLS records and clients that poll | `encryption::a_pipeline_under_tls_leaves_nothing_in_the_clients_buffer` |
//! | duplex deadlock | `edges::duplex_both_sides_write_more_than_any_buffer_holds` |
//! | hold inside a transaction | `orders::a_held_gate_parks_requests_and_lets_running_transactions_finish` |
//! | no descriptors left | `tests/door.rs`: `a_process_without_descriptors_says_so_does_not_spin_and_recovers` |
//! | process id and `pg_backend_pid()` | `raw::the_process_id_that_a_client_is_given_is_its_backends_own` |

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod balancer;
mod by_name;
mod conversations;
mod edges;
mod encryption;
mod guest;
mod implied;
mod isolation;
mod kept_definitions;
mod kept_names;
mod kept_values;
mod kinds;
mod ledger;
mod lent;
mod libraries;
mod limits;
mod memory;
mod opening;
mod orders;
mod own_questions;
mod pause;
mod raw;
mod relay;
mod reuse;
mod set_in_passing;
mod stage;
mod statements;
mod talk;
mod unix;
mod versions;
