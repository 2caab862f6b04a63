//! Clients of the same machine, over a Unix socket.

use std::path::Path;

use freehold::frontend::Encryption;
use freehold::frontend::listener::{ListenOptions, Listener, Sharing};
use freehold::lab::{Major, Postgres};
use freehold::model::ListenOn;
use freehold::wire::startup;
use tokio::net::UnixStream;

use super::encryption::certificate;
use super::guest::{Guest, sleepers};
use super::stage::{self, Stage, eventually, text};

/// Requires TLS of those who come from elsewhere.
fn stage_in(directory: &Path, server: &Postgres) -> Stage {
    let (acceptor, _) = certificate(directory);
    Stage::configured(server, |config| {
        (config.acceptor, config.encryption) = (Some(acceptor), Encryption::Required);
        config.listen.on.push(ListenOn::Unix(directory.to_owned()));
    })
}

#[tokio::test]
async fn psql_comes_in_by_a_directory_needs_no_tls_and_cancels() {
    let server = stage::server(Major::newest());
    let directory = tempfile::tempdir().unwrap();
    let stage = stage_in(directory.path(), &server);
    let socket = directory.path().join(format!(".s.PGSQL.{}", stage.port()));
    assert_eq!(stage.plane.socket_paths(), [socket]);
    let mut psql = stage.program(&server, "psql");
    psql.env("PGHOST", directory.path()).args([
        "-X",
        "-A",
        "-t",
        "-c",
        "SELECT 1",
        "-c",
        "SELECT pg_sleep(600)",
    ]);
    let child = psql.spawn().unwrap();
    eventually("it sleeps", || sleepers(&server) == 1).await;
    let sessions = stage.route.session_table().sessions();
    assert_eq!(sessions[0].client, "unix");
    let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "1");
    assert!(text(&output.stderr).contains("canceling statement due to user request"));
}

#[tokio::test]
async fn tls_is_refused_on_a_unix_socket_as_by_postgresql() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let stage = stage_in(directory.path(), &server);
    let mut guest = Guest::on(UnixStream::connect(&stage.plane.socket_paths()[0]).await.unwrap());
    guest.say(startup::ssl_request).await;
    assert_eq!(guest.byte().await, Some(b'N'));
    guest.log_in(2, &[]).await;
}

#[tokio::test]
async fn a_socket_goes_with_its_data_plane_and_never_before() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let stage = stage_in(directory.path(), &server);
    let socket = stage.plane.socket_paths()[0].clone();
    let on = vec![ListenOn::Tcp(([127, 0, 0, 1], 0).into()), ListenOn::Unix(directory.path().to_owned())];
    let options = ListenOptions { on, handed_over: Vec::new(), unix_mode: 0o700, sharing: Sharing::Alone };
    let another = Listener::open_all(options);
    assert!(another.is_ok(), "another port is another name");
    drop(another);
    assert!(socket.exists());
    stage.plane.shutdown(stage::PATIENCE).await;
    assert!(!socket.exists());
}
