//! DISABLE and ENABLE: whether new clients of a database may connect.

use super::answer::Answer;
use super::commands::{self, Command};
use super::execute::{Caller, Executor};
use super::refuse::AdminError;
use crate::model::{DatabaseName, Door, RouteRecord};

impl Executor {
    pub(super) async fn disable(&self, name: &DatabaseName, caller: &Caller) -> Result<Answer, AdminError> {
        self.set_door(name, Door::Disabled, commands::DISABLE, caller).await
    }

    pub(super) async fn enable(&self, name: &DatabaseName, caller: &Caller) -> Result<Answer, AdminError> {
        self.set_door(name, Door::Open, commands::ENABLE, caller).await
    }

    async fn set_door(
        &self,
        name: &DatabaseName,
        door: Door,
        command: Command,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let database = self.database(name).await?.value;
        let set = |route: &mut RouteRecord| {
            route.door = door;
            Ok::<(), AdminError>(())
        };
        let record = self.recording(caller).update_route(&database.id, set).await?.value;
        self.obeyed(&record).await;
        Ok(Answer::done(command))
    }
}
