//! The summary as a stream: everything that happens is counted once, when it happens.

use super::histogram::Histogram;
use super::{Spread, Summary};
use crate::record::{AdapterColumns, StepCounts};
use crate::requests::Request;
use crate::scenario::Scenario;
use crate::units::Time;

/// Steps of the same requests: their durations are `first`, `first + growth`, and so on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AlikeSteps {
    pub(crate) steps: u64,
    pub(crate) first: Time,
    pub(crate) growth: Time,
    /// Their durations together.
    pub(crate) took: Time,
    pub(crate) running: u32,
    pub(crate) waiting: u32,
    pub(crate) distinct_adapters: u32,
    /// Sum of blocks used in each times its duration.
    pub(crate) used_blocks: u128,
    pub(crate) most_used_blocks: u32,
}

/// State of the engine, weighted by the time it lasted, in picoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Weighted {
    busy: u64,
    running: u128,
    waiting: u128,
    distinct_adapters: u128,
    used_blocks: u128,
}

/// A request that has all its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) adapter: u32,
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) arrival: Time,
    pub(crate) first_token: Time,
    pub(crate) ttft: Time,
    pub(crate) done: Time,
    /// Gaps merged away between its first token and its last.
    pub(crate) merged: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct AdapterTally {
    offered: u64,
    offered_tokens: u64,
    completed: u64,
    input_tokens: u64,
    output_tokens: u64,
    judged_offered: u64,
    judged_completed: u64,
    ttft_ps: u128,
}

/// All counts of one run.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    warmup: Time,
    judge_until: Time,
    adapters: Vec<AdapterTally>,
    offered_prompt_tokens: u64,
    dropped: u64,
    /// Of all that completed in the window.
    ttft: Histogram,
    /// Of those among them that had arrived before it: few or none, so that what was offered in the
    /// window need not be counted apart.
    ttft_of_early: Histogram,
    /// Of those offered in the window that are in flight when the run ends.
    ttft_of_unfinished: Histogram,
    tpot: Histogram,
    tpot_ps: f64,
    tpot_requests: u64,
    gaps: Histogram,
    decoding_ps: u128,
    merged: u64,
    steps: u64,
    preemptions: u64,
    gpu_loads: u64,
    disk_loads: u64,
    load: Time,
    max_running: u32,
    max_waiting: u32,
    max_used_blocks: u32,
    weighted: Weighted,
    makespan: Time,
}

