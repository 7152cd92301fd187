//! Whether a server answers: a pure function of its answers and of time, with hysteresis, so that one lost packet
//! takes no server out and one lucky answer brings none back.

use std::time::Instant;

use crate::config::ProbeRules;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered when it was asked last.
    Up,
    /// It did not, but has not been silent for long, or has not answered often enough since it was down.
    Suspect,
    Down,
}

impl Health {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// What is known about one server's answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulse {
    health: Health,
    /// When the first question was asked that was not answered, of those without an answer since.
    silent_since: Option<Instant>,
    /// Answers in a row while it counts as down, and when the last of them was asked for.
    returning: u32,
    returned: Option<Instant>,
}

impl Pulse {
    /// Of a server that nobody has asked yet.
    pub fn new() -> Self {
        Self { health: Health::Suspect, silent_since: None, returning: 0, returned: None }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// It has answered what it was asked at `asked`.
    pub fn answered(&mut self, asked: Instant, rules: &ProbeRules) {
        if self.health == Health::Down {
            // Asked in a hurry, it has not stood for long by its answers.
            if self.returned.is_some_and(|last| asked.duration_since(last) < rules.interval) {
                return;
            }
            self.returned = Some(asked);
            self.returning += 1;
            if self.returning < rules.up_after {
                return;
            }
        }
        *self = Self { health: Health::Up, ..Self::new() };
    }

    /// What it was asked at `asked` it has not answered until `now`, or not in a way that could be used.
    pub fn failed(&mut self, asked: Instant, now: Instant, rules: &ProbeRules) {
        let since = *self.silent_since.get_or_insert(asked);
        (self.returning, self.returned) = (0, None);
        let down = self.health == Health::Down || now.duration_since(since) >= rules.down_after;
        self.health = if down { Health::Down } else { Health::Suspect };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RULES: ProbeRules = ProbeRules {
        interval: Duration::from_millis(500),
        timeout: Duration::from_secs(1),
        down_after: Duration::from_secs(3),
        up_after: 2,
    };

    /// Answers (`+`) and failures (`-`), one each half second, and what the server counts as after each.
    fn seen(answers: &str) -> String {
        let (mut pulse, begin) = (Pulse::new(), Instant::now());
        let mut after = |(i, answer)| {
            let now = begin + RULES.interval * i as u32;
            match answer {
                '+' => pulse.answered(now, &RULES),
                _ => pulse.failed(now, now, &RULES),
            }
            match pulse.health() {
                Health::Up => 'u',
                Health::Suspect => 's',
                Health::Down => 'd',
            }
        };
        answers.chars().enumerate().map(&mut after).collect()
    }

    #[test]
    fn one_failure_makes_it_suspect_and_one_answer_clears_it() {
        assert_eq!(seen("+-+-+"), "ususu");
    }

    #[test]
    fn silence_takes_it_out_after_the_bound_and_not_before() {
        assert_eq!(seen("+-------"), "ussssssd");
        assert_eq!(seen("-------"), "ssssssd", "also when it has never answered");
    }

    #[test]
    fn it_returns_after_some_answers_in_a_row() {
        assert_eq!(seen("+-------+-++"), "ussssssdddd".to_owned() + "u");
    }

    #[test]
    fn answers_in_a_hurry_bring_it_back_no_sooner() {
        let (mut pulse, begin) = (Pulse::new(), Instant::now());
        pulse.failed(begin, begin + Duration::from_secs(3), &RULES);
        for ms in 1..50 {
            pulse.answered(begin + Duration::from_millis(3_000 + 10 * ms), &RULES);
            assert_eq!(pulse.health(), Health::Down);
        }
        pulse.answered(begin + Duration::from_millis(3_510), &RULES);
        assert_eq!(pulse.health(), Health::Up);
    }

    #[test]
    fn the_time_that_a_question_waits_counts() {
        let (mut pulse, asked) = (Pulse::new(), Instant::now());
        pulse.answered(asked, &RULES);
        pulse.failed(asked, asked + Duration::from_secs(3), &RULES);
        assert_eq!(pulse.health(), Health::Down);
    }
}
