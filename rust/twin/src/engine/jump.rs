//! Steps that are alike, taken at once.
//!
//! While all that runs decodes, nobody can be admitted and nothing arrives, steps differ only in the
//! context they read: it grows by one token a request. So `k` steps take `k a + b k (k - 1) / 2`, the
//! first taking `a` and each one `b` more than the one before: exact, since time is integer. A jump
//! ends with the step in which somebody ends, before the step whose blocks are not free, with the
//! first step that ends when an arrival is ready or later, and before the window begins or the run
//! ends.

use super::Engine;
use crate::metrics::{StepCounts, Weighted};
use crate::units::Time;

/// Durations `first`, `first + growth`, `first + 2 growth`, ...
#[derive(Clone, Copy, Debug)]
struct Series {
    first: u64,
    growth: u64,
}

impl Series {
    /// What `steps` steps take together.
    #[inline]
    fn total(self, steps: u64) -> u64 {
        let pairs = if steps % 2 == 0 {
            (steps / 2) * steps.saturating_sub(1)
        } else {
            steps * (steps.saturating_sub(1) / 2)
        };
        (self.first.saturating_mul(steps)).saturating_add(self.growth.saturating_mul(pairs))
    }

    /// Of at most `most` steps, how many it takes to reach `span`, or `most`.
    #[inline]
    fn steps_to(self, span: u64, most: u64) -> u64 {
        if span <= self.first {
            return most.min(1);
        }
        if self.total(most) <= span {
            return most;
        }
        // The root of b k^2 / 2 + (a - b / 2) k = span, within a step or two for rounding.
        let (a, b) = (self.first as f64, self.growth as f64);
        let linear = a - 0.5 * b;
        let root = 2.0 * span as f64 / (linear + (linear * linear + 2.0 * b * span as f64).sqrt());
        let mut steps = (root as u64).clamp(1, most);
        while steps > 1 && self.total(steps - 1) >= span {
            steps -= 1;
        }
        while steps < most && self.total(steps) < span {
            steps += 1;
        }
        steps
    }

    /// Of at most `most` steps, how many end within `span`.
    #[inline]
    fn steps_within(self, span: u64, most: u64) -> u64 {
        if self.total(most) <= span {
            return most;
        }
        self.steps_to(span + 1, most) - 1
    }
}

