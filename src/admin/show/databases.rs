//! SHOW DATABASES and SHOW DATABASE.

use crate::admin::answer::{Row, row};
use crate::admin::context::{Caller, Cluster, Local};
use crate::admin::databases::verifier_kind;
use crate::admin::error::AdminError;
use crate::admin::transition_error::days;
use crate::admin::{find, permission};
use crate::model::{
    DatabaseName, DatabaseRecord, Date, Due, GateOrder, Lifecycle, NewClients, Quotas, RouteRecord, Service,
    Timeout, Timeouts, TransferOffer, UnixMillis, timeout_text,
};

/// The catalogue's records; clients and server connections are counted in this process.
pub(in crate::admin) async fn show_databases(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
) -> Result<Vec<Row>, AdminError> {
    let routes = cluster.catalog().routes().list().await?.into_values();
    let mut databases = permission::seen(cluster, caller).await?;
    databases.sort_by(|a, b| a.name.cmp(&b.name));
    let rows = databases.iter().map(|database| {
        let route = routes.iter().find(|route| route.database == database.id);
        let sees_place = !caller.rights.is_of_product();
        database_row(local, database, route, sees_place)
    });
    Ok(rows.collect())
}

/// With `sees_place`, where it is and what the platform does with it; these columns are NULL otherwise.
fn database_row(
    local: &Local,
    database: &DatabaseRecord,
    route: Option<&RouteRecord>,
    sees_place: bool,
) -> Row {
    let place = route.filter(|_| sees_place).map(|route| &route.place);
    let contract = &database.contract;
    let here = local.routes.by_id(&database.id);
    let clients = here.as_ref().map_or(0, |route| route.session_table().len());
    let servers = here.as_ref().map_or(0, |route| route.session_table().server_connections());
    let paused = route.is_some_and(|route| matches!(route.gate, GateOrder::Held { .. }));
    let disabled = route.is_some_and(|route| {
        matches!(route.terms.service, Service::Refused { .. }) || route.new_clients == NewClients::Disabled
    });
    row![
        &database.name,
        place.map(|place| place.address.host.clone()),
        place.map(|place| place.address.port),
        place.map(|place| place.dbname.clone()),
        None::<String>,
        contract.server_connections_max,
        "0",
        "0",
        "0",
        contract.pooling.as_str(),
        None::<String>,
        contract.server_connections_max,
        servers,
        contract.client_connections_max,
        clients,
        if paused { "1" } else { "0" },
        if disabled { "1" } else { "0" },
        &database.owner,
        database.state(),
        contract.tier.as_str(),
        place.map(|place| place.system.to_string()),
        route.filter(|_| sees_place).map(|route| route.epoch),
        database.operation.filter(|_| sees_place).map(|operation| operation.to_string()),
        database.purpose.as_str(),
        &database.id,
        database.adopted,
        timeouts(&contract.timeouts)
    ]
}

