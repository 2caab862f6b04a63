//! The stream of changes from one side to the other, in either direction: creates, watches and removes it.
//!
//! # Why
//! The lag in bytes also counts WAL that is not replicated, and advances with keepalives; the lag in time
//! comes from a marker row that this process periodically writes on one side and looks for on the other, so
//! that no two clocks are compared. A stream is near when both are small.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Blame, Explain, SqlState};
use crate::model::{Address, MoveFacts, ServerAuth, SslMode, SystemRecord};
use crate::system::names::quote_conninfo;
use crate::system::subscriptions::{self, NewSubscription};
use crate::system::{MoveNames, Session, SystemError, marker, own_roles, slots};

use crate::control::moves::direction::MoveDirection;
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::error::StepError;
use crate::control::moves::parts::applier;
use crate::control::moves::parts::own_login::random_password;
use crate::control::moves::parts::truncated::NOTE_TRUNCATED;

/// Errors of the apply worker with no progress in between after which the stream counts as stopped: the next
/// error would be the same. The server restarts the worker after `wal_retrieve_retry_interval` (5 s).
const APPLY_ERRORS_MAX: i64 = 4;
/// `server_version_num` from which libpq has `require_auth`.
const REQUIRE_AUTH: u32 = 160_000;
/// Heartbeats kept in memory: more than are ever in flight.
const BEATS_MAX: usize = 256;

/// One direction between the two ends of a move.
#[derive(Debug, Clone)]
pub(in crate::control) struct Stream {
    pub(in crate::control) way: MoveDirection,
    pub(in crate::control) names: MoveNames,
    /// The side that clients write to.
    pub(in crate::control) publisher: Endpoint,
    /// The side that applies the changes.
    pub(in crate::control) subscriber: Endpoint,
    /// Changes may concern rows that the copy did not bring; see [`truncated`](super::truncated).
    rows_may_be_missing: bool,
}

impl Stream {
    pub(in crate::control) fn new(way: MoveDirection, ends: Endpoints) -> Stream {
        let names = ends.names();
        let (publisher, subscriber) = way.ends(ends);
        Stream { way, names, publisher, subscriber, rows_may_be_missing: false }
    }

    /// The stream that continues the copy of a move, as recorded in its facts.
    pub(in crate::control) fn of_copy(ends: Endpoints, facts: &MoveFacts) -> Stream {
        let rows_may_be_missing = facts.notes.contains_key(NOTE_TRUNCATED);
        Stream { rows_may_be_missing, ..Stream::new(MoveDirection::Forward, ends) }
    }

    /// The common name of publication, slot and subscription.
    pub(in crate::control) fn name(&self) -> String {
        self.way.stream(self.names)
    }

    /// Creates the subscription if it does not exist, and enables it. Updates an outdated address of the
    /// publisher.
    pub(in crate::control) async fn start(
        &self,
        publisher: &Session,
        subscriber: &Session,
    ) -> Result<(), StepError> {
        let doing = || StepError::doing("starting replication");
        let name = self.name();
        if subscriptions::state(subscriber, &name).await.map_err(doing())?.is_none() {
            self.subscribe(publisher, subscriber).await.map_err(doing())?;
        }
        applier::take_over(subscriber, self.names, &name).await.map_err(doing())?;
        let state = subscriptions::state(subscriber, &name).await.map_err(doing())?;
        let reached_at = subscriptions::conninfo(subscriber, &name).await.map_err(doing())?;
        if reached_at.is_some_and(|conninfo| !conninfo.starts_with(&self.address_conninfo())) {
            let conninfo = self.invite(publisher, &self.publisher.dbname).await.map_err(doing())?;
            subscriptions::set_conninfo(subscriber, &name, &conninfo).await.map_err(doing())?;
        }
        match state {
            Some(state) if state.enabled => Ok(()),
            _ => subscriptions::enable(subscriber, &name).await.map_err(doing()),
        }
    }

