//! One system, one Freehold, a database `shop`, and a configuration that changes under way.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use freehold::lab::{Major, Postgres};

use crate::office::Office;
use crate::support::{Freehold, Login, create_system, create_system_by_socket, until};

pub(crate) struct Stage {
    // Dropped in this order: Freehold never sees its system vanish.
    pub(crate) freehold: Freehold,
    pub(crate) server: Postgres,
    /// The role that owns `shop`, with its password.
    pub(crate) owner: Login,
    config: String,
}

impl Stage {
    /// With these sections in the configuration.
    pub(crate) async fn set(sections: &str) -> Stage {
        Stage::before(Postgres::start_async(Major::oldest()).await.unwrap(), "", "", sections).await
    }

    /// With TLS of this office.
    pub(crate) async fn set_with_tls(office: &Office, sections: &str) -> Stage {
        Stage::set_with_proxy(&office.proxy_section(), sections).await
    }

    pub(crate) async fn set_with_proxy(proxy: &str, sections: &str) -> Stage {
        let server = Postgres::start_async(Major::oldest()).await.unwrap();
        Stage::before(server, proxy, "", sections).await
    }

    /// With roles that are read so seldom.
    pub(crate) async fn set_reading_roles_every(interval: &str) -> Stage {
        let server = Postgres::start_async(Major::oldest()).await.unwrap();
        Stage::set_on_reading_roles_every(server, interval).await
    }

    pub(crate) async fn set_on_reading_roles_every(server: Postgres, interval: &str) -> Stage {
        let system = create_system("one", &server);
        Stage::begin(server, "", &system, interval, "").await
    }

    /// `proxy`: more lines of that section. `system`: more clauses of CREATE SYSTEM.
    pub(crate) async fn before(server: Postgres, proxy: &str, system: &str, sections: &str) -> Stage {
        let system = format!("{} {system}", create_system("one", &server));
        Stage::begin(server, proxy, &system, "100ms", sections).await
    }

    /// By its Unix socket, with what it may ask for.
    pub(crate) async fn by_socket(server: Postgres, proxy: &str, auth: &str) -> Stage {
        let system = create_system_by_socket("one", &server, auth);
        Stage::begin(server, proxy, &system, "100ms", "").await
    }

    async fn begin(server: Postgres, proxy: &str, system: &str, interval: &str, sections: &str) -> Stage {
        let movement = format!("logins_interval = \"{interval}\"\n{sections}");
        let freehold = Freehold::start_with(proxy, &movement, &[&server]);
        let admin = freehold.admin().await;
        admin.run(system).await;
        admin.run("CREATE TEAM payments CONTACT '#payments'").await;
        let created =
            admin.run("CREATE DATABASE shop OWNER payments PURPOSE 'Orders and carts of the web shop'").await;
        let owner = Login {
            port: freehold.proxy_port,
            dbname: "shop".into(),
            role: created[0]["role"].clone(),
            password: created[0]["password"].clone(),
        };
        let config = std::fs::read_to_string(freehold.config_path()).unwrap();
        let config = config.strip_suffix(&format!("{sections}\n")).unwrap().to_owned();
        let stage = Stage { freehold, server, owner, config };
        until("shop is known", || async {
            stage.freehold.admin().await.run("SHOW DATABASES").await[0]["system"] == "one"
        })
        .await;
        stage
    }

    /// Other sections instead of those at the start, applied by RELOAD.
    pub(crate) async fn reload(&self, sections: &str) {
        self.write("freehold.toml", &self.configuration(sections));
        self.freehold.admin().await.run("RELOAD").await;
    }

    pub(crate) fn configuration(&self, sections: &str) -> String {
        format!("{}{sections}\n", self.config)
    }

    /// These rules instead of those before, with more lines of `[access]`.
    pub(crate) async fn rule(&self, rules: &str, access: &str) {
        self.write("hba.conf", rules);
        self.reload(&format!("[access]\nhba_file = \"hba.conf\"\n{access}\n")).await;
    }

    /// A file beside the configuration.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.freehold.config_path().with_file_name(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A role that may connect to `shop`.
    pub(crate) async fn create_role(&self, name: &str, options: &str) {
        self.server.psql(&format!("CREATE ROLE \"{name}\" LOGIN {options}")).unwrap();
        self.server.psql(&format!("GRANT CONNECT ON DATABASE shop TO \"{name}\"")).unwrap();
        self.until_known(name).await;
    }

    /// Waits without trying to log in: that would count as a guess.
    pub(crate) async fn until_known(&self, role: &str) {
        let admin = self.freehold.admin().await;
        until(&format!("role {role} is known"), || async {
            let rows = admin.run("SHOW DATABASE shop").await;
            let logins = rows.iter().filter(|row| row["property"].starts_with("login "));
            let lists = admin.run("SHOW LISTS").await;
            // What the catalogue has and the proxy counts.
            let followed = lists
                .iter()
                .any(|row| row["list"] == "users" && row["items"] == logins.clone().count().to_string());
            followed && logins.clone().any(|row| row["property"] == format!("login {role}"))
        })
        .await;
    }

    pub(crate) fn login(&self, role: &str, password: &str) -> Login {
        Login { role: role.into(), password: password.into(), ..self.owner.clone() }
    }

    /// `psql` with a conninfo of its own beside host, port and database; the query is `select current_user`.
    pub(crate) fn psql(&self, conninfo: &str) -> Output {
        self.psql_asking(conninfo, "SELECT current_user")
    }

    pub(crate) fn psql_asking(&self, conninfo: &str, sql: &str) -> Output {
        let dsn = format!("host=127.0.0.1 port={} dbname=shop {conninfo}", self.freehold.proxy_port);
        Command::new(self.server.bin.join("psql"))
            .args(["-X", "-A", "-t", "-w", "-d", &dsn, "-c", sql])
            .env_remove("PGPASSWORD")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

/// The SQLSTATE that a login ends with.
pub(crate) async fn refused(login: &Login) -> String {
    match login.try_connect().await {
        Ok(_) => panic!("{} came in", login.role),
        Err(error) => match error.as_db_error() {
            Some(error) => error.code().code().to_owned(),
            None => panic!("{error:?}"),
        },
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}