pub(in crate::admin) async fn show_database(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Vec<Row>, AdminError> {
    let database = find::database(cluster, name).await?.value;
    let sees_place = !caller.rights.is_of_product();
    let route = cluster.catalog().routes().get(&database.id).await?.map(|route| route.value);
    let contract = &database.contract;
    let mut rows = vec![
        row!["name", &database.name],
        row!["id", &database.id],
        row!["owner", &database.owner],
        row!["purpose", database.purpose.as_str()],
        row!["state", database.state()],
        row!["tier", contract.tier.as_str()],
        row!["notice_period", days(contract.tier.notice_days())],
        row!["pooling", contract.pooling.as_str()],
        row!["client_connections_max", contract.client_connections_max],
        row!["server_connections_max", contract.server_connections_max],
        row!["move_transaction_wait", humantime::format_duration(contract.move_transaction_wait).to_string()],
        row!["move_pause_max", humantime::format_duration(contract.move_pause_max).to_string()],
    ];
    rows.extend(lifecycle(&database, cluster.now(), sees_place));
    rows.extend(database.offer.iter().flat_map(|offer| offered(offer, cluster.now())));
    let Quotas { message_size_max, logins_per_second_max } = contract.quotas;
    let default = || "default".to_owned();
    rows.extend([
        row!["max_message_size", message_size_max.map_or_else(default, |size| size.to_string())],
        row!["max_login_rate", logins_per_second_max.map_or_else(default, |rate| rate.to_string())],
    ]);
    rows.extend(Timeout::ALL.into_iter().map(|timeout| {
        let set = contract.timeouts[timeout].map_or_else(|| "default".to_owned(), timeout_text);
        row![timeout.clause().to_lowercase(), set]
    }));
    rows.extend([
        row!["operation", database.operation.filter(|_| sees_place).map(|operation| operation.to_string())],
        row!["adopted", database.adopted],
        row!["created_at", database.created_at],
        row!["created_by", database.created_by.as_str()],
    ]);
    if let Some(route) = &route {
        if sees_place {
            rows.push(row!["system", &route.place.system]);
            rows.push(row!["address", route.place.address.to_string()]);
            rows.push(row!["dbname", route.place.dbname.as_str()]);
            rows.push(row!["epoch", route.epoch]);
            rows.push(row!["gate", gate(&route.gate)]);
        }
        let is_disabled = route.new_clients == NewClients::Disabled;
        rows.push(row!["new_clients", if is_disabled { "refused" } else { "served" }]);
    }
    // A team to which it is only offered sees the contract, and not the clients.
    if !permission::owns(&caller.rights, &database) {
        return Ok(rows);
    }
    for login in cluster.catalog().logins().of(&database.id).await?.into_values() {
        let superuser = if login.superuser { ", superuser" } else { "" };
        rows.push(row![format!("login {}", login.role), format!("{}{superuser}", verifier_kind(&login))]);
    }
    Ok(rows)
}

/// What its lifecycle state says besides its name, and what is due.
fn lifecycle(database: &DatabaseRecord, now: UnixMillis, sees_place: bool) -> Vec<Row> {
    let shown = |date: &Option<Date>| date.map(|date| date.to_string());
    let mut rows = match &database.lifecycle {
        Lifecycle::Deprecated { sunset, reason, successor } => vec![
            row!["sunset", sunset.to_string()],
            row!["successor", successor.as_ref().map(DatabaseName::to_string)],
            row!["reason", reason.as_str()],
        ],
        Lifecycle::Quarantined { reason, until } => {
            vec![row!["quarantined_until", shown(until)], row!["reason", reason.as_str()]]
        }
        Lifecycle::Provisioning | Lifecycle::Active | Lifecycle::Archived | Lifecycle::Deleted { .. } => {
            Vec::new()
        }
    };
    let due = database.lifecycle.due(now).map(|due| match (due, database.operation) {
        (Due::Quarantine { since }, Some(_)) if !sees_place => {
            format!("since {since}: quarantine, once the platform has finished its work on it")
        }
        (Due::Quarantine { since }, Some(operation)) => {
            format!("since {since}: quarantine, once {operation} has ended")
        }
        (Due::Quarantine { since }, None) => format!("since {since}: quarantine"),
        (Due::Decision { since }, _) if !sees_place => {
            format!("since {since}: REVIVE DATABASE, or the platform team drops it")
        }
        (Due::Decision { since }, _) => format!("since {since}: DROP DATABASE or REVIVE DATABASE"),
    });
    rows.extend(due.map(|due| row!["due", due]));
    rows
}

/// The offer to another team.
fn offered(offer: &TransferOffer, now: UnixMillis) -> [Row; 3] {
    let state = if offer.has_expired(now) { "expired at" } else { "open until" };
    [
        row!["transfer_to", &offer.to],
        row!["transfer", format!("{state} {}, offered by {}", offer.expires_at, offer.who)],
        row!["transfer_reason", offer.reason.as_deref()],
    ]
}

/// The timeouts that a contract sets: `idle 5m, query none`.
fn timeouts(timeouts: &Timeouts) -> Option<String> {
    let one =
        |timeout: Timeout| timeouts[timeout].map(|time| format!("{} {}", timeout.name(), timeout_text(time)));
    let set: Vec<String> = Timeout::ALL.into_iter().filter_map(one).collect();
    (!set.is_empty()).then(|| set.join(", "))
}

pub(in crate::admin) fn gate(order: &GateOrder) -> &'static str {
    match order {
        GateOrder::Open => "open",
        GateOrder::Latched { .. } => "latched",
        GateOrder::Held { .. } => "held",
    }
}