    /// The role gets a new password each time, stored only in the subscription.
    async fn subscribe(&self, publisher: &Session, subscriber: &Session) -> Result<(), SystemError> {
        let conninfo = self.invite(publisher, &self.publisher.dbname).await?;
        let name = self.name();
        let new = NewSubscription { name: &name, conninfo: &conninfo, publication: &name, slot: &name };
        subscriptions::create_disabled(subscriber, &new).await
    }

    /// Lets the subscriber connect to the publisher once, and leaves nothing there: a firewall, an address or
    /// `pg_hba.conf` that prevents replication is found before replication is needed. The publisher's own
    /// database may be shut at that time, so it connects to the admin database.
    pub(in crate::control) async fn probe(
        &self,
        publisher: &Session,
        subscriber: &Session,
    ) -> Result<(), StepError> {
        let dbname = &self.publisher.system.admin_database;
        let probed = async {
            let conninfo = self.invite(publisher, dbname).await?;
            let name = self.name();
            let new = NewSubscription { name: &name, conninfo: &conninfo, publication: &name, slot: &name };
            subscriptions::try_to_connect(subscriber, &new).await
        };
        let probed = probed.await;
        let dropped = own_roles::drop_replication(publisher, &self.names.replication_role()).await;
        probed.map_err(|error| self.unreachable(&error))?;
        dropped.map_err(StepError::doing("dropping the replication role"))
    }

    fn unreachable(&self, error: &SystemError) -> StepError {
        let (from, to) = (&self.subscriber.system.name, &self.publisher.system.name);
        StepError::Forbidden {
            sqlstate: error.sqlstate(),
            blame: Blame::Platform,
            message: format!("system {from} cannot connect to system {to} for replication"),
            detail: Some(error.message()),
            hint: Some(format!(
                "Let roles named freehold_* log in with a password from system {from} in pg_hba.conf of system {to}, and say \
                 how it is reached from there: ALTER SYSTEM {to} REPLICATION HOST ... PORT ..."
            )),
        }
    }

    /// Gives the replication role a new password. Returns the connection string.
    async fn invite(
        &self,
        publisher: &Session,
        dbname: &str,
    ) -> Result<zeroize::Zeroizing<String>, SystemError> {
        let role = self.names.replication_role();
        let password = zeroize::Zeroizing::new(random_password());
        own_roles::create_replication(publisher, &role, &password, dbname).await?;
        Ok(zeroize::Zeroizing::new(self.conninfo(&role, &password, dbname)))
    }

    /// The connection string of the subscriber. Keepalives detect a publisher that disappears without closing
    /// the connection.
    fn conninfo(&self, role: &str, password: &str, dbname: &str) -> String {
        format!(
            "{}dbname={} user={} password={} connect_timeout=10 keepalives_idle=10{}",
            self.address_conninfo(),
            quote_conninfo(dbname),
            quote_conninfo(role),
            quote_conninfo(password),
            answers(&self.publisher.system, self.subscriber.system.version_num),
        )
    }

    /// The beginning of a connection string: the publisher's address.
    fn address_conninfo(&self) -> String {
        let system = &self.publisher.system;
        let Address { host, port } = system.replication_address.as_ref().unwrap_or(&system.address);
        format!("host={} port={port} sslmode={} ", quote_conninfo(host), system.sslmode.as_str())
    }

    /// Removes the subscription, the role that it acted as, the slot and the publication. Safe to repeat. A
    /// side that does not answer does not prevent cleaning the other one: an unread slot would fill the disk
    /// of the side that lives.
    pub(in crate::control) async fn remove(&self) -> Result<(), SystemError> {
        // The subscriber first: a slot in use is not dropped.
        let unsubscribed = self.unsubscribe().await;
        let unpublished = self.unpublish().await;
        unsubscribed.and(unpublished)
    }

