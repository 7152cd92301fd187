//! One core is filled before the next. A thread that serves many clients finds more to do each time it wakes than two
//! that serve half of them each, so sessions gather on one core as long as it can carry them, and spread when it
//! cannot.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::session::{Core, CoreHandle, Sends};

/// Loads are in thousandths of a CPU. From here on a core is full.
const FULL: usize = 850;

/// A core takes what others send as long as all together is no more than this.
pub(super) const CARRIES: usize = 700;

/// What it has gathered may grow up to here before it spreads again.
const STAYS: usize = 800;

/// A thread that waits this much for a CPU is one of too many: more threads would not have more CPUs.
const CROWDED: usize = 100;

/// Nor would they where the machine's CPUs together are idle for less than this.
const SPARE: usize = 300;

/// Looks that must agree, at a quarter of a second each, before sessions spread and before they gather. A full core
/// needs one more, to see what the machine has to spare.
const LOOKS_TO_SPREAD: u32 = 2;
const LOOKS_TO_GATHER: u32 = 2;

/// Time that this thread has had a CPU, and time that it could have used one and had none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    ran: Duration,
    waited: Duration,
}

impl Times {
    /// Linux counts both (proc_pid_schedstat in its scheduler's documentation).
    fn now() -> Option<Self> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let mut nanos = text.split_ascii_whitespace().map_while(|word| word.parse().ok());
        Some(Self { ran: Duration::from_nanos(nanos.next()?), waited: Duration::from_nanos(nanos.next()?) })
    }
}

/// Time that the machine's CPUs have been idle, all together (proc_stat(5)).
fn idle_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let idle: u64 = text.lines().next()?.split_ascii_whitespace().nth(4)?.parse().ok()?;
    // Linux tells programs hundredths of a second, whatever its own clock is.
    Some(Duration::from_millis(10 * idle))
}

/// In thousandths.
pub(super) fn share(time: Duration, of: Duration) -> usize {
    usize::try_from(time.as_micros() * 1_000 / of.as_micros().max(1)).unwrap_or(usize::MAX)
}

/// What one core sees of itself and of the others.
#[derive(Debug, Default)]
pub(super) struct Balance {
    last: Option<(Instant, Times)>,
    /// The machine's, while this core is full.
    idle: Option<Duration>,
    spread: u32,
    gather: u32,
}

impl Balance {
    /// Called at each tick of the core `own`. Where the system does not tell, sessions stay where they are.
    pub fn look(&mut self, core: &Core, own: usize, cores: &[CoreHandle]) {
        let (now, Some(times)) = (Instant::now(), Times::now()) else { return };
        let Some((then, before)) = self.last.replace((now, times)) else { return };
        let share = |time| share(time, now.duration_since(then));
        let load = share(times.ran.saturating_sub(before.ran));
        let idle = (load >= FULL).then(idle_time).flatten();
        // Where that is not known yet, it is at the next look.
        let spare = idle.zip(self.idle).map_or(0, |(idle, before)| share(idle.saturating_sub(before)));
        self.idle = idle;
        let crowded = share(times.waited.saturating_sub(before.waited)) > CROWDED || spare < SPARE;
        if let Some(handle) = cores.get(own) {
            handle.load.store(load, Ordering::Relaxed);
        }
        let loads: Vec<usize> = cores.iter().map(|core| core.load.load(Ordering::Relaxed)).collect();
        core.sends.set(self.decide(core.sends.get(), own, &loads, crowded, || core.busy_since(then)));
    }

    /// Where sessions of this core go from now on. `busy`: how many of them have just done something.
    fn decide(
        &mut self,
        sends: Option<Sends>,
        own: usize,
        loads: &[usize],
        crowded: bool,
        busy: impl Fn() -> usize,
    ) -> Option<Sends> {
        let load = loads.get(own).copied().unwrap_or_default();
        self.spread = if load >= FULL && !crowded { self.spread + 1 } else { 0 };
        if self.spread >= LOOKS_TO_SPREAD {
            self.spread = 0;
            let (to, least) = loads.iter().copied().enumerate().min_by_key(|(_, load)| *load)?;
            // One session fills a core by itself, and would only carry its load about.
            let half = busy() / 2;
            return (half > 0 && to != own && least + load / 2 < FULL).then_some(Sends { to, most: Some(half) });
        }
        if let Some(Sends { to, most: None }) = sends
            && loads.get(to).copied().unwrap_or_default() + load <= STAYS
        {
            return sends;
        }
        let gathers = loads.iter().take(own).position(|other| other + load <= CARRIES);
        self.gather = if gathers.is_some() { self.gather + 1 } else { 0 };
        let to = gathers.filter(|_| self.gather >= LOOKS_TO_GATHER)?;
        Some(Sends { to, most: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_TO_0: Option<Sends> = Some(Sends { to: 0, most: None });

    /// What core `own` decides when it sees the same again and again.
    fn settled(balance: &mut Balance, own: usize, loads: &[usize], crowded: bool) -> Vec<Option<Sends>> {
        let mut sends = None;
        let mut decide = || {
            sends = balance.decide(sends, own, loads, crowded, || 10);
            sends
        };
        (0..6).map(|_| decide()).collect()
    }

    #[test]
    fn sessions_gather_where_one_core_can_carry_them() {
        let found = settled(&mut Balance::default(), 1, &[300, 200], false);
        assert_eq!(found, [None, ALL_TO_0, ALL_TO_0, ALL_TO_0, ALL_TO_0, ALL_TO_0]);
        assert_eq!(settled(&mut Balance::default(), 1, &[300, 500], false), [None; 6]);
        assert_eq!(settled(&mut Balance::default(), 0, &[300, 200], false), [None; 6], "the first has nowhere to go");
        assert_eq!(settled(&mut Balance::default(), 2, &[600, 100, 200], false)[3], Some(Sends { to: 1, most: None }));
    }

    #[test]
    fn what_has_gathered_stays_while_it_grows_a_little() {
        let mut balance = Balance::default();
        assert_eq!(balance.decide(ALL_TO_0, 1, &[790, 0], false, || 0), ALL_TO_0);
        assert_eq!(balance.decide(ALL_TO_0, 1, &[810, 0], false, || 0), None);
    }

    #[test]
    fn half_of_a_full_core_goes_to_the_emptiest() {
        let found = settled(&mut Balance::default(), 0, &[990, 400, 10], false);
        assert_eq!(found[..3], [None, Some(Sends { to: 2, most: Some(5) }), None]);
        assert_eq!(settled(&mut Balance::default(), 0, &[990, 800], false), [None; 6], "both are full");
        let mut one = Balance { spread: 1, ..Balance::default() };
        assert_eq!(one.decide(None, 0, &[990, 0], false, || 1), None, "one session would only carry its load about");
    }

    #[test]
    fn threads_that_wait_for_a_cpu_do_not_spread() {
        assert_eq!(settled(&mut Balance::default(), 0, &[990, 10], true), [None; 6]);
    }

    #[test]
    fn the_system_tells_how_long_its_cpus_were_idle() {
        let before = idle_time().unwrap();
        assert!(before > Duration::ZERO && idle_time().unwrap() >= before);
    }

    #[test]
    fn the_system_tells_how_long_a_thread_has_run() {
        let before = Times::now().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(30) {
            std::hint::black_box(begun);
        }
        let after = Times::now().unwrap();
        assert!(after.ran > before.ran && after.waited >= before.waited, "{before:?} {after:?}");
    }
}
