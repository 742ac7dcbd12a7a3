//! Runs both engines and compares: every row of every record to the bit, every figure of the summary.

use lorapack_twin::metrics::{Outcome, Spread, Summary};
use lorapack_twin::record::{AdapterColumns, RequestColumns, StepColumns};
use lorapack_twin::scenario::Scenario;
use lorapack_twin::{simulate, Records};

const ALL: Records = Records {
    requests: true,
    steps: true,
};

/// Runs both engines; panics where they first differ.
pub fn compare(scenario: &Scenario) -> Outcome {
    let fast = simulate(scenario, ALL, &|| false).expect("the scenario can run");
    let plain = lorapack_oracle::simulate(scenario).expect("the scenario can run");
    compare_steps(
        fast.steps.as_ref().expect("asked for"),
        plain.steps.as_ref().expect("always there"),
    );
    compare_requests(
        fast.requests.as_ref().expect("asked for"),
        plain.requests.as_ref().expect("always there"),
    );
    compare_adapters(&fast.adapters, &plain.adapters);
    compare_summaries(&fast.summary, &plain.summary);
    fast
}

/// Equal to the bit, NaN to NaN.
fn same<T: Copy + Into<f64>>(name: &str, fast: &[T], plain: &[T]) {
    for (row, (&fast, &plain)) in fast.iter().zip(plain).enumerate() {
        let (fast, plain): (f64, f64) = (fast.into(), plain.into());
        assert!(
            fast == plain || (fast.is_nan() && plain.is_nan()),
            "{name}[{row}]: fast {fast}, plain {plain}"
        );
    }
    assert_eq!(fast.len(), plain.len(), "rows of {name}");
}

fn same_u64(name: &str, fast: &[u64], plain: &[u64]) {
    assert_eq!(fast, plain, "{name}");
}

fn compare_steps(fast: &StepColumns, plain: &StepColumns) {
    same(
        "batched_tokens",
        &fast.batched_tokens,
        &plain.batched_tokens,
    );
    same("scheduled", &fast.scheduled, &plain.scheduled);
    same("running", &fast.running, &plain.running);
    same("waiting", &fast.waiting, &plain.waiting);
    same("skipped", &fast.skipped, &plain.skipped);
    same("is_new_batch", &fast.is_new_batch, &plain.is_new_batch);
    same(
        "distinct_adapters",
        &fast.distinct_adapters,
        &plain.distinct_adapters,
    );
    same_u64(
        "context_tokens",
        &fast.context_tokens,
        &plain.context_tokens,
    );
    same("used_blocks", &fast.used_blocks, &plain.used_blocks);
    same("preempted", &fast.preempted, &plain.preempted);
    same("finished", &fast.finished, &plain.finished);
    same("adapter_loads", &fast.adapter_loads, &plain.adapter_loads);
    same("load_s", &fast.load_s, &plain.load_s);
    same("duration_s", &fast.duration_s, &plain.duration_s);
    same("start_s", &fast.start_s, &plain.start_s);
}

fn compare_requests(fast: &RequestColumns, plain: &RequestColumns) {
    same("adapter", &fast.adapter, &plain.adapter);
    same("arrival_s", &fast.arrival_s, &plain.arrival_s);
    same(
        "engine_arrival_s",
        &fast.engine_arrival_s,
        &plain.engine_arrival_s,
    );
    same("prompt_tokens", &fast.prompt_tokens, &plain.prompt_tokens);
    same("output_tokens", &fast.output_tokens, &plain.output_tokens);
    same("status", &fast.status, &plain.status);
    same("ttft_ms", &fast.ttft_ms, &plain.ttft_ms);
    same("first_token_s", &fast.first_token_s, &plain.first_token_s);
    same("done_s", &fast.done_s, &plain.done_s);
    same("preemptions", &fast.preemptions, &plain.preemptions);
}

fn compare_adapters(fast: &AdapterColumns, plain: &AdapterColumns) {
    same_u64("offered", &fast.offered, &plain.offered);
    same_u64(
        "offered_tokens",
        &fast.offered_tokens,
        &plain.offered_tokens,
    );
    same_u64("completed", &fast.completed, &plain.completed);
    same_u64("input_tokens", &fast.input_tokens, &plain.input_tokens);
    same_u64("output_tokens", &fast.output_tokens, &plain.output_tokens);
    same_u64(
        "judged_offered",
        &fast.judged_offered,
        &plain.judged_offered,
    );
    same_u64(
        "judged_completed",
        &fast.judged_completed,
        &plain.judged_completed,
    );
    for (&fast, &plain) in fast.ttft_sum_ms.iter().zip(&plain.ttft_sum_ms) {
        close("ttft_sum_ms", fast, plain, 1e-9);
    }
}

fn close(name: &str, fast: f64, plain: f64, tolerance: f64) {
    let equal = fast == plain || (fast.is_nan() && plain.is_nan());
    let near = (fast - plain).abs() <= tolerance * plain.abs().max(1e-9);
    assert!(equal || near, "{name}: fast {fast}, plain {plain}");
}

/// Quantiles differ by half a bucket, and are whole picoseconds.
fn close_quantile(name: &str, fast: f64, plain: f64) {
    const PICOSECOND_MS: f64 = 1e-9;
    let within_rounding = (fast - plain).abs() <= PICOSECOND_MS;
    if !within_rounding {
        close(name, fast, plain, 0.004);
    }
}

/// Means differ by how floats are added.
fn compare_spreads(name: &str, fast: &Spread, plain: &Spread) {
    close(&format!("{name}.mean"), fast.mean, plain.mean, 1e-9);
    close_quantile(&format!("{name}.p50"), fast.p50, plain.p50);
    close_quantile(&format!("{name}.p90"), fast.p90, plain.p90);
    close_quantile(&format!("{name}.p99"), fast.p99, plain.p99);
}

fn compare_summaries(fast: &Summary, plain: &Summary) {
    compare_spreads("ttft_ms", &fast.ttft_ms, &plain.ttft_ms);
    compare_spreads("tpot_ms", &fast.tpot_ms, &plain.tpot_ms);
    compare_spreads("itl_ms", &fast.itl_ms, &plain.itl_ms);
    close_quantile(
        "ttft_with_unserved_p99_ms",
        fast.ttft_with_unserved_p99_ms,
        plain.ttft_with_unserved_p99_ms,
    );
    // All the rest is counted in integers: equal to the bit.
    let rest = Summary {
        ttft_ms: fast.ttft_ms,
        tpot_ms: fast.tpot_ms,
        itl_ms: fast.itl_ms,
        ttft_with_unserved_p99_ms: fast.ttft_with_unserved_p99_ms,
        ..plain.clone()
    };
    assert_eq!(format!("{fast:?}"), format!("{rest:?}"));
}
