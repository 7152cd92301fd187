//! Reading what is classified, as an administrator: nobody else may.

use std::collections::BTreeSet;

use super::Failure;
use crate::base::ClusterName;
use crate::cli::connect::UrlArgument;
use crate::config::Settings;
use crate::doctor;
use crate::proof::ClassifiedDatabase;

/// In the databases of these tenants; of all of them where none is named.
pub(super) async fn read(
    settings: &Settings,
    names: &[String],
    url: &UrlArgument,
) -> Result<Vec<ClassifiedDatabase>, Failure> {
    let wanted = settings
        .tenants
        .values()
        .filter(|tenant| names.is_empty() || names.iter().any(|name| *name == *tenant.id.as_str()));
    let places: BTreeSet<(&ClusterName, &str)> =
        wanted.map(|tenant| (&tenant.cluster, tenant.database.as_str())).collect();
    let clusters: BTreeSet<&ClusterName> = places.iter().map(|(cluster, _)| *cluster).collect();
    if url.is_given() && clusters.len() > 1 {
        let what = "--url (PGWARD_INSTALL_URL) leads to one cluster, and the tenants are on several; name tenants of one with --tenant";
        return Err(Failure::said(what));
    }
    let mut found = Vec::new();
    for (name, database) in places {
        let Some(cluster) = settings.clusters.get(name) else { continue };
        let said =
            |error: &dyn std::fmt::Display| Failure::said(format!("database {database} of cluster {name}: {error}"));
        let client = url.administrator(cluster).await?.connect(database).await?;
        let classified = doctor::classified(&client).await.map_err(|error| said(&error))?;
        found.push(ClassifiedDatabase::new(name, database, classified));
    }
    Ok(found)
}
