//! Random scenarios, small and nasty: each draws its own mixture of what can go wrong.

use std::sync::Arc;

use lorapack_twin::front_end::FrontEnd;
use lorapack_twin::scenario::{
    Adapter, Arrivals, EngineSettings, LengthShape, Lengths, RuleSet, Scenario, Trace,
};
use lorapack_twin::step_time::StepTime;
use lorapack_twin::units::Time;

/// A source of choices: SplitMix64, or bytes of a fuzzer.
pub trait Dice {
    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64;

    /// One of some values.
    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    /// True once in `n`.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// SplitMix64.
pub struct SplitMix(pub u64);

impl Dice for SplitMix {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// A scenario that [`Scenario::check`] accepts.
pub fn scenario(dice: &mut impl Dice) -> Scenario {
    let engine = engine(dice);
    let duration_s = dice.pick(&[2.0, 10.0, 30.0, 60.0]);
    let n_adapters = dice.pick(&[1, 2, 3, 5, 8, 20, 70]);
    let length_shapes = length_shapes(dice, &engine);
    // Load per GPU-second is what matters: share one total among the adapters.
    let total_rps = dice.pick(&[0.5, 3.0, 10.0, 40.0]);
    let adapters: Vec<Adapter> = (0..n_adapters)
        .map(|index| {
            let rate_rps = total_rps / n_adapters as f64 * dice.pick(&[0.2, 1.0, 1.0, 2.5]);
            adapter(dice, index, rate_rps, length_shapes.len(), engine.max_loras)
        })
        .collect();
    let trace = (dice.once_in(3)).then(|| Arc::new(trace(dice, &engine, n_adapters, duration_s)));
    let only_trace = trace.is_some() && dice.once_in(2);
    let duration = Time::from_seconds(duration_s);
    let open_ended = only_trace && dice.once_in(2);
    let mut scenario = Scenario {
        adapters,
        length_shapes,
        trace,
        step_time: step_time(dice, &engine),
        front_end: front_end(dice),
        engine,
        duration: (!open_ended).then_some(duration),
        warmup: dice.pick(&[Time::ZERO, Time::ZERO, Time(duration.0 / 3)]),
        judge_until: dice.pick(&[duration, Time(duration.0 / 2), Time::MAX]),
        seed: dice.below(1 << 60),
        max_in_flight: dice.pick(&[None, None, Some(1), Some(5), Some(40)]),
        warm: dice.once_in(2),
        scrape_interval: dice
            .once_in(3)
            .then(|| Time(dice.pick(&[100_000_000_000, 2_000_000_000_000]))),
    };
    if only_trace {
        for adapter in &mut scenario.adapters {
            adapter.arrivals = Arrivals::None;
        }
    }
    scenario
}

fn engine(dice: &mut impl Dice) -> EngineSettings {
    let block_size = dice.pick(&[16, 16, 16, 1, 4, 7]);
    let max_model_len = dice.pick(&[8, 40, 100, 300, 1000]);
    let smallest = (max_model_len - 1_u32).div_ceil(block_size) + 1;
    let spare = dice.pick(&[0, 1, 3, 10, 60, 400, 5000]);
    let max_num_seqs = dice.pick(&[1, 2, 7, 32, 256]);
    let budget = dice.pick(&[0, 1, 5, 64, 500, 2048]);
    let max_loras = dice.pick(&[1, 2, 4, 7, 100]);
    EngineSettings {
        rule_set: dice.pick(&[RuleSet::Vllm085, RuleSet::Vllm033]),
        block_size,
        num_blocks: smallest + spare,
        max_loras,
        max_cpu_loras: max_loras + dice.pick(&[0, 1, 6, 100]),
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + budget,
        max_model_len,
        long_prefill_token_threshold: dice.pick(&[0, 0, 0, 0, 3, 50]),
    }
}

fn length_shapes(dice: &mut impl Dice, engine: &EngineSettings) -> Vec<LengthShape> {
    let longest = u64::from(engine.max_model_len.min(200));
    (0..=dice.below(3))
        .map(|_| match dice.below(4) {
            0 => LengthShape::Constant {
                prompt_tokens: 1 + dice.below(longest) as u32,
                output_tokens: 1 + dice.below(longest) as u32,
            },
            1 => LengthShape::Lognormal {
                prompt_mean: (1 + dice.below(longest)) as f64,
                prompt_sigma: dice.pick(&[0.0, 0.5, 1.2]),
                output_mean: (1 + dice.below(longest)) as f64,
                output_sigma: dice.pick(&[0.0, 0.5, 1.2]),
                correlation: dice.pick(&[-1.0, -0.2, 0.0, 0.7]),
            },
            _ => {
                let rows = 1 + dice.below(20);
                let mut column = || (0..rows).map(|_| dice.below(longest) as f32).collect();
                LengthShape::Pairs {
                    prompt_tokens: column(),
                    output_tokens: column(),
                }
            }
        })
        .collect()
}

fn adapter(
    dice: &mut impl Dice,
    index: usize,
    rate_rps: f64,
    n_shapes: usize,
    max_loras: u32,
) -> Adapter {
    let arrivals = match dice.below(10) {
        0 => Arrivals::None,
        1 => Arrivals::Gamma {
            rate_rps,
            cv: dice.pick(&[0.0, 0.5, 4.0, 12.0]),
        },
        2 => Arrivals::Weibull {
            rate_rps,
            cv: dice.pick(&[0.3, 2.0]),
        },
        3 => Arrivals::OnOff {
            rate_rps,
            on_s: dice.pick(&[0.5, 4.0]),
            off_s: dice.pick(&[0.0, 3.0, 20.0]),
        },
        4 => Arrivals::Diurnal {
            rate_rps,
            amplitude: dice.pick(&[0.0, 0.5, 1.0]),
            period_s: dice.pick(&[3.0, 50.0]),
            phase: dice.pick(&[0.0, 0.25, 0.9]),
        },
        5 => Arrivals::Piecewise {
            starts_s: vec![0.0, 1.5, 7.0],
            rates_rps: vec![rate_rps, 0.0, 2.0 * rate_rps],
        },
        _ => Arrivals::Poisson { rate_rps },
    };
    Adapter {
        key: index as u64 * 7 + dice.below(3),
        is_base: dice.once_in(8) || max_loras == 0,
        arrivals,
        lengths: Lengths {
            shape: dice.below(n_shapes as u64) as u32,
            prompt_scale: dice.pick(&[1.0, 1.0, 0.4, 2.0]),
            output_scale: dice.pick(&[1.0, 1.0, 0.4, 2.0]),
        },
        gpu_load: Time(dice.pick(&[0, 3_000_000_000, 9_000_000_000])),
        disk_load: Time(dice.pick(&[0, 20_000_000_000, 120_000_000_000])),
    }
}

fn trace(
    dice: &mut impl Dice,
    engine: &EngineSettings,
    n_adapters: usize,
    duration_s: f64,
) -> Trace {
    let rows = dice.pick(&[0, 1, 20, 200]);
    // Coarse times, so that many rows fall on one instant.
    let ticks = dice.pick(&[3, 40, 100_000]);
    let tick_ps = (duration_s * 1.1 * 1e12) as u64 / ticks;
    let mut arrival: Vec<Time> = (0..rows)
        .map(|_| Time(dice.below(ticks) * tick_ps))
        .collect();
    arrival.sort_unstable();
    let mut column = |n: u64| (0..rows).map(|_| dice.below(n) as u32).collect::<Vec<_>>();
    let longest = u64::from(engine.max_model_len) + 5;
    Trace {
        arrival,
        adapter: column(n_adapters as u64),
        prompt_tokens: column(longest),
        output_tokens: column(longest / 2),
    }
}

fn step_time(dice: &mut impl Dice, engine: &EngineSettings) -> StepTime {
    let tokens = u64::from(engine.max_num_batched_tokens);
    let fixed = dice.pick(&[1, 5_000_000_000, 15_000_000_000, 80_000_000_000]);
    let a_token = dice.pick(&[0, 7, 26_000_000]);
    let base: Vec<Time> = (0..=tokens).map(|m| Time(fixed + m * a_token)).collect();
    let distinct = dice.pick(&[0, 300_000_003]);
    let distinct: Vec<Time> = (0..=tokens).map(|m| Time(distinct + m % 3)).collect();
    let mut price = |most: u64| Time(if dice.once_in(4) { 0 } else { dice.below(most) });
    StepTime {
        base: base.into(),
        distinct_adapter: distinct.into(),
        request: price(20_000_000),
        context_token: price(1_000_000),
        mixed_context_token: price(2_000_000),
        attention_pair: price(30_000),
        skipped: price(400_000),
        waiting: price(900_000),
        mapping: price(3_000_000_000),
        mapping_request: price(9_000_000),
    }
}

fn front_end(dice: &mut impl Dice) -> FrontEnd {
    let mut front_end = FrontEnd::none();
    if dice.once_in(2) {
        front_end.request = Time(dice.pick(&[0, 1_300_000_000, 60_000_000_000]));
        front_end.first_use = Time(dice.pick(&[0, 400_000_000_000]));
        front_end.first_token_fixed_ps = dice.pick(&[0, -1_500_000_000, 5_000_000_000]);
        front_end.first_token_request = Time(dice.below(63_000_000));
        front_end.first_token_step_ppm = dice.pick(&[0, 400_000]);
        front_end.series = Time(dice.pick(&[0, 7_000_000, 900_000_000]));
        front_end.series_adapter = Time(dice.pick(&[0, 100_000_000]));
    }
    front_end
}
