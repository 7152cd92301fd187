//! Where reads go, and what they must show: in general, and for a tenant or a database.

use std::sync::Arc;
use std::time::Duration;

use super::reader::{Reader, Section};
use super::settings::{Consistency, ReadRoute, ReadRules};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// For all who say nothing else.
pub(super) fn default_reads(reader: &mut Reader, section: Option<Section>) -> Arc<ReadRules> {
    let default = Arc::new(ReadRules {
        route: ReadRoute::Auto,
        consistency: Consistency::Session,
        max_staleness: SECOND,
        wait: Duration::from_millis(50),
        max_lag: 10 * SECOND,
        max_lag_bytes: None,
    });
    rules(reader, section, &default)
}

/// The same, where one of them is to read otherwise.
pub(super) fn reads(reader: &mut Reader, section: &mut Section, default: &Arc<ReadRules>) -> Arc<ReadRules> {
    let said = section.section(reader, "reads");
    rules(reader, said, default)
}

fn rules(reader: &mut Reader, section: Option<Section>, default: &Arc<ReadRules>) -> Arc<ReadRules> {
    let Some(mut section) = section else { return Arc::clone(default) };
    let ms = Duration::from_millis;
    let most = default.max_lag_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    let rules = ReadRules {
        route: section.choice(reader, "route", &ReadRoute::ALL).unwrap_or(default.route),
        consistency: section.choice(reader, "consistency", &Consistency::ALL).unwrap_or(default.consistency),
        max_staleness: section.duration(reader, "max_staleness", default.max_staleness, ms(10)..=60 * MINUTE),
        wait: section.duration(reader, "wait", default.wait, Duration::ZERO..=10 * SECOND),
        max_lag: section.duration(reader, "max_lag", default.max_lag, ms(1)..=24 * 60 * MINUTE),
        max_lag_bytes: match section.number(reader, "max_lag_bytes", most.unwrap_or(0), 0..=1 << 50) {
            0 => None,
            bytes => u64::try_from(bytes).ok(),
        },
    };
    section.finish(reader);
    Arc::new(rules)
}
