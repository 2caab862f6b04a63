//! The language of administrators: text into statements, and the table of all commands.

pub mod column;
pub(in crate::admin) mod lookup;
pub(in crate::admin) mod parse;
mod parse_lifecycle;
mod parse_people;
pub(in crate::admin) mod parse_show;
mod parse_teams;
mod parse_verbs;
pub(in crate::admin) mod parser;
pub mod statement;
pub(in crate::admin) mod syntax_error;
pub(in crate::admin) mod table;
pub(in crate::admin) mod token;
mod values;

#[cfg(test)]
pub(in crate::admin) mod parse_tests;
