//! The contract of a database as one document: what it is and whose, its limits, its guarantees, and who is
//! responsible for what. For programs as JSON or YAML, and as Open Data Contract Standard.
//!
//! Where a database is hosted is no part of it: a move changes nothing here.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ByteSize, Contract, DatabaseName, DatabaseRecord, Lifecycle, ServiceLevel, TeamRecord, Timeout, Timeouts,
};

/// The version of the shape of the document. A reader of version 1 can read every later document of
/// version 1: fields are added, never removed or given another meaning.
const DOCUMENT_VERSION: u32 = 1;

/// What the product team is responsible for, in every contract.
const OF_PRODUCT: [&str; 4] = [
    "the schema and its changes",
    "the correctness of the data",
    "the migrations of its applications",
    "the use of the database within the limits of this contract",
];

/// What the platform is responsible for, in every contract.
const OF_PLATFORM: [&str; 5] = [
    "an address that stays the same",
    "the availability of the database at this address",
    "the durability of what was committed",
    "changes of the infrastructure",
    "moves that change no data and cause no error",
];

/// The contract of a database, in a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractExport {
    pub database: DatabaseName,
    pub format: ContractFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContractFormat {
    Json,
    Yaml,
    /// Open Data Contract Standard, which is YAML.
    OpenDataContract,
}

/// What a process enforces where a contract says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimits {
    pub timeouts: Timeouts,
    pub message_size_max: ByteSize,
}

/// The contract of a database.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(title = "Contract of a Freehold database")]
pub struct ContractDocument {
    /// The version of the shape of this document: 1.
    pub document_version: u32,
    pub database: ContractDatabase,
    pub owner: ContractOwner,
    pub limits: ContractLimits,
    pub guarantees: ContractGuarantees,
    pub responsibilities: Responsibilities,
    /// How the guarantees were kept. No part of what was agreed.
    pub measured: Option<ContractMeasured>,
}

/// What the contract is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ContractDatabase {
    /// Never changes, and is never used for another database.
    pub id: String,
    pub name: String,
    pub purpose: String,
    /// dev, standard or critical.
    pub tier: String,
    /// For example active, deprecated or quarantined.
    pub state: String,
    /// A deprecated database is quarantined when this day begins (UTC).
    pub sunset: Option<String>,
    /// The database to use instead of a deprecated one.
    pub successor: Option<String>,
    /// Host and port to which applications connect.
    pub address: String,
}

/// The team that owns the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ContractOwner {
    pub team: String,
    /// Where the team is reached.
    pub contact: Option<String>,
    /// Where to turn when the contact does not answer.
    pub escalation: Option<String>,
    /// The team above it.
    pub parent: Option<String>,
}

/// What is refused or ended beyond it. Times are in milliseconds; null is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ContractLimits {
    /// session or transaction.
    pub pooling: String,
    /// Another client is refused with 53300.
    pub client_connections_max: u32,
    pub server_connections_max: u32,
    /// A longer message is refused with 54000, in bytes.
    pub message_size_max: u64,
    /// Successful logins per second.
    pub logins_per_second_max: Option<u32>,
    pub idle_timeout_ms: Option<u64>,
    pub idle_in_transaction_timeout_ms: Option<u64>,
    pub transaction_timeout_ms: Option<u64>,
    pub query_timeout_ms: Option<u64>,
    /// The longest wait for a server connection.
    pub wait_timeout_ms: Option<u64>,
}

/// What the platform keeps. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ContractGuarantees {
    /// The share of requests, over 30 days, that do not fail for a reason that is the platform's. Null is no
    /// promise.
    pub availability_percent: Option<f64>,
    /// The longest time that a move holds a client. A move that would take longer goes back.
    pub move_pause_max_ms: u64,
    /// How long a move waits for a running transaction before it tries again later.
    pub move_transaction_wait_ms: u64,
    /// The least number of days from a deprecation to the sunset.
    pub deprecation_notice_days: u16,
}

