//! `(tenant, access, token's region) -> login and regions, or a refusal with its reason`; and whether a server is in them.

use std::sync::Arc;

use crate::base::{Access, Region, ServerName, clock};
use crate::config::{Cluster, Grant, Login, Settings, Tenant};
use crate::residency;

#[derive(Debug)]
pub struct Route<'a> {
    pub login: &'a Login,
    /// Where servers may be that serve the session.
    pub regions: Arc<[Region]>,
    /// What lets it be served here, where the tenant's data may not be.
    pub grant: Option<Arc<Grant>>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the tenant has no login for access {0}")]
    Access(Access),
    #[error("the token allows region {0} only, which is not among the tenant's")]
    TokenRegion(Region),
    #[error("server {server} is in region {region}, where the tenant's data may not be")]
    Residency { server: ServerName, region: Region },
    #[error("this pgward is in region {here}, where the tenant's data may not be")]
    Node {
        here: Region,
        /// Where it may be.
        regions: Arc<[Region]>,
    },
}

/// Where this pgward is, which sees all that passes through it.
#[derive(Debug, Default)]
pub struct Here<'a> {
    /// `None`: not known to be anywhere.
    pub region: Option<&'a Region>,
    /// What lets the tenant's role be served here though its data may not be here.
    pub grant: Option<&'a Arc<Grant>>,
}

impl<'a> Here<'a> {
    /// For a tenant's role, at this moment.
    pub fn of(settings: &'a Settings, region: Option<&'a Region>, tenant: &Tenant, role: &Access) -> Self {
        let grant = |region| settings.grant_in(region, &tenant.id, role, clock::unix_now());
        Self { region, grant: region.and_then(grant) }
    }
}

/// Residency is asked before anything else about a server. A region in the token narrows what the
/// catalogue allows and never widens it.
pub fn decide<'a>(
    tenant: &'a Tenant,
    access: &Access,
    token_region: Option<&Region>,
    cluster: &'a Cluster,
    here: &Here<'_>,
) -> Result<Route<'a>, Refusal> {
    let login = tenant.login(access, cluster).ok_or_else(|| Refusal::Access(access.clone()))?;
    let regions: Arc<[Region]> = match token_region {
        None => Arc::clone(&tenant.regions),
        Some(region) if residency::allows(&tenant.regions, region) => [region.clone()].into(),
        Some(region) => return Err(Refusal::TokenRegion(region.clone())),
    };
    let Some(region) = here.region.filter(|region| !residency::allows(&regions, region)) else {
        return Ok(Route { login, regions, grant: None });
    };
    // A token that is narrower than its tenant crosses no border.
    match here.grant.filter(|_| token_region.is_none()) {
        Some(grant) => Ok(Route { login, regions, grant: Some(Arc::clone(grant)) }),
        None => Err(Refusal::Node { here: region.clone(), regions }),
    }
}

