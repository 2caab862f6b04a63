//! What one worker knows of the definitions in a database: whether they have changed since it read them.
//!
//! The counts are shared by all workers ([`Permits`]); what this worker has told its sessions is its own.

use std::cell::Cell;
use std::sync::Arc;

use tokio::time::Instant;

use super::permits::{Defining, Permits};
use super::pooled::Pooled;
use crate::session::migrate::twin::RestoreError;

#[derive(Debug)]
pub(in crate::session) struct Definitions {
    permits: Arc<Permits>,
    /// [`Definitions::functions`] when a session of this worker was last told to read what functions do.
    functions_read: Cell<u64>,
    /// [`Definitions::number`] at that moment.
    number_read: Cell<u64>,
}

/// What a worker knows of the functions of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum HintsStatus {
    /// A session of this worker has been told already.
    Current,
    /// It may be out of date.
    Doubtful,
    /// It is out of date.
    Outdated,
}

impl Definitions {
    pub(super) fn new(permits: &Arc<Permits>) -> Definitions {
        let (functions_read, number_read) = Default::default();
        Definitions { permits: Arc::clone(permits), functions_read, number_read }
    }

    /// Grows when statements that were prepared before may mean something else now.
    pub(super) fn schema(&self) -> u64 {
        self.permits.schema()
    }

    /// Grows when functions of the database may do to sessions what they did not before.
    pub(super) fn functions(&self) -> u64 {
        self.permits.functions()
    }

    /// Grows when definitions that functions and domains use have changed: types, columns, other functions.
    /// Connections that keep the old ones are closed.
    pub(super) fn catalogue(&self) -> u64 {
        self.permits.catalogue()
    }

    /// Grows when the definitions of functions, views or triggers have changed, or may have.
    pub(super) fn number(&self) -> u64 {
        self.permits.definitions()
    }

    /// The meaning of names or types has changed.
    pub(super) fn schema_changed(&self) {
        self.permits.schema_changed();
    }

    /// A command may have changed it: the catalogue is checked before a connection is lent.
    pub(super) fn require_check(&self) {
        self.permits.catalogue_check.require();
    }

    /// Another event may have changed it: see [`Self::require_check`].
    pub(super) fn request_check(&self) {
        self.permits.catalogue_check.request();
    }

    /// An error may come from a change that was not noticed, and most often has another cause.
    pub(super) fn request_check_after_error(&self) {
        self.permits.catalogue_check.request_after_error();
    }

    /// A session has seen this count of changes.
    pub(super) fn saw_changes(&self, changes: Option<&str>) {
        self.permits.catalogue_check.saw_changes(changes);
    }

    /// The catalogue has to be checked before a connection is lent.
    pub(super) fn is_check_due(&self) -> bool {
        self.permits.catalogue_check.due().is_some()
    }

    /// Checks the catalogue, if a check is due. A change outdates existing statements, and connections on
    /// which functions were called.
    pub(super) async fn check(&self, pooled: &mut Pooled, deadline: Instant) -> Result<(), RestoreError> {
        if !self.is_check_due() {
            return Ok(());
        }
        pooled.on_server.lose_unnamed();
        let server = &mut pooled.server;
        self.permits.check(async |questions| server.ask(questions, deadline).await).await
    }

    pub(super) fn changed(&self) {
        self.permits.definitions_changed();
    }

    /// Definitions are being changed from now on, until the value is dropped.
    pub(super) fn define(&self) -> Defining {
        self.permits.define()
    }

    /// A session of any worker is changing definitions at this moment.
    pub(super) fn are_changing(&self) -> bool {
        self.permits.is_being_defined()
    }

    /// What has become of the worker's knowledge of functions; reports each change once.
    pub(super) fn take_hints_status(&self) -> HintsStatus {
        let is_outdated = self.number_read.replace(self.number()) != self.number();
        let is_doubted = self.functions_read.replace(self.functions()) != self.functions();
        match (is_outdated, is_doubted) {
            (true, _) => HintsStatus::Outdated,
            (false, true) => HintsStatus::Doubtful,
            (false, false) => HintsStatus::Current,
        }
    }
}
