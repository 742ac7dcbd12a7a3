//! How fast the twin is: simulated seconds a second of one core, for hours of the serving
//! campaign's GPU. `cargo bench -p lorapack-twin --bench engine [-- NAME]`; with `--once`, a single
//! run of each, to be counted by `benches/instructions.py`.

#![allow(clippy::print_stdout)] // a bench speaks

mod campaign;

use cpu_time::ThreadTime;
use lorapack_twin::requests::RequestSource;
use lorapack_twin::scenario::Scenario;
use lorapack_twin::{simulate, Records};

/// Simulated seconds a wall-clock second of the papers' Python twin, where it is known.
struct Case {
    name: &'static str,
    scenario: Scenario,
    reference: Option<f64>,
}

fn cases() -> Vec<Case> {
    let heavy = [1.6, 0.8, 0.4];
    let light = [0.1, 0.05, 0.025];
    let many = |n_adapters: usize| {
        // The same 30 requests a second, spread over more and more adapters.
        let mut scenario = campaign::hour(n_adapters, &[30.0 / n_adapters as f64], 64);
        scenario.warm = true;
        scenario
    };
    let case = |name, scenario, reference| Case {
        name,
        scenario,
        reference,
    };
    vec![
        case(
            "128 adapters, overloaded",
            campaign::hour(128, &heavy, 32),
            Some(69.0),
        ),
        case(
            "32 adapters, KV-bound",
            campaign::hour(32, &heavy, 16),
            Some(158.0),
        ),
        case(
            "128 adapters, light",
            campaign::hour(128, &light, 32),
            Some(2470.0),
        ),
        case("100 adapters, 30 req/s", many(100), None),
        case("1,000 adapters, 30 req/s", many(1_000), None),
        case("10,000 adapters, 30 req/s", many(10_000), None),
    ]
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let once = std::env::args().any(|arg| arg == "--once");
    if !once {
        heading();
    }
    for case in cases() {
        if !wanted.is_empty() && !wanted.iter().any(|name| case.name.contains(name.as_str())) {
            continue;
        }
        if once {
            let outcome = simulate(&case.scenario, Records::default(), &|| false);
            println!("{} requests", outcome.expect("it can run").summary.offered);
        } else {
            report(&case);
        }
    }
}

fn heading() {
    println!(
        "{:27} {:>9} {:>8} {:>10} {:>9} {:>10} {:>12} {:>9}",
        "scenario", "requests", "done", "steps", "draw ms", "run ms", "x real time", "ratio"
    );
}

fn report(case: &Case) {
    let requests = RequestSource::new(&case.scenario).count();
    let draw_s = best_s(&mut || RequestSource::new(&case.scenario).count());
    let run = || simulate(&case.scenario, Records::default(), &|| false).expect("it can run");
    let summary = run().summary;
    let wall_s = best_s(&mut || run().summary.completed as usize);
    let speed = summary.simulated_s / wall_s;
    let ratio = case.reference.map_or(String::new(), |reference| {
        format!("{:.0}", speed / reference)
    });
    println!(
        "{:27} {:>9} {:>8} {:>10} {:>9.2} {:>10.2} {:>12.0} {:>9}",
        case.name,
        requests,
        summary.completed,
        summary.steps,
        draw_s * 1e3,
        wall_s * 1e3,
        speed,
        ratio
    );
    println!(
        "{:27} running {:.0} (most {}), waiting {:.0}, KV {:.2}, preempted {}, loads {}, {:.0} ns a request",
        "", summary.mean_running, summary.max_running, summary.mean_waiting, summary.kv_usage_mean,
        summary.preemptions, summary.adapter_loads, wall_s * 1e9 / requests as f64,
    );
}

/// The best of several runs: noise only ever adds. Time of this thread on a core, so that a busy
/// machine does not count.
fn best_s(run: &mut dyn FnMut() -> usize) -> f64 {
    let times = (0..9).map(|_| {
        let clock = ThreadTime::now();
        std::hint::black_box(run());
        clock.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}