/// Whether a server may serve a session that is kept to these regions.
pub fn admit(regions: &[Region], server: &ServerName, region: &Region) -> Result<(), Refusal> {
    if residency::allows(regions, region) {
        Ok(())
    } else {
        Err(Refusal::Residency { server: server.clone(), region: region.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn settings() -> Settings {
        let text = r#"
            master_key = "0123456789abcdef0123456789abcdef"
            listen.address = "127.0.0.1:0"
            context.keys.k1 = "0123456789abcdef0123456789abcdef"
            [[issuers]]
            issuer = "t"
            audience = "pgward"
            algorithms = ["HS256"]
            secret = "0123456789abcdef0123456789abcdef"
            [clusters.c]
            tls.mode = "off"
            logins = { app = "pgward_app", readonly = "pgward_readonly" }
            [[clusters.c.servers]]
            name = "c1"
            host = "127.0.0.1"
            region = "lk"
            [tenants.acme]
            cluster = "c"
            database = "app"
            home = "lk"
            regions = ["lk", "in"]
            roles = ["app"]
        "#;
        parse(text, std::path::Path::new(".")).unwrap()
    }

    fn route(settings: &Settings, access: &str, region: Option<&str>) -> Result<String, Refusal> {
        let tenant = settings.tenants.values().next().unwrap();
        let cluster = settings.clusters.values().next().unwrap();
        let region = region.map(|region| Region::parse(region).unwrap());
        let route = decide(tenant, &Access::parse(access).unwrap(), region.as_ref(), cluster, &Here::default())?;
        let server = &cluster.servers[0];
        admit(&route.regions, &server.name, &server.region).map(|()| route.login.role.clone())
    }

    #[test]
    fn an_access_that_the_tenant_does_not_have_is_refused() {
        let settings = settings();
        assert_eq!(route(&settings, "app", None).unwrap(), "pgward_app");
        assert!(matches!(route(&settings, "readonly", None), Err(Refusal::Access(_))));
        assert!(matches!(route(&settings, "nobody", None), Err(Refusal::Access(_))));
    }

    #[test]
    fn a_region_in_the_token_narrows_and_never_widens() {
        let settings = settings();
        assert!(route(&settings, "app", Some("lk")).is_ok());
        assert!(matches!(route(&settings, "app", Some("in")), Err(Refusal::Residency { .. })));
        assert!(matches!(route(&settings, "app", Some("us")), Err(Refusal::TokenRegion(_))));
    }

    #[test]
    fn a_pgward_where_the_tenants_data_may_not_be_serves_nobody_of_it() {
        let settings = settings();
        let tenant = settings.tenants.values().next().unwrap();
        let cluster = settings.clusters.values().next().unwrap();
        let here = |token: Option<&str>, here: &str| {
            let region = |name: &str| Region::parse(name).unwrap();
            let token = token.map(region);
            let here = Here { region: Some(&region(here)), grant: None };
            decide(tenant, &Access::parse("app").unwrap(), token.as_ref(), cluster, &here).map(drop)
        };
        assert!(here(None, "lk").is_ok() && here(None, "in").is_ok());
        assert!(matches!(here(None, "us"), Err(Refusal::Node { .. })));
        assert!(matches!(here(Some("lk"), "in"), Err(Refusal::Node { .. })), "the token narrows it");
        assert!(matches!(here(Some("us"), "us"), Err(Refusal::TokenRegion(_))), "and does not widen it");
    }

    const REGIONS: [&str; 4] = ["lk", "in", "de", "us"];

    proptest::proptest! {
        /// Whatever the tenant's list, the token, the place and the grant are.
        #[test]
        fn nobody_is_led_outside(
            home in 0..4_usize,
            more in proptest::collection::vec(0..4_usize, 0..3),
            token in proptest::option::of(0..4_usize),
            here in proptest::option::of(0..4_usize),
            granted in proptest::option::of((0..4_usize, 0..2_u64)),
            server in 0..4_usize,
        ) {
            let region = |at: usize| Region::parse(REGIONS[at]).unwrap();
            let mut settings = settings();
            let id = settings.tenants.keys().next().unwrap().clone();
            let regions: Vec<Region> = more.iter().copied().chain([home]).map(region).collect();
            let tenant = Tenant { home: region(home), regions: regions.clone().into(), ..Tenant::clone(&settings.tenants[&id]) };
            let role = Access::parse("app").unwrap();
            if let Some((at, over)) = granted {
                let grant = Grant {
                    name: crate::base::GrantName::parse("g").unwrap(),
                    tenants: vec![id],
                    role: role.clone(),
                    regions: vec![region(at)],
                    purpose: "p".to_owned(),
                    legal_basis: "l".to_owned(),
                    scope: ["a.b".to_owned()].into(),
                    anonymised: false,
                    until: over * u64::MAX,
                };
                settings.grants.insert(grant.name.clone(), Arc::new(grant));
            }
            let (token, place) = (token.map(region), here.map(region));
            let here = Here::of(&settings, place.as_ref(), &tenant, &role);
            let cluster = settings.clusters.values().next().unwrap();
            let server = region(server);
            let Ok(route) = decide(&tenant, &role, token.as_ref(), cluster, &here) else { return Ok(()) };
            proptest::prop_assert!(route.regions.iter().all(|region| regions.contains(region)), "a server outside");
            proptest::prop_assert!(token.is_none_or(|token| *route.regions == [token]), "a token narrows");
            let name = ServerName::parse("s").unwrap();
            proptest::prop_assert_eq!(admit(&route.regions, &name, &server).is_ok(), route.regions.contains(&server));
            if let Some(place) = place.filter(|place| !route.regions.contains(place)) {
                let grant = route.grant.expect("only a grant leads to a pgward outside");
                proptest::prop_assert!(grant.until > 0 && grant.regions == [place]);
            }
        }
    }
}
