//! The fast engine and the oracle on the scenario that the fuzzer's bytes choose.
//!
//! `cargo +nightly fuzz run --fuzz-dir rust/fuzz pair`. The scenarios are those of the swarm test
//! (`rust/twin/tests/it/swarm.rs`), with the fuzzer's bytes in place of the dice.

#![no_main]

#[path = "../../twin/tests/it/compare.rs"]
mod compare;
#[path = "../../twin/tests/it/swarm.rs"]
#[allow(dead_code)] // the tests' own dice
mod swarm;

use libfuzzer_sys::fuzz_target;

/// The fuzzer's bytes, two a choice; zero when they are used up.
struct Bytes<'a>(&'a [u8]);

impl swarm::Dice for Bytes<'_> {
    fn below(&mut self, n: u64) -> u64 {
        let (number, rest) = match *self.0 {
            [low, high, ref rest @ ..] => (u64::from(low) | u64::from(high) << 8, rest),
            [low] => (u64::from(low), &[][..]),
            [] => (0, &[][..]),
        };
        self.0 = rest;
        number % n
    }
}

fuzz_target!(|bytes: &[u8]| {
    compare::compare(&swarm::scenario(&mut Bytes(bytes)));
});