impl Tally {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Tally {
            warmup: scenario.warmup,
            judge_until: scenario.judge_until,
            adapters: vec![AdapterTally::default(); scenario.adapters.len()],
            offered_prompt_tokens: 0,
            dropped: 0,
            ttft: Histogram::new(),
            ttft_of_early: Histogram::new(),
            ttft_of_unfinished: Histogram::new(),
            tpot: Histogram::new(),
            tpot_ps: 0.0,
            tpot_requests: 0,
            gaps: Histogram::new(),
            decoding_ps: 0,
            merged: 0,
            steps: 0,
            preemptions: 0,
            gpu_loads: 0,
            disk_loads: 0,
            load: Time::ZERO,
            max_running: 0,
            max_waiting: 0,
            max_used_blocks: 0,
            weighted: Weighted::default(),
            makespan: Time::ZERO,
        }
    }

    /// When the last step ended.
    #[inline]
    pub(crate) fn ended_last(&self) -> Time {
        self.makespan
    }

    /// Start of the window.
    #[inline]
    pub(crate) fn warmup(&self) -> Time {
        self.warmup
    }

    fn is_judged(&self, arrival: Time) -> bool {
        arrival >= self.warmup && arrival < self.judge_until
    }

    /// A client sent a request.
    #[inline]
    pub(crate) fn arrival(&mut self, request: &Request) {
        if request.arrival < self.warmup {
            return;
        }
        let prompt_tokens = u64::from(request.prompt_tokens);
        let tally = &mut self.adapters[request.adapter as usize];
        tally.offered += 1;
        tally.offered_tokens += prompt_tokens + u64::from(request.output_tokens);
        tally.judged_offered += u64::from(request.arrival < self.judge_until);
        self.offered_prompt_tokens += prompt_tokens;
    }

    /// And was turned away.
    #[inline]
    pub(crate) fn dropped(&mut self, arrival: Time) {
        self.dropped += u64::from(arrival >= self.warmup);
    }

    /// A request is in flight when the run ends: its TTFT, or its age if it has no token.
    pub(crate) fn unfinished(&mut self, arrival: Time, ttft: Time) {
        if arrival >= self.warmup {
            self.ttft_of_unfinished.add(ttft, 1);
        }
    }

    /// `count` gaps between tokens, each ending at `end`.
    #[inline]
    pub(crate) fn gaps(&mut self, end: Time, gap: Time, count: u64) {
        if end >= self.warmup {
            self.gaps.add(gap, count);
        }
    }

    #[inline]
    pub(crate) fn done(&mut self, done: &Done) {
        let judged = self.is_judged(done.arrival);
        let adapter = &mut self.adapters[done.adapter as usize];
        adapter.judged_completed += u64::from(judged);
        if done.done < self.warmup {
            return;
        }
        adapter.completed += 1;
        adapter.input_tokens += u64::from(done.prompt_tokens);
        adapter.output_tokens += u64::from(done.output_tokens);
        adapter.ttft_ps += u128::from(done.ttft.0);
        self.ttft.add(done.ttft, 1);
        if done.arrival < self.warmup {
            self.ttft_of_early.add(done.ttft, 1);
        }
        let decoding = done.done.since(done.first_token);
        self.decoding_ps += u128::from(decoding.0);
        self.merged += done.merged;
        if done.output_tokens > 1 {
            let tpot = decoding.0 as f64 / f64::from(done.output_tokens - 1);
            self.tpot_ps += tpot;
            self.tpot_requests += 1;
            self.tpot.add(Time((tpot + 0.5) as u64), 1);
        }
    }

    /// Counts steps that ended at `end`, if that is in the window.
    #[inline]
    pub(crate) fn steps(&mut self, end: Time, counts: &StepCounts) {
        self.makespan = end;
        if end < self.warmup {
            return;
        }
        self.steps += counts.steps;
        self.preemptions += u64::from(counts.preempted);
        self.gpu_loads += u64::from(counts.gpu_loads);
        self.disk_loads += u64::from(counts.disk_loads);
        self.load += counts.load;
        self.max_running = self.max_running.max(counts.running);
        self.max_waiting = self.max_waiting.max(counts.waiting);
        self.max_used_blocks = self.max_used_blocks.max(counts.used_blocks);
    }

    /// Adds a state that lasted from `start` to `end`, as far as that is in the window.
    #[inline]
    pub(crate) fn state(&mut self, start: Time, end: Time, counts: &StepCounts, distinct: u32) {
        let lasted = end.since(start.max(self.warmup)).0;
        let weigh = |value: u32| u128::from(value) * u128::from(lasted);
        self.weighted.busy += lasted;
        self.weighted.running += weigh(counts.running);
        self.weighted.waiting += weigh(counts.waiting);
        self.weighted.distinct_adapters += weigh(distinct);
        self.weighted.used_blocks += weigh(counts.used_blocks);
    }

    /// Counts alike steps, the last of which ended at `end`: all of them, or none if they are not
    /// in the window.
    #[inline]
    pub(crate) fn alike(&mut self, end: Time, is_counted: bool, alike: &AlikeSteps) {
        self.makespan = end;
        if !is_counted {
            return;
        }
        let weigh = |value: u32| u128::from(value) * u128::from(alike.took.0);
        self.weighted.busy += alike.took.0;
        self.weighted.running += weigh(alike.running);
        self.weighted.waiting += weigh(alike.waiting);
        self.weighted.distinct_adapters += weigh(alike.distinct_adapters);
        self.weighted.used_blocks += alike.used_blocks;
        self.steps += alike.steps;
        self.max_running = self.max_running.max(alike.running);
        self.max_waiting = self.max_waiting.max(alike.waiting);
        self.max_used_blocks = self.max_used_blocks.max(alike.most_used_blocks);
        // One gap for each request in each step.
        let requests = u64::from(alike.running);
        self.gaps
            .add_series(alike.first, alike.growth, alike.steps, requests);
    }

    /// The end of the run: its duration, or else of its last step.
    pub(crate) fn end(&self, scenario: &Scenario) -> Time {
        scenario.duration.unwrap_or(self.makespan)
    }

    /// The totals; `unfinished` requests are still in flight.
    pub(crate) fn summary(
        &self,
        scenario: &Scenario,
        unfinished: u64,
        series: (u64, u64),
    ) -> Summary {
        let end = self.end(scenario);
        let mut ttft_of_offered = self.ttft.clone();
        ttft_of_offered.add_all(&self.ttft_of_unfinished);
        ttft_of_offered.remove_all(&self.ttft_of_early);
        ttft_of_offered.add_infinite(self.dropped);
        let window_ps = end.since(self.warmup).0 as f64;
        let mean = |sum: u128| {
            if sum == 0 {
                0.0
            } else {
                sum as f64 / window_ps
            }
        };
        let total = |count: fn(&AdapterTally) -> u64| self.adapters.iter().map(count).sum::<u64>();
        let completed = total(|adapter| adapter.completed);
        let output_tokens = total(|adapter| adapter.output_tokens);
        let ttft_ps: u128 = self.adapters.iter().map(|adapter| adapter.ttft_ps).sum();
        let usable_blocks = f64::from(scenario.engine.num_blocks - 1);
        let gaps_left = (output_tokens - completed) as f64 - self.merged as f64;
        Summary {
            offered: total(|adapter| adapter.offered),
            offered_prompt_tokens: self.offered_prompt_tokens,
            offered_output_tokens: total(|adapter| adapter.offered_tokens)
                - self.offered_prompt_tokens,
            dropped: self.dropped,
            completed,
            input_tokens: total(|adapter| adapter.input_tokens),
            output_tokens,
            unfinished,
            ttft_ms: spread(&self.ttft, ttft_ps as f64 * 1e-9 / completed as f64),
            ttft_with_unserved_p99_ms: ttft_of_offered.quantiles_ms([0.99])[0],
            tpot_ms: spread(&self.tpot, self.tpot_ps * 1e-9 / self.tpot_requests as f64),
            itl_ms: spread(&self.gaps, self.decoding_ps as f64 * 1e-9 / gaps_left),
            preemptions: self.preemptions,
            adapter_loads: self.gpu_loads,
            disk_loads: self.disk_loads,
            load_s: self.load.seconds(),
            mean_running: mean(self.weighted.running),
            max_running: self.max_running,
            mean_waiting: mean(self.weighted.waiting),
            max_waiting: self.max_waiting,
            mean_distinct_adapters: mean(self.weighted.distinct_adapters),
            kv_usage_mean: mean(self.weighted.used_blocks) / usable_blocks,
            kv_usage_max: f64::from(self.max_used_blocks) / usable_blocks,
            steps: self.steps,
            lora_series: series.0,
            lora_series_adapters: series.1,
            busy_s: Time(self.weighted.busy).seconds(),
            makespan_s: self.makespan.seconds(),
            simulated_s: end.seconds(),
        }
    }

    /// One row an adapter.
    pub(crate) fn adapter_columns(&self) -> AdapterColumns {
        let column = |value: fn(&AdapterTally) -> u64| self.adapters.iter().map(value).collect();
        AdapterColumns {
            offered: column(|adapter| adapter.offered),
            offered_tokens: column(|adapter| adapter.offered_tokens),
            completed: column(|adapter| adapter.completed),
            input_tokens: column(|adapter| adapter.input_tokens),
            output_tokens: column(|adapter| adapter.output_tokens),
            ttft_sum_ms: (self.adapters.iter())
                .map(|adapter| adapter.ttft_ps as f64 * 1e-9)
                .collect(),
            judged_offered: column(|adapter| adapter.judged_offered),
            judged_completed: column(|adapter| adapter.judged_completed),
        }
    }
}

fn spread(histogram: &Histogram, mean: f64) -> Spread {
    let [p50, p90, p99] = histogram.quantiles_ms([0.5, 0.9, 0.99]);
    Spread {
        mean,
        p50,
        p90,
        p99,
    }
}
