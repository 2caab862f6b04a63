//! Copying rows slows down while clients wait longer for their answers than before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use freehold::control::settings::LatencySource;
use freehold::model::{LATENCY_CLASSES, Latencies, MovePhase, MoveProgress};
use tokio::time::Instant;

use crate::stage::{PATIENCE, Stage};

/// Clients whose waits the test decides: every look finds a thousand more answers.
fn clients(wait_micros: &Arc<AtomicU64>) -> LatencySource {
    let wait_micros = Arc::clone(wait_micros);
    let counts = std::sync::Mutex::new([0; LATENCY_CLASSES]);
    LatencySource::new(move |_| {
        let mut counts = counts.lock().unwrap();
        counts[Latencies::class(wait_micros.load(Ordering::Relaxed))] += 1000;
        Some(Latencies::of(*counts))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copying_rests_while_clients_wait_longer_and_goes_on_when_they_do_not() {
    let stage = Stage::set().await;
    // However fast the machine is, writing the copy takes seven seconds.
    let rows = "CREATE TABLE bulk AS SELECT n AS id, repeat(md5(n::text), 12) AS filler FROM generate_series(1, 250000) n;
        ALTER TABLE bulk ADD PRIMARY KEY (id);
        ALTER TABLE bulk ADD CHECK (id % 100 <> 0 OR current_user !~ '^freehold_apply' OR pg_sleep(0.003) IS NOT NULL)";
    stage.source.psql_in("shop", rows).unwrap();
    let waits = Arc::new(AtomicU64::new(1_000));
    stage.change_settings(|settings| {
        settings.latencies = clients(&waits);
        settings.copy_workers = 1;
    });
    let id = stage.request_move().await;
    let deadline = Instant::now() + PATIENCE;
    let until = async |is_so: fn(&MoveProgress) -> bool| {
        loop {
            let progress = stage.catalog.moves().progress(id).await.unwrap().unwrap_or_default();
            if is_so(&progress) {
                return progress;
            }
            assert!(Instant::now() < deadline, "{progress:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Measured before the move does anything: what the move itself does to clients does not count.
    let progress = until(|progress| progress.client_p99_before.is_some()).await;
    waits.store(5_000, Ordering::Relaxed);
    assert!(progress.client_p99_before.unwrap() < Duration::from_micros(1_300), "{progress:?}");
    let progress = until(|progress| progress.copy_share_percent.is_some()).await;
    assert!(progress.client_p99_before.unwrap() < Duration::from_micros(1_300), "{progress:?}");
    waits.store(30_000, Ordering::Relaxed);
    let slow = until(|progress| progress.copy_share_percent == Some(10)).await;
    assert!(slow.client_p99.unwrap() > Duration::from_millis(29), "{slow:?}");
    assert!(slow.bytes_copied < slow.bytes_total, "{slow:?}");
    waits.store(1_000, Ordering::Relaxed);
    until(|progress| progress.copy_share_percent > Some(10)).await;
    let record = stage.rests_in(id, MovePhase::Kept).await;
    let copied = stage.target.psql_in("shop", "SELECT count(*), sum(id) FROM bulk").unwrap();
    assert_eq!(copied, "250000|31250125000");
    assert!(record.failure.is_none());
}
