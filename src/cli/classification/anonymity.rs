use std::time::Duration;

use serde_json::json;

use super::Failure;
use crate::base::{ClusterName, TenantId};
use crate::cli::connect::UrlArgument;
use crate::cli::output::say;
use crate::cli::{ConfigArgument, duration};
use crate::config::{Isolation, Settings, Tenant};
use crate::doctor::{self, Anonymity, Beheld, Demand, Question};
use crate::sql::{identifier, one_line};

/// Count how many people share what a view shows of them (k-anonymity)
///
/// Counts the rows of each combination of the quasi-identifiers, in a transaction that reads and nothing else, and tells
/// how small the groups are. No value is printed. Exit code 0: there are groups and none is smaller than k. 1: there is one,
/// or it could not be counted.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    /// The cluster, as the configuration names it; needed where there are several
    #[arg(long, value_parser = ClusterName::parse)]
    cluster: Option<ClusterName>,

    /// The database that the view is in
    #[arg(long)]
    database: String,

    #[command(flatten)]
    url: UrlArgument,

    /// The view, written as SQL would have it: a name with an upper-case letter or a dot in double quotes
    #[arg(long, value_parser = qualified, value_name = "SCHEMA.VIEW")]
    view: (String, String),

    /// So many people at least are to share each combination; unless said, what pgward.export_view has
    #[arg(long, value_parser = clap::value_parser!(i32).range(2..))]
    k: Option<i32>,

    /// The quasi-identifiers by their exact names, separated by commas; unless said, those of pgward.export_view
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,COLUMN")]
    by: Vec<String>,

    /// The view's column that says how many people a row stands for; unless said, that of pgward.export_view, or one each
    #[arg(long, value_name = "COLUMN")]
    counted: Option<String>,

    /// Count what a reader of this tenant's is shown, at level rows; unless said, no tenant's context is there
    ///
    /// A view that asks pgward.tenant() shows no rows without.
    #[arg(long, value_parser = TenantId::parse)]
    tenant: Option<TenantId>,

    /// How long the count may take
    #[arg(long, default_value = "5m", value_parser = duration)]
    timeout: Duration,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.load()?;
    let cluster = match &arguments.cluster {
        Some(name) => settings.clusters.get(name),
        None if settings.clusters.len() == 1 => settings.clusters.values().next(),
        None => return Err(Failure::said("say with --cluster which is meant; there are several")),
    };
    let cluster = cluster.ok_or_else(|| Failure::said("there is no such cluster in the configuration (--cluster)"))?;
    let question = Question::new(&settings, &cluster.name, &arguments.database, &[]);
    let (schema, view) = &arguments.view;
    let demand = Demand {
        schema: schema.clone(),
        view: view.clone(),
        k: arguments.k,
        by: arguments.by.clone(),
        counted: arguments.counted.clone(),
        // PostgreSQL takes 0 for no limit at all.
        timeout_ms: u64::try_from(arguments.timeout.as_millis()).unwrap_or(u64::MAX).clamp(1, i32::MAX as u64),
    };
    let tenant =
        arguments.tenant.as_ref().map(|id| beheld(&settings, id, &cluster.name, &arguments.database)).transpose()?;
    let beheld = tenant.map(|tenant| Beheld { settings: &settings, tenant });
    let found = crate::cli::runtime()?.block_on(async {
        let administrator = arguments.url.administrator(cluster).await?;
        let client = administrator.connect(&arguments.database).await?;
        Ok::<_, Failure>(doctor::anonymity(&client, &question, &demand, beheld).await?)
    })?;
    let name = one_line(&format!("{}.{}", identifier(schema), identifier(view)));
    if arguments.json {
        say(format_args!("{:#}", as_json(&found)));
    } else {
        tell(&name, &found);
    }
    match (found.holds(), found.groups) {
        (true, _) => Ok(()),
        (false, 0) => Err(Failure::said(match tenant {
            Some(tenant) => {
                format!("view {name} shows no rows to this role as tenant {}, so nothing is known of it", tenant.id)
            }
            None => format!(
                "view {name} shows no rows to this role, so nothing is known of it; if it asks for the tenant, say with \
                 --tenant which"
            ),
        })),
        (false, _) => Err(Failure::said(format!("view {name} is not {}-anonymous", found.k))),
    }
}

/// The tenant, if it has its rows in this database among others'.
fn beheld<'a>(
    settings: &'a Settings,
    id: &TenantId,
    cluster: &ClusterName,
    database: &str,
) -> Result<&'a Tenant, Failure> {
    let found = settings.tenants.get(id).filter(|tenant| {
        tenant.isolation == Isolation::Rows && tenant.cluster == *cluster && tenant.database == database
    });
    let missing = || {
        Failure::said(format!(
            "there is no tenant {id} at level rows in database {database} of cluster {cluster}; at other levels leave \
             --tenant out, and ask as the tenant's role (--url)"
        ))
    };
    found.map(AsRef::as_ref).ok_or_else(missing)
}

fn tell(name: &str, found: &Anonymity) {
    let Anonymity { k, groups, groups_too_small, smallest, people, people_in_groups_too_small, .. } = found;
    let by = one_line(&found.by.join(", "));
    say(format_args!("view {name} by {by}"));
    say(format_args!("people: {people}, groups: {groups}, people in the smallest group: {smallest}"));
    say(format_args!("groups smaller than {k}: {groups_too_small}, people in them: {people_in_groups_too_small}"));
}

fn as_json(found: &Anonymity) -> serde_json::Value {
    json!({
        "holds": found.holds(), "k": found.k, "by": found.by, "groups": found.groups,
        "groups_too_small": found.groups_too_small, "smallest": found.smallest, "people": found.people,
        "people_in_groups_too_small": found.people_in_groups_too_small,
    })
}

/// `schema.view`, either of them in double quotes where it has to be.
fn qualified(text: &str) -> Result<(String, String), &'static str> {
    const WRONG: &str = "write SCHEMA.VIEW, odd names in double quotes";
    let (schema, rest) = crate::sql::leading_identifier(text).ok_or(WRONG)?;
    let (view, rest) = rest.strip_prefix('.').and_then(crate::sql::leading_identifier).ok_or(WRONG)?;
    if rest.is_empty() { Ok((schema, view)) } else { Err(WRONG) }
}
