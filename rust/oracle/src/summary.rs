//! A diary to records and totals: every figure computed by walking the whole diary.

use lorapack_twin::metrics::{Outcome, Spread, Summary};
use lorapack_twin::record::{AdapterColumns, RequestColumns, Status, StepColumns};
use lorapack_twin::scenario::Scenario;
use lorapack_twin::units::Time;

use crate::run::{names, Diary, Journey, Step};

/// All that a run yields, from its diary.
#[must_use]
pub fn outcome(scenario: &Scenario, diary: &Diary) -> Outcome {
    let window = Window::new(scenario, diary);
    Outcome {
        summary: summary(scenario, diary, &window),
        adapters: adapters(scenario, diary, &window),
        requests: Some(requests(diary)),
        steps: Some(steps(diary)),
    }
}

/// The span in which things are counted.
struct Window {
    start: Time,
    /// The end for counting; without a duration everything after the start counts.
    end: Time,
    /// The end for averaging.
    last: Time,
    /// End of the last step that ended inside the run.
    makespan: Time,
}

impl Window {
    fn new(scenario: &Scenario, diary: &Diary) -> Self {
        let makespan = diary.steps.last().map_or(Time::ZERO, |step| step.end);
        Window {
            start: scenario.warmup,
            end: scenario.duration.unwrap_or(Time::MAX),
            last: scenario.duration.unwrap_or(makespan),
            makespan,
        }
    }

    fn holds(&self, time: Time) -> bool {
        self.start <= time && time <= self.end
    }

    fn offers(&self, journey: &Journey) -> bool {
        journey.sent.arrival >= self.start
    }

    fn completes(&self, journey: &Journey) -> bool {
        journey.done.is_some_and(|done| self.holds(done))
    }

    /// How much of a step lies in the window.
    fn overlap(&self, step: &Step) -> Time {
        step.end.min(self.last).since(step.start.max(self.start))
    }

    fn length(&self) -> Time {
        self.last.since(self.start)
    }
}

fn summary(scenario: &Scenario, diary: &Diary, window: &Window) -> Summary {
    let offered: Vec<&Journey> = diary.journeys.iter().filter(|j| window.offers(j)).collect();
    let done: Vec<&Journey> = diary
        .journeys
        .iter()
        .filter(|j| window.completes(j))
        .collect();
    let counted: Vec<&Step> = diary
        .steps
        .iter()
        .filter(|step| window.holds(step.end))
        .collect();
    let all_steps: Vec<&Step> = diary.steps.iter().chain(diary.cut.as_ref()).collect();
    let usable_blocks = f64::from(scenario.engine.num_blocks - 1);
    let mean = |value: fn(&Step) -> u32| {
        let weighted = |step: &&Step| u128::from(value(step)) * u128::from(window.overlap(step).0);
        let sum: u128 = all_steps.iter().map(weighted).sum();
        if sum == 0 {
            0.0
        } else {
            sum as f64 / window.length().0 as f64
        }
    };
    let most = |value: fn(&Step) -> u32| counted.iter().map(|step| value(step)).max().unwrap_or(0);
    let unfinished = |j: &&Journey| j.ready.is_some() && j.done.is_none();
    Summary {
        offered: offered.len() as u64,
        offered_prompt_tokens: offered
            .iter()
            .map(|j| u64::from(j.sent.prompt_tokens))
            .sum(),
        offered_output_tokens: offered
            .iter()
            .map(|j| u64::from(j.sent.output_tokens))
            .sum(),
        dropped: offered.iter().filter(|j| j.ready.is_none()).count() as u64,
        completed: done.len() as u64,
        input_tokens: done.iter().map(|j| u64::from(j.sent.prompt_tokens)).sum(),
        output_tokens: done.iter().map(|j| u64::from(j.sent.output_tokens)).sum(),
        unfinished: diary.journeys.iter().filter(unfinished).count() as u64,
        ttft_ms: spread(done.iter().map(|j| ttft(j)).collect()),
        ttft_with_unserved_p99_ms: ttft_with_unserved_p99_ms(&offered, window),
        tpot_ms: spread(done.iter().filter_map(|j| tpot(j)).collect()),
        itl_ms: itl_ms(diary, &done, window),
        preemptions: counted.iter().map(|step| u64::from(step.preempted)).sum(),
        adapter_loads: counted.iter().map(|step| u64::from(step.gpu_loads)).sum(),
        disk_loads: counted.iter().map(|step| u64::from(step.disk_loads)).sum(),
        load_s: Time(counted.iter().map(|step| step.load.0).sum()).seconds(),
        mean_running: mean(|step| step.running),
        max_running: most(|step| step.running),
        mean_waiting: mean(|step| step.shape.waiting),
        max_waiting: most(|step| step.shape.waiting),
        mean_distinct_adapters: mean(|step| step.shape.distinct_adapters),
        kv_usage_mean: mean(|step| step.used_blocks) / usable_blocks,
        kv_usage_max: f64::from(most(|step| step.used_blocks)) / usable_blocks,
        lora_series: diary.lora_series.len() as u64,
        lora_series_adapters: (diary.lora_series.iter()).map(names).sum(),
        steps: counted.len() as u64,
        busy_s: Time(all_steps.iter().map(|step| window.overlap(step).0).sum()).seconds(),
        makespan_s: window.makespan.seconds(),
        simulated_s: scenario.duration.unwrap_or(window.makespan).seconds(),
    }
}

fn ttft(journey: &Journey) -> f64 {
    journey.ttft.map_or(f64::NAN, Time::milliseconds)
}

