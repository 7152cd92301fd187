use serde_json::{Value, json};

use super::{DatabasesArguments, Failure};
use crate::cli::output::{say, table};
use crate::doctor::{self, Classification, Column, ExportView};
use crate::sql::one_line;

/// List the classified columns, from whom they are hidden, and whether that holds now
///
/// It holds where PostgreSQL's privileges and views let none of the roles read the column; where they do, `pgward
/// doctor` says how and what mends it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    databases: DatabasesArguments,

    /// Of this class only
    #[arg(long)]
    class: Option<String>,

    /// One JSON object, with the views of pgward.export_view as well
    #[arg(long)]
    json: bool,
}

const HEAD: [&str; 6] = ["CLUSTER", "DATABASE", "COLUMN", "CLASS", "HIDDEN FROM", "HOLDS"];

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.databases.config.load()?;
    let mut lines: Vec<[String; 6]> = Vec::new();
    let (mut columns, mut views): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    let each = arguments.databases.each(&settings, async |cluster, database, client| {
        let Classification { columns: found, export_views } = doctor::classified(&client).await?;
        let wanted = |column: &&Column| arguments.class.as_ref().is_none_or(|class| *class == column.class);
        for column in found.iter().filter(wanted) {
            let [name, class, hidden, holds] = column.cells();
            lines.push([cluster.name.to_string(), one_line(database), name, class, hidden, holds]);
            columns.push(column_json(cluster.name.as_str(), database, column));
        }
        views.extend(export_views.iter().map(|view| view_json(cluster.name.as_str(), database, view)));
        Ok(())
    });
    crate::cli::runtime()?.block_on(each)?;
    if arguments.json {
        say(format_args!("{:#}", json!({ "columns": columns, "export_views": views })));
        return Ok(());
    }
    let lines = lines.iter().map(|line| line.each_ref().map(String::as_str));
    table(std::iter::once(HEAD).chain(lines).collect());
    Ok(())
}

fn column_json(cluster: &str, database: &str, column: &Column) -> Value {
    json!({
        "cluster": cluster, "database": database, "schema": column.schema, "relation": column.relation,
        "column": column.column, "class": column.class, "hidden_from": column.hidden_from, "note": column.note,
        "exists": column.exists, "holds": column.holds(), "readers": column.readers, "strangers": column.strangers,
    })
}

fn view_json(cluster: &str, database: &str, view: &ExportView) -> Value {
    json!({
        "cluster": cluster, "database": database, "schema": view.schema, "view": view.view, "kind": view.kind,
        "k": view.k, "quasi_identifiers": view.quasi_identifiers, "counted": view.counted, "note": view.note,
    })
}
