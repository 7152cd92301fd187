//! Access to another tenant in an emergency: for principals that the configuration names, for a time, with a reason,
//! and recorded. Everything that keeps tenants apart holds for such a session too: it is in one tenant, and its token
//! says who it is.

use serde_json::json;

use super::core::Core;
use super::refuse;
use super::world::World;
use crate::auth::Identity;
use crate::base::{Report, TenantId};
use crate::config::BreakGlass;

/// The claim that is sealed into the context of such a session, for `pgward.claims()`.
pub(super) const CLAIM: &str = "pgward_break_glass";

/// Bytes that a reason has.
const REASON: std::ops::RangeInclusive<usize> = 8..=120;

/// Puts the principal of a token into the tenant that it wants to enter.
pub(super) fn enter(
    core: &Core,
    world: &World,
    identity: Identity,
    tenant: &str,
    reason: &str,
    now: u64,
) -> Result<Identity, Report> {
    let refused = |why: &'static str| {
        core.stats.login(why);
        tracing::warn!(issuer = %identity.issuer, subject = identity.subject, why, "break-glass access was refused");
        refuse::no_access().because(why)
    };
    let mut grants: Vec<&BreakGlass> = world.settings.break_glass.iter().collect();
    let mut narrow = |why, fits: &dyn Fn(&BreakGlass) -> bool| {
        grants.retain(|grant| fits(grant));
        grants.first().copied().ok_or_else(|| refused(why))
    };
    let subject = identity.subject.as_ref();
    narrow("break_glass_principal", &|grant| *grant.issuer == *identity.issuer && Some(&grant.subject) == subject)?;
    let tenant = TenantId::parse(tenant).map_err(|_| refused("break_glass_tenant"))?;
    narrow("break_glass_tenant", &|grant| grant.tenants.as_ref().is_none_or(|tenants| tenants.contains(&tenant)))?;
    let grant = narrow("break_glass_over", &|grant| grant.until.is_none_or(|until| now < until))?;
    let reason = reason.trim();
    if !REASON.contains(&reason.len()) || reason.chars().any(char::is_control) {
        core.stats.login("break_glass_reason");
        return Err(refuse::break_glass_reason(&REASON));
    }
    let end = now.saturating_add(grant.max_duration.as_secs());
    let end = grant.until.map_or(end, |until| end.min(until));
    tracing::warn!(%tenant, issuer = %identity.issuer, subject = identity.subject, role = %grant.role, reason, "break-glass access");
    let mut claims = (*identity.claims).clone();
    claims.insert(CLAIM.to_owned(), json!({ "subject": grant.subject, "issuer": grant.issuer, "reason": reason }));
    Ok(Identity {
        tenant,
        access: grant.role.clone(),
        expires_at: identity.expires_at.min(end),
        claims: claims.into(),
        break_glass: Some(reason.into()),
        ..identity
    })
}