    async fn unsubscribe(&self) -> Result<(), SystemError> {
        let subscriber = self.subscriber.session().await?;
        subscriber.act_as_replica().await?;
        subscriptions::drop(&subscriber, &self.name()).await?;
        applier::remove(&subscriber, self.names).await
    }

    async fn unpublish(&self) -> Result<(), SystemError> {
        let publisher = self.publisher.session().await?;
        publisher.act_as_replica().await?;
        slots::drop(&publisher, &self.name(), self.publisher.deadline()).await?;
        crate::system::publications::drop(&publisher, &self.name()).await
    }

    /// Drops only the slot, so that the publisher can release its WAL.
    pub(in crate::control) async fn drop_slot(&self) -> Result<(), SystemError> {
        let publisher = self.publisher.admin_session().await?;
        slots::drop(&publisher, &self.name(), self.publisher.deadline()).await
    }

    /// WAL that the publisher retains; `None` without a slot. Connects to the publisher only: the subscriber
    /// may be gone.
    pub(in crate::control) async fn retained_bytes(&self) -> Result<Option<u64>, SystemError> {
        let publisher = self.publisher.admin_session().await?;
        Ok(slots::state(&publisher, &self.name()).await?.map(|slot| slot.retained_bytes))
    }
}

/// Options that limit which authentication requests the subscriber's libpq answers to those that Freehold
/// itself would, as far as that version of libpq has such options. The preflight reports a pair without them.
fn answers(publisher: &SystemRecord, subscriber_version_num: u32) -> String {
    let mut options = String::new();
    if publisher.sslmode == SslMode::Require {
        // The certificate is not verified: channel binding must protect the login.
        options.push_str(" channel_binding=require");
    }
    if subscriber_version_num >= REQUIRE_AUTH {
        let further = match publisher.auth {
            ServerAuth::Scram => "",
            ServerAuth::Md5 => ",md5",
            ServerAuth::Password => ",md5,password",
        };
        options.push_str(&format!(" require_auth=scram-sha-256,none{further}"));
    }
    options
}

/// Whether an attacker between the two systems could ask for the subscription's password in clear text.
pub(in crate::control) fn tells_a_password(publisher: &SystemRecord, subscriber_version_num: u32) -> bool {
    let Address { host, .. } = publisher.replication_address.as_ref().unwrap_or(&publisher.address);
    let near = host == "localhost"
        || host.starts_with('/')
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    let open = matches!(publisher.sslmode, SslMode::Disable | SslMode::Prefer);
    open && !near && subscriber_version_num < REQUIRE_AUTH
}

/// The apply worker gets the same error repeatedly.
fn stopped(subscriber: &Endpoint) -> StepError {
    StepError::Forbidden {
        sqlstate: SqlState::DATA_CORRUPTED,
        blame: Blame::Platform,
        message: format!("replication stopped with an error on system {}", subscriber.system.name),
        detail: Some(
            "A change of the other side could not be applied; the server's log says which.".to_owned(),
        ),
        hint: Some("Cancel the move, remove the cause, and move again.".to_owned()),
    }
}

/// The lag of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) struct Lag {
    /// WAL that the subscriber has not applied; `None` while nothing replicates.
    pub(in crate::control) bytes: Option<u64>,
    /// Age of the newest marker that arrived; `None` before the first.
    pub(in crate::control) age: Option<Duration>,
    /// WAL that the publisher retains for the slot.
    pub(in crate::control) retained_bytes: u64,
}

/// Watches a stream: writes heartbeats on one side, looks for them on the other.
#[derive(Debug)]
pub(in crate::control) struct Watcher {
    pub(in crate::control) stream: Stream,
    pub(in crate::control) publisher: Session,
    pub(in crate::control) subscriber: Session,
    beats: VecDeque<(u64, Instant)>,
    /// Makes the heartbeats of this watcher distinct from those of an earlier process.
    run: u64,
    count: u64,
    /// The newest heartbeat that has arrived.
    arrived: u64,
    /// Errors of the apply worker so far, `None` before the first look; and their number when a heartbeat
    /// last arrived.
    apply_errors: Option<i64>,
    apply_errors_before: i64,
}

