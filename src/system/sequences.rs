//! Sequences: read exactly, set many at once.
//!
//! Replication does not carry them. Ahead of the pause they are set on the target with head-room; in the pause they are
//! read once more, and only those are set whose source came near the head-room's end.
//!
//! # Why
//! `pg_sequences.last_value` hides whether the value was handed out, and `max(column)` forgets values that were drawn
//! and not stored. The sequences themselves know both. One by one 1001 of them cost half a second, in one statement a
//! few milliseconds.

use std::collections::HashMap;
use std::fmt::Write;

use tokio_postgres::Statement;

use super::names::{HELPER_SCHEMA, quote_literal};
use super::tables::TableName;
use super::{Session, SystemError};

/// How a sequence counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub name: TableName,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
}

/// Where a sequence is: `last_value` and `is_called` of the sequence itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub last_value: i64,
    /// `false`: the next value is `last_value` itself.
    pub is_called: bool,
}

impl Sequence {
    /// `steps` further than `position`, within the sequence's bounds. None where it would have to turn around: then only
    /// the exact position will do.
    pub fn ahead(&self, position: Position, steps: u32) -> Option<Position> {
        if self.cycle {
            return None;
        }
        let way = self.increment.checked_mul(i64::from(steps))?;
        let last_value = position.last_value.checked_add(way)?;
        let within = (self.min..=self.max).contains(&last_value);
        within.then_some(Position { last_value, is_called: true })
    }

    /// Whether a sequence that is at `here` hands out only values that one at `there` has not handed out yet.
    pub fn is_past(&self, here: Position, there: Position) -> bool {
        if self.cycle || here == there {
            return here == there;
        }
        // The next value, except that a sequence at its end has none.
        let next = |at: Position| match at.is_called {
            true => i128::from(at.last_value) + i128::from(self.increment),
            false => i128::from(at.last_value),
        };
        match self.increment > 0 {
            true => next(here) >= next(there),
            false => next(here) <= next(there),
        }
    }
}

/// Reads the position of every sequence by one prepared statement.
#[derive(Debug)]
pub struct Reader<'a> {
    session: &'a Session,
    sequences: Vec<Sequence>,
    /// None where there is no sequence.
    statement: Option<Statement>,
}

impl<'a> Reader<'a> {
    /// Lists the sequences and prepares the read. The guard keeps the list right while a move runs.
    pub async fn prepare(session: &'a Session) -> Result<Reader<'a>, SystemError> {
        let sequences = list(session).await?;
        let statement = match sequences.is_empty() {
            true => None,
            false => {
                let prepared = session.client().prepare(&read_sql(&sequences)).await;
                Some(prepared.map_err(|error| session.failed("preparing to read sequences", error))?)
            }
        };
        Ok(Reader { session, sequences, statement })
    }

    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Positions in the order of [`Reader::sequences`]. One round trip.
    pub async fn read(&self) -> Result<Vec<Position>, SystemError> {
        const READING: &str = "reading sequences";
        let Some(statement) = &self.statement else { return Ok(Vec::new()) };
        let rows = self.session.client().query(statement, &[]).await;
        let rows = rows.map_err(|error| self.session.failed(READING, error))?;
        let mut positions = vec![None; self.sequences.len()];
        for row in &rows {
            let index: i32 = self.session.column(READING, row, 0)?;
            let position = Position {
                last_value: self.session.column(READING, row, 1)?,
                is_called: self.session.column(READING, row, 2)?,
            };
            if let Some(place) = usize::try_from(index).ok().and_then(|index| positions.get_mut(index)) {
                *place = Some(position);
            }
        }
        let all: Option<Vec<Position>> = positions.into_iter().collect();
        all.ok_or_else(|| self.session.unexpected(READING, "a sequence is missing"))
    }
}

/// The sequences of the database's users.
pub async fn list(session: &Session) -> Result<Vec<Sequence>, SystemError> {
    const LISTING: &str = "listing sequences";
    let sql =
        "SELECT n.nspname::text, c.relname::text, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relpersistence <> 't' AND n.nspname <> $1 ORDER BY 1, 2";
    let rows = session.rows(LISTING, sql, &[&HELPER_SCHEMA]).await?;
    let mut sequences = Vec::with_capacity(rows.len());
    for row in &rows {
        let schema: String = session.column(LISTING, row, 0)?;
        sequences.push(Sequence {
            name: TableName::new(schema, session.column::<String>(LISTING, row, 1)?),
            increment: session.column(LISTING, row, 2)?,
            min: session.column(LISTING, row, 3)?,
            max: session.column(LISTING, row, 4)?,
            cache: session.column(LISTING, row, 5)?,
            cycle: session.column(LISTING, row, 6)?,
        });
    }
    Ok(sequences)
}

fn read_sql(sequences: &[Sequence]) -> String {
    let mut sql = String::with_capacity(sequences.len() * 96);
    for (index, sequence) in sequences.iter().enumerate() {
        let union = if index == 0 { "" } else { " UNION ALL " };
        // Writing to a String does not fail.
        let _ = write!(sql, "{union}SELECT {index}, last_value, is_called FROM {}", sequence.name.sql());
    }
    sql
}

/// Sets many sequences by one statement.
pub async fn set(session: &Session, positions: &[(TableName, Position)]) -> Result<(), SystemError> {
    if positions.is_empty() {
        return Ok(());
    }
    session.batch("setting sequences", &set_sql(positions)).await
}

/// The statement of [`set`], for a caller that sends it with others as one commit. `setval` is not transactional: it
/// stays also when the commit fails, which does no harm on a target that nobody uses.
pub fn set_sql(positions: &[(TableName, Position)]) -> String {
    let mut sql = String::from("SELECT count(setval(n::regclass, v, c)) FROM (VALUES ");
    for (index, (name, position)) in positions.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(
            sql,
            "{comma}({},{}::bigint,{})",
            quote_literal(&name.sql()),
            // The literal of the smallest bigint is only understood as a string.
            quote_literal(&position.last_value.to_string()),
            position.is_called
        );
    }
    sql.push_str(") AS s (n, v, c)");
    sql
}

