//! Sequences: reads them exactly, sets many at once.
//!
//! Replication does not carry them. Before the pause all are set on the other side to their current values;
//! in the pause they are read once more, and those that advanced are set. If many are in constant use, they
//! are set ahead with head-room, and in the pause as many as there is time for are set exactly ([`rest`]).
//!
//! # Why
//! `pg_sequences.last_value` hides whether the value was handed out, and `max(column)` forgets values that
//! were drawn and not stored. The sequences themselves have both. Reading 1001 of them one by one takes half
//! a second, in one statement a few milliseconds; but the parser is recursive, and each sequence of a
//! statement is locked until it ends, so a statement has a limited number of them.
//!
//! Head-room is a permanent gap in the values: a `smallserial` has used up its range after three such moves.
//! So a sequence that did not advance gets none.

use std::collections::HashMap;
use std::fmt::Write;

use futures_util::future::try_join_all;
use tokio_postgres::Statement;

use super::names::{HELPER_SCHEMA, quote_literal};
use super::tables::TableName;
use super::{Session, SystemError};

/// Sequences in one statement.
const CHUNK: usize = 500;
/// Head-room is at most this part of the sequence's range.
const PART_OF_RANGE: i128 = 100;

/// Definition of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub name: TableName,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
}

/// Position of a sequence: its `last_value` and `is_called`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub last_value: i64,
    /// `false`: the next value is `last_value` itself.
    pub is_called: bool,
}

impl Sequence {
    /// `steps` further than `position`, within the sequence's bounds. `None` if it would have to wrap around:
    /// then only the exact position is correct.
    pub fn ahead(&self, position: Position, steps: u32) -> Option<Position> {
        if self.cycle {
            return None;
        }
        let way = self.increment.checked_mul(i64::from(steps))?;
        let last_value = position.last_value.checked_add(way)?;
        let within = (self.min..=self.max).contains(&last_value);
        within.then_some(Position { last_value, is_called: true })
    }

    /// Number of values between the bounds.
    fn steps(&self) -> i128 {
        (i128::from(self.max) - i128::from(self.min)) / i128::from(self.increment).abs().max(1)
    }

    /// The position with head-room if there is room, otherwise the position itself.
    fn with_head_room(&self, position: Position, steps: u32) -> Position {
        let cached = u32::try_from(self.cache).unwrap_or(u32::MAX);
        let most = u32::try_from(self.steps() / PART_OF_RANGE).unwrap_or(u32::MAX);
        match steps.saturating_add(cached).min(most) {
            0 => position,
            steps => self.ahead(position, steps).unwrap_or(position),
        }
    }

