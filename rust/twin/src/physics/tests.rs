use std::sync::Arc;

use super::work::{AdapterWork, WorkSums};
use super::*;

/// 10 ms a step, nothing more, whatever is in it.
fn flat_gpu() -> Gpu {
    let table = |price: f64| -> Arc<[f64]> { vec![price; 2049].into() };
    Gpu {
        step: StepPrices {
            without_lora: table(0.01),
            with_lora: table(0.01),
            slot: table(0.0),
            distinct_adapter: table(0.0),
            request: 0.0,
            context_token: 0.0,
            mixed_context_token: 0.0,
            cpu_lora: 0.0,
            attention_pair: 0.0,
            skipped: 0.0,
            waiting: 0.0,
            mapping: 0.0,
            mapping_request: 0.0,
            stretch_s: 0.0,
        },
        front_end: FrontEndPrices {
            request: 0.0,
            first_use: 0.0,
            first_token_fixed: 0.0,
            first_token_request: 0.0,
            first_token_step: 0.0,
            series: 0.0,
            series_adapter: 0.0,
        },
        block_size: 16.0,
        max_num_seqs: 2048.0,
        max_num_batched_tokens: 2048.0,
    }
}

fn setting() -> Setting {
    Setting {
        max_loras: 8.0,
        max_lora_rank: 8.0,
        max_cpu_loras: 64.0,
        kv_cache_tokens: 1e6,
        duration_s: 3600.0,
        warm: true,
        max_in_flight: 1e6,
        scrape_interval_s: f64::INFINITY,
    }
}

fn demand(adapters: u32, rate_rps: f64) -> Demand {
    let mut sums = WorkSums::default();
    for _ in 0..adapters {
        sums.add(&AdapterWork {
            rate_rps,
            prompt_tokens: 100.0,
            output_tokens: 100.0,
            prompt_output: 1e4,
            output_square: 1e4,
            prompt_square: 1e4,
            gap_cv_square: 1.0,
            rank: 8.0,
            gpu_load_s: 0.007,
            disk_load_s: 0.1,
            is_base: false,
        });
    }
    sums.demand()
}

#[test]
fn running_requests_follow_littles_law() {
    let state = flat_gpu().solve(&demand(4, 2.5), &setting());
    // 10 requests a second, each 100 steps of 10 ms: 10 running.
    assert!((state.running - 10.0).abs() < 1e-3, "{state:?}");
    assert!((state.itl_s - 0.01).abs() < 1e-9);
}

#[test]
fn capacity_is_what_the_token_budget_allows() {
    let state = flat_gpu().solve(&demand(4, 100.0), &setting());
    // Each request brings 199 tokens: 2048 a step at 100 steps a second is 1029 requests a second.
    assert!(
        (state.capacity_rps - 2048.0 / 199.0 * 100.0).abs() < 1.0,
        "{state:?}"
    );
    assert!(state.load < 1.0 && state.served_fraction > 0.99);
}

#[test]
fn kv_caps_the_running_requests() {
    let small = Setting {
        kv_cache_tokens: 16_000.0,
        ..setting()
    };
    let state = flat_gpu().solve(&demand(4, 100.0), &small);
    assert!(
        (state.running_limit - (16_000.0 - 16.0) / 158.0).abs() < 1e-6,
        "{state:?}"
    );
    assert!(state.load > 1.0 && state.served_fraction < 0.3);
}

#[test]
fn slots_are_shared_in_time_with_a_wait_that_grows() {
    let gpu = flat_gpu();
    let waits: Vec<f64> = [8u32, 16, 32, 64]
        .map(|adapters| gpu.solve(&demand(adapters, 3.0), &setting()).slot_wait_s)
        .to_vec();
    assert_eq!(waits[0], 0.0);
    assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
}

#[test]
fn overload_serves_what_the_capacity_is() {
    let state = flat_gpu().solve(&demand(4, 1000.0), &setting());
    assert!(
        (state.served_fraction * 4000.0 - state.capacity_rps).abs() < 1e-6,
        "{state:?}"
    );
    assert!(state.waiting > 0.0);
}

#[test]
fn under_load_every_batch_is_a_new_one_and_alone_hardly_any() {
    let mut gpu = flat_gpu();
    gpu.step.mapping = 2e-3;
    let busy = gpu.solve(&demand(4, 100.0), &setting());
    assert!((busy.step_s - 0.012).abs() < 1e-4, "{busy:?}");
    let alone = gpu.solve(&demand(1, 0.01), &setting());
    assert!((alone.step_s - 0.01).abs() < 1e-4, "{alone:?}");
    let without_lora = Setting {
        max_loras: 0.0,
        ..setting()
    };
    let off = gpu.solve(&demand(4, 100.0), &without_lora);
    assert!((off.step_s - 0.01).abs() < 1e-9, "{off:?}");
}

