//! SHOW STATS and related commands.

use std::collections::HashSet;
use std::time::Instant;

use crate::admin::answer::{Cell, Row, row};
use crate::admin::context::{Caller, Cluster, Local};
use crate::admin::error::AdminError;
use crate::admin::permission;
use crate::admin::show::samples::Recent;
use crate::route::{Counter, Totals};

/// The counters of one database.
struct Traffic {
    database: String,
    totals: Totals,
    recent: Recent,
}

impl Traffic {
    fn totals(&self) -> impl Iterator<Item = Option<String>> {
        self.totals.values().into_iter().map(Cell::cell)
    }

    fn averages(&self) -> impl Iterator<Item = Option<String>> {
        Counter::ALL.into_iter().map(|figure| self.recent.average(figure).cell())
    }
}

pub(in crate::admin) async fn show_stats(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
) -> Result<Vec<Row>, AdminError> {
    let rows = each_traffic(local, |traffic| traffic.totals().chain(traffic.averages()).collect());
    of_own(cluster, caller, rows).await
}

pub(in crate::admin) async fn show_stats_totals(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
) -> Result<Vec<Row>, AdminError> {
    let rows = each_traffic(local, |traffic| traffic.totals().collect());
    of_own(cluster, caller, rows).await
}

pub(in crate::admin) async fn show_stats_averages(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
) -> Result<Vec<Row>, AdminError> {
    let rows = each_traffic(local, |traffic| traffic.averages().collect());
    of_own(cluster, caller, rows).await
}

/// The rows of the databases that are the user's own.
async fn of_own(cluster: &Cluster, caller: &Caller, mut rows: Vec<Row>) -> Result<Vec<Row>, AdminError> {
    if caller.rights.is_of_product() {
        let mut own = permission::seen(cluster, caller).await?;
        own.retain(|database| permission::owns(&caller.rights, database));
        let own: HashSet<&str> = own.iter().map(|database| database.name.as_str()).collect();
        rows.retain(|row| row.first().and_then(Option::as_deref).is_some_and(|name| own.contains(name)));
    }
    Ok(rows)
}

/// One row per database: its name, and the columns of `figures`.
fn each_traffic(local: &Local, figures: impl Fn(&Traffic) -> Row) -> Vec<Row> {
    let traffic = traffic(local);
    let row = |traffic: &Traffic| {
        let name = std::iter::once(traffic.database.as_str().cell());
        name.chain(figures(traffic)).collect()
    };
    traffic.iter().map(row).collect()
}

fn traffic(local: &Local) -> Vec<Traffic> {
    let now = Instant::now();
    let routes = local.routes.routes();
    let traffic = routes.iter().map(|route| {
        let totals = route.session_table().totals();
        let recent = local.samples.since(route.id(), &totals, now);
        Traffic { database: route.current().name.to_string(), totals, recent }
    });
    traffic.collect()
}

pub(in crate::admin) async fn show_totals(local: &Local) -> Result<Vec<Row>, AdminError> {
    let traffic = traffic(local);
    let sum = |totals: fn(&Traffic) -> &Totals| {
        traffic.iter().fold(Totals::default(), |sum, one| sum.plus(totals(one)))
    };
    let totals = sum(|one| &one.totals);
    let window = traffic.iter().map(|one| one.recent.window).max().unwrap_or_default();
    let recent = Recent { added: sum(|one| &one.recent.added), window };
    let named = |prefix: &'static str, value: fn(&Totals, &Recent, Counter) -> u64| {
        let row = move |figure| {
            row![format!("{prefix}_{}", name_in_totals(figure)), value(&totals, &recent, figure)]
        };
        Counter::ALL.into_iter().map(row)
    };
    let rows = named("total", |totals, _, figure| totals.of(figure));
    let rows = rows.chain(named("avg", |_, recent, figure| recent.average(figure)));
    Ok(rows.collect())
}

/// PgBouncer's column names.
fn name_in_totals(figure: Counter) -> &'static str {
    match figure {
        Counter::ServerAssignments => "server_assignment_count",
        Counter::Transactions => "xact_count",
        Counter::Queries => "query_count",
        Counter::Received => "client_bytes",
        Counter::Sent => "server_bytes",
        Counter::TransactionTime => "xact_time",
        Counter::QueryTime => "query_time",
        Counter::WaitTime => "wait_time",
        Counter::ClientParses => "ps_client_parse_count",
        Counter::ServerParses => "ps_server_parse_count",
        Counter::Binds => "ps_bind_count",
        Counter::Logins => "client_login_count",
    }
}