/// What must still be set, given what was set with head-room before: sequences whose source has run past it, and those
/// that were never set. Both slices are in the order of `sequences`.
pub fn delta(
    sequences: &[Sequence],
    source: &[Position],
    set_before: &HashMap<TableName, Position>,
) -> Vec<(TableName, Position)> {
    let mut rest = Vec::new();
    for (sequence, &position) in sequences.iter().zip(source) {
        let covered = set_before.get(&sequence.name).is_some_and(|&ahead| sequence.is_past(ahead, position));
        if !covered {
            rest.push((sequence.name.clone(), position));
        }
    }
    rest
}

/// Positions with head-room where the sequence has room, exact ones where it has not.
pub fn with_head_room(sequences: &[Sequence], source: &[Position], steps: u32) -> Vec<(TableName, Position)> {
    let far = |(sequence, &position): (&Sequence, &Position)| {
        let wanted = steps.saturating_add(u32::try_from(sequence.cache).unwrap_or(u32::MAX));
        (sequence.name.clone(), sequence.ahead(position, wanted).unwrap_or(position))
    };
    sequences.iter().zip(source).map(far).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting_by(increment: i64) -> Sequence {
        let name = TableName::new("public", "s");
        Sequence { name, increment, min: -1000, max: 1000, cache: 1, cycle: false }
    }

    fn at(last_value: i64, is_called: bool) -> Position {
        Position { last_value, is_called }
    }

    #[test]
    fn head_room_follows_the_direction_and_stops_at_the_bound() {
        assert_eq!(counting_by(5).ahead(at(10, true), 10), Some(at(60, true)));
        assert_eq!(counting_by(-5).ahead(at(10, true), 10), Some(at(-40, true)));
        assert_eq!(counting_by(5).ahead(at(990, true), 10), None);
        let cycling = Sequence { cycle: true, ..counting_by(1) };
        assert_eq!(cycling.ahead(at(1, true), 1), None);
    }

    #[test]
    fn only_a_position_that_hands_out_nothing_again_is_past() {
        let up = counting_by(1);
        assert!(up.is_past(at(10, true), at(10, true)));
        assert!(up.is_past(at(11, false), at(10, true)));
        assert!(!up.is_past(at(10, false), at(10, true)));
        assert!(!up.is_past(at(9, true), at(10, true)));
        let down = counting_by(-1);
        assert!(down.is_past(at(-11, true), at(-10, true)));
        assert!(!down.is_past(at(-9, true), at(-10, true)));
    }

    #[test]
    fn the_pause_sets_only_what_ran_past_its_head_room() {
        let sequences = [counting_by(1)];
        let ahead: HashMap<_, _> = with_head_room(&sequences, &[at(10, true)], 100).into_iter().collect();
        assert_eq!(delta(&sequences, &[at(50, true)], &ahead), []);
        let past = at(500, true);
        assert_eq!(delta(&sequences, &[past], &ahead), [(TableName::new("public", "s"), past)]);
        assert_eq!(delta(&sequences, &[past], &HashMap::new()).len(), 1);
    }
}
