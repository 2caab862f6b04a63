//! Preflight of other Freeholds: what their moves have on the two systems, and whether one of them moves the
//! database.
//!
//! Each Freehold counts its moves from 1, and several may work on the same systems. The names differ by the
//! store's id, so they do not conflict; but the operator should know the owner of each object, and which
//! slots retain WAL that nothing reads.

use crate::model::Cure;
use crate::model::FindingSeverity::{Blocker, Note, Warning};
use crate::system::marker::{self, HelperSchema};
use crate::system::names::HELPER_SCHEMA;
use crate::system::other_moves::{self, OtherObject, Removal};
use crate::system::{Session, SystemError};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::steps::preflight::{Findings, PreflightContext, on_system};

const CHECK: &str = "other_freehold";
/// Objects of one move that a finding names.
const NAMED_MAX: usize = 12;

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    for (end, session) in [(scene.source_end(), scene.source), (scene.target_end(), scene.target)] {
        on_each_system(end, session, findings).await?;
    }
    helper_schema(scene, findings).await
}

async fn on_each_system(
    end: &Endpoint,
    session: &Session,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let found = other_moves::objects(session, end.names).await?;
    for of_one in found.chunk_by(|one, next| one.label == next.label) {
        let Some(OtherObject { label, .. }) = of_one.first() else { continue };
        let is_own_name = *label == end.names.label();
        let severity = match () {
            () if is_own_name => Blocker,
            () if of_one.iter().any(|object| object.keeps_wal) => Warning,
            () => Note,
        };
        let mut named: Vec<&str> = of_one.iter().take(NAMED_MAX).map(|object| object.what.as_str()).collect();
        let more = format!("and {} more", of_one.len().saturating_sub(NAMED_MAX));
        if of_one.len() > NAMED_MAX {
            named.push(&more);
        }
        let (system, named, whose) = (&end.system.name, named.join("; "), whose(label));
        let what_then = match is_own_name {
            true => "this move needs these names: a copy of this store has used them",
            false => "this move uses, changes and drops none of it",
        };
        findings
            .platform(severity, CHECK)
            .about(label)
            .cure(on_system(end, removal(of_one)))
            .say(format!("system {system} holds what {whose} made: {named}; {what_then}"));
    }
    Ok(())
}

fn removal(objects: &[OtherObject]) -> Cure {
    let only = Cure::comment("only if that Freehold is gone for good; otherwise end the move there:");
    objects.iter().flat_map(|object| &object.removal).fold(only, |cure, Removal { dbname, statement }| {
        let cure = match dbname {
            Some(dbname) => cure.and_comment(format!("in database {dbname}:")),
            None => cure,
        };
        cure.and_perhaps(statement)
    })
}

/// `move 3 of another Freehold (store ab12cd34)`
fn whose(label: &str) -> String {
    match label.split_once('/') {
        Some((store, id)) => format!("move {id} of another Freehold (store {store})"),
        None => format!("move {label} of a Freehold of an older version"),
    }
}

/// The schema that a move creates in the database has the same name in every Freehold: two moves of one
/// database at a time are impossible.
async fn helper_schema(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let end = scene.source_end();
    match marker::helper(scene.source, end.names).await? {
        HelperSchema::Absent | HelperSchema::Ours => {}
        HelperSchema::Foreign(why) => findings
            .product(Blocker, "schema_name")
            .about(HELPER_SCHEMA)
            .cure(scene.on_source(marker::RENAME))
            .say(format!(
                "the database has a schema {HELPER_SCHEMA}, and {why}; a move needs the name for its own"
            )),
        HelperSchema::OfMove(label) => {
            let cure = Cure::to_decide(
                "end the move where it was begun (FINISH MOVE, UNDO MOVE or CANCEL MOVE); only if that Freehold is gone for good:",
                [format!("DROP SCHEMA {HELPER_SCHEMA} CASCADE;")],
            );
            findings.platform(Blocker, CHECK).about(&label).cure(scene.on_source(cure)).say(format!(
                "{} has hold of database {}: its helper schema is there",
                whose(&label),
                end.dbname
            ));
        }
    }
    Ok(())
}
