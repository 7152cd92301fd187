//! What is fuzzed: each target takes any bytes and panics where a promise is broken.

mod config;
mod flow;
mod frame;
mod handover;
mod sasl;
mod shape;
mod startup;
mod texts;
mod token;
mod tree;

pub struct Target {
    /// Also its folder in tests/fuzz/corpus.
    pub name: &'static str,
    pub check: fn(&[u8]),
    /// What its inputs are made of.
    pub words: &'static [&'static str],
    /// Random inputs of a bounded run. Chosen so that each target takes a few seconds in a debug build.
    pub rounds: usize,
    /// Bytes of an input.
    pub longest: usize,
}

pub const ALL: [&Target; 9] = [
    &frame::TARGET,
    &startup::TARGET,
    &sasl::TARGET,
    &shape::TARGET,
    &flow::TARGET,
    &handover::TARGET,
    &token::TARGET,
    &texts::TARGET,
    &config::TARGET,
];

pub fn named(name: &str) -> Option<&'static Target> {
    ALL.into_iter().find(|target| target.name == name)
}
