//! A database with one of each thing moves from every major to every newer one, comes back as it was, and
//! moves again.

use freehold::lab::{Major, Majors, Postgres};
use freehold::model::{DatabaseId, MovePhase, MoveRequest};

use super::dumps::{Dumps, assert_same};
use super::stage::Stage;

/// With `FREEHOLD_VERSIONS=all` each pair of installed majors, else the oldest and the newest.
fn pairs() -> Vec<(u32, u32)> {
    let majors: Vec<u32> = Majors::discover().installs().map(|install| install.major).collect();
    let (Some(&oldest), Some(&newest)) = (majors.first(), majors.last()) else { return Vec::new() };
    if std::env::var_os("FREEHOLD_VERSIONS").is_none_or(|which| which != "all") {
        return vec![(oldest, newest)];
    }
    let newer = |from: u32| majors.iter().filter(move |to| **to >= from).map(move |to| (from, *to));
    majors.iter().flat_map(|from| newer(*from)).collect()
}

/// The two databases of everything odd, and the roles that log in to them.
fn load(source: &Postgres) -> [(&'static str, &'static [&'static str]); 2] {
    let ordinary = include_str!("../moving/shop.sql").replace("DATABASE shop", "DATABASE odd");
    // Both files create the role.
    let superuser = include_str!("../moving/superuser.sql").replace("CREATE ROLE shop_owner LOGIN;", "");
    for (dbname, sql) in [("odd", ordinary), ("super", superuser)] {
        source.psql(&format!("CREATE DATABASE {dbname}")).unwrap();
        source.psql_in(dbname, &sql).unwrap();
    }
    [("odd", &["shop_app", "Shop Reader"]), ("super", &["shop_reader"])]
}

struct Journey<'a> {
    stage: &'a Stage,
    dumps: Dumps,
    dbname: &'static str,
    database: DatabaseId,
}

impl Journey<'_> {
    /// There, back, there, and finished: each time what has arrived is what was there before.
    async fn make(&self) {
        let source = &self.stage.source;
        let before = self.dumps.whole(source, self.dbname);
        assert!(before.len() > 100, "{before:#?}");
        let id = self.stage.moved_too(&self.database, self.dbname).await;
        self.assert_arrived("after the move");
        self.stage.request(id, MoveRequest::Undo).await;
        self.stage.rests_in(id, MovePhase::Undone).await;
        assert_same("after the undo", &before, &self.dumps.whole(source, self.dbname));
        let id = self.stage.moved_too(&self.database, self.dbname).await;
        self.assert_arrived("after the second move");
        self.stage.request(id, MoveRequest::Finish).await;
        self.stage.rests_in(id, MovePhase::Finished).await;
    }

    fn assert_arrived(&self, when: &str) {
        let servers = [&self.stage.source, &self.stage.target];
        let [source, target] = servers.map(|server| self.dumps.schema(server, self.dbname));
        assert_same(&format!("schema {when}"), &source, &target);
        let [source, target] = servers.map(|server| self.dumps.rows(server, self.dbname));
        assert_same(&format!("rows {when}"), &source, &target);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_of_everything_odd_move_to_every_newer_major_and_back() {
    for (from, to) in pairs() {
        println!("{from} to {to}");
        let stage = Stage::between(Major::Number(from), Major::Number(to), &[]).await;
        for (dbname, logins) in load(&stage.source) {
            let database = stage.adopt(dbname, logins).await;
            Journey { stage: &stage, dumps: Dumps::by_newest(), dbname, database }.make().await;
        }
    }
}
