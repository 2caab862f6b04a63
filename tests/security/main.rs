//! What an attacker tries, on the running system: a real `freehold serve`, real PostgreSQL servers, hostile
//! clients and hostile servers.
//!
//! Where a pooler has had a fault with a number, and which test holds it here:
//!
//! | number | of | test |
//! |---|---|---|
//! | CVE-2021-3935, CVE-2021-43766, CVE-2021-23214 | PgBouncer, Odyssey, PostgreSQL | `cves::cve_2021_3935_and_2021_43766_and_2021_23214_bytes_before_a_clients_handshake_are_not_its_words` |
//! | CVE-2021-43767, CVE-2021-23222 | Odyssey, libpq | `cves::cve_2021_43767_and_2021_23222_bytes_behind_a_servers_agreement_are_not_its_words` |
//! | CVE-2025-2291 | PgBouncer | `secrets::cve_2025_2291_a_password_opens_nothing_from_the_instant_at_which_it_expires` |
//! | CVE-2025-12819 | PgBouncer | `cves::cve_2025_12819_the_search_path_of_a_client_or_a_database_leads_no_query_of_ours_astray` |
//! | CVE-2026-6664 | PgBouncer | `scram::cve_2026_6664_what_a_client_says_first_is_taken_and_refused_as_by_postgresql`, `scram::what_a_client_says_last_is_taken_and_refused_as_by_postgresql` |
//! | CVE-2026-6665 | PgBouncer | `hostile::cve_2026_6665_fields_of_a_servers_scram_messages_have_bounds` |
//! | CVE-2026-6666 | PgBouncer | `hostile::cve_2026_6666_an_error_of_a_server_without_a_sqlstate_is_an_internal_one` |
//! | CVE-2026-6667 | PgBouncer | `cves::cve_2026_6667_one_who_may_look_can_do_nothing_else_by_any_verb` |

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "another test binary's, of which this one uses its own part")]
#[path = "../access/office.rs"]
mod office;
#[allow(dead_code, reason = "another test binary's, of which this one uses its own part")]
#[path = "../access/stage.rs"]
mod stage;
#[path = "../support/mod.rs"]
mod support;

mod admin_protocol;
mod cves;
mod encryption;
mod hba;
mod hostile;
mod impostor;
mod names;
mod raw;
mod resources;
mod scram;
mod secrets;