/// What the proxies measured in the last days, and today, up to the last minute. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ContractMeasured {
    pub days: u64,
    /// Queries and logins.
    pub requests: u64,
    /// Those whose client was told an error for which the platform is responsible.
    pub failed_requests: u64,
    /// Null: there was no request.
    pub availability_percent: Option<f64>,
    /// What is left of the requests that may fail. Negative: more have failed. Null: nothing is promised.
    pub error_budget_left_percent: Option<f64>,
    /// How long requests waited in a proxy, at a pause or for a server connection.
    pub added_latency_p50_ms: Option<f64>,
    pub added_latency_p99_ms: Option<f64>,
    /// The longest that a move held a client. Null: there was no move.
    pub move_pause_ms: Option<f64>,
}

impl ContractMeasured {
    pub fn of(level: &ServiceLevel) -> ContractMeasured {
        let days = &level.days;
        ContractMeasured {
            days: ServiceLevel::DAYS,
            requests: days.requests,
            failed_requests: days.failed(),
            availability_percent: days.availability().map(percent),
            error_budget_left_percent: level.budget_left().map(percent),
            added_latency_p50_ms: days.added_latency(0.5).map(fractions_of_millis),
            added_latency_p99_ms: days.added_latency(0.99).map(fractions_of_millis),
            move_pause_ms: level.move_pause.map(fractions_of_millis),
        }
    }
}

/// With four digits behind the point.
fn percent(share: f64) -> f64 {
    (share * 1_000_000.0).round() / 10_000.0
}

fn fractions_of_millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

/// Who is responsible for what. The same in every contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Responsibilities {
    pub product: Vec<String>,
    pub platform: Vec<String>,
}

impl ContractDocument {
    /// `owner`: the record of the owning team, unless it is gone; `address`: host and port of the
    /// applications' side.
    pub fn of(
        database: &DatabaseRecord,
        owner: Option<&TeamRecord>,
        address: String,
        process: ProcessLimits,
    ) -> ContractDocument {
        let (sunset, successor) = match &database.lifecycle {
            Lifecycle::Deprecated { sunset, successor, .. } => {
                (Some(sunset.to_string()), successor.as_ref().map(ToString::to_string))
            }
            _ => (None, None),
        };
        ContractDocument {
            document_version: DOCUMENT_VERSION,
            database: ContractDatabase {
                id: database.id.to_string(),
                name: database.name.to_string(),
                purpose: database.purpose.clone(),
                tier: database.contract.tier.as_str().to_owned(),
                state: database.state().to_owned(),
                sunset,
                successor,
                address,
            },
            owner: ContractOwner {
                team: database.owner.to_string(),
                contact: owner.map(|team| team.contact.clone()),
                escalation: owner.and_then(|team| team.escalation.clone()),
                parent: owner.and_then(|team| team.parent.as_ref()).map(ToString::to_string),
            },
            limits: ContractLimits::of(&database.contract, process),
            guarantees: ContractGuarantees {
                availability_percent: database.contract.tier.availability_objective().map(percent),
                move_pause_max_ms: millis(database.contract.move_pause_max),
                move_transaction_wait_ms: millis(database.contract.move_transaction_wait),
                deprecation_notice_days: database.contract.tier.notice_days(),
            },
            responsibilities: Responsibilities {
                product: OF_PRODUCT.map(str::to_owned).to_vec(),
                platform: OF_PLATFORM.map(str::to_owned).to_vec(),
            },
            measured: None,
        }
    }

    /// The JSON schema of the document.
    pub fn schema() -> Value {
        schemars::schema_for!(ContractDocument).to_value()
    }

