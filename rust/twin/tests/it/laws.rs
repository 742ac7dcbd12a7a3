//! Laws that hold whatever the scenario, read off the records of the fast engine alone.
//!
//! 1. Requests: every one offered is completed, unfinished or dropped.
//! 2. Tokens: a completed request costs its prompt and all its output but the last token; more only
//!    where something was preempted or left unfinished.
//! 3. Blocks: never more than there are; exactly those of the context, as far as that can be told.
//! 4. Slots and budget: a batch holds at most `max_loras` adapters, `max_num_seqs` requests,
//!    `max_num_batched_tokens` tokens.
//! 5. Clock: steps follow one another; arrival <= engine arrival < first token <= done.
//! 6. Never idle while somebody waits: between two steps that do not touch, nobody was in the engine.
//! 7. Counts: steps' finished and preempted add up to the requests' own.
//! 8. Same scenario, same bytes.

use lorapack_twin::metrics::Outcome;
use lorapack_twin::record::{RequestColumns, Status, StepColumns};
use lorapack_twin::scenario::Scenario;
use lorapack_twin::{simulate, Records};
use proptest::prelude::*;

use crate::swarm::{scenario, SplitMix};

/// Seconds are rounded picoseconds: equal to within a rounding of the last place.
const ROUNDING_S: f64 = 1e-9;

fn run(scenario: &Scenario) -> Outcome {
    let records = Records {
        requests: true,
        steps: true,
    };
    simulate(scenario, records, &|| false).expect("the scenario can run")
}

fn with_status(requests: &RequestColumns, status: Status) -> usize {
    let status = status as u8;
    requests.status.iter().filter(|&&own| own == status).count()
}

fn total(column: &[u32]) -> u64 {
    column.iter().map(|&value| u64::from(value)).sum()
}

fn law_1_requests(scenario: &Scenario, outcome: &Outcome, requests: &RequestColumns) {
    let offered = lorapack_twin::requests::RequestSource::new(scenario).count();
    assert_eq!(requests.status.len(), offered, "law 1");
    let unfinished = with_status(requests, Status::Unfinished);
    assert_eq!(outcome.summary.unfinished, unfinished as u64, "law 1");
    if scenario.warmup.0 == 0 {
        let (completed, dropped) = (outcome.summary.completed, outcome.summary.dropped);
        assert_eq!(completed, with_status(requests, Status::Completed) as u64);
        assert_eq!(dropped, with_status(requests, Status::Dropped) as u64);
        assert_eq!(outcome.summary.offered, offered as u64, "law 1");
    }
}

fn law_2_tokens(requests: &RequestColumns, steps: &StepColumns) {
    let mut least = 0;
    for (row, &status) in requests.status.iter().enumerate() {
        if status == Status::Completed as u8 {
            least += u64::from(requests.prompt_tokens[row] + requests.output_tokens[row] - 1);
        }
    }
    let computed = total(&steps.batched_tokens);
    assert!(computed >= least, "law 2");
    let nothing_else =
        total(&steps.preempted) == 0 && with_status(requests, Status::Unfinished) == 0;
    assert!(!nothing_else || computed == least, "law 2");
}

fn law_3_blocks(scenario: &Scenario, steps: &StepColumns) {
    let engine = &scenario.engine;
    for (row, &used) in steps.used_blocks.iter().enumerate() {
        assert!(used < engine.num_blocks, "law 3");
        // What was there and what this step computes, each request's last block perhaps half full.
        let tokens = steps.context_tokens[row] + u64::from(steps.batched_tokens[row]);
        let held = u64::from(used) * u64::from(engine.block_size);
        assert!(held >= tokens, "law 3");
        if engine.long_prefill_token_threshold == 0 {
            let unused = u64::from(steps.running[row]) * u64::from(engine.block_size - 1);
            assert!(held <= tokens + unused, "law 3");
        }
    }
}

fn law_4_limits(scenario: &Scenario, steps: &StepColumns) {
    let engine = &scenario.engine;
    let within = |column: &[u32], most: u32| column.iter().all(|&value| value <= most);
    assert!(within(&steps.distinct_adapters, engine.max_loras), "law 4");
    assert!(within(&steps.running, engine.max_num_seqs), "law 4");
    assert!(within(&steps.batched_tokens, engine.max_num_batched_tokens));
}

fn law_5_clock(requests: &RequestColumns, steps: &StepColumns) {
    for row in 1..steps.start_s.len() {
        let end = steps.start_s[row - 1] + steps.duration_s[row - 1];
        assert!(steps.duration_s[row] > 0.0, "law 5");
        assert!(steps.start_s[row] >= end - ROUNDING_S, "law 5");
    }
    for row in 0..requests.status.len() {
        if requests.status[row] == Status::Dropped as u8 {
            continue;
        }
        assert!(requests.arrival_s[row] <= requests.engine_arrival_s[row]);
        if requests.status[row] == Status::Completed as u8 {
            assert!(requests.engine_arrival_s[row] < requests.first_token_s[row]);
            assert!(requests.first_token_s[row] <= requests.done_s[row], "law 5");
        }
    }
}

fn law_6_never_idle(requests: &RequestColumns, steps: &StepColumns) {
    for row in 1..steps.start_s.len() {
        let end = steps.start_s[row - 1] + steps.duration_s[row - 1];
        if steps.start_s[row] <= end + ROUNDING_S {
            continue;
        }
        for request in 0..requests.status.len() {
            let there = requests.engine_arrival_s[request] <= end - ROUNDING_S;
            let done = requests.done_s[request] <= end + ROUNDING_S;
            assert!(!there || done, "law 6: request {request} waits at {end}");
        }
    }
}

fn law_7_counts(scenario: &Scenario, requests: &RequestColumns, steps: &StepColumns) {
    let completed = with_status(requests, Status::Completed) as u64;
    assert_eq!(total(&steps.finished), completed, "law 7");
    assert_eq!(total(&steps.preempted), total(&requests.preemptions));
    if scenario.engine.long_prefill_token_threshold == 0 {
        assert_eq!(steps.scheduled, steps.running, "law 7");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn laws_hold(seed: u64) {
        let scenario = scenario(&mut SplitMix(seed));
        let outcome = run(&scenario);
        let requests = outcome.requests.as_ref().expect("asked for");
        let steps = outcome.steps.as_ref().expect("asked for");
        law_1_requests(&scenario, &outcome, requests);
        law_2_tokens(requests, steps);
        law_3_blocks(&scenario, steps);
        law_4_limits(&scenario, steps);
        law_5_clock(requests, steps);
        law_6_never_idle(requests, steps);
        law_7_counts(&scenario, requests, steps);
        let again = run(&scenario);
        prop_assert_eq!(format!("{outcome:?}"), format!("{again:?}"), "law 8");
    }

    #[test]
    fn records_change_no_figure(seed: u64) {
        let scenario = scenario(&mut SplitMix(seed));
        let bare = simulate(&scenario, Records::default(), &|| false).expect("it can run");
        prop_assert_eq!(format!("{:?}", bare.summary), format!("{:?}", run(&scenario).summary));
        prop_assert!(bare.requests.is_none() && bare.steps.is_none());
    }
}
