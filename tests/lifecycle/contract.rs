//! The contract of a database: what people read, and what programs read.

use freehold::lab::{Major, Postgres};
use serde_json::Value;

use super::support::{Admin, Freehold, create_system};
use super::{in_days, refused};

const OWN_SCHEMA: &str = include_str!("../../config/contract.schema.json");
const STANDARD: &str = include_str!("schemas/odcs-json-schema-v3.1.0.json");

async fn text(admin: &Admin, format: &str) -> String {
    admin.run(&format!("SHOW CONTRACT shop FORMAT {format}")).await[0]["contract"].clone()
}

fn assert_valid(schema: &str, document: &Value) {
    let schema: Value = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<String> = validator.iter_errors(document).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{document:#}\n{}", wrong.join("\n"));
}

async fn property(admin: &Admin, path: &str) -> Option<String> {
    let rows = admin.run("SHOW CONTRACT shop").await;
    rows.into_iter().find(|row| row["property"] == path).map(|row| row["value"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contract_is_one_document_that_follows_the_database_and_names_no_system() {
    let server = Postgres::start_async(Major::newest()).await.unwrap();
    let freehold = Freehold::start("", &[&server]);
    let admin = freehold.admin().await;
    admin.run(&create_system("secretly-here", &server)).await;
    admin.run("CREATE TEAM payments CONTACT '#payments' ESCALATION '#heads'").await;
    admin.run("CREATE DATABASE shop OWNER payments PURPOSE 'Orders and \"carts\": the web shop'").await;
    admin.run("ALTER DATABASE shop MAX_CLIENTS 7 QUERY_TIMEOUT '30s' MAX_MESSAGE_SIZE '1MB'").await;

    let json: Value = serde_json::from_str(&text(&admin, "JSON").await).unwrap();
    assert_valid(OWN_SCHEMA, &json);
    let at = |pointer: &str| json.pointer(pointer).unwrap().clone();
    assert_eq!(at("/database/purpose"), "Orders and \"carts\": the web shop");
    assert_eq!((at("/owner/contact"), at("/owner/escalation")), ("#payments".into(), "#heads".into()));
    assert_eq!(
        (at("/limits/client_connections_max"), at("/limits/query_timeout_ms")),
        (7.into(), 30_000.into())
    );
    assert_eq!(
        (at("/limits/message_size_max"), at("/limits/idle_timeout_ms")),
        (1_048_576.into(), Value::Null)
    );
    assert_eq!(at("/guarantees/availability_percent"), 99.9, "of tier standard");
    assert_eq!(
        (at("/measured/requests"), at("/measured/error_budget_left_percent"), at("/measured/move_pause_ms")),
        (0.into(), 100.0.into(), Value::Null)
    );
    assert_eq!(at("/limits/wait_timeout_ms"), 120_000, "the process's, where the contract has none");
    assert_eq!(property(&admin, "limits.client_connections_max").await.as_deref(), Some("7"));
    assert_eq!(property(&admin, "owner.escalation").await.as_deref(), Some("#heads"));

    let yaml: Value = serde_saphyr::from_str(&text(&admin, "YAML").await).unwrap();
    assert_eq!(yaml, json, "the same document");
    let standard: Value = serde_saphyr::from_str(&text(&admin, "ODCS").await).unwrap();
    assert_valid(STANDARD, &standard);
    assert_eq!((&standard["status"], &standard["name"]), (&"active".into(), &"shop".into()));

    let day = in_days(20);
    admin.run("CREATE DATABASE store OWNER payments PURPOSE 'What comes after the web shop'").await;
    admin.run(&format!("DEPRECATE DATABASE shop SUNSET '{day}' REASON 'replaced' SUCCESSOR store")).await;
    let deprecated: Value = serde_saphyr::from_str(&text(&admin, "odcs").await).unwrap();
    assert_valid(STANDARD, &deprecated);
    assert_eq!(deprecated["status"], "deprecated");
    assert_ne!(deprecated["version"], standard["version"], "another contract, another version");
    assert_eq!(property(&admin, "database.sunset").await, Some(day.to_string()));
    assert_eq!(property(&admin, "database.successor").await.as_deref(), Some("store"));

    let own = server.port.to_string();
    for format in ["JSON", "YAML", "ODCS"] {
        let text = text(&admin, format).await;
        assert!(!text.contains("secretly-here") && !text.contains(&own), "where it is hosted: {text}");
    }
    let unknown = refused(&admin, "SHOW CONTRACT shop FORMAT XML").await;
    assert_eq!(unknown.code().code(), "42601");
    assert_eq!(refused(&admin, "SHOW CONTRACT nothing FORMAT JSON").await.code().code(), "3D000");
}
