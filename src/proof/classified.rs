//! Which columns hold what is personal or sensitive, in a report.

use serde::Serialize;

use super::finding::Finding;
use crate::base::ClusterName;
use crate::doctor::{Classification, Column, ExportView};
use crate::sql::one_line;

/// What people wrote in a database, and whether it holds.
#[derive(Debug, Serialize)]
pub struct ClassifiedDatabase {
    pub cluster: String,
    pub database: String,
    pub columns: Vec<ColumnRow>,
    pub export_views: Vec<ExportView>,
}

#[derive(Debug, Serialize)]
pub struct ColumnRow {
    #[serde(flatten)]
    pub column: Column,
    /// It is hidden from all that it is to be hidden from.
    pub holds: bool,
}

impl ClassifiedDatabase {
    pub fn new(cluster: &ClusterName, database: &str, found: Classification) -> Self {
        let row = |column: Column| ColumnRow { holds: column.holds(), column };
        Self {
            cluster: cluster.to_string(),
            database: database.to_owned(),
            columns: found.columns.into_iter().map(row).collect(),
            export_views: found.export_views,
        }
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        let place = format!("{}@{}", one_line(&self.database), self.cluster);
        self.columns.iter().filter(|row| !row.holds).map(move |row| {
            let text = format!(
                "{place}: column {} is not hidden as it is to be: {}",
                row.column.name(),
                row.column.standing()
            );
            Finding::warning("classified_readable", text)
        })
    }

    /// A line each, as they are shown.
    pub(super) fn cells(&self) -> impl Iterator<Item = Vec<String>> {
        let place = [self.cluster.clone(), one_line(&self.database)];
        self.columns.iter().map(move |row| place.iter().cloned().chain(row.column.cells()).collect())
    }

    pub(super) fn views(&self) -> impl Iterator<Item = Vec<String>> {
        let place = [self.cluster.clone(), one_line(&self.database)];
        self.export_views.iter().map(move |view| {
            let name = one_line(&format!("{}.{}", view.schema, view.view));
            let k = view.k.map(|k| k.to_string()).unwrap_or_default();
            let by = one_line(&view.quasi_identifiers.join(", "));
            place.iter().cloned().chain([name, view.kind.clone(), k, by]).collect()
        })
    }
}