impl Watcher {
    pub(in crate::control) async fn open(stream: Stream) -> Result<Watcher, SystemError> {
        let publisher = stream.publisher.session().await?;
        let subscriber = stream.subscriber.session().await?;
        subscriber.act_as_replica().await?;
        publisher.batch("preparing heartbeats", "SET synchronous_commit = off").await?;
        Ok(Watcher {
            stream,
            publisher,
            subscriber,
            beats: VecDeque::new(),
            run: rand::random(),
            count: 0,
            arrived: 0,
            apply_errors: None,
            apply_errors_before: 0,
        })
    }

    /// Writes a heartbeat.
    pub(in crate::control) async fn beat(&mut self) -> Result<(), SystemError> {
        self.count += 1;
        let token = format!("{}/{}", self.run, self.count);
        let now = Instant::now();
        marker::write(&self.publisher, self.stream.names.id(), self.stream.way.heartbeat(), &token).await?;
        if self.beats.len() == BEATS_MAX {
            self.beats.pop_front();
        }
        self.beats.push_back((self.count, now));
        Ok(())
    }

    /// Measures the lag. Fails if the stream has stopped permanently, or if the two sides differ.
    pub(in crate::control) async fn look(&mut self) -> Result<Lag, StepError> {
        let doing = || StepError::doing("looking at replication");
        let name = self.stream.name();
        // Code that ran for a row could have granted membership in the role.
        let applier = self.stream.names.applier_role();
        own_roles::put_out_members(&self.subscriber, &applier).await.map_err(doing())?;
        let state = subscriptions::state(&self.subscriber, &name).await.map_err(doing())?;
        let state = state.ok_or_else(|| StepError::not_now("there is no replication"))?;
        let missing = if self.stream.rows_may_be_missing { 0 } else { state.missing };
        if state.conflicts + missing > 0 {
            return Err(differs(state.conflicts + missing));
        }
        if !state.enabled {
            tracing::warn!(stream = name, "replication was switched off, and is switched on again");
            subscriptions::enable(&self.subscriber, &name).await.map_err(doing())?;
        }
        let age = self.age().await.map_err(doing())?;
        self.judge(state.apply_errors)?;
        let slot = slots::state(&self.publisher, &name).await.map_err(doing())?;
        let slot = slot.ok_or_else(|| slot_gone(&name))?;
        if slot.is_lost() {
            return Err(slot_lost());
        }
        let lag = slots::lag(&self.publisher, &name).await.map_err(doing())?;
        Ok(Lag { bytes: lag.map(|lag| lag.replay_bytes), age, retained_bytes: slot.retained_bytes })
    }

    /// Fails if the apply worker gets errors repeatedly without progress. A lost connection counts as one
    /// error, and passes.
    fn judge(&mut self, apply_errors: i64) -> Result<(), StepError> {
        if self.apply_errors.is_none() {
            self.apply_errors_before = apply_errors;
        }
        if self.apply_errors.is_some_and(|before| apply_errors > before) {
            tracing::warn!(
                stream = self.stream.name(),
                apply_errors,
                "replication met an error and is tried again"
            );
        }
        self.apply_errors = Some(apply_errors);
        match apply_errors - self.apply_errors_before >= APPLY_ERRORS_MAX {
            true => Err(stopped(&self.stream.subscriber)),
            false => Ok(()),
        }
    }