impl Engine<'_> {
    /// Takes all steps that are alike from here; false if the next one is not.
    #[inline]
    pub(super) fn jump(&mut self) -> bool {
        let most = u64::from(self.scheduler.alike_steps());
        if most == 0 {
            return false;
        }
        self.scheduler.alike_shape(&mut self.decision.shape);
        let shape = self.decision.shape;
        let prices = &self.scenario.step_time;
        let series = Series {
            first: prices.price(&shape).0,
            growth: prices.context_token.0 * u64::from(shape.scheduled),
        };
        let counts_from_now = self.now >= self.tally.warmup();
        let room = if counts_from_now {
            self.end.since(self.now).0
        } else {
            // A step that ends when the window begins is counted: leave it to be taken alone.
            self.tally.warmup().since(self.now).0 - 1
        };
        let within = series.steps_within(room, most);
        let until_ready = self.clients.next_ready().since(self.now).0;
        let steps = series.steps_to(until_ready, within);
        if steps == 0 {
            return false;
        }
        // Whoever ended with the step before is not in these; nobody joins, so nothing is loaded.
        self.lora_slots.walk(self.scheduler.batch());
        if counts_from_now {
            self.count(series, steps);
        }
        if self.steps.is_some() {
            self.record_alike_steps(series, steps);
        }
        self.now += Time(series.total(steps));
        self.receive_until(self.now);
        let merged_ppm = self.scenario.front_end.merged_ppm[shape.scheduled as usize];
        self.merged_ppm += steps * u64::from(merged_ppm);
        self.scheduler.advance(steps as u32, &mut self.completed);
        #[cfg(debug_assertions)]
        self.assert_laws();
        self.tally.steps(
            self.now,
            &StepCounts {
                steps,
                running: shape.scheduled,
                waiting: shape.waiting,
                ..StepCounts::default()
            },
        );
        if let Some(columns) = &mut self.steps {
            if let Some(finished) = columns.finished.last_mut() {
                *finished = self.completed.finished.len() as u32;
            }
        }
        self.finish();
        true
    }

    /// Counts gaps and time-weighted state of alike steps, all in the window.
    #[inline]
    fn count(&mut self, series: Series, steps: u64) {
        let shape = &self.decision.shape;
        let busy = series.total(steps);
        let weigh = |value: u32| u128::from(value) * u128::from(busy);
        let (used_blocks, most_used) = self.used_blocks(series, steps);
        self.tally.weighted(&Weighted {
            busy,
            running: weigh(shape.scheduled),
            waiting: weigh(shape.waiting),
            distinct_adapters: weigh(shape.distinct_adapters),
            used_blocks,
        });
        self.tally.used_blocks(most_used);
        let requests = u64::from(shape.scheduled);
        let (first, growth) = (Time(series.first), Time(series.growth));
        self.tally.gap_series(first, growth, steps, requests);
    }

    /// Sum over alike steps of blocks used times duration, and the blocks used in the last.
    #[inline]
    fn used_blocks(&self, series: Series, steps: u64) -> (u128, u32) {
        let kv_cache = self.scheduler.kv_cache();
        let cycle = u64::from(kv_cache.block_size());
        let running = u64::from(self.decision.shape.scheduled);
        let mut used = kv_cache.used();
        let mut sum = 0_u128;
        let mut last = used;
        // Step `cycle * q + r` uses what step `r` does and `running` blocks more a cycle, and lasts
        // `growth * cycle` longer a cycle: a sum over `q` of a product of two linear terms.
        let (whole, rest) = if steps <= cycle {
            (0, steps)
        } else {
            (steps / cycle, steps % cycle)
        };
        for r in 0..cycle.min(steps) {
            used += kv_cache.demand_ahead(r as u32);
            let duration = u128::from(series.first + series.growth * r);
            let n = u128::from(whole + u64::from(r < rest));
            if n == 1 {
                sum += u128::from(used) * duration;
                last = last.max(used);
                continue;
            }
            let (blocks, longer) = (u128::from(running), u128::from(series.growth * cycle));
            let q = n * (n - 1) / 2;
            let q_squared = q * (2 * n - 1) / 3;
            sum += u128::from(used) * duration * n
                + (u128::from(used) * longer + blocks * duration) * q
                + blocks * longer * q_squared;
            last = last.max(used + ((n - 1) * blocks) as u32);
        }
        (sum, last)
    }

    /// A row for each alike step; who finishes in the last is filled in when known.
    #[cold]
    fn record_alike_steps(&mut self, series: Series, steps: u64) {
        let kv_cache = self.scheduler.kv_cache();
        let mut shape = self.decision.shape;
        let mut start = self.now;
        let mut counts = StepCounts {
            running: shape.scheduled,
            waiting: shape.waiting,
            used_blocks: kv_cache.used(),
            ..StepCounts::default()
        };
        for step in 0..steps {
            counts.used_blocks += kv_cache.demand_ahead(step as u32);
            let took = Time(series.first + series.growth * step);
            if let Some(columns) = &mut self.steps {
                columns.push(start, took, &shape, &counts, 0);
            }
            start += took;
            shape.context_tokens += u64::from(shape.scheduled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_is_that_of_adding_step_by_step() {
        for (first, growth) in [(10, 0), (10, 3), (1, 1000), (7_000_000_000, 75_000)] {
            let series = Series { first, growth };
            let mut total = 0;
            for steps in 0..200 {
                assert_eq!(series.total(steps), total);
                for most in [1, 5, 60, 300] {
                    for span in [total.saturating_sub(1), total, total + 1] {
                        let to = (1..most).find(|&k| series.total(k) >= span).unwrap_or(most);
                        assert_eq!(series.steps_to(span, most), to);
                        let within = (0..=most).rfind(|&k| series.total(k) <= span);
                        assert_eq!(series.steps_within(span, most), within.unwrap_or(0));
                    }
                }
                total += first + growth * steps;
            }
        }
    }
}
