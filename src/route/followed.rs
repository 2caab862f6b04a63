//! How far this process has followed the catalogue, for tasks that wait until it knows something.

use tokio::sync::watch;

use crate::catalog::store::Revision;

/// The revisions up to which all commits were applied: for logins, and for routes with the logins before
/// them.
#[derive(Debug)]
pub struct Followed {
    logins: watch::Sender<Revision>,
    routes: watch::Sender<Revision>,
}

impl Default for Followed {
    fn default() -> Followed {
        let begin = || watch::Sender::new(Revision::default());
        Followed { logins: begin(), routes: begin() }
    }
}

impl Followed {
    /// Whether this process follows the catalogue. One that serves no clients does not, and has nothing to
    /// wait for.
    pub fn has_begun(&self) -> bool {
        *self.routes.borrow() > Revision::default()
    }

    /// Waits until the logins of a commit are known. Has no bound: the store may be away. Cancel-safe.
    pub async fn logins(&self, revision: Revision) {
        reached(&self.logins, revision).await;
    }

    /// Waits until the routes of a commit are known, and the logins of all commits up to it. As
    /// [`Followed::logins`].
    pub async fn routes(&self, revision: Revision) {
        reached(&self.routes, revision).await;
    }

    pub(super) fn logins_are_at(&self, revision: Revision) {
        self.logins.send_modify(|at| *at = revision.max(*at));
    }

    pub(super) fn routes_are_at(&self, revision: Revision) {
        self.routes.send_modify(|at| *at = revision.max(*at));
    }
}

async fn reached(followed: &watch::Sender<Revision>, revision: Revision) {
    // An error is impossible: `followed` keeps the sender alive.
    let _ = followed.subscribe().wait_for(|at| *at >= revision).await;
}
