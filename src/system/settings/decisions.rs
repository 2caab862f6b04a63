//! What to do with each setting of a server when a database leaves it: one table with one decision for each.
//!
//! The settings are those that affect a client's session: all with the contexts `user`, `superuser`,
//! `backend` and `superuser-backend` in `pg_settings`, and of the others those that change what a statement
//! does. A test compares the table with the `pg_settings` of every installed major, so that a new setting is
//! noticed and decided on.
//!
//! # Why
//! A setting of the database or of a role moves with it. The server's own settings (`postgresql.conf`,
//! `ALTER SYSTEM`, `ALTER ROLE ALL`, the command line) apply to all of its databases and stay behind; if one
//! of them decides what a value means, the same statement stores another value on the other server, without
//! an error.

/// The decision on a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The value of the server that is left becomes a setting of the database on the other one, unless both
    /// have the same or the database has its own.
    Carried(SettingEffect),
    /// It cannot or should not be a setting of one database. The preflight reports a difference that affects
    /// clients.
    Named(DifferenceRule),
    /// Each server keeps its own value.
    Ignored(Reason),
}

/// What a setting affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingEffect {
    /// How a value is read, written, computed, compared or shown.
    Value,
    /// What a session may do, for how long, and which messages it gets.
    Conduct,
}

/// Which difference is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceRule {
    /// A list of libraries: one that the source loads and the target does not.
    Libraries,
    /// A limit that is lower on the target. -1 is none.
    AtLeast,
    /// Something that is on on the source and off on the target.
    StaysOn,
}

/// Why a setting stays behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It influences the planner. Plans depend on the machine and the version; their results are the same.
    Planner,
    /// It controls memory, processes, disk or network of the machine.
    Resources,
    /// It decides what the server logs or counts for its operator.
    Logging,
    /// It decides how a server cleans up.
    Maintenance,
    /// For developers of PostgreSQL, or for rescuing a damaged server.
    Developer,
    /// Each session or transaction has its own; the server's value is never used, or is part of the session's
    /// state.
    Session,
    /// It names files or tablespaces, which only that server has.
    Storage,
}

use Decision::{Carried, Ignored, Named};
use DifferenceRule::{AtLeast, Libraries, StaysOn};
use Reason::{Developer, Logging, Maintenance, Planner, Resources, Session, Storage};
use SettingEffect::{Conduct, Value};