    /// The same contract as Open Data Contract Standard v3.1.0. `version` changes whenever the contract does.
    pub fn to_open_data_contract(&self, version: &str) -> Value {
        let (host, port) = self.database.address.rsplit_once(':').unwrap_or((&self.database.address, "5432"));
        let custom = |(name, value): (&str, Value)| json!({ "property": name, "value": value });
        let limits = json!(self.limits);
        let customs =
            limits.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value.clone()));
        let customs = customs.chain([("tier", json!(self.database.tier))]);
        let availability = self.guarantees.availability_percent;
        let availability = availability
            .map(|percent| json!({ "property": "availability", "value": percent, "unit": "percent" }));
        let of_times = [
            json!({ "property": "movePauseMax", "value": self.guarantees.move_pause_max_ms, "unit": "ms" }),
            json!({ "property": "deprecationNotice", "value": self.guarantees.deprecation_notice_days, "unit": "d" }),
        ];
        let promised: Vec<Value> = availability.into_iter().chain(of_times).collect();
        json!({
            "apiVersion": "v3.1.0",
            "kind": "DataContract",
            "id": self.database.id,
            "name": self.database.name,
            "version": version,
            "status": self.status(),
            "description": {
                "purpose": self.database.purpose,
                "limitations": format!("The product team is responsible for {}.", self.responsibilities.product.join(", ")),
                "usage": format!("The platform is responsible for {}.", self.responsibilities.platform.join(", ")),
            },
            "servers": [{
                "server": "freehold",
                "type": "postgresql",
                "host": host,
                "port": port.parse::<u16>().unwrap_or(5432),
                "database": self.database.name,
                "schema": "public",
            }],
            "team": { "name": self.owner.team },
            "support": self.support(),
            "slaProperties": promised,
            "customProperties": customs.map(custom).collect::<Vec<_>>(),
        })
    }

    /// In the words of the standard.
    fn status(&self) -> &'static str {
        match self.database.state.as_str() {
            "provisioning" => "draft",
            "active" => "active",
            "deprecated" => "deprecated",
            _ => "retired",
        }
    }

    fn support(&self) -> Value {
        let ways = [
            (&self.owner.contact, "Where the owner is reached."),
            (&self.owner.escalation, "Where to turn when that does not answer."),
        ];
        let ways = ways.into_iter().filter_map(|(way, about)| Some((way.as_ref()?, about)));
        ways.map(|(channel, description)| json!({ "channel": channel, "description": description })).collect()
    }

    /// Every value with its path, by path: `limits.pooling`. A list has a row for each of its values.
    pub fn properties(&self) -> Vec<(String, Option<String>)> {
        let mut all = Vec::new();
        flatten("", &json!(self), &mut all);
        all
    }
}

impl ContractLimits {
    fn of(contract: &Contract, process: ProcessLimits) -> ContractLimits {
        let time = |timeout: Timeout| {
            let set = contract.timeouts[timeout].or(process.timeouts[timeout]);
            set.filter(|time| !time.is_zero()).map(millis)
        };
        ContractLimits {
            pooling: contract.pooling.as_str().to_owned(),
            client_connections_max: contract.client_connections_max,
            server_connections_max: contract.server_connections_max,
            message_size_max: contract.quotas.message_size_max.unwrap_or(process.message_size_max).0,
            logins_per_second_max: contract.quotas.logins_per_second_max.filter(|rate| *rate > 0),
            idle_timeout_ms: time(Timeout::Idle),
            idle_in_transaction_timeout_ms: time(Timeout::IdleInTransaction),
            transaction_timeout_ms: time(Timeout::Transaction),
            query_timeout_ms: time(Timeout::Query),
            wait_timeout_ms: time(Timeout::Wait),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn flatten(path: &str, value: &Value, all: &mut Vec<(String, Option<String>)>) {
    match value {
        Value::Object(fields) => {
            let dot = if path.is_empty() { "" } else { "." };
            fields.iter().for_each(|(name, value)| flatten(&format!("{path}{dot}{name}"), value, all));
        }
        Value::Array(values) => values.iter().for_each(|value| flatten(path, value, all)),
        Value::Null => all.push((path.to_owned(), None)),
        Value::String(text) => all.push((path.to_owned(), Some(text.clone()))),
        other => all.push((path.to_owned(), Some(other.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_in_the_repository_is_the_one_of_the_document() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/contract.schema.json");
        let schema = format!("{:#}\n", ContractDocument::schema());
        if std::env::var_os("FREEHOLD_RENDER").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap();
        assert!(stored == schema, "stale: run FREEHOLD_RENDER=1 cargo test --lib contract_document");
    }
}
