//! Gauges of things that come and go, which whoever measures them gives whole each time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// One value of a gauge.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The gauge's name, and what it says.
    pub family: (&'static str, &'static str),
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

/// What each measurer gave last.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<BTreeMap<&'static str, Vec<Sample>>>);

impl Samples {
    pub fn set(&self, of: &'static str, samples: Vec<Sample>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(of, samples);
    }

    pub fn all(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }
}
