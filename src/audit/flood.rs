//! What one culprit does over and over is counted rather than written, so that a flood cannot fill the disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::event::{Culprit, Event};

/// How long repeats are counted before their number is written.
const WINDOW: Duration = Duration::from_secs(1);

/// Culprits that are told apart at the same time. Those beyond are counted as one, each kind for itself.
const CULPRITS: usize = 64;

/// Repeats under way: at most [`CULPRITS`] and one for each kind of event.
#[derive(Debug, Default)]
pub struct Flood {
    culprits: HashMap<Culprit, Window>,
    crowd: HashMap<&'static str, Window>,
}

#[derive(Debug)]
struct Window {
    until: Instant,
    repeats: u64,
    /// The last of them, for its line.
    last: Option<Event>,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { until: now + WINDOW, repeats: 0, last: None }
    }

    fn add(&mut self, event: Event) {
        self.repeats += 1;
        self.last = Some(event);
    }
}

impl Flood {
    /// Gives back an event that is to be written now. Others will come out of [`Flood::over`] as a number.
    pub fn admit(&mut self, event: Event, now: Instant) -> Option<Event> {
        let Some(culprit) = event.culprit() else { return Some(event) };
        if let Some(window) = self.culprits.get_mut(&culprit) {
            window.add(event);
            return None;
        }
        if self.culprits.len() < CULPRITS {
            self.culprits.insert(culprit, Window::new(now));
            return Some(event);
        }
        self.crowd.entry(event.name()).or_insert_with(|| Window::new(now)).add(event);
        None
    }

    /// What was counted in windows that are over: the last event of each, and how many there were.
    pub fn over(&mut self, now: Instant) -> Vec<(Event, u64)> {
        let culprits = self.culprits.extract_if(|_, window| window.until <= now).map(|(_, window)| window);
        let crowd = self.crowd.extract_if(|_, window| window.until <= now).map(|(_, window)| window);
        culprits.chain(crowd).filter_map(|window| Some((window.last?, window.repeats))).collect()
    }

    /// Everything that was counted, at the end.
    pub fn all(&mut self) -> Vec<(Event, u64)> {
        let windows = self.culprits.drain().map(|(_, window)| window);
        let crowd = self.crowd.drain().map(|(_, window)| window);
        windows.chain(crowd).filter_map(|window| Some((window.last?, window.repeats))).collect()
    }

    pub fn is_calm(&self) -> bool {
        self.culprits.is_empty() && self.crowd.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::audit::{Refusal, Who};

    fn refused(peer: u32) -> Event {
        let peer = Some(SocketAddr::from((std::net::Ipv4Addr::from(peer), 1)));
        let who = Arc::new(Who { peer, ..Who::default() });
        Event::LoginRefused { who, refusal: Refusal { reason: "malformed", sqlstate: None } }
    }

    #[test]
    fn the_first_is_written_and_the_rest_is_a_number() {
        let (mut flood, now) = (Flood::default(), Instant::now());
        assert!(flood.admit(refused(1), now).is_some());
        for _ in 0..1000 {
            assert!(flood.admit(refused(1), now).is_none());
        }
        assert!(flood.over(now).is_empty());
        assert_eq!(flood.over(now + WINDOW), [(refused(1), 1000)]);
        assert!(flood.is_calm() && flood.admit(refused(1), now).is_some());
        assert!(flood.over(now + WINDOW).is_empty());
    }

    #[test]
    fn many_culprits_are_bounded_and_none_is_forgotten() {
        let (mut flood, now) = (Flood::default(), Instant::now());
        let written = (0..10_000).filter(|peer| flood.admit(refused(*peer), now).is_some()).count();
        assert_eq!(written, CULPRITS);
        let over = flood.over(now + WINDOW);
        assert_eq!(over.len(), 1);
        assert_eq!(over[0].1, 10_000 - CULPRITS as u64);
    }
}
