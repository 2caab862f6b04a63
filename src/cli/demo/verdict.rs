//! The verdict: computed from the application's records and the database's contents, never assumed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::{Client, Error};

use super::digest::Digests;
use super::load::{Distribution, Entries, TOTAL_BALANCE};

/// One line of the verdict.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    pub(super) question: &'static str,
    pub(super) answer: String,
    pub(super) good: bool,
    /// For programs; the answer says the same in words.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) numbers: BTreeMap<String, f64>,
}

/// Time that a request may take in addition to the hold: it waits for a core and for the disk like any other,
/// on a small machine that runs two servers, a proxy and all clients.
pub(super) const STALL_MARGIN: Duration = Duration::from_millis(500);

/// All lines; good if each is.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Verdict {
    pub(super) findings: Vec<Finding>,
}

/// The database's contents after the application has stopped, read through the DSN as the application would.
#[derive(Debug, Default)]
pub(super) struct FinalRows {
    pub(super) tokens: Vec<i64>,
    pub(super) order_numbers: Vec<i64>,
    pub(super) total_balance: i64,
}

impl FinalRows {
    pub(super) async fn read(client: &Client) -> Result<FinalRows, Error> {
        let ledger = client.query("SELECT token, order_number FROM ledger", &[]).await?;
        let total = client.query_one("SELECT sum(balance)::bigint FROM account", &[]).await?;
        Ok(FinalRows {
            tokens: ledger.iter().map(|row| row.get(0)).collect(),
            order_numbers: ledger.iter().map(|row| row.get(1)).collect(),
            total_balance: total.get(0),
        })
    }
}

impl Verdict {
    pub(super) fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.good)
    }

    pub(super) fn add(&mut self, question: &'static str, answer: impl Into<String>, good: bool) {
        self.findings.push(Finding { question, answer: answer.into(), good, numbers: BTreeMap::new() });
    }

    /// Compares the longest wait of a client, by its own clock, with the contract's limit. `measured`: the
    /// platform's values for the same pause, in milliseconds.
    pub(super) fn judge_stall(
        &mut self,
        question: &'static str,
        felt: Distribution,
        pause_max: Option<Duration>,
        measured: BTreeMap<String, f64>,
    ) {
        let limit = pause_max.map(|pause| pause + STALL_MARGIN);
        let good = limit.is_some_and(|limit| felt.longest <= limit)
            && felt.requests > 0
            && measured.contains_key("longest_stall_ms");
        let limit_told = limit.map_or("unknown".to_owned(), millis);
        let answer = format!("{} (allowed {limit_told})", millis(felt.longest));
        let mut numbers = measured;
        let times = [("median", felt.median), ("p99", felt.p99), ("longest", felt.longest)];
        numbers.extend(times.map(|(name, time)| (format!("clients_{name}_ms"), in_ms(time))));
        numbers.extend(limit.map(|limit| ("allowed_ms".to_owned(), in_ms(limit))));
        self.findings.push(Finding { question, answer, good, numbers });
    }

    /// A count that must be zero.
    fn none(&mut self, question: &'static str, count: usize) {
        self.add(question, count.to_string(), count == 0);
    }

    /// Compares the application's records with the database's contents.
    pub(super) fn judge(&mut self, known: &Entries, truth: &FinalRows) {
        let applied = counts(&truth.tokens);
        let is_lost = |token: &&i64| !applied.contains_key(*token);
        let worked = !known.acknowledged.is_empty();
        self.add("acknowledged commits", known.acknowledged.len().to_string(), worked);
        self.none("errors seen by clients", known.errors.len());
        self.none("acknowledged commits lost", known.acknowledged.iter().filter(is_lost).count());
        self.none("commits applied twice", repeated(&truth.tokens));
        self.none(
            "rolled back, but applied",
            known.rolled_back.iter().filter(|token| applied.contains_key(token)).count(),
        );
        self.none(
            "sequence values handed out twice",
            repeated(&known.sequence_values).max(repeated(&truth.order_numbers)),
        );
        let missing = truth.total_balance - TOTAL_BALANCE;
        self.add("money gained or lost", missing.to_string(), missing == 0);
        self.judge_sessions(known);
    }

    /// Checks that the sessions' state was kept.
    fn judge_sessions(&mut self, known: &Entries) {
        self.none("transactions that found a setting lost", known.settings_lost.len());
        let received: HashSet<u64> = known.notifications_received.iter().copied().collect();
        let missed = known.notifications_sent.iter().filter(|number| !received.contains(number)).count();
        let listened = !known.notifications_sent.is_empty();
        let question = "notifications missed by the listener";
        self.add(
            question,
            format!("{missed} of {}", known.notifications_sent.len()),
            missed == 0 && listened,
        );
        self.none("notifications received twice", known.notifications_received.len() - received.len());
        let violations = known.lock_violations;
        let exclusive = violations == 0 && known.lock_tries > 0 && known.lock_held_to_the_end == Some(true);
        let question = "times another session got the held advisory lock";
        self.add(question, format!("{violations} of {} tries", known.lock_tries), exclusive);
    }

    /// Compares both copies, table by table.
    pub(super) fn judge_digests(&mut self, source: &Digests, target: &Digests) {
        let rows: i64 = source.values().map(|(rows, _)| rows).sum();
        let tables: HashSet<&String> = source.keys().chain(target.keys()).collect();
        let different = tables.iter().filter(|table| source.get(**table) != target.get(**table)).count();
        let answer = match different {
            0 => format!("yes: {} tables, {rows} rows", tables.len()),
            _ => format!("no: {different} of {} tables differ", tables.len()),
        };
        self.add("row digests of source and target equal", answer, different == 0 && rows > 0);
    }
}

