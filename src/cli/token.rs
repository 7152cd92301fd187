use std::time::Duration;

use serde_json::{Map, Value};

use super::failure::Failure;
use super::output::{say, warn};
use super::{ConfigArgument, duration};
use crate::auth;
use crate::base::{Access, TenantId, clock};
use crate::config::{Issuer, Roles, Settings};

/// Sign a token for a tenant, for development
///
/// Prints the token alone, to be used as the password of a connection:
///
///   psql "postgresql://acme:$(pgward token --tenant acme --role app --ttl 1h)@127.0.0.1:6432/app"
///
/// An issuer in the configuration must have a signing key (`signing`). In production tokens come from
/// your identity provider, and no signing key belongs in the configuration.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    /// The tenant, as the configuration names it
    #[arg(long, value_parser = TenantId::parse)]
    tenant: TenantId,

    /// What the session may do: app, readonly, or another role that the tenant has
    #[arg(long, default_value = "app", value_parser = Access::parse)]
    role: Access,

    /// How long the token is good for: a number and s, m, h or d
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
    ttl: Duration,

    /// Which issuer signs, when more than one has a signing key
    #[arg(long)]
    issuer: Option<String>,

    /// A further claim; the value is JSON, or a plain string if it is no JSON. Repeatable
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
}

fn claim(text: &str) -> Result<(String, Value), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as plan='\"gold\"' or age=7")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()))))
}

pub(super) fn command(arguments: &Arguments) -> Result<(), Failure> {
    let settings = arguments.config.load()?;
    let issuer = issuer(&settings, arguments.issuer.as_deref())?;
    if let Some(doubt) = doubt(&settings, &arguments.tenant, &arguments.role) {
        warn(doubt);
    }
    say(mint(issuer, &arguments.tenant, &arguments.role, arguments.ttl, &arguments.claims.iter().cloned().collect())?);
    Ok(())
}

pub(super) fn mint(
    issuer: &Issuer,
    tenant: &TenantId,
    role: &Access,
    ttl: Duration,
    claims: &Map<String, Value>,
) -> Result<String, Failure> {
    Ok(auth::mint(issuer, tenant, role, ttl, claims, clock::unix_now())?)
}

/// The named issuer, or the only one that can sign.
pub(super) fn issuer<'a>(settings: &'a Settings, named: Option<&str>) -> Result<&'a Issuer, Failure> {
    let mut able = settings
        .issuers
        .iter()
        .filter(|issuer| issuer.signing.is_some() && named.is_none_or(|name| name == issuer.issuer));
    match (able.next(), able.next()) {
        (Some(issuer), None) => Ok(issuer),
        (Some(_), Some(_)) => Err(Failure::said("several issuers have a signing key; say which with --issuer")),
        (None, _) => Err(Failure::said(match named {
            Some(name) => format!("there is no issuer {name} with a signing key in the configuration"),
            None => "no issuer in the configuration has a signing key (issuers.signing), so pgward cannot sign; \
                     in production your identity provider does"
                .to_owned(),
        })),
    }
}

/// Why the proxy would refuse the token in spite of its signature.
fn doubt(settings: &Settings, tenant: &TenantId, role: &Access) -> Option<String> {
    if settings.console.token_role.as_ref() == Some(role) {
        return None;
    }
    let Some(known) = settings.tenants.get(tenant) else {
        return Some(format!("warning: there is no tenant {tenant} in the configuration; its token will be refused"));
    };
    let cluster = settings.clusters.get(&known.cluster)?;
    let (named, every): (Vec<&Access>, Vec<&Access>) = match &known.roles {
        Roles::Shared(names) => (names.iter().collect(), cluster.logins.keys().collect()),
        Roles::Own(logins) => (logins.keys().collect(), logins.keys().collect()),
    };
    let roles = if named.is_empty() { every } else { named };
    if roles.contains(&role) {
        return None;
    }
    let has = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
    Some(format!("warning: tenant {tenant} has no role {role} (it has {has}); its token will be refused"))
}
