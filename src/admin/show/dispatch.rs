//! Which function answers a SHOW: the table of commands names it, and what it gets.

use futures_util::future::BoxFuture;

use super::{
    audit, catalog, consumers, contract, databases, debt, moves, operations, people, process, sessions, slo,
    sockets, traffic, violations,
};
use crate::admin::answer::Row;
use crate::admin::commands::{Show, each_show};
use crate::admin::context::{Caller, Cluster, Local};
use crate::admin::error::AdminError;

/// What a SHOW answers, once it is awaited.
pub(in crate::admin) type ShowRows<'a> = BoxFuture<'a, Result<Vec<Row>, AdminError>>;

/// The rows of a SHOW, unless its scope is the other one.
macro_rules! rows_if {
    (Cluster is Cluster, $rows:expr) => {
        Some(Box::pin($rows))
    };
    (Process is Process, $rows:expr) => {
        Some(Box::pin($rows))
    };
    ($context:ident is $scope:ident, $rows:expr) => {
        None
    };
}

/// The second of two names: the first only says that the second is wanted.
macro_rules! second {
    ($first:ident $second:ident) => {
        $second
    };
}

/// Makes the two functions. That of a row is over [`Cluster`] or over [`Local`], as its scope says; `with
/// cluster` gives a SHOW of the process the catalogue, too, and `for caller` the user that asks.
macro_rules! dispatch {
    ($($variant:ident $scope:ident $syntax:literal,
        $($function:ident)::+($($subject:ident: $kind:ty)?) $(with $cluster:ident)? $(for $asker:ident)?;)*) => {
        #[allow(unused_variables, reason = "a SHOW of the other scope uses nothing of what is at hand")]
        impl Show {
            /// The rows of a SHOW whose scope is the cluster.
            pub(in crate::admin) fn on_cluster<'a>(
                &'a self,
                cluster: &'a Cluster,
                caller: &'a Caller,
            ) -> Option<ShowRows<'a>> {
                match self {
                    $(Show::$variant $(($subject))? => rows_if!(
                        Cluster is $scope,
                        $($function)::+(cluster $(, second!($asker caller))? $(, $subject)?)
                    ),)*
                }
            }

            /// The rows of a SHOW whose scope is the process.
            pub(in crate::admin) fn on_process<'a>(
                &'a self,
                local: &'a Local,
                cluster: &'a Cluster,
                caller: &'a Caller,
            ) -> Option<ShowRows<'a>> {
                match self {
                    $(Show::$variant $(($subject))? => rows_if!(
                        Process is $scope,
                        $($function)::+(local $(, second!($cluster cluster))? $(, second!($asker caller))? $(, $subject)?)
                    ),)*
                }
            }
        }
    };
}

each_show!(dispatch);