#[test]
fn nothing_offered_is_nothing_done() {
    let state = flat_gpu().solve(&demand(3, 0.0), &setting());
    assert_eq!((state.load, state.running), (0.0, 0.0));
    assert!(state.capacity_rps.is_finite() && state.ttft_s.is_finite());
}

#[test]
fn features_are_finite_and_not_negative() {
    for (adapters, rate) in [(0, 0.0), (1, 0.0), (1, 1e-6), (400, 30.0), (64, 3.0)] {
        for max_loras in [0.0, 1.0, 64.0] {
            let setting = Setting {
                max_loras,
                ..setting()
            };
            let features = flat_gpu().features(&demand(adapters, rate), &setting);
            assert!(
                features
                    .iter()
                    .all(|value| value.is_finite() && *value >= 0.0),
                "{features:?}"
            );
        }
    }
}

#[test]
fn tables_are_smoothed_over_their_neighbours() {
    let jump: Vec<f64> = (0..400).map(|at| f64::from(u8::from(at >= 100))).collect();
    let [smooth, same] = over_fluctuations([&jump, &jump]);
    assert_eq!(smooth, same);
    assert!(smooth[60] < 1e-9 && smooth[140] > 1.0 - 1e-9, "{smooth:?}");
    assert!((smooth[100] - 0.5).abs() < 0.06, "{}", smooth[100]);
    assert!(smooth.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
}

#[test]
fn a_lone_adapter_waits_for_no_slot_however_busy() {
    let one_slot = Setting {
        max_loras: 1.0,
        ..setting()
    };
    let state = flat_gpu().solve(&demand(1, 50.0), &one_slot);
    assert_eq!((state.slot_wait_s, state.slot_served), (0.0, 1.0));
}

/// 60 adapters, each present one second in eleven: 6 in the mean, with a variance of 5.
fn coming_and_going() -> Demand {
    demand(60, 0.1)
}

#[test]
fn a_slot_each_is_never_waited_for() {
    let setting = Setting {
        max_loras: 60.0,
        ..setting()
    };
    assert_eq!(flat_gpu().queued_share(&coming_and_going(), &setting), 0.0);
}

#[test]
fn where_steps_do_not_answer_the_share_is_that_of_independent_coins() {
    let (gpu, demand) = (flat_gpu(), coming_and_going());
    for slots in [10.0_f64, 14.0, 18.0] {
        let setting = Setting {
            max_loras: slots,
            ..setting()
        };
        let present = 1.0 - (-0.1_f64).exp();
        let mean = 60.0 * present;
        // The variance grows on the way to all slots in use: between its ends.
        let bound = |variance: f64| 0.5 * (-(slots - mean).powi(2) / (2.0 * variance)).exp();
        let share = gpu.queued_share(&demand, &setting);
        let (least, most) = (mean * (1.0 - present), slots * (1.0 - slots / 60.0));
        assert!(
            share > 0.9 * bound(least) && share < bound(most),
            "{slots}: {share}"
        );
    }
}

#[test]
fn longer_steps_for_more_adapters_make_full_slots_likelier() {
    let mut answering = flat_gpu();
    answering.step.distinct_adapter = vec![0.0005; 2049].into();
    answering.step.with_lora = vec![0.0072; 2049].into();
    let setting = Setting {
        max_loras: 12.0,
        ..setting()
    };
    let share = |gpu: &Gpu| gpu.queued_share(&coming_and_going(), &setting);
    assert!(share(&answering) > 1.5 * share(&flat_gpu()));
}

#[test]
fn fewest_slots_are_enough_and_one_less_is_not() {
    let (gpu, demand) = (flat_gpu(), coming_and_going());
    let most = Setting {
        max_loras: 40.0,
        ..setting()
    };
    let share = |max_loras| gpu.queued_share(&demand, &Setting { max_loras, ..most });
    let fewest = gpu.fewest_slots(&demand, &most, 0.01);
    assert!(fewest > 6.0 && fewest < 20.0, "{fewest}");
    assert!(share(fewest) <= 0.01 && share(fewest - 1.0) > 0.01);
    assert_eq!(gpu.fewest_slots(&demand, &most, 0.0), 40.0);
    // Anything goes: as many as are wanted on average, or fewer.
    assert!(gpu.fewest_slots(&demand, &most, 1.0) <= 6.0);
}

#[test]
fn least_full_is_no_fuller_than_with_a_slot_each() {
    let mut gpu = flat_gpu();
    gpu.step.slot = vec![0.0001; 2049].into();
    let tokens = [1_000_000; 61];
    let (full, slots) = gpu.least_full(&coming_and_going(), &setting(), 0.93, &tokens);
    let with = |max_loras: f64| {
        let setting = Setting {
            max_loras,
            ..setting()
        };
        gpu.fullness(&coming_and_going(), &setting, 0.93)
    };
    assert_eq!(full, with(slots as f64));
    assert!(full <= with(60.0));
}
