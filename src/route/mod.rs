//! The state of each database in this process: its place, its gate, its sessions.
//!
//! Owns [`RouteTable`] (by name), [`Route`] (one database), its [`Gate`] and its [`SessionTable`], and
//! [`Follower`], which makes all of them follow the catalogue and acknowledges. It deliberately opens no
//! connection and knows no protocol: a session asks the gate and obeys the record; and it does not know
//! moves, only orders.
//!
//! # What a session does
//! * It joins the session table, and keeps a [`TurnWatch`] for its lifetime: at each turn it reads
//!   [`Route::current`].
//! * Before each transaction it takes a [`Pass`] by [`Gate::try_enter`], and drops it at the transaction's
//!   end. While the gate is shut it waits for the next turn. When it goes on it calls [`Gate::record_stall`].
//! * Before it opens a connection to the database's place it takes a pass by [`Gate::try_connect`].
//! * When it has done what the record asks, it sets [`Readiness::Ready`] with the record's order.
//!
//! Start with [`Gate`], then [`Follower`].

mod change_notifier;
mod clock;
mod consumers;
pub mod counters;
mod failures;
pub mod follow;
mod followed;
pub mod gate;
mod lent;
pub mod recorder;
pub mod session_table;
mod stall;
pub mod table;

pub use clock::{Activity, Clock, Doing, Moment};
pub use consumers::Consumer;
pub use counters::{Counter, Counters, Totals};
pub use follow::{Follower, FollowerOptions};
pub use followed::Followed;
pub use gate::{Gate, GateClosed, GateReopened, GateState, Pass, Registration, TurnWatch};
pub use lent::{LentFacts, LentRow};
pub use recorder::Recorder;
pub use session_table::{
    Entrance, LentPid, Readiness, Replication, SessionFacts, SessionHandle, SessionRow, SessionTable,
};
pub use table::{Logins, Route, RouteTable};