    /// Whether a sequence at `here` returns only values that one at `there` has not returned yet.
    pub fn is_past(&self, here: Position, there: Position) -> bool {
        if self.cycle || here == there {
            return here == there;
        }
        // The next value; a sequence at its end has none, which does not matter here.
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

/// Reads the position of every sequence with prepared statements.
#[derive(Debug)]
pub struct Reader<'a> {
    session: &'a Session,
    sequences: Vec<Sequence>,
    /// One for each [`CHUNK`] of the sequences.
    statements: Vec<Statement>,
}

impl<'a> Reader<'a> {
    /// Lists the sequences and prepares the read. The guard keeps the list current while a move runs.
    pub async fn prepare(session: &'a Session) -> Result<Reader<'a>, SystemError> {
        let sequences = list(session).await?;
        let mut statements = Vec::with_capacity(sequences.len().div_ceil(CHUNK));
        for chunk in sequences.chunks(CHUNK) {
            let prepared = session.client().prepare(&read_sql(chunk)).await;
            statements.push(prepared.map_err(|error| session.failed("preparing to read sequences", error))?);
        }
        Ok(Reader { session, sequences, statements })
    }

    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Positions in the order of [`Reader::sequences`]. One round trip: all statements are sent at the first
    /// poll.
    pub async fn read(&self) -> Result<Vec<Position>, SystemError> {
        let chunks = self.sequences.chunks(CHUNK).map(<[Sequence]>::len).zip(&self.statements);
        let all = try_join_all(chunks.map(|(count, statement)| self.read_chunk(count, statement))).await?;
        Ok(all.concat())
    }

    async fn read_chunk(&self, count: usize, statement: &Statement) -> Result<Vec<Position>, SystemError> {
        const READING: &str = "reading sequences";
        let rows = self.session.client().query(statement, &[]).await;
        let rows = rows.map_err(|error| self.session.failed(READING, error))?;
        let mut positions = vec![None; count];
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

/// Sets many sequences. `setval` is not transactional: values stay set when a later statement fails, which is
/// harmless because no client uses that side.
pub async fn set(session: &Session, positions: &[(TableName, Position)]) -> Result<(), SystemError> {
    for chunk in positions.chunks(CHUNK) {
        session.batch("setting sequences", &set_sql(chunk)).await?;
    }
    Ok(())
}

fn set_sql(positions: &[(TableName, Position)]) -> String {
    let mut sql = String::from("SELECT count(setval(n::regclass, v, c)) FROM (VALUES ");
    for (index, (name, position)) in positions.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(
            sql,
            "{comma}({},{}::bigint,{})",
            quote_literal(&name.sql()),
            // The smallest bigint can only be written as a string literal.
            quote_literal(&position.last_value.to_string()),
            position.is_called
        );
    }
    sql.push_str(") AS s (n, v, c)");
    sql
}

/// Every sequence at its current position.
pub fn exact(sequences: &[Sequence], source: &[Position]) -> Vec<(TableName, Position)> {
    sequences.iter().zip(source).map(|(sequence, &position)| (sequence.name.clone(), position)).collect()
}

/// Sequences that advanced between two reads: their current positions, with head-room if there is room.
pub fn moved_ahead(
    sequences: &[Sequence],
    before: &[Position],
    now: &[Position],
    steps: u32,
) -> Vec<(TableName, Position)> {
    let moved = sequences.iter().zip(before.iter().zip(now)).filter(|(_, (before, now))| before != now);
    moved.map(|(sequence, (_, &now))| (sequence.name.clone(), sequence.with_head_room(now, steps))).collect()
}

/// The sequences to set in the pause, given those set before. Always sets those that could return a value
/// twice on the other side; also sets back up to `most` others that did not use up their head-room, those
/// with the smallest range first. The slices are in the order of `sequences`.
pub fn rest(
    sequences: &[Sequence],
    source: &[Position],
    set_before: &HashMap<TableName, Position>,
    most: usize,
) -> Vec<(TableName, Position)> {
    let is_set = |sequence: &Sequence, position| set_before.get(&sequence.name) == Some(&position);
    let differing = sequences.iter().zip(source).filter(|(sequence, position)| !is_set(sequence, **position));
    let is_covered = |sequence: &Sequence, position| {
        set_before.get(&sequence.name).is_some_and(|&ahead| sequence.is_past(ahead, position))
    };
    let (mut covered, mut rest): (Vec<_>, Vec<_>) =
        differing.partition(|(sequence, position)| is_covered(sequence, **position));
    covered.sort_by_key(|(sequence, _)| sequence.steps());
    covered.truncate(most.saturating_sub(rest.len()));
    rest.extend(covered);
    rest.into_iter().map(|(sequence, &position)| (sequence.name.clone(), position)).collect()
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
    fn only_what_moved_gets_head_room_and_a_short_sequence_little() {
        let short =
            Sequence { max: 32_767, min: 1, name: TableName::new("public", "short"), ..counting_by(1) };
        let long =
            Sequence { max: i64::MAX, min: 1, name: TableName::new("public", "long"), ..counting_by(1) };
        let still = Sequence { name: TableName::new("public", "still"), ..counting_by(1) };
        let sequences = [short, long, still];
        let before = [at(1, true), at(1, true), at(7, true)];
        let now = [at(2, true), at(2, true), at(7, true)];
        let ahead = moved_ahead(&sequences, &before, &now, 10_000);
        let values: Vec<i64> = ahead.iter().map(|(_, position)| position.last_value).collect();
        assert_eq!(values, [2 + 327, 2 + 10_001]);
    }

    #[test]
    fn the_pause_sets_back_as_many_as_it_may_and_always_what_ran_past_its_head_room() {
        let short = Sequence { max: 100, min: 1, name: TableName::new("public", "short"), ..counting_by(1) };
        let still = Sequence { name: TableName::new("public", "still"), ..counting_by(1) };
        let sequences = [counting_by(1), short, still];
        let before: HashMap<_, _> = [("s", 200), ("short", 20), ("still", 7)]
            .map(|(name, value)| (TableName::new("public", name), at(value, true)))
            .into();
        let names = |source: &[Position], most| -> Vec<String> {
            rest(&sequences, source, &before, most).into_iter().map(|(name, _)| name.name).collect()
        };
        let within = [at(150, true), at(12, true), at(7, true)];
        assert_eq!(names(&within, 2), ["short", "s"]);
        assert_eq!(names(&within, 1), ["short"]);
        assert_eq!(names(&[at(201, true), at(12, true), at(7, true)], 1), ["s"]);
        assert_eq!(names(&[at(201, true), at(21, true), at(8, true)], 0), ["s", "short", "still"]);
    }
}
