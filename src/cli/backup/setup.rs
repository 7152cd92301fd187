use super::Failure;
use super::arguments::ClusterArguments;
use super::shown::Shown;
use crate::cli::connect::UrlArgument;
use crate::cli::output::say;
use crate::cli::record::{Act, Deed};
use crate::cli::runtime;
use crate::sidecar::backup::{Site, Unarchived, archive_command, archive_setting};
use crate::tenant;

/// Create the login that backups are made as, prepare the repositories, and say what postgresql.conf needs
///
/// As a superuser: row security must not hide rows from a backup. The login reads everything and changes nothing. Can be
/// repeated at any time, and is to be when a database has been added.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    clusters: ClusterArguments,

    #[command(flatten)]
    url: UrlArgument,
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.clusters.load()?;
    let sites = arguments.clusters.sites(&settings)?;
    if sites.len() > 1 && arguments.url.is_given() {
        return Err(Failure::said("say with --cluster which one --url leads to"));
    }
    for site in &sites {
        let name = &site.cluster().name;
        runtime()?.block_on(Act::at(&settings, Deed::SetUpBackup, name.as_str()).recorded(set_up(arguments, site)))?;
    }
    Ok(())
}

async fn set_up(arguments: &Arguments, site: &Site) -> Result<(), Failure> {
    let cluster = site.cluster();
    let Some(own) = &cluster.backup else {
        return Err(Failure::said(format!("clusters.{}.backup says nothing of a login", cluster.name)));
    };
    let client = arguments.url.administrator(cluster).await?.connect(&own.database).await?;
    tenant::install_backup(&client, site.settings(), cluster, own).await?;
    say(format_args!("cluster {}: role {} may make backups", cluster.name, own.login.role));
    site.prepare(&site.primary().await?, &mut Shown::new(false)).await?;
    say(format_args!("cluster {}: its repositories are ready", cluster.name));
    let unarchived = Unarchived::of(site, &client).await?;
    // One that archives may do it as an earlier configuration had it.
    let command: String = client.query_one("select pg_catalog.current_setting('archive_command')", &[]).await?.get(0);
    if unarchived.is_some() || command != archive_command(site) {
        say("its log is to be archived by these lines of postgresql.conf, on each of its servers:\n");
        say("archive_mode = on");
        if unarchived == Some(Unarchived::Library) {
            say("archive_library = ''");
        }
        say(archive_setting(site));
        say("archive_timeout = 30s");
        say(match unarchived {
            Some(Unarchived::Off) => "\nand the server restarted, since archive_mode is off now",
            _ => "\nand the server told to reload them",
        });
    }
    if let Some(folder) = site.receive_wal() {
        let (role, folder) = (&own.login.role, folder.display());
        say(format_args!(
            "\nits log is to be received into {folder}; from that machine pg_hba.conf has to let it in:\n\n\
             host replication {role} ADDRESS scram-sha-256"
        ));
    }
    Ok(())
}
