//! Answers for people and for programs.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, ContentArrangement};
use serde_json::{Map, Value};

use super::Output;
use super::admin::Table;
use crate::model::printable;

pub(super) fn print(table: &Table, output: Output) {
    match output {
        Output::Json => println!("{}", printable::json(&json(table).to_string())),
        Output::Table if table.columns.is_empty() => {}
        Output::Table => println!("{}", text(table)),
    }
}

/// A text as it is, but for control characters.
pub(super) fn print_text(text: &str) {
    println!("{}", printable::lines(text));
}

fn text(table: &Table) -> String {
    let mut shown = comfy_table::Table::new();
    shown.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    shown.set_header(table.columns.iter().map(|name| printable::lines(name)));
    for row in &table.rows {
        shown.add_row(row.iter().map(|value| Cell::new(printable::lines(value.as_deref().unwrap_or("")))));
    }
    shown.trim_fmt()
}

/// An array with an object for each row.
fn json(table: &Table) -> Value {
    let object = |row: &Vec<Option<String>>| {
        let pairs = table.columns.iter().zip(row);
        let pairs =
            pairs.map(|(name, value)| (name.clone(), value.clone().map_or(Value::Null, Value::String)));
        Value::Object(pairs.collect::<Map<String, Value>>())
    };
    Value::Array(table.rows.iter().map(object).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_objects_and_null_stays_null() {
        let table = Table {
            columns: vec!["a".to_owned(), "b".to_owned()],
            rows: vec![vec![Some("1".to_owned()), None]],
        };
        assert_eq!(json(&table).to_string(), r#"[{"a":"1","b":null}]"#);
        assert!(text(&table).contains('a'));
    }
}