const TABLE: &[(Decision, &[&str])] = &[
    (
        Carried(Value),
        &[
            "TimeZone",
            "timezone_abbreviations",
            "DateStyle",
            "IntervalStyle",
            "client_encoding",
            "extra_float_digits",
            "bytea_output",
            "xmlbinary",
            "xmloption",
            "lc_messages",
            "lc_monetary",
            "lc_numeric",
            "lc_time",
            "default_text_search_config",
            "search_path",
            "array_nulls",
            "backslash_quote",
            "standard_conforming_strings",
            "transform_null_equals",
            "quote_all_identifiers",
            // Returns part of the rows.
            "gin_fuzzy_search_limit",
            // A query fails or returns part of the rows where policies apply.
            "row_security",
            "lo_compat_privileges",
            "restrict_nonsystem_relation_kind",
            "stats_fetch_consistency",
            "plpgsql.variable_conflict",
            "plpgsql.check_asserts",
            "plpgsql.extra_errors",
        ],
    ),
    (
        Carried(Conduct),
        &[
            "default_transaction_isolation",
            "default_transaction_read_only",
            "default_transaction_deferrable",
            "statement_timeout",
            "transaction_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "idle_session_timeout",
            // With `replica`, foreign keys and triggers do not fire.
            "session_replication_role",
            "event_triggers",
            "check_function_bodies",
            "default_table_access_method",
            "icu_validation_level",
            // How the password that a client sets is stored.
            "password_encryption",
            "createrole_self_grant",
            "client_min_messages",
            "escape_string_warning",
            "md5_password_warnings",
            "plpgsql.extra_warnings",
            "plpgsql.print_strict_params",
            "exit_on_error",
        ],
    ),
    (Named(Libraries), &["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"]),
    (Named(AtLeast), &["temp_file_limit", "max_stack_depth", "max_prepared_transactions"]),
    (Named(StaysOn), &["synchronous_commit", "track_commit_timestamp"]),
    (
        Ignored(Planner),
        &[
            "constraint_exclusion",
            "cpu_index_tuple_cost",
            "cpu_operator_cost",
            "cpu_tuple_cost",
            "cursor_tuple_fraction",
            "default_statistics_target",
            "effective_cache_size",
            "enable_async_append",
            "enable_bitmapscan",
            "enable_distinct_reordering",
            "enable_gathermerge",
            "enable_group_by_reordering",
            "enable_hashagg",
            "enable_hashjoin",
            "enable_incremental_sort",
            "enable_indexonlyscan",
            "enable_indexscan",
            "enable_material",
            "enable_memoize",
            "enable_mergejoin",
            "enable_nestloop",
            "enable_parallel_append",
            "enable_parallel_hash",
            "enable_partition_pruning",
            "enable_partitionwise_aggregate",
            "enable_partitionwise_join",
            "enable_presorted_aggregate",
            "enable_self_join_elimination",
            "enable_seqscan",
            "enable_sort",
            "enable_tidscan",
            "from_collapse_limit",
            "geqo",
            "geqo_effort",
            "geqo_generations",
            "geqo_pool_size",
            "geqo_seed",
            "geqo_selection_bias",
            "geqo_threshold",
            "jit",
            "jit_above_cost",
            "jit_expressions",
            "jit_inline_above_cost",
            "jit_optimize_above_cost",
            "jit_tuple_deforming",
            "join_collapse_limit",
            "min_parallel_index_scan_size",
            "min_parallel_table_scan_size",
            "parallel_leader_participation",
            "parallel_setup_cost",
            "parallel_tuple_cost",
            "plan_cache_mode",
            "random_page_cost",
            "recursive_worktable_factor",
            "seq_page_cost",
            // Only for queries without ORDER BY.
            "synchronize_seqscans",
        ],
    ),
    (
        Ignored(Resources),
        &[
            "backend_flush_after",
            "client_connection_check_interval",
            "commit_delay",
            "commit_siblings",
            "deadlock_timeout",
            "effective_io_concurrency",
            "file_copy_method",
            "gin_pending_list_limit",
            "hash_mem_multiplier",
            "io_combine_limit",
            "logical_decoding_work_mem",
            "maintenance_io_concurrency",
            "maintenance_work_mem",
            "max_parallel_maintenance_workers",
            "max_parallel_workers",
            "max_parallel_workers_per_gather",
            // Part of a login, which Freehold does in place of the server.
            "scram_iterations",
            "tcp_keepalives_count",
            "tcp_keepalives_idle",
            "tcp_keepalives_interval",
            "tcp_user_timeout",
            "temp_buffers",
            "wal_compression",
            "wal_init_zero",
            "wal_recycle",
            "wal_sender_timeout",
            "wal_skip_threshold",
            "work_mem",
        ],
    ),
    (
        Ignored(Logging),
        &[
            "application_name",
            "compute_query_id",
            "log_connections",
            "log_disconnections",
            "log_duration",
            "log_error_verbosity",
            "log_executor_stats",
            "log_lock_failures",
            "log_lock_waits",
            "log_min_duration_sample",
            "log_min_duration_statement",
            "log_min_error_statement",
            "log_min_messages",
            "log_parameter_max_length",
            "log_parameter_max_length_on_error",
            "log_parser_stats",
            "log_planner_stats",
            "log_replication_commands",
            "log_statement",
            "log_statement_sample_rate",
            "log_statement_stats",
            "log_temp_files",
            "log_transaction_sample_rate",
            "track_activities",
            "track_cost_delay_timing",
            "track_counts",
            "track_functions",
            "track_io_timing",
            "track_wal_io_timing",
            "update_process_title",
        ],
    ),
    (
        Ignored(Maintenance),
        &[
            "vacuum_buffer_usage_limit",
            "vacuum_cost_delay",
            "vacuum_cost_limit",
            "vacuum_cost_page_dirty",
            "vacuum_cost_page_hit",
            "vacuum_cost_page_miss",
            "vacuum_failsafe_age",
            "vacuum_freeze_min_age",
            "vacuum_freeze_table_age",
            "vacuum_max_eager_freeze_failure_rate",
            "vacuum_multixact_failsafe_age",
            "vacuum_multixact_freeze_min_age",
            "vacuum_multixact_freeze_table_age",
            "vacuum_truncate",
        ],
    ),
    (
        Ignored(Developer),
        &[
            "allow_in_place_tablespaces",
            "allow_system_table_mods",
            "backtrace_functions",
            "debug_discard_caches",
            "debug_logical_replication_streaming",
            "debug_parallel_query",
            "debug_pretty_print",
            "debug_print_parse",
            "debug_print_plan",
            "debug_print_rewritten",
            "force_parallel_mode",
            "ignore_checksum_failure",
            "ignore_system_indexes",
            "jit_debugging_support",
            "jit_dump_bitcode",
            "jit_profiling_support",
            "post_auth_delay",
            "trace_notify",
            "trace_sort",
            "wal_consistency_checking",
            "zero_damaged_pages",
        ],
    ),
    (Ignored(Session), &["transaction_deferrable", "transaction_isolation", "transaction_read_only"]),
    (
        Ignored(Storage),
        &[
            "default_tablespace",
            "default_toast_compression",
            "dynamic_library_path",
            "extension_control_path",
            // Of Debian.
            "extension_destdir",
            "temp_tablespaces",
        ],
    ),
];

