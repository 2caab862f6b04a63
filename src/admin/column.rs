//! The columns of answers: a name and a type.
//!
//! # Why
//! Freehold's own columns are of type text. PgBouncer's columns keep PgBouncer's types, because its
//! Prometheus exporter and dashboards treat text as a label and a number as a value. Rows are stored as text,
//! as PostgreSQL writes it; a driver that asks for the binary format gets the same value converted to its
//! type.

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Int4,
    Int8,
    Numeric,
}

impl Kind {
    /// The OID in `pg_type`.
    pub fn oid(self) -> u32 {
        match self {
            Kind::Text => 25,
            Kind::Int4 => 23,
            Kind::Int8 => 20,
            Kind::Numeric => 1700,
        }
    }

    /// `pg_type.typlen`; -1: variable length.
    pub fn bytes(self) -> i16 {
        match self {
            Kind::Int4 => 4,
            Kind::Int8 => 8,
            Kind::Text | Kind::Numeric => -1,
        }
    }

    /// A value in the binary format of its type; None: the text is not a value of this type.
    pub fn binary(self, value: &str) -> Option<Vec<u8>> {
        match self {
            Kind::Text => Some(value.as_bytes().to_vec()),
            Kind::Int4 => value.parse::<i32>().ok().map(|number| number.to_be_bytes().to_vec()),
            Kind::Int8 => value.parse::<i64>().ok().map(|number| number.to_be_bytes().to_vec()),
            Kind::Numeric => value.parse().ok().map(numeric),
        }
    }
}

/// A whole number as `numeric_send` writes it: number of base 10000 digits, weight of the first, sign, scale,
/// digits.
fn numeric(number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = number;
    while rest > 0 {
        digits.push(i16::try_from(rest % 10_000).unwrap_or_default());
        rest /= 10_000;
    }
    let count = i16::try_from(digits.len()).unwrap_or_default();
    let header = [count, (count - 1).max(0), 0, 0];
    header.into_iter().chain(digits.into_iter().rev()).flat_map(i16::to_be_bytes).collect()
}

/// One column of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
}

impl Column {
    pub const fn text(name: &'static str) -> Column {
        Column { name, kind: Kind::Text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_binary_form_of_their_type() {
        assert_eq!(Kind::Int4.binary("-2"), Some(vec![0xff, 0xff, 0xff, 0xfe]));
        assert_eq!(Kind::Int8.binary("258"), Some(vec![0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(Kind::Int4.binary("3000000000"), None);
        // As `SELECT numeric_send(120003)` answers: two digits, the first of weight 1.
        assert_eq!(Kind::Numeric.binary("120003"), Some(vec![0, 2, 0, 1, 0, 0, 0, 0, 0, 12, 0, 3]));
        assert_eq!(Kind::Numeric.binary("0"), Some(vec![0; 8]));
        assert_eq!(Kind::Text.binary("ä"), Some("ä".as_bytes().to_vec()));
    }
}
