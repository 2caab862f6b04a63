//! A Freehold in the process of the test, with a clock that the test moves.

use freehold::admin::users::user_line;
use freehold::app::{ProcessInputs, Serve};
use freehold::config::Config;
use freehold::lab::{Postgres, free_ports, roots};
use freehold::model::UnixMillis;

use super::PATIENCE;
use super::support::{ADMIN, ADMIN_PASSWORD, Admin, Login, write_private};

pub(crate) struct Here {
    clock: fn() -> UnixMillis,
    serve: Option<Serve>,
    files: tempfile::TempDir,
    proxy_port: u16,
    admin_port: u16,
}

impl Here {
    pub(crate) async fn start(systems: &[&Postgres], clock: fn() -> UnixMillis) -> Here {
        let files = tempfile::tempdir().unwrap();
        write_private(&files.path().join("admins.txt"), &user_line(ADMIN, ADMIN_PASSWORD));
        let ports = free_ports(2).unwrap();
        let programs: Vec<String> = systems.iter().map(|server| format!("{:?}", server.bin)).collect();
        let config = format!(
            "[proxy]\nlisten = \"127.0.0.1:{}\"\n[admin]\nlisten = \"127.0.0.1:{}\"\npassword_dirs = {:?}\n\
             [move]\npg_bin_dirs = [{}]\n",
            ports[0],
            ports[1],
            roots(),
            programs.join(", ")
        );
        std::fs::write(files.path().join("freehold.toml"), config).unwrap();
        let mut here = Here { clock, serve: None, files, proxy_port: ports[0], admin_port: ports[1] };
        here.restart().await;
        here
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(serve) = self.serve.take() {
            serve.shutdown_within(PATIENCE).await;
        }
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let config = Config::load(&self.files.path().join("freehold.toml")).unwrap();
        let given = ProcessInputs { clock: self.clock, ..ProcessInputs::default() };
        self.serve = Some(Serve::start_from(config, given).await.unwrap());
    }

    pub(crate) async fn admin(&self) -> Admin {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.admin_port)
            .dbname("freehold")
            .user(ADMIN)
            .password(ADMIN_PASSWORD);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        Admin(client)
    }

    pub(crate) async fn create_shop(&self) -> Login {
        let create = "CREATE DATABASE shop OWNER payments PURPOSE 'Orders of the web shop' ON SYSTEM old";
        let created = self.admin().await.run(create).await;
        Login {
            port: self.proxy_port,
            dbname: "shop".to_owned(),
            role: created[0]["role"].clone(),
            password: created[0]["password"].clone(),
        }
    }
}
