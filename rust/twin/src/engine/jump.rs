//! Steps that are alike, taken at once.
//!
//! While all that runs decodes and nobody can be admitted, steps differ only in the context they read:
//! it grows by one token a request. So `k` steps take `k a + b k (k - 1) / 2`, the first taking `a` and
//! each one `b` more than the one before: exact, since time is integer. A jump ends with the step in
//! which somebody ends, before the step whose blocks are not free, with the first step that ends when
//! a request that may be admitted is ready, or later, and before the window begins or the run ends.

use super::Engine;
use crate::metrics::AlikeSteps;
use crate::record::StepCounts;
use crate::units::Time;

/// Durations `first`, `first + growth`, `first + 2 growth`, ...
#[derive(Clone, Copy, Debug)]
pub(crate) struct Series {
    pub(crate) first: u64,
    pub(crate) growth: u64,
}

impl Series {
    /// What `steps` steps take together.
    #[inline]
    fn total(self, steps: u64) -> u64 {
        // Steps are counted in 32 bits: their square fits.
        let pairs = steps * steps.saturating_sub(1) / 2;
        (self.first.saturating_mul(steps)).saturating_add(self.growth.saturating_mul(pairs))
    }

    /// How many steps it takes to reach `span`, at least one, and what they take together.
    #[inline]
    fn reach(self, span: u64) -> (u64, u64) {
        if span <= self.first {
            return (1, self.first);
        }
        let mut steps = self.estimate(span as f64);
        let mut total = self.total(steps);
        while total < span {
            total += self.first + self.growth * steps;
            steps += 1;
        }
        while steps > 1 && total - self.last_of(steps) >= span {
            total -= self.last_of(steps);
            steps -= 1;
        }
        (steps, total)
    }

    /// About how many steps reach `span`.
    #[inline]
    fn estimate(self, span: f64) -> u64 {
        /// Up to so many steps, growth is left to be mended.
        const FEW: f64 = 32.0;
        let (a, b) = (self.first as f64, self.growth as f64);
        let mut steps = span / a;
        if steps > FEW {
            // The root of b k^2 / 2 + (a - b / 2) k = span.
            let linear = a - 0.5 * b;
            steps = 2.0 * span / (linear + (linear * linear + 2.0 * b * span).sqrt());
        }
        // To an integer by way of i64, which processors convert to; one more, since it was cut off.
        (steps as i64 as u64) + 1
    }

    /// What the last of so many steps takes.
    #[inline]
    fn last_of(self, steps: u64) -> u64 {
        self.first + self.growth * (steps - 1)
    }

    /// Of at most `most` steps, those up to the first that ends at `ready` or later, but only those
    /// that end within `room`; and what they take together.
    #[inline]
    fn steps_until(self, ready: u64, room: u64, most: u64) -> (u64, u64) {
        let total = self.total(most);
        if total <= ready.min(room) {
            return (most, total);
        }
        let (steps, total) = self.reach(ready.min(room.saturating_add(1)));
        if total > room {
            (steps - 1, total - self.last_of(steps))
        } else {
            (steps, total)
        }
    }
}

impl Engine<'_> {
    /// Takes all steps that are alike from here; false if the next one is not.
    ///
    /// An arrival that joins the queue changes the price of the steps after it and nothing else, as
    /// long as it cannot be admitted: the steps are taken in stretches from one such to the next.
    #[inline]
    pub(super) fn jump(&mut self) -> bool {
        let most = u64::from(self.scheduler.alike_steps());
        let mut left = most;
        while left > 0 {
            let steps = self.stretch(left, left == most);
            left -= steps;
            if steps == 0 || left == 0 {
                break;
            }
            self.receive_until(Time(self.now.0 + 1));
            self.clients.hand_over(self.now, &mut self.scheduler);
            self.report();
            if !self.scheduler.is_settled() {
                break;
            }
        }
        let taken = most - left;
        if taken == 0 {
            return false;
        }
        if left == 0 {
            self.scheduler.end_decodes(&mut self.completed);
            #[cfg(debug_assertions)]
            self.assert_laws();
            self.finish();
            if let Some(columns) = &mut self.steps {
                if let Some(finished) = columns.finished.last_mut() {
                    *finished = self.completed.finished.len() as u32;
                }
            }
        }
        true
    }

    /// Takes of `most` alike steps those before the next request that is ready; says how many.
    ///
    /// Not inlined: the loop around it would have no registers left for it.
    #[inline(never)]
    fn stretch(&mut self, most: u64, is_first: bool) -> u64 {
        self.scheduler.alike_shape(&mut self.decision.shape);
        self.decision.shape.is_new = self.batch_changed;
        // A new batch costs more in its first step: that one is taken alone.
        let most = if self.batch_changed { 1 } else { most };
        let shape = &self.decision.shape;
        let prices = &self.scenario.step_time;
        let series = Series {
            first: prices.price(shape).0,
            growth: prices.context_token.0 * u64::from(shape.scheduled),
        };
        let is_counted = self.now >= self.tally.warmup();
        let room = if is_counted {
            self.end.since(self.now).0
        } else {
            // A step that ends when the window begins is counted: leave it to be taken alone.
            self.tally.warmup().since(self.now).0 - 1
        };
        let until_ready = self.clients.next_ready().since(self.now).0;
        let (steps, took) = series.steps_until(until_ready, room, most);
        if steps == 0 {
            return 0;
        }
        self.batch_changed = false;
        if is_first {
            // Whoever ended with the step before is not in these; nobody joins, so nothing is loaded.
            self.lora_slots.walk(self.scheduler.batch());
        }
        if self.steps.is_some() {
            self.record_alike_steps(series, steps);
        }
        if let (Some(scrapes), true) = (&mut self.clients.scrapes, steps > 1) {
            scrapes.report(self.decision.shape.scheduled);
        }
        let start = self.now;
        self.now += Time(took);
        self.receive_until(self.now);
        self.merge(self.decision.shape.scheduled, |time| {
            match time.0.checked_sub(start.0 + 1) {
                Some(span) => series.steps_until(u64::MAX, span, steps).0,
                None => 0,
            }
        });
        let used_blocks = self.scheduler.advance(steps as u32, series);
        self.tally.alike(
            self.now,
            is_counted,
            &AlikeSteps {
                steps,
                first: Time(series.first),
                growth: Time(series.growth),
                took: Time(took),
                running: self.decision.shape.scheduled,
                waiting: self.decision.shape.waiting,
                distinct_adapters: self.decision.shape.distinct_adapters,
                used_blocks,
                most_used_blocks: self.scheduler.kv_cache().used(),
            },
        );
        steps
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
                    for ready in [total.saturating_sub(1), total, total + 1, u64::MAX] {
                        let to = (1..most).find(|&k| series.total(k) >= ready);
                        for room in [0, total / 2, total, total + 1, u64::MAX] {
                            let within = (0..=most).rfind(|&k| series.total(k) <= room);
                            let steps = to.unwrap_or(most).min(within.unwrap_or(0));
                            let found = series.steps_until(ready, room, most);
                            assert_eq!(found, (steps, series.total(steps)));
                        }
                    }
                }
                total += first + growth * steps;
            }
        }
    }
}
