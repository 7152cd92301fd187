use std::process::ExitCode;

use clap::ValueEnum;

use super::ConfigArgument;
use super::connect::{AdministrationArguments, Administrator};
use super::failure::Failure;
use super::output::{say, warn};
use super::record::{Act, Deed};
use crate::config::{Cluster, Settings};
use crate::doctor::{self, Allowed, Breadth, Place, Question, Report, Severity};

/// Find what in a live database lets a tenant reach past its own, and print the SQL that mends it
///
/// Reads PostgreSQL's catalogue in a read-only transaction, in all clusters of the configuration and all
/// databases that tenants have there. Needs no superuser: any role that can connect will do, and what it may
/// not look at is listed as not examined. docs/doctor.md has all rules.
///
/// Exit code 0: nothing dangerous (with --strict: nothing at all). 1: findings. 2: called wrongly, or a
/// configuration that is not good. 3: no findings, but a database could not be examined.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    administration: AdministrationArguments,

    /// Print the findings as JSON
    #[arg(long)]
    json: bool,

    /// Print the SQL that mends the findings as one script, or apply it and look again
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "print", value_name = "HOW")]
    fix: Option<Fix>,

    /// Leave out a rule's findings, or one of them by its object. Repeatable
    #[arg(long, value_parser = Allowed::parse, value_name = "RULE[:OBJECT]")]
    allow: Vec<Allowed>,

    /// Warnings and what could not be examined count as well
    #[arg(long)]
    strict: bool,

    /// The column that says whose a row is. Repeatable
    #[arg(long = "tenant-column", default_value = "tenant_id", value_name = "NAME")]
    tenant_columns: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fix {
    /// Print one SQL script, for psql
    Print,
    /// Run it, one transaction a database
    Apply,
}

const FOUND: u8 = 1;
const CALLED_WRONGLY: u8 = 2;
const NOT_EXAMINED: u8 = 3;

pub(super) fn command(arguments: &Arguments) -> ExitCode {
    match run(arguments) {
        Ok(report) => verdict(&report, arguments.strict),
        Err(Stopped { failure, code }) => {
            warn(failure);
            ExitCode::from(code)
        }
    }
}

fn verdict(report: &Report, strict: bool) -> ExitCode {
    let found = report.count(Severity::Danger) + if strict { report.count(Severity::Warning) } else { 0 };
    let missed = report.unreached_databases() + if strict { report.not_examined() } else { 0 };
    match (found, missed) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(NOT_EXAMINED),
        _ => ExitCode::from(FOUND),
    }
}

/// What ended the command early, and the exit code it comes to.
struct Stopped {
    failure: Failure,
    code: u8,
}

impl Stopped {
    fn called_wrongly(failure: Failure) -> Self {
        Self { failure, code: CALLED_WRONGLY }
    }

    fn not_mended(failure: impl Into<Failure>) -> Self {
        Self { failure: failure.into(), code: FOUND }
    }
}

fn run(arguments: &Arguments) -> Result<Report, Stopped> {
    let settings = arguments.config.load().map_err(Stopped::called_wrongly)?;
    let runtime = super::runtime().map_err(Stopped::called_wrongly)?;
    let visit = runtime.block_on(Visit::new(arguments, &settings)).map_err(Stopped::called_wrongly)?;
    if arguments.json && arguments.fix == Some(Fix::Print) {
        let said = "--json and --fix=print exclude each other; the JSON has each finding's SQL";
        return Err(Stopped::called_wrongly(Failure::said(said)));
    }
    if arguments.fix == Some(Fix::Print) && visit.clusters.len() > 1 {
        let said = "a script is for one server; say with --cluster for which cluster";
        return Err(Stopped::called_wrongly(Failure::said(said)));
    }
    let report = runtime.block_on(async {
        let report = visit.examine().await;
        if arguments.fix != Some(Fix::Apply) {
            return Ok(report);
        }
        visit.mend(&report).await?;
        Ok(visit.examine().await)
    })?;
    match (arguments.fix, arguments.json) {
        (Some(Fix::Print), _) => say(report.script().trim_end()),
        (_, true) => say(format_args!("{:#}", report.json())),
        (_, false) => say(report.text()),
    }
    Ok(report)
}

/// Whom to look at, and how to get there.
struct Visit<'a> {
    arguments: &'a Arguments,
    settings: &'a Settings,
    clusters: Vec<(&'a Cluster, Administrator, Vec<String>)>,
}

impl<'a> Visit<'a> {
    async fn new(arguments: &'a Arguments, settings: &'a Settings) -> Result<Self, Failure> {
        let mut clusters = Vec::new();
        for cluster in arguments.administration.clusters(settings)? {
            let databases: Vec<String> = arguments.administration.databases(settings, cluster).into_iter().collect();
            if !databases.is_empty() {
                clusters.push((cluster, arguments.administration.administrator(cluster).await?, databases));
            }
        }
        if clusters.is_empty() {
            return Err(Failure::said("no tenant has a database there; name one with --database"));
        }
        Ok(Self { arguments, settings, clusters })
    }

    /// What cannot be reached is in the report too.
    async fn examine(&self) -> Report {
        let mut report = Report::default();
        for (cluster, administrator, databases) in &self.clusters {
            let place =
                |database: Option<&String>| Place { cluster: cluster.name.to_string(), database: database.cloned() };
            let mut breadth = Breadth::DatabaseAndCluster;
            for database in databases {
                let columns = &self.arguments.tenant_columns;
                let question = Question::new(self.settings, &cluster.name, database, columns);
                let examined: Result<_, Failure> = async {
                    let client = administrator.connect(database).await?;
                    Ok(doctor::examine(&client, &question, breadth).await?)
                }
                .await;
                match examined {
                    Ok(found) => {
                        report.add(place(Some(database)), found.database, &self.arguments.allow);
                        if breadth == Breadth::DatabaseAndCluster {
                            report.add(place(None), found.cluster, &self.arguments.allow);
                        }
                        breadth = Breadth::Database;
                    }
                    Err(failure) => report.unreached(place(Some(database)), failure.to_string()),
                }
            }
        }
        report
    }

    async fn mend(&self, report: &Report) -> Result<(), Stopped> {
        for (place, findings) in report.mends() {
            let known = self.clusters.iter().find(|(cluster, ..)| cluster.name.as_str() == place.cluster);
            let (Some((_, administrator, _)), Some(database)) = (known, &place.database) else { continue };
            let client = administrator.connect(database).await.map_err(Stopped::not_mended)?;
            let at = format!("{database}@{}", place.cluster);
            let work = async { Ok(doctor::mend(&client, findings.into_iter()).await?) };
            let act = Act::at(self.settings, Deed::Mend, &at);
            let mended = act.recorded(work).await.map_err(Stopped::not_mended)?;
            warn(format_args!("{mended} findings mended by way of database {database} of cluster {}", place.cluster));
        }
        Ok(())
    }
}
