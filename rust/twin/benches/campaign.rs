//! The GPU of the serving campaign: Llama-3.1-8B on an H100, vLLM 0.8.5, as PHYSICS.md fits it.

use std::sync::Arc;

use lorapack_twin::front_end::FrontEnd;
use lorapack_twin::scenario::{
    Adapter, Arrivals, EngineSettings, LengthShape, Lengths, RuleSet, Scenario,
};
use lorapack_twin::step_time::StepTime;
use lorapack_twin::units::Time;

const BUDGET: u32 = 2048;
const MAX_LORA_RANK: u32 = 16;

/// An hour of `n_adapters` adapters whose rates are dealt round robin.
pub fn hour(n_adapters: usize, rates_rps: &[f64], max_loras: u32) -> Scenario {
    let adapters = (0..n_adapters).map(|index| {
        let rank_8 = index % 2 == 0;
        Adapter {
            key: index as u64,
            is_base: false,
            arrivals: Arrivals::Poisson {
                rate_rps: rates_rps[index % rates_rps.len()],
            },
            lengths: Lengths {
                shape: 0,
                prompt_scale: 1.0,
                output_scale: 1.0,
            },
            gpu_load: ms(if rank_8 { 8.0 } else { 6.5 }),
            disk_load: ms(if rank_8 { 68.0 } else { 80.0 }),
        }
    });
    Scenario {
        adapters: adapters.collect(),
        length_shapes: vec![lengths()],
        trace: None,
        engine: EngineSettings {
            rule_set: RuleSet::Vllm085,
            block_size: 16,
            num_blocks: 284_176 / 16,
            max_loras,
            max_cpu_loras: n_adapters as u32,
            max_num_seqs: 2048,
            max_num_batched_tokens: BUDGET,
            max_model_len: 131_072,
            long_prefill_token_threshold: 0,
        },
        step_time: step_time(max_loras),
        front_end: front_end(),
        duration: Some(Time::from_seconds(3600.0)),
        warmup: Time::ZERO,
        judge_until: Time::from_seconds(3600.0),
        seed: 1,
        max_in_flight: Some(25_500),
        warm: false,
        scrape_interval: None,
    }
}

fn ms(milliseconds: f64) -> Time {
    Time::from_seconds(milliseconds * 1e-3)
}

/// PHYSICS.md section 1, Llama-3.1-8B.
fn step_time(max_loras: u32) -> StepTime {
    let by_tokens = |form: &dyn Fn(f64) -> f64| -> Arc<[Time]> {
        (0..=BUDGET).map(|m| ms(form(padded(m)))).collect()
    };
    let rank = f64::from(MAX_LORA_RANK);
    let slots = f64::from(max_loras + 1);
    let base = |m: f64| {
        let gemm = (9.2_f64.powi(8) + (0.026 * m).powi(8)).powf(0.125);
        let split_k = if m < 128.0 { 64.0 } else { 8.0 };
        let shrink = 0.45 * split_k * (m / 32.0).ceil() * (rank / 16.0).ceil() * 7.0;
        let blocks = 1e-6 * 32.0 * (shrink + (m / 64.0).ceil() * 384.0);
        let eager = if m > 512.0 { 1.0 } else { 0.0 };
        3.4 + eager + gemm + 2.1 + 0.94 * blocks * slots + 0.010 * m
    };
    let distinct_adapter = |m: f64| {
        let small = if m < 128.0 { 0.04 } else { 0.0 };
        let eager = if m > 512.0 { 0.05 } else { 0.0 };
        0.30 + 0.0028 * rank + small + eager
    };
    StepTime {
        base: by_tokens(&base),
        distinct_adapter: by_tokens(&distinct_adapter),
        request: ms(0.014),
        context_token: ms(7.5e-5),
        mixed_context_token: ms(1.2e-4),
        attention_pair: Time::ZERO,
        skipped: ms(3.7e-4),
        waiting: ms(1.1e-4),
        mapping: ms(0.9),
        mapping_request: ms(0.0085),
    }
}

/// Tokens padded to the CUDA graph that runs them: 1, 2, 4, then multiples of 8 up to 512.
fn padded(tokens: u32) -> f64 {
    f64::from(match tokens {
        0..=2 => tokens,
        3 | 4 => 4,
        5..=512 => tokens.next_multiple_of(8),
        _ => tokens,
    })
}

/// PHYSICS.md section 3.
fn front_end() -> FrontEnd {
    FrontEnd {
        request: ms(1.3),
        first_use: ms(400.0),
        first_token_fixed_ps: -1_500_000_000,
        first_token_request: ms(0.063),
        first_token_step_ppm: 400_000,
        series: Time::ZERO,
        series_adapter: Time::ZERO,
    }
}

/// Right-skewed, with means 222 and 195 and quartiles 23, 423 and 27, 359 as the campaign's; near
/// exponential above the upper quartile; long outputs go with shorter prompts (correlation -0.2).
fn lengths() -> LengthShape {
    let quantile = |u: f64, quartiles: [f64; 4], tail_mean: f64| {
        let place = (u * 4.0).min(3.999_999);
        match place as usize {
            3 => quartiles[3] - tail_mean * (4.0 - place).ln(),
            below => {
                let share = place.fract();
                quartiles[below] * (1.0 - share) + quartiles[below + 1] * share
            }
        }
    };
    let rows = 8192_u32;
    let (mut prompt, mut output) = (Vec::new(), Vec::new());
    for row in 0..rows {
        // Weyl sequences: even in both dimensions.
        let first = (f64::from(row) * 0.754_877_666_246_692_7).fract();
        let other = (f64::from(row) * 0.569_840_290_998_053_3).fract();
        let second = if row % 5 == 0 { 1.0 - first } else { other };
        prompt.push(quantile(first, [4.0, 23.0, 90.0, 423.0], 138.0).min(1024.0) as f32);
        output.push(quantile(second, [1.0, 27.0, 110.0, 359.0], 104.0).min(1800.0) as f32);
    }
    LengthShape::Pairs {
        prompt_tokens: prompt.into(),
        output_tokens: output.into(),
    }
}
