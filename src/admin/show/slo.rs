//! SHOW SLO, and what a contract says of measurements.

use std::time::Duration;

use crate::admin::answer::{Row, row};
use crate::admin::context::{Caller, Cluster, Local};
use crate::admin::error::AdminError;
use crate::admin::permission;
use crate::catalog::store::StoreError;
use crate::error::Blame;
use crate::model::{DatabaseName, DatabaseRecord, Measured, MoveRecord, ServiceLevel, Span, UnixMillis};

/// What is not in the store yet is added as far as this process has measured it.
pub(in crate::admin) async fn show_slo(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
    name: &Option<DatabaseName>,
) -> Result<Vec<Row>, AdminError> {
    let moves = cluster.catalog().moves().list().await?.into_values();
    let mut rows = Vec::new();
    for database in permission::owned(cluster, caller, name.as_ref()).await? {
        let here = local.routes.by_id(&database.id).map(|route| route.unrecorded());
        let level = service_level(cluster, &database, &moves, &here.unwrap_or_default()).await?;
        rows.extend(rows_of(&database, &level));
    }
    Ok(rows)
}

/// What was measured of a database by all proxies, and `here` besides.
pub(in crate::admin) async fn service_level(
    cluster: &Cluster,
    database: &DatabaseRecord,
    moves: &[MoveRecord],
    here: &Measured,
) -> Result<ServiceLevel, StoreError> {
    let now = cluster.now();
    let back = |millis: u64| UnixMillis(now.0.saturating_sub(millis));
    let begin = back(ServiceLevel::DAYS * Span::Day.millis());
    let since = async |span, at| {
        let stored = cluster.catalog().measured().since(&database.id, span, at).await;
        stored.map(|mut stored| {
            stored.add(here);
            stored
        })
    };
    let days = since(Span::Day, begin).await?;
    let six_hours = since(Span::Hour, back(6 * Span::Hour.millis())).await?;
    let hour = since(Span::Minute, back(Span::Hour.millis())).await?;
    let of_these_days =
        moves.iter().filter(|movement| movement.database == database.id && movement.started_at >= begin);
    let pauses = of_these_days.flat_map(|movement| [&movement.cutover, &movement.undo]).flatten();
    let pause = pauses.map(|pause| pause.longest_stall).max();
    Ok(ServiceLevel::of(database.contract.tier, [days, six_hours, hour], pause))
}

fn rows_of(database: &DatabaseRecord, level: &ServiceLevel) -> Vec<Row> {
    let name = &database.name;
    let platform = Blame::Platform.to_string();
    let burn = |measured: &Measured| level.burn_rate(measured).map(|rate| format!("{rate:.2}"));
    let none = || None::<String>;
    let plain = |indicator: &str, objective: Option<String>, measured: Option<String>| {
        row![name, indicator, objective, measured, none(), none(), none(), platform.as_str()]
    };
    let days = &level.days;
    let mut rows = vec![
        row![
            name,
            "availability",
            level.objective.map(percent),
            days.availability().map(percent),
            level.budget_left().map(percent),
            burn(&level.hour),
            burn(&level.six_hours),
            platform.as_str()
        ],
        plain("requests", none(), Some(days.requests.to_string())),
        plain("failed requests", none(), Some(days.failed().to_string())),
        plain("minutes with failed requests", none(), Some(days.failed_minutes.to_string())),
        plain("added latency, p50", none(), days.added_latency(0.5).map(duration)),
        plain("added latency, p99", none(), days.added_latency(0.99).map(duration)),
        plain(
            "pause at moves",
            Some(duration(database.contract.move_pause_max)),
            level.move_pause.map(duration),
        ),
    ];
    for (class, sides) in &days.errors {
        for (side, count) in sides {
            let indicator = format!("errors of class {class}");
            rows.push(row![name, indicator, none(), *count, none(), none(), none(), side.to_string()]);
        }
    }
    rows
}

/// `99.95 %`
fn percent(share: f64) -> String {
    let digits = format!("{:.4}", share * 100.0);
    let short = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{short} %")
}

/// `7.5ms`; whole microseconds.
fn duration(time: Duration) -> String {
    if time.is_zero() {
        return "0ms".to_owned();
    }
    format!("{:?}", Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_as_exact_as_they_are_needed() {
        let percents = [0.9995, 0.99999, 1.0, 0.5, 0.0, -0.25].map(percent);
        assert_eq!(percents, ["99.95 %", "99.999 %", "100 %", "50 %", "0 %", "-25 %"]);
        let durations = [Duration::ZERO, Duration::from_micros(7_500), Duration::from_secs(1)].map(duration);
        assert_eq!(durations, ["0ms", "7.5ms", "1s"]);
    }
}
