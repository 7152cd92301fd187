//! What the configuration says of a database that is to be examined.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::base::ClusterName;
use crate::config::{Isolation, Roles, Settings};

/// What is looked at on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breadth {
    Database,
    /// Also what all databases of the cluster share: roles and databases.
    DatabaseAndCluster,
}

/// Handed to the queries as JSON. The default is about what does not depend on tenants.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Question {
    pub(super) cluster: String,
    pub(super) database: String,
    /// Tenants at level `rows` live in this database.
    pub(super) rows: bool,
    /// Tenants at any level live in it.
    shares: bool,
    logins: Vec<Login>,
    own_schemas: Vec<OwnSchema>,
    /// Databases of the cluster that are one tenant's alone.
    own_databases: BTreeSet<String>,
    tenant_columns: Vec<String>,
    search_path: BTreeSet<String>,
    pub(super) keys: Vec<String>,
    /// Roles and settings of pgward.logins, where there is such a table.
    pub(super) approved_settings: Vec<serde_json::Value>,
    /// Ids in pgward.keys, where they can be read.
    pub(super) stored_keys: Option<Vec<serde_json::Value>>,
    /// Rows of pgward.classification and pgward.export_view.
    pub(super) classification: Vec<serde_json::Value>,
    pub(super) export_views: Vec<serde_json::Value>,
}

/// A role that tenants' backends log in as.
#[derive(Debug, Clone, Serialize)]
struct Login {
    role: String,
    level: &'static str,
    /// Whose own it is; none at level `rows`.
    tenant: Option<String>,
    databases: BTreeSet<String>,
    /// Serves tenants in this database.
    here: bool,
}

/// Level `schema`.
#[derive(Debug, Clone, Serialize)]
struct OwnSchema {
    schema: String,
    tenant: String,
}

impl Question {
    pub fn new(settings: &Settings, cluster: &ClusterName, database: &str, tenant_columns: &[String]) -> Self {
        let mut tenants: Vec<_> = settings.tenants.values().filter(|tenant| tenant.cluster == *cluster).collect();
        tenants.sort_by(|a, b| a.id.cmp(&b.id));
        let here = || tenants.iter().filter(|tenant| tenant.database == database);
        let rows = here().any(|tenant| tenant.isolation == Isolation::Rows);
        let own_schemas = here().filter(|tenant| tenant.isolation == Isolation::Schema).filter_map(|tenant| {
            Some(OwnSchema { schema: tenant.search_path.first()?.clone(), tenant: tenant.id.to_string() })
        });
        let own_databases = tenants.iter().filter(|tenant| !tenant.isolation.shares_database());
        let keys = if rows { settings.context.keys.keys().cloned().collect() } else { Vec::new() };
        Self {
            cluster: cluster.to_string(),
            database: database.to_owned(),
            rows,
            shares: here().any(|tenant| tenant.isolation.shares_database()),
            logins: logins(settings, cluster, database),
            own_schemas: own_schemas.collect(),
            own_databases: own_databases.map(|tenant| tenant.database.clone()).collect(),
            tenant_columns: tenant_columns.to_vec(),
            search_path: here().flat_map(|tenant| tenant.search_path.iter().cloned()).collect(),
            keys,
            ..Self::default()
        }
    }
}

fn logins(settings: &Settings, cluster: &ClusterName, database: &str) -> Vec<Login> {
    let mut logins: BTreeMap<&str, Login> = BTreeMap::new();
    let known = settings.clusters.get(cluster);
    for tenant in settings.tenants.values().filter(|tenant| tenant.cluster == *cluster) {
        let roles: Vec<&str> = match &tenant.roles {
            Roles::Shared(_) => known.iter().flat_map(|known| known.logins.values()).map(|l| l.role.as_str()).collect(),
            Roles::Own(own) => own.values().map(|login| login.role.as_str()).collect(),
        };
        let own = matches!(tenant.roles, Roles::Own(_)).then(|| tenant.id.to_string());
        for role in roles {
            let login = logins.entry(role).or_insert_with(|| Login {
                role: role.to_owned(),
                level: tenant.isolation.as_str(),
                tenant: own.clone(),
                databases: BTreeSet::new(),
                here: false,
            });
            login.databases.insert(tenant.database.clone());
            login.here |= tenant.database == database;
        }
    }
    logins.into_values().collect()
}
