//! The files for Docker are read by the same code as any others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::Path;

use freehold::admin::users::read_users;
use freehold::config::Config;

#[test]
fn the_configuration_of_the_compose_file_is_good_and_its_administrator_can_log_in() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/freehold.toml");
    let config = Config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.proxy.listen.ip().is_unspecified(), "clients come from other containers");
    let users = read_users(&config.admin.users_file).unwrap();
    assert!(format!("{users:?}").contains("admin"), "{users:?}");
}
