//! Which servers serve a session while it is of one tenant, for the audit log: each is told of when it does for the first
//! time, so that a session that lasts has it in the log, and how often it did afterwards, once an hour at most and at the end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::audit::{Audit, Event, ServedBy, Who};
use crate::backend::Endpoint;
use crate::base::{ClusterName, Region};

/// What a session that goes on was served is told no later than this, and with its next request.
const ANEW: Duration = Duration::from_secs(3600);

/// A backend that a session has kept for longer is told of though it was one.
const LONG: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Served(Vec<Server>);

struct Server {
    endpoint: Arc<Endpoint>,
    by: Arc<ServedBy>,
    /// Since it was told last.
    times: u64,
    last: Instant,
    told: Instant,
}

/// A backend that a session gets.
pub(super) struct Serving<'a> {
    pub cluster: &'a ClusterName,
    pub by: &'a Arc<Endpoint>,
    /// Where servers may be that serve the session.
    pub regions: &'a Arc<[Region]>,
    pub since: Instant,
}

impl Served {
    /// Costs nothing but counting where the server is known.
    pub fn note(&mut self, audit: &Audit, who: &Arc<Who>, serving: Serving<'_>) {
        let known = self.0.iter_mut().find(|server| Arc::ptr_eq(&server.endpoint, serving.by));
        // After a reload the same server is another endpoint.
        let known = match known {
            Some(known) => Some(known),
            None => self.0.iter_mut().find(|server| server.is(&serving)),
        };
        match known {
            Some(server) => server.again(audit, who, &serving),
            None => self.begin(audit, who, &serving),
        }
    }

    /// The session has this server's backend still, and is at rest between two requests.
    pub fn still(&mut self, audit: &Audit, who: &Arc<Who>, at: &Arc<Endpoint>, now: Instant) {
        if let Some(server) = self.0.iter_mut().find(|server| Arc::ptr_eq(&server.endpoint, at))
            && now.saturating_duration_since(server.told) >= ANEW
        {
            server.last = now;
            server.tell(audit, who);
        }
    }

    /// The session gives a backend of this server back.
    pub fn part(&mut self, from: &Arc<Endpoint>, now: Instant) {
        if let Some(server) = self.0.iter_mut().find(|server| Arc::ptr_eq(&server.endpoint, from)) {
            server.last = now;
        }
    }

    #[cold]
    fn begin(&mut self, audit: &Audit, who: &Arc<Who>, serving: &Serving<'_>) {
        let by = Arc::new(ServedBy {
            cluster: serving.cluster.clone(),
            server: serving.by.server.clone(),
            region: serving.by.region.clone(),
            regions: Arc::clone(serving.regions),
        });
        audit.record(|| Event::Served { who: Arc::clone(who), by: Arc::clone(&by) });
        let (endpoint, last) = (Arc::clone(serving.by), serving.since);
        // One or two, as a rule.
        self.0.reserve_exact(1);
        self.0.push(Server { endpoint, by, times: 0, last, told: last });
    }

    /// The session ends, or is of this tenant no more.
    pub fn end(&mut self, audit: &Audit, who: &Arc<Who>) {
        for mut server in std::mem::take(&mut self.0) {
            server.tell(audit, who);
        }
    }
}

impl Server {
    fn is(&self, serving: &Serving<'_>) -> bool {
        self.by.cluster == *serving.cluster && self.endpoint.same_place(serving.by)
    }

    fn again(&mut self, audit: &Audit, who: &Arc<Who>, serving: &Serving<'_>) {
        if !Arc::ptr_eq(&self.endpoint, serving.by) {
            self.endpoint = Arc::clone(serving.by);
        }
        self.times += 1;
        self.last = serving.since;
        if serving.since.saturating_duration_since(self.told) >= ANEW {
            self.tell(audit, who);
        }
    }

    fn tell(&mut self, audit: &Audit, who: &Arc<Who>) {
        if self.times > 0 || self.last.saturating_duration_since(self.told) >= LONG {
            let (times, until) = (std::mem::take(&mut self.times), moment(self.last));
            audit.record(|| Event::ServedAgain { who: Arc::clone(who), by: Arc::clone(&self.by), times, until });
        }
        self.told = self.last;
    }
}

/// By the clock on the wall.
fn moment(then: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(then.elapsed()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ServerName;

    fn endpoint(region: &str) -> Arc<Endpoint> {
        let (server, region) = (ServerName::parse("c1").unwrap(), Region::parse(region).unwrap());
        Arc::new(Endpoint { server, region, host: "h".to_owned(), port: 1, tls: None, timeout: ANEW })
    }

    #[test]
    fn a_server_is_one_however_often_it_serves_and_by_whatever_configuration() {
        let (audit, who, cluster) = (Audit::default(), Arc::default(), ClusterName::parse("c").unwrap());
        let (regions, begin): (Arc<[Region]>, _) = ([Region::parse("lk").unwrap()].into(), Instant::now());
        let mut served = Served::default();
        let mut note = |by: &Arc<Endpoint>, after: u64| {
            let since = begin + Duration::from_secs(after);
            served.note(&audit, &who, Serving { cluster: &cluster, by, regions: &regions, since });
            served.0.iter().map(|server| server.times).collect::<Vec<_>>()
        };
        let (old, new) = (endpoint("lk"), endpoint("lk"));
        assert_eq!(note(&old, 0), [0], "the first time is told at once");
        assert_eq!(note(&old, 1), [1]);
        assert_eq!(note(&new, 2), [2], "a reload has made it anew");
        assert_eq!(note(&old, 3), [3], "a backend from before");
        assert_eq!(note(&endpoint("in"), 4), [3, 0], "elsewhere it is another one");
        assert_eq!(note(&new, 3_599), [4, 0]);
        assert_eq!(note(&new, 3_600), [0, 0], "the log is told");
        assert_eq!(note(&new, 3_601), [1, 0]);
        served.still(&audit, &who, &new, begin + Duration::from_secs(3_602));
        assert_eq!(served.0[0].times, 1, "it was told a moment ago");
        served.still(&audit, &who, &new, begin + Duration::from_secs(7_200));
        assert_eq!(served.0[0].times, 0, "it keeps that one, and the log is told");
        served.part(&new, begin + Duration::from_secs(9_000));
        assert_eq!(served.0[0].last, begin + Duration::from_secs(9_000), "it kept that one for long");
        served.end(&audit, &who);
        assert!(served.0.is_empty());
    }
}
