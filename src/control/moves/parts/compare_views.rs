//! Compares materialized views before the cutover: the target's contents with the result of the source's
//! query.
//!
//! ```text
//!   target has something else than when it was filled: differs
//!   both sides hold the same:                          equal
//!   the query gives the same on the source now:        equal, and the source's contents are older
//!   else: source's query -> marker -> target is filled again -> source's query, until the three agree
//!         both queries of the source agree, twice, and the target does not: differs
//! ```
//!
//! # Why
//! * **The target holds a fresh fill, and the source's view may be older**: applications refresh when they
//!   like. So if the contents differ, the source's query is run as [`materialized`] says; the source's view
//!   is not changed.
//! * **Clients write meanwhile.** The target is filled between two runs of the source's query; where these
//!   agree nothing was written between them that matters, and the target must agree with them. A value that
//!   came and went in between passes once, not twice.
//! * **Not every query gives the same on two servers that hold the same rows**: one that calls `now()`, one
//!   with rows or sums of floats that depend on the order in which rows are found, one that reads another
//!   view that is older on the source. Where the contents differ, such a view is not comparable, and its note
//!   says why. That is neither a difference nor an alarm: the view was filled from rows that were compared,
//!   as the application's own refresh would have filled it, and has not changed since.
//! * Views are compared after the tables, and only if these are equal: a difference of rows would show in the
//!   views too.

use std::collections::{BTreeSet, HashMap};

use crate::model::{ComparedTable, Relation, Verdict};
use crate::system::digests::Digest;
use crate::system::materialized::{self, Query, View};
use crate::system::{SystemError, TableName};

use crate::control::moves::context::StepContext;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::compared::ComparisonProgress;
use crate::control::moves::parts::comparing::Position;
use crate::control::moves::parts::matviews::{NOT_FILLED, ViewRefresher, refusal};
use crate::control::moves::parts::stream::Stream;
use crate::control::moves::parts::throttle::Throttle;

/// How often a view of the target is filled to be compared.
const FILLS_MAX: usize = 4;

/// A line for each view that is filled on the source, in the order in which they are compared: one that reads
/// another comes after it.
pub(in crate::control) struct Views {
    views: Vec<View>,
    queries: HashMap<TableName, Query>,
}

impl Views {
    pub(in crate::control) async fn read(stream: &Stream) -> Result<Views, SystemError> {
        let publisher = stream.publisher.session().await?;
        let mut waiting = materialized::filled(&publisher).await?;
        let mut queries = HashMap::new();
        if !waiting.is_empty() {
            queries = materialized::queries(&publisher).await?;
        }
        let mut views: Vec<View> = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let names: BTreeSet<TableName> = waiting.iter().map(|view| view.name.clone()).collect();
            let reads_none = |view: &View| {
                queries
                    .get(&view.name)
                    .is_none_or(|query| query.reads.iter().all(|name| !names.contains(name)))
            };
            let (next, later): (Vec<View>, Vec<View>) = waiting.into_iter().partition(reads_none);
            if next.is_empty() {
                // Views cannot read each other in a cycle.
                views.extend(later);
                break;
            }
            views.extend(next);
            waiting = later;
        }
        Ok(Views { views, queries })
    }

    pub(in crate::control) fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    pub(in crate::control) fn lines(&self) -> impl Iterator<Item = ComparedTable> {
        self.views.iter().map(|view| ComparedTable {
            relation: Relation::MaterializedView,
            ..ComparisonProgress::waiting(view.name.to_string())
        })
    }
}

/// Compares each view; its line on the board is `first` and the following ones. Returns whether the target
/// was filled again. Cancel-safe: nothing is held but sessions.
pub(in crate::control) async fn compare(
    ctx: &StepContext,
    stream: &Stream,
    (views, first): (&Views, usize),
    board: &ComparisonProgress,
    throttle: &Throttle,
) -> Result<bool, StepError> {
    let mut comparer = Comparer::open(ctx, stream, views, throttle)
        .await
        .map_err(StepError::doing("preparing to compare materialized views"))?;
    for (line, view) in (first..).zip(&views.views) {
        board.begin(line);
        let found = comparer.judge(view).await?;
        board.conclude(line, found.verdict, (found.rows, found.ranges), found.note);
    }
    Ok(comparer.has_filled)
}

struct Comparer<'a> {
    views: &'a Views,
    source: ViewRefresher,
    target: ViewRefresher,
    /// By name; the owner may have another name on the target.
    on_target: HashMap<TableName, View>,
    position: Position,
    throttle: &'a Throttle,
    /// Views with different contents on the two sides.
    older: BTreeSet<TableName>,
    has_filled: bool,
}

struct Found {
    verdict: Verdict,
    rows: u64,
    ranges: u64,
    note: Option<String>,
}

/// Why a query did not run to its end.
enum Halt {
    /// A server refuses to run it; the reason.
    Refused(String),
    Failed(StepError),
}

impl Halt {
    fn of(view: &View) -> impl FnOnce(SystemError) -> Halt {
        |error| match refusal(error) {
            Ok(why) => Halt::Refused(why),
            Err(error) => Halt::Failed(failed(view)(error)),
        }
    }
}

