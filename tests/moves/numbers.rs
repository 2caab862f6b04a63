//! Sequences: the next value is the same on either side, however many there are.

use freehold::lab::Postgres;
use freehold::model::{MovePhase, MoveWish};

use crate::stage::Stage;

fn make(server: &Postgres, count: usize) {
    let sql = "CREATE TABLE inv (id smallserial PRIMARY KEY, no serial, note text);
        INSERT INTO inv (note) SELECT 'x' FROM generate_series(1, 101);
        CREATE SEQUENCE untouched;
        CREATE SEQUENCE countdown INCREMENT -3 MAXVALUE 100 MINVALUE -100000 START 100;
        SELECT setval('countdown', 40, false);
        CREATE SEQUENCE ring MAXVALUE 5 CYCLE;
        SELECT nextval('ring') FROM generate_series(1, 7)";
    server.psql_in("shop", sql).unwrap();
    // Each statement locks what it makes until it ends.
    for first in (1..=count).step_by(500) {
        let last = (first + 499).min(count);
        let some = format!(
            "DO $$ BEGIN FOR n IN {first}..{last} LOOP EXECUTE format('CREATE SEQUENCE many_%s', n);
             PERFORM setval(format('many_%s', n), n, n % 2 = 0); END LOOP; END $$"
        );
        server.psql_in("shop", &some).unwrap();
    }
}

/// Every sequence, exactly.
fn positions(server: &Postgres) -> String {
    let list = "SELECT format('SELECT %L, last_value, is_called FROM %s', relname, c.oid::regclass)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'S' AND n.nspname = 'public' ORDER BY relname";
    let each = server.psql_in("shop", list).unwrap();
    let each: Vec<&str> = each.lines().collect();
    let read = |some: &[&str]| server.psql_in("shop", &some.join(" UNION ALL ")).unwrap();
    each.chunks(400).map(read).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sequences_are_where_they_were_after_a_move_an_undo_and_another_move() {
    let stage = Stage::set().await;
    make(&stage.source, 230);
    let before = positions(&stage.source);
    let id = stage.moved().await;
    assert_eq!(positions(&stage.target), before);
    stage.wish(id, MoveWish::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(positions(&stage.source), before);
    stage.moved().await;
    assert_eq!(positions(&stage.target), before);
    let next = "INSERT INTO inv (note) VALUES ('y') RETURNING id, no";
    assert_eq!(stage.target.psql_in("shop", next).unwrap().lines().next().unwrap(), "102|102");
}

/// Draws from all of them, again and again, until it is told to stop. Returns what each gave last.
async fn draw(client: tokio_postgres::Client, count: usize) -> Vec<i64> {
    let sql =
        format!("SELECT max(nextval('many_' || n)) FROM generate_series(1, {count}) n GROUP BY n ORDER BY n");
    let mut last = vec![0; count];
    while let Ok(rows) = client.query(&sql, &[]).await {
        for (place, row) in last.iter_mut().zip(&rows) {
            *place = row.get(0);
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_that_move_all_the_time_hand_out_nothing_twice_and_those_that_do_not_stay() {
    const COUNT: usize = 400;
    let stage = Stage::set().await;
    make(&stage.source, COUNT);
    stage.source.psql_in("shop", "ALTER SEQUENCE many_1 AS smallint").unwrap();
    stage.source.psql_in("shop", "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app").unwrap();
    let still = |server: &Postgres| -> Vec<String> {
        positions(server).lines().filter(|line| !line.starts_with("many_")).map(str::to_owned).collect()
    };
    let before = still(&stage.source);
    // The fence ends it: it does not come through the proxies.
    let client = stage.source.connect_as("shop", "app", crate::stage::APP_PASSWORD).await.unwrap();
    let drawing = tokio::spawn(draw(client, COUNT));
    let id = stage.moved().await;
    let last = drawing.await.unwrap();
    assert!(last[1] > 2, "nothing was drawn: {last:?}");
    assert_eq!(still(&stage.target), before);
    let next = "SELECT nextval('many_' || n) FROM generate_series(1, 400) n";
    let there = stage.target.psql_in("shop", next).unwrap();
    let there: Vec<i64> = there.lines().map(|line| line.parse().unwrap()).collect();
    for (n, (last, next)) in last.iter().zip(&there).enumerate() {
        assert!(last < next, "many_{} gave {next} after {last}", n + 1);
        assert!(next - last < 20_000, "many_{} gave {next} after {last}", n + 1);
    }
    assert!(there[0] - last[0] < 1000, "a smallint sequence went from {} to {}", last[0], there[0]);
    stage.wish(id, MoveWish::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    // They rested on the target: back to the value.
    assert_eq!(still(&stage.source), before);
    let back = stage.source.psql_in("shop", next).unwrap();
    for (n, (back, there)) in back.lines().zip(&there).enumerate() {
        let back: i64 = back.parse().unwrap();
        assert!(back == *there + 1, "many_{} gave {back} after {there}", n + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_thousand_sequences_move_and_come_back() {
    let stage = Stage::set().await;
    make(&stage.source, 8_000);
    let before = positions(&stage.source);
    let id = stage.moved().await;
    assert_eq!(positions(&stage.target), before);
    let record = stage.movement(id).await;
    println!("8000 sequences: {:?}", record.cutover.unwrap().parts_us);
    stage.wish(id, MoveWish::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(positions(&stage.source), before);
}
