//! Who is the primary: a pure function of what the servers say.
//!
//! A promotion begins a new timeline, so of two that claim to be primaries the one on the higher timeline is. The other
//! one is fenced: it gets nothing to write, now or when it comes back. Where the timelines do not tell them apart, nobody
//! writes, since what one of them took would be lost when they are made one again: unless somebody keeps a lock for the
//! primary, and one of them holds it. Who claims and does not hold it is fenced.

use super::health::Health;

/// What a server says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// One server, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub health: Health,
    /// What it said last, and on which timeline.
    pub says: Option<(Role, u32)>,
}

/// Who writes from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub primary: Option<usize>,
    /// The highest timeline that anybody has been on.
    pub highest: u32,
    /// Who says that it could write, and must not.
    pub fenced: Vec<usize>,
    /// Several claim the same timeline.
    pub in_doubt: bool,
}

/// `highest`: of the verdict before. `lock`: where somebody keeps a lock for the primary (Patroni), who holds it, or that
/// nobody of these does.
pub(super) fn elect(candidates: &[Candidate], highest: u32, lock: Option<Option<usize>>) -> Verdict {
    let seen = candidates.iter().filter_map(|candidate| candidate.says);
    let highest = seen.map(|(_, timeline)| timeline).max().unwrap_or(0).max(highest);
    let claimants = candidates.iter().enumerate().filter_map(|(at, candidate)| match candidate.says {
        Some((Role::Primary, timeline)) => Some((at, timeline == highest, candidate.health != Health::Down)),
        _ => None,
    });
    let claimants: Vec<(usize, bool, bool)> = claimants.collect();
    // One that is silent may still take what others send it, so it counts among those who claim. One that claims by the
    // configuration alone, on no timeline, does where nobody else claims.
    let alone = claimants.len() == 1;
    let stands = |at: usize| alone && candidates.get(at).is_some_and(|c| matches!(c.says, Some((_, 0))));
    // The lock alone makes nobody the primary, nor one of an older timeline.
    let may = |at: usize| lock.is_none_or(|holder| holder == Some(at));
    let mut rightful = claimants.iter().filter(|(at, current, _)| may(*at) && (*current || stands(*at)));
    let (first, in_doubt) = (rightful.next(), rightful.next().is_some());
    let only = first.filter(|_| !in_doubt);
    let fenced = claimants.iter().map(|(at, ..)| *at).filter(|at| only.is_none_or(|(only, ..)| only != at)).collect();
    let primary = only.filter(|(.., alive)| *alive).map(|(at, ..)| *at);
    Verdict { primary, highest, fenced, in_doubt }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of words like `P2`, `r1`, `P1!` (down), `P1?` (suspect), `-` (has said nothing).
    fn servers(text: &str) -> Vec<Candidate> {
        let one = |word: &str| {
            let health = match word.chars().last() {
                Some('!') => Health::Down,
                Some('?') | Some('-') => Health::Suspect,
                _ => Health::Up,
            };
            let role = if word.starts_with('P') { Role::Primary } else { Role::Replica };
            let timeline = word.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok();
            Candidate { health, says: timeline.map(|timeline| (role, timeline)) }
        };
        text.split(' ').map(one).collect()
    }

    fn elected(text: &str, highest: u32) -> (Option<usize>, Vec<usize>, bool) {
        locked(text, highest, None)
    }

    fn locked(text: &str, highest: u32, lock: Option<Option<usize>>) -> (Option<usize>, Vec<usize>, bool) {
        let verdict = elect(&servers(text), highest, lock);
        (verdict.primary, verdict.fenced, verdict.in_doubt)
    }

    #[test]
    fn where_there_is_a_lock_only_who_holds_it_writes() {
        assert_eq!(locked("P1 r1", 1, Some(Some(0))), (Some(0), vec![], false));
        assert_eq!(locked("P1 r1", 1, Some(Some(1))), (None, vec![0], false), "another is about to be promoted");
        assert_eq!(locked("P1 r1", 1, Some(None)), (None, vec![0], false), "it has lost the lock");
        assert_eq!(locked("P2 P2 r2", 2, Some(Some(1))), (Some(1), vec![0], false), "which of two it is");
        assert_eq!(locked("P1 P2", 2, Some(Some(0))), (None, vec![0, 1], false), "what the lock says is old");
        assert_eq!(locked("P2! r2", 2, Some(Some(0))), (None, vec![], false));
    }

    #[test]
    fn who_claims_alone_is_the_primary() {
        assert_eq!(elected("P1 r1 r1", 0), (Some(0), vec![], false));
        assert_eq!(elected("r1 r1", 0), (None, vec![], false));
        assert_eq!(elected("- -", 0), (None, vec![], false));
    }

    #[test]
    fn a_primary_that_is_suspect_stays_one_and_one_that_is_down_does_not() {
        assert_eq!(elected("P1? r1", 1).0, Some(0));
        assert_eq!(elected("P1! r1", 1), (None, vec![], false));
    }

    #[test]
    fn the_higher_timeline_wins_and_the_other_is_fenced() {
        assert_eq!(elected("P1 P2 r2", 1), (Some(1), vec![0], false));
        assert_eq!(elected("P2 P1", 1), (Some(0), vec![1], false));
        assert_eq!(elected("P1! P2 r1", 1), (Some(1), vec![0], false), "the dead one, too, should it come back");
    }

    #[test]
    fn a_primary_of_old_gets_nothing_though_it_is_alone() {
        assert_eq!(elected("P1 -", 2), (None, vec![0], false));
        assert_eq!(elected("P1 P2!", 1), (None, vec![0], false), "while the new one is down");
        assert_eq!(elected("P1 r2", 1), (None, vec![0], false), "a replica follows another one");
    }

    #[test]
    fn nobody_writes_while_two_claim_the_same_timeline() {
        assert_eq!(elected("P2 P2 r1", 1), (None, vec![0, 1], true));
        assert_eq!(elected("P2 P2!", 1), (None, vec![0, 1], true), "the silent one may take writes of others");
        assert_eq!(elected("P2 P2 P3", 1), (Some(2), vec![0, 1], false));
    }

    #[test]
    fn one_that_does_not_let_itself_be_asked_is_what_it_is_configured_as_while_nobody_else_claims() {
        assert_eq!(elected("P0 r0", 0), (Some(0), vec![], false));
        assert_eq!(elected("P0 r1", 1), (Some(0), vec![], false));
        assert_eq!(elected("P0 P1", 1), (Some(1), vec![0], false));
        assert_eq!(elected("P0 P1!", 1), (None, vec![0], false));
    }

    #[test]
    fn what_was_seen_is_not_forgotten() {
        let first = elect(&servers("P1 P2"), 0, None);
        assert_eq!((first.primary, first.highest), (Some(1), 2));
        let next = elect(&servers("P1 -"), first.highest, None);
        assert_eq!((next.primary, next.highest), (None, 2));
    }
}
