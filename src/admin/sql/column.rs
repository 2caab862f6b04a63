//! The columns of answers: a name and a type.
//!
//! # Why
//! Freehold's own columns are of type text. PgBouncer's columns keep PgBouncer's types, because its
//! Prometheus exporter and dashboards treat text as a label and a number as a value. Rows are stored as text,
//! as PostgreSQL writes it; a driver that asks for the binary format gets the same value converted to its
//! type.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use pgwire::api::Type;
use pgwire::types::ToSqlText;
use pgwire::types::format::FormatOptions;
use tokio_postgres::types::{IsNull, ToSql, to_sql_checked};

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    Text,
    Int4,
    Int8,
    Numeric,
}

impl ColumnType {
    pub fn postgres(self) -> Type {
        match self {
            ColumnType::Text => Type::TEXT,
            ColumnType::Int4 => Type::INT4,
            ColumnType::Int8 => Type::INT8,
            ColumnType::Numeric => Type::NUMERIC,
        }
    }

    /// `pg_type.typlen`; -1: variable length.
    pub fn bytes(self) -> i16 {
        match self {
            ColumnType::Int4 => 4,
            ColumnType::Int8 => 8,
            ColumnType::Text | ColumnType::Numeric => -1,
        }
    }
}

/// A whole number of type numeric. pgwire has the type only with a crate for decimals.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin) struct Numeric(pub(in crate::admin) u64);

impl ToSql for Numeric {
    /// As `numeric_send` writes it: number of base 10000 digits, weight of the first, sign, scale, digits.
    fn to_sql(&self, _type: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let mut digits = Vec::new();
        let mut rest = self.0;
        while rest > 0 {
            digits.push(i16::try_from(rest % 10_000)?);
            rest /= 10_000;
        }
        let count = i16::try_from(digits.len())?;
        let header = [count, (count - 1).max(0), 0, 0];
        header.into_iter().chain(digits.into_iter().rev()).for_each(|part| out.put_i16(part));
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::NUMERIC
    }

    to_sql_checked!();
}

impl ToSqlText for Numeric {
    fn to_sql_text(
        &self,
        _type: &Type,
        out: &mut BytesMut,
        _options: &FormatOptions,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(self.0.to_string().as_bytes());
        Ok(IsNull::No)
    }
}

/// One column of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: ColumnType,
}

impl Column {
    pub const fn text(name: &'static str) -> Column {
        Column { name, kind: ColumnType::Text }
    }
}
