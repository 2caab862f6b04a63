//! The nouns: ids, names, and the values that all layers use. No IO, no tokio, no decision about when
//! something happens.
//!
//! Start with [`route::RouteRecord`]: what the fleet knows of one database, and the only record that a move
//! changes to send the clients to another system. [`movement::MoveRecord`] is the mover's state across a
//! crash.
//!
//! # Why
//! The types derive serde. The catalogue stores them as they are, so a noun needs no second type for its
//! record; the derives add no behaviour. The catalogue handles versions of stored values.

pub mod audit;
pub mod byte_size;
pub mod catalogue;
pub mod comparison;
pub mod contract;
pub mod contract_document;
pub mod cure;
pub mod database_operation;
pub mod date;
pub mod history;
pub mod ids;
pub mod latency;
pub mod listen;
pub mod measured;
pub mod movement;
pub mod network;
pub mod operation;
pub mod people;
pub mod place;
pub mod printable;
pub mod quotas;
pub mod role_limits;
pub mod route;
pub mod service;
pub mod slo;
pub mod terms;
pub mod timeouts;
pub mod transfer;

pub use audit::{AuditEntry, AuditFilter, Since};
pub use byte_size::ByteSize;
pub use catalogue::{DatabaseRecord, Dropping, Due, Lifecycle, SystemRecord, TeamRecord};
pub use comparison::{AcceptedDifferences, Compared, ComparedTable, ComparedTables, Relation, Verdict};
pub use contract::{Contract, ContractChange, Pooling, Tier};
pub use contract_document::{
    ContractDatabase, ContractDocument, ContractExport, ContractFormat, ContractGuarantees, ContractLimits,
    ContractMeasured, ContractOwner, ProcessLimits, Responsibilities,
};
pub use cure::Cure;
pub use database_operation::{
    AdoptFacts, AdoptRecord, CreateFacts, CreateRecord, DatabaseOperation, DatabasePhase, DatabaseStep,
    DropFacts, DropRecord,
};
pub use date::Date;
pub use history::{History, HistoryEntry, Told};
pub use ids::{
    Address, DatabaseId, DatabaseName, Epoch, Lsn, MoveId, NameError, ProxyId, RoleName, ServerAuth, SslMode,
    StoreId, SystemName, TeamName, UnixMillis, UserName, identifier,
};
pub use latency::{LATENCY_CLASSES, Latencies};
pub use listen::{ListenOn, Peer};
pub use measured::{ErrorCounts, Measured, Span};
pub use movement::{
    Finding, FindingSeverity, MoveFacts, MoveFailure, MovePhase, MoveProgress, MoveRecord, MoveRequest,
    MoveStep, OldCopy, PauseReport, SavedFence, StepEntry, blockers_by_side,
};
pub use network::Network;
pub use operation::{Failure, LogEntry, OperationId, OperationKind, OperationRef, StepEvent};
pub use people::{Granted, PlatformRole, TeamRole, UserGrant, UserRecord};
pub use place::Place;
pub use quotas::{Quotas, QuotasChange};
pub use role_limits::{RoleLimits, RolesLimits};
pub use route::{
    Ack, AckStage, GateOrder, HoldReason, Login, NewClients, Pinned, ProxyRecord, RouteRecord, StallReport,
};
pub use service::Service;
pub use slo::ServiceLevel;
pub use terms::ServiceTerms;
pub use timeouts::{EachTimeout, Timeout, Timeouts, TimeoutsChange, timeout_text};
pub use transfer::TransferOffer;
