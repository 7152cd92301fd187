//! Whether a cluster has the backups that it should have by now.

use serde::Serialize;

use super::info::Holdings;
use super::site::Site;
use super::tiers;
use crate::base::clock;

/// One repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub repository: String,
    /// When the newest backup ended, by Unix time.
    pub last: Option<u64>,
    /// The tier that should have been served, and since when.
    pub due: Option<(String, u64)>,
    /// The tier that comes next, and when.
    pub next: Option<(String, u64)>,
}

/// What is due is made soon after; when it is not after this, somebody should look.
const GRACE: u64 = 3_600;

impl Standing {
    pub fn finding(&self) -> Option<String> {
        let (tier, since) = self.due.as_ref().filter(|(_, since)| since + GRACE < clock::unix_now())?;
        let since = clock::timestamp(*since);
        Some(format!("repository {}: the {tier} backup has been due since {since}", self.repository))
    }
}

pub fn standing(site: &Site, holdings: &[Holdings]) -> Vec<Standing> {
    let (now, tiers) = (clock::unix_now(), &site.rules().tiers);
    let of = |of: &Holdings| {
        let due = tiers::due(now, tiers, &of.repository, &of.backups);
        let next = tiers.iter().filter(|(_, tier)| tier.goes_to(&of.repository));
        let next = next.map(|(name, tier)| (name.to_string(), tiers::next_due(now, tier.on, tier.at)));
        Standing {
            repository: of.repository.to_string(),
            last: of.backups.last().map(|kept| kept.stopped),
            due: due.map(|(name, tier)| (name.to_string(), tiers::last_due(now, tier.on, tier.at))),
            next: next.min_by_key(|(_, at)| *at),
        }
    };
    holdings.iter().map(of).collect()
}
