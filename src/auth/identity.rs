//! From verified claims to who the session is.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{AuthError, ClaimProblem};
use crate::base::ids::NameError;
use crate::base::{Access, Region, TenantId};
use crate::config::{ClaimPath, Issuer};

/// Whom a verified token speaks for.
#[derive(Clone)]
pub struct Identity {
    pub tenant: TenantId,
    pub access: Access,
    pub region: Option<Region>,
    pub issuer: Arc<str>,
    pub subject: Option<String>,
    /// Seconds since 1970 from which on the token is no longer valid; the issuer's leeway is in it.
    pub expires_at: u64,
    pub claims: Arc<Map<String, Value>>,
    /// Why it is in a tenant that the token does not name.
    pub break_glass: Option<Arc<str>>,
}

/// The claims are personal data and nearly the token: they are left out.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("tenant", &self.tenant)
            .field("access", &self.access)
            .field("region", &self.region)
            .field("issuer", &self.issuer)
            .field("subject", &self.subject)
            .field("expires_at", &self.expires_at)
            .field("break_glass", &self.break_glass)
            .finish_non_exhaustive()
    }
}

/// Where an issuer's tokens say what pgward wants to know.
#[derive(Debug, Clone)]
pub(super) struct Places {
    tenant: ClaimPath,
    role: ClaimPath,
    region: ClaimPath,
    default_role: Option<Access>,
}

impl Places {
    pub fn of(issuer: &Issuer) -> Self {
        Self {
            tenant: issuer.tenant_claim.clone(),
            role: issuer.role_claim.clone(),
            region: issuer.region_claim.clone(),
            default_role: issuer.default_role.clone(),
        }
    }

    /// The claims' signature, times and audience have been checked before.
    pub fn identity(&self, issuer: Arc<str>, claims: Value, expires_at: u64) -> Result<Identity, AuthError> {
        let tenant = name("tenant", &self.tenant, &claims, TenantId::parse)?.ok_or(missing("tenant"))?;
        let access = name("role", &self.role, &claims, Access::parse)?
            .or_else(|| self.default_role.clone())
            .ok_or(missing("role"))?;
        let region = name("region", &self.region, &claims, Region::parse)?;
        let subject = match claims.get("sub") {
            None => None,
            Some(Value::String(subject)) => Some(subject.clone()),
            Some(_) => return Err(AuthError::Claim { claim: "sub", problem: ClaimProblem::NotText }),
        };
        let Value::Object(claims) = claims else { return Err(AuthError::Malformed("has claims that are no object")) };
        Ok(Identity {
            tenant,
            access,
            region,
            issuer,
            subject,
            expires_at,
            claims: Arc::new(claims),
            break_glass: None,
        })
    }
}

/// The name that a claim path finds: none, or exactly one that is a string and a valid name. Several
/// are refused even if they are equal, since which of them the issuer meant is not ours to guess.
fn name<T>(
    claim: &'static str,
    path: &ClaimPath,
    claims: &Value,
    parse: fn(&str) -> Result<T, NameError>,
) -> Result<Option<T>, AuthError> {
    let refused = |problem| AuthError::Claim { claim, problem };
    let found = path.path.query(claims).at_most_one().map_err(|_| refused(ClaimProblem::Several))?;
    match found {
        None => Ok(None),
        Some(Value::String(text)) => parse(text).map(Some).map_err(|problem| refused(ClaimProblem::Name(problem))),
        Some(_) => Err(refused(ClaimProblem::NotText)),
    }
}

fn missing(claim: &'static str) -> AuthError {
    AuthError::Claim { claim, problem: ClaimProblem::Missing }
}