/// Libraries with settings for the operator of the server.
const LIBRARIES_THAT_WATCH: [&str; 3] = ["auto_explain", "pg_prewarm", "pg_stat_statements"];

/// The decision on a setting; `None` for an unknown one. Names are compared case-insensitively, as the server
/// does. A setting with a dot belongs to an application or to an extension, which uses it in computations.
pub fn decision(name: &str) -> Option<Decision> {
    let listed = TABLE.iter().find(|(_, names)| names.iter().any(|listed| listed.eq_ignore_ascii_case(name)));
    match (listed, name.split_once('.')) {
        (Some((decision, _)), _) => Some(*decision),
        (None, Some((library, _))) if LIBRARIES_THAT_WATCH.contains(&library) => Some(Ignored(Logging)),
        (None, Some(_)) => Some(Carried(Value)),
        (None, None) => None,
    }
}

/// Every setting of the table, by its name.
pub fn decided() -> impl Iterator<Item = (&'static str, Decision)> {
    TABLE.iter().flat_map(|(decision, names)| names.iter().map(|name| (*name, *decision)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::{Majors, Postgres};

    #[test]
    fn no_setting_is_decided_on_twice() {
        let mut seen = BTreeSet::new();
        for (name, _) in decided() {
            assert!(seen.insert(name.to_ascii_lowercase()), "{name} is there twice");
        }
    }

    #[test]
    fn a_setting_with_a_dot_is_an_applications_unless_its_library_only_watches() {
        assert_eq!(decision("app.tenant"), Some(Carried(Value)));
        assert_eq!(decision("auto_explain.log_analyze"), Some(Ignored(Logging)));
        assert_eq!(decision("timezone"), decision("TimeZone"));
        assert_eq!(decision("no_such_setting"), None);
    }

    /// A setting that a new major adds needs a decision.
    #[test]
    fn every_setting_of_a_session_has_a_decision_on_every_installed_major() {
        let sql = "LOAD 'plpgsql'; SELECT name FROM pg_settings WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend')";
        let mut seen = BTreeSet::new();
        for install in Majors::discover().installs() {
            let server = Postgres::start(crate::lab::Major::Number(install.major)).unwrap();
            let names = server.psql(sql).unwrap();
            assert!(names.lines().count() > 150, "PostgreSQL {}: {names}", install.major);
            let undecided: Vec<&str> = names.lines().filter(|name| decision(name).is_none()).collect();
            assert_eq!(undecided, Vec::<&str>::new(), "PostgreSQL {}", install.major);
            seen.extend(
                server
                    .psql("LOAD 'plpgsql'; SELECT lower(name) FROM pg_settings")
                    .unwrap()
                    .lines()
                    .map(str::to_owned),
            );
        }
        let misspelt: Vec<&str> = decided()
            .map(|(name, _)| name)
            .filter(|name| !seen.contains(&name.to_ascii_lowercase()) && !GONE_OR_OPTIONAL.contains(name))
            .collect();
        assert_eq!(misspelt, Vec::<&str>::new(), "no installed server knows them");
    }

    /// Settings of majors or builds that may not be installed.
    const GONE_OR_OPTIONAL: [&str; 3] = ["extension_destdir", "force_parallel_mode", "trace_sort"];
}
