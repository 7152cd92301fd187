//! Where a tenant's data may be. One rule, asked at config load, at login and at every route.

use crate::base::Region;

/// Whether a server in `region` may serve a tenant whose allowed regions are these.
pub fn allows(allowed: &[Region], region: &Region) -> bool {
    allowed.contains(region)
}

/// The same for what may be confined to regions. `None`: it is not.
pub fn confined(to: Option<&[Region]>, region: &Region) -> bool {
    to.is_none_or(|regions| allows(regions, region))
}
