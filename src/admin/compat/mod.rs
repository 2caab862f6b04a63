//! What drivers, psql and tools made for PgBouncer send on their own.

pub(in crate::admin) mod driver_queries;
mod pgbouncer_settings;
