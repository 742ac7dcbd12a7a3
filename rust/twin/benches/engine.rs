//! How fast the twin is: simulated seconds a second of one core, for hours of the serving
//! campaign's GPU. `cargo bench -p lorapack-twin --bench engine [-- NAME]`; with `--once`, a single
//! run of each, to be counted by `benches/instructions.py`.

#![allow(clippy::print_stdout)] // a bench speaks

mod campaign;

use cpu_time::ThreadTime;
use lorapack_twin::requests::RequestSource;
use lorapack_twin::scenario::Scenario;
use lorapack_twin::{simulate, Records};

struct Case {
    name: &'static str,
    n_adapters: usize,
    /// Dealt round robin.
    rates_rps: Vec<f64>,
    max_loras: u32,
    warm: bool,
    /// Simulated seconds a wall-clock second of the papers' Python twin, where it is known.
    reference: Option<f64>,
}

impl Case {
    fn scenario(&self) -> Scenario {
        let mut scenario = campaign::hour(self.n_adapters, &self.rates_rps, self.max_loras);
        scenario.warm = self.warm;
        scenario
    }
}

fn cases() -> Vec<Case> {
    let (heavy, light) = ([1.6, 0.8, 0.4], [0.1, 0.05, 0.025]);
    let of_papers = |name, n_adapters, rates_rps: [f64; 3], max_loras, reference| Case {
        name,
        n_adapters,
        rates_rps: rates_rps.to_vec(),
        max_loras,
        warm: false,
        reference: Some(reference),
    };
    // The same 30 requests a second, spread over more and more adapters.
    let many = |name, n_adapters: usize| Case {
        name,
        n_adapters,
        rates_rps: vec![30.0 / n_adapters as f64],
        max_loras: 64,
        warm: true,
        reference: None,
    };
    vec![
        of_papers("128 adapters, overloaded", 128, heavy, 32, 69.0),
        of_papers("32 adapters, KV-bound", 32, heavy, 16, 158.0),
        of_papers("128 adapters, light", 128, light, 32, 2470.0),
        many("100 adapters, 30 req/s", 100),
        many("1,000 adapters, 30 req/s", 1_000),
        many("10,000 adapters, 30 req/s", 10_000),
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
            let outcome = simulate(&case.scenario(), Records::default(), &|| false);
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
    let scenario = case.scenario();
    let requests = RequestSource::new(&scenario).count();
    let draw_s = best_s(&mut || RequestSource::new(&scenario).count());
    let run = || simulate(&scenario, Records::default(), &|| false).expect("it can run");
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