/// Time per output token after the first; a single token has none.
fn tpot(journey: &Journey) -> Option<f64> {
    let gaps = journey.sent.output_tokens - 1;
    (gaps > 0).then(|| decoding(journey).milliseconds() / f64::from(gaps))
}

/// From the first token to the last.
fn decoding(journey: &Journey) -> Time {
    journey
        .latest_token
        .since(journey.first_token.unwrap_or(journey.latest_token))
}

/// Quantiles of the gaps between tokens; the mean over the gaps that a client can tell apart.
fn itl_ms(diary: &Diary, done: &[&Journey], window: &Window) -> Spread {
    let in_window = diary.gaps.iter().filter(|(end, _)| window.holds(*end));
    let quantiles = spread(in_window.map(|(_, gap)| gap.milliseconds()).collect());
    let time: u128 = done.iter().map(|j| u128::from(decoding(j).0)).sum();
    let gaps: u64 = done
        .iter()
        .map(|j| u64::from(j.sent.output_tokens - 1))
        .sum();
    let merged: u64 = done.iter().map(|j| j.merged).sum();
    Spread {
        mean: time as f64 * 1e-9 / (gaps as f64 - merged as f64),
        ..quantiles
    }
}

/// TTFT of all that were offered: waited so far, or for ever.
fn ttft_with_unserved_p99_ms(offered: &[&Journey], window: &Window) -> f64 {
    let waited = |journey: &&Journey| match (journey.ttft, journey.ready) {
        (Some(ttft), _) => ttft.milliseconds(),
        (None, Some(_)) => window.last.since(journey.sent.arrival).milliseconds(),
        (None, None) => f64::INFINITY,
    };
    spread(offered.iter().map(waited).collect()).p99
}

/// Mean and quantiles (nearest rank) of some values.
fn spread(mut values: Vec<f64>) -> Spread {
    if values.is_empty() {
        return Spread {
            mean: f64::NAN,
            p50: f64::NAN,
            p90: f64::NAN,
            p99: f64::NAN,
        };
    }
    values.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values[rank.max(1) - 1]
    };
    Spread {
        mean: values.iter().sum::<f64>() / values.len() as f64,
        p50: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
    }
}

fn adapters(scenario: &Scenario, diary: &Diary, window: &Window) -> AdapterColumns {
    let mut columns = AdapterColumns::default();
    for index in 0..scenario.adapters.len() as u32 {
        let own = || {
            diary
                .journeys
                .iter()
                .filter(move |j| j.sent.adapter == index)
        };
        let offered: Vec<&Journey> = own().filter(|j| window.offers(j)).collect();
        let done: Vec<&Journey> = own().filter(|j| window.completes(j)).collect();
        let judged: Vec<&&Journey> = offered
            .iter()
            .filter(|j| j.sent.arrival < scenario.judge_until)
            .collect();
        let tokens = |j: &&Journey| u64::from(j.sent.prompt_tokens + j.sent.output_tokens);
        columns.offered.push(offered.len() as u64);
        columns
            .offered_tokens
            .push(offered.iter().map(tokens).sum());
        columns.completed.push(done.len() as u64);
        columns
            .input_tokens
            .push(done.iter().map(|j| u64::from(j.sent.prompt_tokens)).sum());
        columns
            .output_tokens
            .push(done.iter().map(|j| u64::from(j.sent.output_tokens)).sum());
        columns.ttft_sum_ms.push(done.iter().map(|j| ttft(j)).sum());
        columns.judged_offered.push(judged.len() as u64);
        columns
            .judged_completed
            .push(judged.iter().filter(|j| j.done.is_some()).count() as u64);
    }
    columns
}

fn requests(diary: &Diary) -> RequestColumns {
    let seconds = |time: Option<Time>| time.map_or(f64::NAN, Time::seconds);
    let mut columns = RequestColumns::default();
    for journey in &diary.journeys {
        let status = match (journey.ready, journey.done) {
            (None, _) => Status::Dropped,
            (Some(_), None) => Status::Unfinished,
            (Some(_), Some(_)) => Status::Completed,
        };
        columns.adapter.push(journey.sent.adapter);
        columns.arrival_s.push(journey.sent.arrival.seconds());
        columns.engine_arrival_s.push(seconds(journey.ready));
        columns.ttft_ms.push(ttft(journey));
        columns.first_token_s.push(seconds(journey.first_token));
        columns.done_s.push(seconds(journey.done));
        columns.prompt_tokens.push(journey.sent.prompt_tokens);
        columns.output_tokens.push(journey.sent.output_tokens);
        columns.preemptions.push(journey.preemptions);
        columns.status.push(status as u8);
    }
    columns
}

fn steps(diary: &Diary) -> StepColumns {
    let mut columns = StepColumns::default();
    for step in &diary.steps {
        columns.start_s.push(step.start.seconds());
        columns
            .duration_s
            .push(step.end.since(step.start).seconds());
        columns.batched_tokens.push(step.shape.batched_tokens);
        columns.scheduled.push(step.shape.scheduled);
        columns.running.push(step.running);
        columns.waiting.push(step.shape.waiting);
        columns.skipped.push(step.shape.skipped);
        columns.is_new_batch.push(step.shape.is_new);
        columns.distinct_adapters.push(step.shape.distinct_adapters);
        columns.context_tokens.push(step.shape.context_tokens);
        columns.used_blocks.push(step.used_blocks);
        columns.preempted.push(step.preempted);
        columns.finished.push(step.finished);
        columns.adapter_loads.push(step.gpu_loads);
        columns.load_s.push(step.load.seconds());
    }
    columns
}
