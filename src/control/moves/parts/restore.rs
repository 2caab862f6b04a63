//! Restores the schema on the target: creates the objects, sets their owners, then their privileges.
//!
//! See [`copy_schema`](super::copy_schema) for why the platform does not restore all of it.

use crate::system::applier::RowAccess;
use crate::system::type_oids::{self, TypeOidComparison};
use crate::system::{Session, applier, ownership};

use crate::control::moves::endpoint::Endpoints;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::copy_schema::{SchemaDump, Section};
use crate::control::moves::parts::extensions;
use crate::control::moves::parts::own_login::OwnLogin;
use crate::control::moves::parts::scope::platform_roles;
use crate::control::moves::parts::throttle::Workers;

const RESTORING: &str = "restoring the schema on the target";
const GIVING: &str = "giving objects their owners and rights";

/// The input of a restore.
#[derive(Debug)]
pub(in crate::control) struct Restore<'a> {
    pub(in crate::control) ends: &'a Endpoints,
    pub(in crate::control) dump: SchemaDump,
    /// Owns what it creates until the owners are set.
    pub(in crate::control) applier: OwnLogin,
    /// The platform's sessions on the source and the target.
    pub(in crate::control) source: &'a Session,
    pub(in crate::control) target: &'a Session,
}

impl Restore<'_> {
    /// Creates the objects that hold rows, each type with the OID that it has on the source.
    pub(in crate::control) async fn before_rows(&self) -> Result<TypeOidComparison, StepError> {
        const KEEPING: &str = "keeping the OIDs of types";
        let wanted = type_oids::read(self.source).await.map_err(StepError::doing(KEEPING))?;
        type_oids::keep(self.target, &wanted).await.map_err(StepError::doing(KEEPING))?;
        let role = self.applier.role.as_str();
        applier::let_set(self.source, self.target, role).await.map_err(StepError::doing(RESTORING))?;
        let platform = platform_roles(self.ends);
        extensions::create(self.source, self.target, &platform.each())
            .await
            .map_err(StepError::doing("creating extensions on the target"))?;
        self.section(Section::PreData, 1).await?;
        type_oids::finish(self.target).await.map_err(StepError::doing(KEEPING))
    }

    /// Creates a section's objects; then grants the applier access to all of them.
    async fn section(&self, section: Section, workers: usize) -> Result<(), StepError> {
        let role = self.applier.role.as_str();
        for run in self.dump.runs(section).await.map_err(StepError::doing(RESTORING))? {
            // Also in schemas that the platform has just created.
            applier::let_create(self.target, role).await.map_err(StepError::doing(RESTORING))?;
            self.dump
                .restore(&self.ends.target, &self.applier, &run, workers)
                .await
                .map_err(StepError::doing(RESTORING))?;
        }
        applier::lend(self.target, role, RowAccess::Write).await.map_err(StepError::doing(RESTORING))
    }

    /// Creates indexes, constraints and triggers.
    pub(in crate::control) async fn after_rows(&self, workers: Workers) -> Result<(), StepError> {
        if !workers.parallel {
            let role = self.applier.role.as_str();
            applier::build_on_one_cpu(self.target, role).await.map_err(StepError::doing(RESTORING))?;
        }
        self.section(Section::PostData, workers.count).await
    }

    /// Sets the owners of all objects, then restores privileges and comments.
    pub(in crate::control) async fn owners_and_rights(&self) -> Result<(), StepError> {
        ownership::carry(self.source, self.target).await.map_err(StepError::doing(GIVING))?;
        let run = self.dump.afterwards().await.map_err(StepError::doing(GIVING))?;
        self.dump.restore(&self.ends.target, &self.applier, &run, 1).await.map_err(StepError::doing(GIVING))
    }
}