fn in_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn counts(values: &[i64]) -> HashMap<i64, usize> {
    let mut counts = HashMap::with_capacity(values.len());
    for value in values {
        *counts.entry(*value).or_default() += 1;
    }
    counts
}

fn repeated(values: &[i64]) -> usize {
    counts(values).values().filter(|count| **count > 1).count()
}

/// `12.3 ms`
pub(super) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Entries {
        Entries {
            acknowledged: vec![1, 2],
            rolled_back: vec![3],
            sequence_values: vec![1, 2, 3],
            notifications_sent: vec![1, 2],
            notifications_received: vec![1, 2],
            lock_tries: 5,
            lock_held_to_the_end: Some(true),
            ..Entries::default()
        }
    }

    fn truth() -> FinalRows {
        FinalRows { tokens: vec![1, 2], order_numbers: vec![1, 2], total_balance: TOTAL_BALANCE }
    }

    fn bad(known: &Entries, truth: &FinalRows) -> Vec<&'static str> {
        let mut verdict = Verdict::default();
        verdict.judge(known, truth);
        assert_eq!(verdict.is_good(), verdict.findings.iter().all(|finding| finding.good));
        verdict.findings.iter().filter(|finding| !finding.good).map(|finding| finding.question).collect()
    }

    #[test]
    fn a_faultless_run_is_good() {
        assert_eq!(bad(&known(), &truth()), Vec::<&str>::new());
    }

    #[test]
    fn each_fault_is_found() {
        let lost = FinalRows { tokens: vec![1], ..truth() };
        assert_eq!(bad(&known(), &lost), ["acknowledged commits lost"]);
        let doubled = FinalRows { tokens: vec![1, 2, 2], ..truth() };
        assert_eq!(bad(&known(), &doubled), ["commits applied twice"]);
        let risen = FinalRows { tokens: vec![1, 2, 3], ..truth() };
        assert_eq!(bad(&known(), &risen), ["rolled back, but applied"]);
        let poorer = FinalRows { total_balance: TOTAL_BALANCE - 1, ..truth() };
        assert_eq!(bad(&known(), &poorer), ["money gained or lost"]);
        let again = Entries { sequence_values: vec![1, 2, 2], ..known() };
        assert_eq!(bad(&again, &truth()), ["sequence values handed out twice"]);
        let deaf = Entries { notifications_received: vec![1], ..known() };
        assert_eq!(bad(&deaf, &truth()), ["notifications missed by the listener"]);
        let unlocked = Entries { lock_held_to_the_end: Some(false), ..known() };
        assert_eq!(bad(&unlocked, &truth()), ["times another session got the held advisory lock"]);
    }

    #[test]
    fn a_client_that_waited_longer_than_allowed_makes_a_bad_verdict() {
        let judged = |longest, pause_max| {
            let felt = Distribution { requests: 1, longest, ..Distribution::default() };
            let mut verdict = Verdict::default();
            let measured = BTreeMap::from([("longest_stall_ms".to_owned(), 1.0)]);
            verdict.judge_stall("stall", felt, pause_max, measured);
            verdict.is_good()
        };
        let pause_max = Duration::from_secs(1);
        assert!(judged(pause_max + STALL_MARGIN, Some(pause_max)));
        assert!(!judged(pause_max + STALL_MARGIN * 2, Some(pause_max)));
        assert!(!judged(Duration::ZERO, None), "what is allowed must be known");
    }

    #[test]
    fn an_application_that_did_nothing_proves_nothing() {
        let idle = Entries { acknowledged: Vec::new(), ..known() };
        assert_eq!(bad(&idle, &truth()), ["acknowledged commits"]);
    }

    #[test]
    fn tables_that_differ_or_are_missing_make_digests_unequal() {
        let left = Digests::from([("a".into(), (1, "5".into())), ("b".into(), (1, "6".into()))]);
        let right = Digests::from([("a".into(), (1, "5".into()))]);
        let mut verdict = Verdict::default();
        verdict.judge_digests(&left, &left);
        assert!(verdict.is_good());
        verdict.judge_digests(&left, &right);
        assert!(!verdict.is_good());
    }
}
