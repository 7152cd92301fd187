//! The same targets led by coverage: libFuzzer calls, and keeps the inputs that get to new code. `make fuzz`
//! builds this with the instrumentation (scripts/fuzz); without it there is nothing to lead.
#![cfg_attr(pgward_fuzz, no_main)]
// The bounded run uses what is not used here.
#![allow(dead_code)]

mod input;
mod targets;

#[cfg(pgward_fuzz)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static CHECK: std::sync::LazyLock<fn(&[u8])> = std::sync::LazyLock::new(|| {
        let name = std::env::var("PGWARD_FUZZ_TARGET").expect("PGWARD_FUZZ_TARGET names the target");
        targets::named(&name).expect("a target of tests/fuzz/targets").check
    });
    CHECK(data);
});

#[cfg(not(pgward_fuzz))]
fn main() {
    let names = targets::ALL.map(|target| target.name).join(" ");
    eprintln!("Run this by `make fuzz`. Targets: {names}");
    std::process::exit(2);
}
