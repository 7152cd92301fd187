//! `pgward catalogue install`: the table that several pgwards have their tenants in, and the login that reads it.

use tokio_postgres::Client;

use super::{Batch, InstallError, ROLES, script, sql, transaction, verifier};
use crate::config::{Catalogue, Settings};

const TABLE: &str = include_str!("catalogue.sql");

/// In one transaction, on a connection to the catalogue's database, as the role that is to own the table.
pub async fn install_catalogue(client: &Client, settings: &Settings, it: &Catalogue) -> Result<(), InstallError> {
    transaction(client, &plan(settings, it)?).await
}

/// What [`install_catalogue`] runs. Without `secrets` the login's password is left out.
pub fn catalogue_script(settings: &Settings, it: &Catalogue, secrets: bool) -> Result<String, InstallError> {
    Ok(script(&plan(settings, it)?, secrets))
}

fn plan(settings: &Settings, it: &Catalogue) -> Result<Vec<Batch>, InstallError> {
    let role = &it.login.role;
    let password = sql::password(role, &verifier(settings, &it.cluster, &it.login)?);
    Ok(vec![
        Batch::open("preparing", ROLES),
        Batch::open("creating the catalogue of tenants", TABLE),
        Batch::open(format!("creating the login role {role}"), sql::login(&it.login, &it.database)),
        Batch::secret(format!("setting the password of {role}"), password),
        Batch::open(format!("letting {role} read the catalogue"), sql::catalogue_reader(role)),
    ])
}