    /// Age of the newest heartbeat that has arrived; zero if all have arrived.
    async fn age(&mut self) -> Result<Option<Duration>, SystemError> {
        let kind = self.stream.way.heartbeat();
        let Some((token, _)) = marker::read(&self.subscriber, self.stream.names.id(), kind).await? else {
            return Ok(None);
        };
        let arrived = token.split_once('/').filter(|(run, _)| *run == self.run.to_string());
        let Some(arrived) = arrived.and_then(|(_, count)| count.parse::<u64>().ok()) else { return Ok(None) };
        if arrived > self.arrived {
            self.arrived = arrived;
            self.apply_errors_before = self.apply_errors.unwrap_or(0);
        }
        while self.beats.front().is_some_and(|(count, _)| *count <= arrived) {
            self.beats.pop_front();
        }
        Ok(Some(self.beats.front().map_or(Duration::ZERO, |(_, written)| written.elapsed())))
    }
}

fn slot_gone(name: &str) -> StepError {
    StepError::Forbidden {
        sqlstate: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        blame: Blame::Platform,
        message: format!("slot {name} was dropped: changes that replication needs are lost"),
        detail: None,
        hint: Some("Slots of a move are dropped when it ends. Move again.".to_owned()),
    }
}

fn slot_lost() -> StepError {
    StepError::Forbidden {
        sqlstate: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        blame: Blame::Platform,
        message: "the server has dropped changes that replication still needed".to_owned(),
        detail: Some("Its limit for retained WAL (max_slot_wal_keep_size) was reached.".to_owned()),
        hint: Some("Raise max_slot_wal_keep_size on that system, and move again.".to_owned()),
    }
}

fn differs(rows: i64) -> StepError {
    StepError::Forbidden {
        sqlstate: SqlState::SHAPE_CHANGED,
        blame: Blame::Platform,
        message: "replication met rows that the two sides do not agree on".to_owned(),
        detail: Some(format!("{rows} changes met a conflict on the side that applies them.")),
        hint: Some("Somebody wrote to the other side. Cancel the move, and move again.".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RoleName, SystemName, UnixMillis};

    fn publisher(host: &str, sslmode: SslMode, auth: ServerAuth) -> SystemRecord {
        SystemRecord {
            name: SystemName::parse("one").unwrap(),
            address: Address { host: host.into(), port: 5432 },
            replication_address: None,
            admin_role: RoleName::parse("freehold").unwrap(),
            admin_database: "postgres".into(),
            password_file: None,
            sslmode,
            auth,
            accepts_databases: true,
            version_num: 180_000,
            system_identifier: String::new(),
            created_at: UnixMillis(0),
        }
    }

    #[test]
    fn a_subscriber_is_told_what_it_may_answer_as_far_as_it_can_be() {
        let scram = |sslmode| publisher("db", sslmode, ServerAuth::Scram);
        assert_eq!(answers(&scram(SslMode::Prefer), 180_000), " require_auth=scram-sha-256,none");
        assert_eq!(
            answers(&scram(SslMode::Require), 160_000),
            " channel_binding=require require_auth=scram-sha-256,none"
        );
        assert_eq!(answers(&scram(SslMode::Require), 150_018), " channel_binding=require");
        assert_eq!(answers(&scram(SslMode::VerifyFull), 150_018), "");
        let old = publisher("db", SslMode::VerifyFull, ServerAuth::Password);
        assert_eq!(answers(&old, 180_000), " require_auth=scram-sha-256,none,md5,password");
    }

    #[test]
    fn an_old_subscriber_tells_its_password_where_nothing_binds_it() {
        let tells =
            |host, sslmode, version| tells_a_password(&publisher(host, sslmode, ServerAuth::Scram), version);
        assert!(tells("10.0.0.7", SslMode::Prefer, 150_018));
        assert!(!tells("10.0.0.7", SslMode::Prefer, 160_000));
        assert!(!tells("10.0.0.7", SslMode::Require, 150_018));
        for near in ["127.0.0.1", "::1", "localhost", "/run/postgresql"] {
            assert!(!tells(near, SslMode::Disable, 150_018), "{near}");
        }
    }
}