impl From<StepError> for Halt {
    fn from(error: StepError) -> Halt {
        Halt::Failed(error)
    }
}

/// Verdict on a view, with a note.
type Said = (Verdict, Option<String>);

fn incomparable(why: impl Into<String>) -> Said {
    (Verdict::NotComparable, Some(why.into()))
}

fn failed(view: &View) -> impl FnOnce(SystemError) -> StepError + use<> {
    StepError::doing(format!("comparing materialized view {}", view.name))
}

impl<'a> Comparer<'a> {
    async fn open(
        ctx: &StepContext,
        stream: &Stream,
        views: &'a Views,
        throttle: &'a Throttle,
    ) -> Result<Comparer<'a>, SystemError> {
        let (mut source, mut target) = tokio::try_join!(
            ViewRefresher::open(&stream.publisher),
            ViewRefresher::open(&stream.subscriber)
        )?;
        source.views().await?;
        let on_target = target.views().await?.into_iter().map(|view| (view.name.clone(), view)).collect();
        // No worker that compares tables has this number.
        let position = Position::open(stream, ctx.settings.copy_workers).await?;
        let older = BTreeSet::new();
        Ok(Comparer { views, source, target, on_target, position, throttle, older, has_filled: false })
    }

    async fn judge(&mut self, view: &View) -> Result<Found, StepError> {
        let Some(there) = self.on_target.get(&view.name).cloned() else {
            let note = Some("it is missing on the side that follows".to_owned());
            return Ok(Found { verdict: Verdict::Differs, rows: 0, ranges: 0, note });
        };
        let mut held = self.target.stored(&there, None).await;
        if held.as_ref().is_err_and(|error| error.is_refused_with(NOT_FILLED)) {
            // The application has refreshed the source's view since.
            self.fill(&there).await?;
            held = self.target.stored(&there, None).await;
        }
        let ((held, _), (source, ranges)) = match (held, self.source.stored(view, Some(self.throttle)).await)
        {
            (Ok(held), Ok(source)) => (held, source),
            (Err(error), _) | (_, Err(error)) => {
                let (verdict, note) = incomparable(refusal(error).map_err(failed(view))?);
                self.older.insert(view.name.clone());
                return Ok(Found { verdict, rows: 0, ranges: 0, note });
            }
        };
        let (verdict, note) = match self.target.has_changed(&there, &held).await.map_err(failed(view))? {
            Some(true) => (
                Verdict::Differs,
                Some("somebody has changed what it holds on the target since it was filled there".to_owned()),
            ),
            _ if held == source => (Verdict::Equal, None),
            _ => {
                self.older.insert(view.name.clone());
                self.compute(view, &there, held).await?
            }
        };
        Ok(Found { verdict, rows: source.rows, ranges, note })
    }

    /// For a view that holds different rows on the two sides.
    async fn compute(&mut self, view: &View, there: &View, held: Digest) -> Result<Said, StepError> {
        let Some(query) = self.views.queries.get(&view.name) else {
            return Ok(incomparable("its query is not known"));
        };
        if let Some(why) = &query.unsure {
            return Ok(incomparable(format!("both sides hold different rows, which may be so: {why}")));
        }
        if let Some(name) = query.reads.iter().find(|name| self.older.contains(name)) {
            return Ok(incomparable(format!(
                "both sides hold different rows, which may be so: it reads {name}, which holds other rows on the source than on the target"
            )));
        }
        match self.until_they_agree(view, there, (query, held)).await {
            Err(Halt::Refused(why)) => Ok(incomparable(why)),
            Err(Halt::Failed(error)) => Err(error),
            Ok(said) => Ok(said),
        }
    }

    async fn until_they_agree(
        &mut self,
        view: &View,
        there: &View,
        (query, held): (&Query, Digest),
    ) -> Result<Said, Halt> {
        let older = (Verdict::Equal, Some("its contents on the source are older".to_owned()));
        let mut before = self.source.computed(view, query, self.throttle).await.map_err(Halt::of(view))?;
        if held == before {
            return Ok(older);
        }
        let mut differed = None;
        for _ in 0..FILLS_MAX {
            self.position.reach().await?;
            self.fill(there).await?;
            let (held, _) = self.target.stored(there, None).await.map_err(Halt::of(view))?;
            let after = self.source.computed(view, query, self.throttle).await.map_err(Halt::of(view))?;
            if held == before || held == after {
                return Ok(older);
            }
            if before == after {
                let now = (after.clone(), held);
                if differed.as_ref() == Some(&now) {
                    return Ok((Verdict::Differs, Some(sides(&now))));
                }
                differed = Some(now);
            }
            before = after;
        }
        Ok(incomparable(
            "its query gave other rows each time, because clients write or because of what it calls",
        ))
    }

    async fn fill(&mut self, there: &View) -> Result<(), StepError> {
        self.has_filled = true;
        self.target.fill_again(there).await.map_err(failed(there))
    }
}

fn sides((source, target): &(Digest, Digest)) -> String {
    format!(
        "its query gives {} rows, digest {} on the source; filled on the target it has {} rows, digest {}",
        source.rows, source.sum, target.rows, target.sum
    )
}
