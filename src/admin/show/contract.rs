//! SHOW CONTRACT.

use crate::admin::answer::{Row, row};
use crate::admin::context::Cluster;
use crate::admin::error::AdminError;
use crate::admin::find;
use crate::admin::show::slo::service_level;
use crate::catalog::chain::Sha256;
use crate::model::{
    ContractDocument, ContractExport, ContractFormat, ContractMeasured, DatabaseName, DatabaseRecord,
    Measured,
};

/// How many digits of the digest of a contract are its version, in a format that wants one.
const VERSION_DIGITS: usize = 12;

pub(in crate::admin) async fn show_contract(
    cluster: &Cluster,
    name: &DatabaseName,
) -> Result<Vec<Row>, AdminError> {
    let properties = measured_document(cluster, name).await?.properties();
    Ok(properties.into_iter().map(|(path, value)| row![path, value]).collect())
}

/// One row with the whole document.
pub(in crate::admin) async fn export_contract(
    cluster: &Cluster,
    export: &ContractExport,
) -> Result<Vec<Row>, AdminError> {
    let text = match export.format {
        ContractFormat::Json => {
            let document = measured_document(cluster, &export.database).await?;
            serde_json::to_string_pretty(&document).map_err(unwritten)?
        }
        ContractFormat::Yaml => yaml(&measured_document(cluster, &export.database).await?)?,
        ContractFormat::OpenDataContract => {
            let (document, _) = document(cluster, &export.database).await?;
            yaml(&document.to_open_data_contract(&version(&document)?))?
        }
    };
    Ok(vec![row![text]])
}

/// What was agreed: it is another one only where that is.
async fn document(
    cluster: &Cluster,
    name: &DatabaseName,
) -> Result<(ContractDocument, DatabaseRecord), AdminError> {
    let database = find::database(cluster, name).await?.value;
    let owner = cluster.catalog().teams().get(&database.owner).await?.map(|team| team.value);
    let document =
        ContractDocument::of(&database, owner.as_ref(), cluster.address(), cluster.process_limits());
    Ok((document, database))
}

/// With what was measured of it.
async fn measured_document(cluster: &Cluster, name: &DatabaseName) -> Result<ContractDocument, AdminError> {
    let (document, database) = document(cluster, name).await?;
    let moves = cluster.catalog().moves().list().await?.into_values();
    let level = service_level(cluster, &database, &moves, &Measured::default()).await?;
    Ok(ContractDocument { measured: Some(ContractMeasured::of(&level)), ..document })
}

fn yaml(document: &impl serde::Serialize) -> Result<String, AdminError> {
    serde_saphyr::to_string(document).map_err(unwritten)
}

/// Another one whenever the contract is another one.
fn version(document: &ContractDocument) -> Result<String, AdminError> {
    let digest = Sha256::of(&serde_json::to_vec(document).map_err(unwritten)?);
    Ok(digest.to_string().chars().take(VERSION_DIGITS).collect())
}

fn unwritten(error: impl std::fmt::Display) -> AdminError {
    AdminError::NotWritten { what: "contract", reason: error.to_string() }
}
