//! Hostile input for everything that reads bytes from outside, or back from disk: bodies, events, headers, records, topologies.
//! Seeded mutations of real-looking input, in worker threads. Fails on a panic, on an input that takes too long, and on one
//! that makes a decoder hold more memory than a stated multiple of its limits; says the seed of it.
//!
//! `inputs` makes the input, `targets` says what reads it and what must hold, `run` does it. The short form is a part of `make
//! test`; `make fuzz` runs many more. From the environment: KEYLOOM_FUZZ_INPUTS, KEYLOOM_FUZZ_SEED (1), and KEYLOOM_FUZZ_ONE,
//! the seed of a single input. Memory is counted by an allocator that counts per thread; what zstd takes in C is not seen by
//! it, but in the peak of the whole process.

#[path = "fuzz/inputs.rs"]
mod inputs;
#[path = "fuzz/run.rs"]
mod run;
#[path = "fuzz/targets.rs"]
mod targets;

/// Inputs of the short form: a few seconds.
const INPUTS: u64 = 60_000;

#[test]
fn no_input_breaks_a_decoder() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
    };
    let seed = number("KEYLOOM_FUZZ_SEED", 1);
    let report = match std::env::var("KEYLOOM_FUZZ_ONE") {
        Ok(_) => run::one(number("KEYLOOM_FUZZ_ONE", 0)),
        Err(_) => run::many(seed, number("KEYLOOM_FUZZ_INPUTS", INPUTS)),
    };
    println!("{report}");
    assert!(report.failures.is_empty(), "{} inputs broke something, see above", report.failures.len());
}
