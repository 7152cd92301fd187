//! The same targets led by coverage: libFuzzer calls, and keeps the inputs that get to new code. `make fuzz`
//! builds this with the instrumentation (scripts/fuzz); without it there is nothing to lead.
#![cfg_attr(pgward_fuzz, no_main)]
#![allow(dead_code, reason = "the bounded run uses what is not used here")]

mod input;
mod targets;

#[cfg(pgward_fuzz)]
mod led {
    use std::fmt::Write;
    use std::sync::LazyLock;

    use crate::targets::{self, Target};

    static TARGET: LazyLock<&Target> = LazyLock::new(|| {
        let name = std::env::var("PGWARD_FUZZ_TARGET").expect("PGWARD_FUZZ_TARGET names the target");
        targets::named(&name).expect("a target of tests/fuzz/targets")
    });

    libfuzzer_sys::fuzz_target!(
        init: {
            if let Ok(path) = std::env::var("PGWARD_FUZZ_WORDS") {
                std::fs::write(path, dictionary()).expect("the dictionary can be written");
            }
        },
        |data: &[u8]| (TARGET.check)(data)
    );

    /// The target's words as libFuzzer reads them.
    fn dictionary() -> String {
        let mut out = format!("# longest {}\n", TARGET.longest);
        for word in TARGET.words {
            out.push('"');
            word.bytes().for_each(|byte| write!(out, "\\x{byte:02x}").expect("a string takes it"));
            out.push_str("\"\n");
        }
        out
    }
}

#[cfg(not(pgward_fuzz))]
fn main() {
    let names = targets::ALL.map(|target| target.name).join(" ");
    eprintln!("Run this by `make fuzz`. Targets: {names}");
    std::process::exit(2);
}
