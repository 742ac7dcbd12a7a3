//! Same scenario, same bytes: again, on more threads, with one more adapter in the fleet.

use std::sync::atomic::{AtomicUsize, Ordering};

use lorapack_twin::error::SimulateError;
use lorapack_twin::requests::{Request, RequestSource};
use lorapack_twin::scenario::Scenario;
use lorapack_twin::simulate_many;

use crate::swarm::{scenario, SplitMix};

fn scenarios(n: u64) -> Vec<Scenario> {
    (0..n)
        .map(|seed| scenario(&mut SplitMix(seed + 7_000)))
        .collect()
}

fn outcomes(scenarios: &[Scenario], threads: usize) -> Vec<String> {
    let mut seen = Vec::new();
    simulate_many(scenarios, threads, &|| false, |index, outcome| {
        assert_eq!(index, seen.len(), "outcomes come in input order");
        seen.push(format!("{outcome:?}"));
    })
    .expect("nobody interrupts");
    seen
}

#[test]
fn same_outcomes_on_any_number_of_threads() {
    let scenarios = scenarios(60);
    let alone = outcomes(&scenarios, 1);
    assert_eq!(alone.len(), 60);
    assert_eq!(alone, outcomes(&scenarios, 4));
}

#[test]
fn scenario_that_cannot_run_does_not_stop_the_others() {
    let mut scenarios = scenarios(5);
    scenarios[2].engine.max_model_len = 0;
    let seen = outcomes(&scenarios, 2);
    assert!(seen[2].contains("max_model_len"));
    assert!(seen[3].starts_with("Ok"));
}

#[test]
fn interruption_stops_all_threads() {
    let scenarios = scenarios(40);
    let done = AtomicUsize::new(0);
    let enough = || done.load(Ordering::Relaxed) >= 3;
    let stopped = simulate_many(&scenarios, 2, &enough, |_, _| {
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(stopped, Err(SimulateError::Interrupted));
    assert!(done.into_inner() < 40);
}

#[test]
fn requests_are_in_order_of_arrival_then_adapter() {
    for scenario in scenarios(300) {
        let requests: Vec<Request> = RequestSource::new(&scenario).collect();
        let keys = requests
            .iter()
            .map(|request| (request.arrival, request.adapter));
        assert!(keys
            .clone()
            .zip(keys.skip(1))
            .all(|(one, next)| one <= next));
        let longest = scenario.engine.max_model_len;
        let end = scenario.duration.map_or(u64::MAX, |duration| duration.0);
        assert!(requests.iter().all(|request| {
            request.prompt_tokens >= 1
                && request.output_tokens >= 1
                && request.prompt_tokens + request.output_tokens <= longest
                && request.arrival.0 < end
        }));
    }
}

#[test]
fn one_more_adapter_moves_no_other_adapters_draws() {
    for scenario in scenarios(100) {
        let mut larger = scenario.clone();
        let mut newcomer = larger.adapters[0].clone();
        newcomer.key = 999_999;
        larger.adapters.push(newcomer);
        let added = scenario.adapters.len() as u32;
        let without = RequestSource::new(&scenario);
        let with = RequestSource::new(&larger).filter(|request| request.adapter != added);
        let plain = |request: Request| {
            let (prompt, output) = (request.prompt_tokens, request.output_tokens);
            (request.arrival, request.adapter, prompt, output)
        };
        assert!(without.map(plain).eq(with.map(plain)));
    }
}
