//! Fast engine = oracle, on a swarm of scenarios and on those that once told them apart.

use crate::compare::compare;
use crate::swarm::{scenario, SplitMix};

/// What the swarm has met, so that an easy one does not pass for a test.
#[derive(Debug, Default)]
struct Met {
    preempted: u64,
    skipped: u64,
    dropped: u64,
    loads: u64,
    unfinished: u64,
    alike: u64,
    new_batches: u64,
    same_batches: u64,
}

#[test]
fn fast_engine_equals_oracle_on_a_swarm() {
    let scenarios: u64 =
        std::env::var("LORAPACK_SWARM").map_or(400, |n| n.parse().expect("a number"));
    let first: u64 =
        std::env::var("LORAPACK_SWARM_FIRST").map_or(0, |n| n.parse().expect("a number"));
    let mut met = Met::default();
    for seed in first..first + scenarios {
        let scenario = scenario(&mut SplitMix(seed));
        let result = std::panic::catch_unwind(|| compare(&scenario));
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(panic) => {
                let said = panic.downcast_ref::<String>();
                panic!("seed {seed}: {said:?}\n{:?}", scenario.engine);
            }
        };
        let steps = outcome.steps.expect("asked for");
        met.preempted += outcome.summary.preemptions;
        met.skipped += steps.skipped.iter().map(|&n| u64::from(n)).sum::<u64>();
        met.dropped += outcome.summary.dropped;
        met.loads += outcome.summary.adapter_loads;
        met.unfinished += outcome.summary.unfinished;
        met.alike += steps
            .scheduled
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .count() as u64;
        let new_batches = steps.is_new_batch.iter().filter(|&&is_new| is_new).count();
        met.new_batches += new_batches as u64;
        met.same_batches += (steps.is_new_batch.len() - new_batches) as u64;
    }
    let counts = [
        met.preempted,
        met.skipped,
        met.dropped,
        met.loads,
        met.unfinished,
        met.alike,
        met.new_batches,
        met.same_batches,
    ];
    assert!(counts.iter().all(|&count| count > scenarios), "{met:?}");
}
