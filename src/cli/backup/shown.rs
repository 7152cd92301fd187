//! How backups and their progress look: a bar on a terminal, lines elsewhere, nothing beside JSON.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::base::clock;
use crate::cli::output::{say, warn};
use crate::sidecar::backup::Progress;

pub(in crate::cli) enum Shown {
    Bar(ProgressBar),
    /// The last tenth that was told.
    Lines(u32),
    Nothing,
}

impl Shown {
    pub fn new(json: bool) -> Self {
        if json {
            return Self::Nothing;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines(0);
        }
        let bar = ProgressBar::new(1_000);
        // The template is ours, and what is wrong with it shows in the plain style.
        let style = ProgressStyle::with_template("{spinner} {msg}  [{bar:30}] {percent}% {elapsed_precise}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::Bar(bar)
    }

    pub fn done(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.done();
    }
}

impl Progress for Shown {
    fn step(&mut self, what: &str) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(0);
                bar.set_message(what.to_owned());
            }
            Self::Lines(tenth) => {
                *tenth = 0;
                say(what);
            }
            Self::Nothing => {}
        }
    }

    fn part(&mut self, percent: f64) {
        match self {
            // Bounded by then, and whole numbers are enough.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Self::Bar(bar) => bar.set_position((percent.clamp(0.0, 100.0) * 10.0) as u64),
            Self::Lines(told) => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let tenth = (percent.clamp(0.0, 100.0) / 10.0) as u32;
                if tenth > *told {
                    *told = tenth;
                    say(format_args!("  {}%", tenth * 10));
                }
            }
            Self::Nothing => {}
        }
    }

    fn warning(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| warn(format_args!("pgbackrest warns: {text}"))),
            Self::Lines(_) | Self::Nothing => warn(format_args!("pgbackrest warns: {text}")),
        }
    }
}

/// Bytes as people read them.
pub(in crate::cli) fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        // A tenth of a unit is what is shown.
        #[allow(clippy::cast_precision_loss)]
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A moment without the seconds' fractions.
pub(in crate::cli) fn time(unix: u64) -> String {
    clock::timestamp(unix).trim_end_matches(" UTC").to_owned()
}
