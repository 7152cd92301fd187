//! Where a tenant's data may be. One rule, asked at config load, at login and at every route.

use crate::base::Region;

/// Whether a server in `region` may serve a tenant whose allowed regions are these.
pub fn allows(allowed: &[Region], region: &Region) -> bool {
    allowed.contains(region)
}
