//! DISABLE and ENABLE: whether new clients of a database may connect.

use crate::admin::answer::Answer;
use crate::admin::commands::{self, Command};
use crate::admin::execute::{Caller, Executor};
use crate::admin::refuse::AdminError;
use crate::model::{DatabaseName, Door, RouteRecord};

impl Executor {
    pub(in crate::admin) async fn disable(
        &self,
        name: &DatabaseName,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        self.set_door(name, Door::Disabled, commands::DISABLE, caller).await
    }

    pub(in crate::admin) async fn enable(
        &self,
        name: &DatabaseName,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
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
