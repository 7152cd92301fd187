use super::{DatabasesArguments, Failure};
use crate::cli::output::say;
use crate::cli::record::{Act, Deed};
use crate::sql::one_line;
use crate::tenant::classification::{Change, Tagged, import, tagged};

/// Take up what the comments on columns say, such as 'pgward: personal, hidden from reports'
///
/// Shows what would come to pgward.classification; --write does it. A tag adds a column or roles, and never takes any
/// away. Where a tag is not well written, or names another class than the table, nothing of that database is taken up.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    databases: DatabasesArguments,

    /// Do it
    #[arg(long)]
    write: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.databases.config.load()?;
    let each = arguments.databases.each(&settings, async |cluster, database, client| {
        let found = if arguments.write {
            let place = format!("{database}@{}", cluster.name);
            let work = async { Ok(import(&client).await?) };
            Act::at(&settings, Deed::ImportClassification, &place).recorded(work).await?
        } else {
            tagged(&client).await?
        };
        let news: Vec<&Tagged> = found.iter().filter(|tagged| tagged.change != Change::Nothing).collect();
        news.iter().for_each(|tagged| say(line(tagged)));
        let done = if arguments.write { "taken up" } else { "to be taken up by --write" };
        let (database, news, known) = (one_line(database), news.len(), found.len() - news.len());
        say(format_args!("database {database} of cluster {}: {news} {done}, {known} known already", cluster.name));
        Ok(())
    });
    crate::cli::runtime()?.block_on(each)
}

fn line(tagged: &Tagged) -> String {
    let Tagged { schema, relation, column, tag, change } = tagged;
    let (sign, roles) = match change {
        Change::Roles(more) => ("~", format!("also hidden from {}", more.join(", "))),
        _ if tag.hidden_from.is_empty() => ("+", "hidden from nobody".to_owned()),
        _ => ("+", format!("hidden from {}", tag.hidden_from.join(", "))),
    };
    one_line(&format!("{sign} {schema}.{relation}.{column}: {}, {roles}", tag.class))
}
