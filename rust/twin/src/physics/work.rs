//! What the adapters of a GPU ask for, as sums that are updated in O(1).
//!
//! The sums are integers (fixed point), so any order of adds and removes that ends with the same
//! adapters gives the same bits.

/// Bins of log2 decode work (tokens generated a second): bin 0 is all of 2^-14 and less.
pub const BINS: usize = 28;

/// `log2` of decode work at the upper edge of bin 0.
const LOWEST_BIN_LOG2: i32 = -14;

/// Fixed-point units to one.
const FIXED_ONE: f64 = (1u64 << 40) as f64;

/// What one adapter asks of a GPU. Rates in requests a second, lengths in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AdapterWork {
    /// The base model itself: takes no slot, is never loaded.
    pub is_base: bool,
    /// Mean rate of requests.
    pub rate_rps: f64,
    /// Mean of the prompt's tokens.
    pub prompt_tokens: f64,
    /// Mean of the output's tokens.
    pub output_tokens: f64,
    /// Mean of prompt x output.
    pub prompt_output: f64,
    /// Mean of output squared.
    pub output_square: f64,
    /// Mean of prompt squared.
    pub prompt_square: f64,
    /// Squared coefficient of variation of the gaps between its requests; 1 for Poisson.
    pub gap_cv_square: f64,
    /// LoRA rank.
    pub rank: f64,
    /// Copying it into a slot, seconds.
    pub gpu_load_s: f64,
    /// Reading it from disk, seconds.
    pub disk_load_s: f64,
}

/// The sums kept, as places in [`WorkSums`]. `Rate` to `OutputMeans` are over all adapters,
/// weighted by rate; the rest leave the base model out.
#[derive(Clone, Copy)]
enum Sum {
    Rate,
    Prompt,
    Output,
    PromptOutput,
    OutputSquare,
    PromptSquare,
    GapCvSquare,
    PromptMeans,
    OutputMeans,
    Rank,
    GpuLoad,
    DiskLoad,
    AdapterRate,
    WorkSquare,
}

const SUMS: usize = Sum::WorkSquare as usize + 1;

impl AdapterWork {
    /// In the order of [`Sum`].
    fn terms(&self) -> [f64; SUMS] {
        let rate = self.rate_rps;
        let work = rate * self.output_tokens;
        let own = if self.is_base { 0.0 } else { 1.0 };
        [
            rate,
            rate * self.prompt_tokens,
            work,
            rate * self.prompt_output,
            rate * self.output_square,
            rate * self.prompt_square,
            work * self.gap_cv_square,
            rate * self.prompt_tokens * self.prompt_tokens,
            work * self.output_tokens,
            own * self.rank,
            own * self.gpu_load_s,
            own * self.disk_load_s,
            own * rate,
            own * work * work,
        ]
    }

    /// Requests that come together: were clumps Poisson and their sizes geometric, with this mean the
    /// counts would vary as they do.
    fn clump(&self) -> f64 {
        0.5 * (self.gap_cv_square.max(1.0) + 1.0)
    }

    fn bin(&self) -> usize {
        let log2 = (self.rate_rps * self.output_tokens).log2().ceil();
        // A saturating cast: no work at all (minus infinity) falls into bin 0.
        (log2 as i32)
            .saturating_sub(LOWEST_BIN_LOG2)
            .clamp(0, BINS as i32 - 1) as usize
    }
}

/// Sums over the adapters on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkSums {
    adapters: u32,
    bases: u32,
    sums: [i128; SUMS],
    bin_adapters: [u32; BINS],
    bin_work: [i128; BINS],
    bin_clumps: [i128; BINS],
}

impl WorkSums {
    /// Counts an adapter in.
    pub fn add(&mut self, work: &AdapterWork) {
        self.add_signed(work, 1);
    }

    /// Counts out an adapter that was counted in with the same figures.
    ///
    /// # Panics
    /// If there is no adapter of its kind and size to remove.
    pub fn remove(&mut self, work: &AdapterWork) {
        self.add_signed(work, -1);
    }

    fn add_signed(&mut self, work: &AdapterWork, sign: i8) {
        let moved = |count: u32| {
            count
                .checked_add_signed(i32::from(sign))
                .expect("only what was added is removed")
        };
        if work.is_base {
            self.bases = moved(self.bases);
        } else {
            let bin = work.bin();
            self.bin_adapters[bin] = moved(self.bin_adapters[bin]);
            let tokens = work.rate_rps * work.output_tokens;
            self.bin_work[bin] += i128::from(sign) * fixed(tokens);
            self.bin_clumps[bin] += i128::from(sign) * fixed(tokens / work.clump());
            self.adapters = moved(self.adapters);
        }
        for (sum, term) in self.sums.iter_mut().zip(work.terms()) {
            *sum += i128::from(sign) * fixed(term);
        }
    }

    /// Adapters counted in, the base model not among them.
    #[must_use]
    pub fn adapters(&self) -> u32 {
        self.adapters
    }

    /// All that are counted in, shares of the base model's traffic among them.
    #[must_use]
    pub fn loads(&self) -> u32 {
        self.adapters + self.bases
    }

    /// Requests a second of all that are counted in.
    #[must_use]
    pub fn rate_rps(&self) -> f64 {
        self.sum(Sum::Rate)
    }

    fn sum(&self, which: Sum) -> f64 {
        self.sums[which as usize] as f64 / FIXED_ONE
    }

    /// The sums as means, ready to be solved.
    #[must_use]
    pub fn demand(&self) -> Demand {
        let (rate, output) = (self.sum(Sum::Rate), self.sum(Sum::Output));
        let adapters = f64::from(self.adapters);
        if rate <= 0.0 || output <= 0.0 {
            return Demand {
                adapters,
                ..Demand::NOTHING
            };
        }
        let prompt = self.sum(Sum::Prompt);
        let of_adapters = |sum| self.sum(sum) / adapters.max(1.0);
        let adapter_rate = self.sum(Sum::AdapterRate);
        let mut demand = Demand {
            adapters,
            rate_rps: rate,
            prompt_tokens: prompt / rate,
            output_tokens: (output / rate).max(1.0),
            prompt_output: self.sum(Sum::PromptOutput) / rate,
            output_square: self.sum(Sum::OutputSquare) / rate,
            prompt_square: self.sum(Sum::PromptSquare) / rate,
            gap_cv_square: self.sum(Sum::GapCvSquare) / output,
            prompt_spread: spread(self.sum(Sum::PromptMeans), prompt, rate),
            output_spread: spread(self.sum(Sum::OutputMeans), output, rate),
            rank: of_adapters(Sum::Rank),
            gpu_load_s: of_adapters(Sum::GpuLoad),
            disk_load_s: of_adapters(Sum::DiskLoad),
            base_share: (1.0 - adapter_rate / rate).clamp(0.0, 1.0),
            ..Demand::NOTHING
        };
        self.put_groups(&mut demand);
        let work: f64 = demand
            .groups()
            .iter()
            .map(|group| group.adapters * group.work)
            .sum();
        let clumps: f64 = demand
            .groups()
            .iter()
            .map(|group| group.adapters * group.clumps)
            .sum();
        demand.clump = if clumps > 0.0 {
            (work / clumps).max(1.0)
        } else {
            1.0
        };
        demand.effective_adapters = work * work / self.sum(Sum::WorkSquare).max(1e-12);
        demand.hottest_share = demand
            .groups()
            .first()
            .map_or(0.0, |group| group.work / output);
        demand
    }

    fn put_groups(&self, demand: &mut Demand) {
        for bin in (0..BINS).rev() {
            let adapters = f64::from(self.bin_adapters[bin]);
            let work = self.bin_work[bin] as f64 / FIXED_ONE;
            if work > 0.0 {
                demand.groups[demand.n_groups] = Group {
                    adapters,
                    work: work / adapters,
                    clumps: self.bin_clumps[bin] as f64 / FIXED_ONE / adapters,
                };
                demand.n_groups += 1;
            }
        }
    }
}

fn fixed(term: f64) -> i128 {
    (term * FIXED_ONE).round() as i128
}

/// Variance of a mean over requests, by its square.
fn spread(square_sum: f64, sum: f64, rate: f64) -> f64 {
    (square_sum * rate / (sum * sum).max(1e-12) - 1.0).max(0.0)
}

/// Adapters of like decode work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Group {
    /// How many.
    pub adapters: f64,
    /// Tokens generated a second, by one of them.
    pub work: f64,
    /// The same if each clump of its requests were one request.
    pub clumps: f64,
}

/// What all adapters of a GPU ask for together. Means are over requests unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Adapters, the base model not counted.
    pub adapters: f64,
    /// Requests a second.
    pub rate_rps: f64,
    /// Mean prompt tokens.
    pub prompt_tokens: f64,
    /// Mean output tokens, at least 1.
    pub output_tokens: f64,
    /// Mean of prompt x output.
    pub prompt_output: f64,
    /// Mean of output squared.
    pub output_square: f64,
    /// Mean of prompt squared.
    pub prompt_square: f64,
    /// Squared variation of the gaps, mean over generated tokens.
    pub gap_cv_square: f64,
    /// Requests of an adapter that come together, mean over clumps.
    pub clump: f64,
    /// Variance of the prompt means between adapters, by the squared mean.
    pub prompt_spread: f64,
    /// Variance of the output means between adapters, by the squared mean.
    pub output_spread: f64,
    /// Mean rank over adapters.
    pub rank: f64,
    /// Mean time to copy an adapter into a slot, seconds, over adapters.
    pub gpu_load_s: f64,
    /// Mean time to read an adapter from disk, seconds, over adapters.
    pub disk_load_s: f64,
    /// Share of the requests that are the base model's.
    pub base_share: f64,
    /// Equal adapters among which decode work would be as concentrated.
    pub effective_adapters: f64,
    /// Share of the decode work that one adapter of the busiest bin has.
    pub hottest_share: f64,
    groups: [Group; BINS],
    n_groups: usize,
}

impl Demand {
    const NOTHING: Demand = Demand {
        adapters: 0.0,
        rate_rps: 0.0,
        prompt_tokens: 0.0,
        output_tokens: 1.0,
        prompt_output: 0.0,
        output_square: 1.0,
        prompt_square: 0.0,
        gap_cv_square: 1.0,
        clump: 1.0,
        prompt_spread: 0.0,
        output_spread: 0.0,
        rank: 0.0,
        gpu_load_s: 0.0,
        disk_load_s: 0.0,
        base_share: 0.0,
        effective_adapters: 0.0,
        hottest_share: 0.0,
        groups: [Group {
            adapters: 0.0,
            work: 0.0,
            clumps: 0.0,
        }; BINS],
        n_groups: 0,
    };

    /// Adapters by decode work, busiest first; those without any left out.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups[..self.n_groups]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(rate_rps: f64, output_tokens: f64) -> AdapterWork {
        AdapterWork {
            rate_rps,
            prompt_tokens: 200.0,
            output_tokens,
            prompt_output: 200.0 * output_tokens,
            output_square: output_tokens * output_tokens,
            prompt_square: 40_000.0,
            gap_cv_square: 1.0,
            rank: 16.0,
            gpu_load_s: 0.007,
            disk_load_s: 0.1,
            is_base: false,
        }
    }

    #[test]
    fn adds_and_removes_in_any_order_leave_the_same_bits() {
        let (one, two, three) = (
            adapter(0.1, 100.0),
            adapter(3e-7, 7.3),
            adapter(12.7, 300.1),
        );
        let mut sums = WorkSums::default();
        for work in [&three, &one, &two] {
            sums.add(work);
        }
        sums.remove(&three);
        let mut fresh = WorkSums::default();
        fresh.add(&two);
        fresh.add(&one);
        assert_eq!(sums, fresh);
        sums.remove(&one);
        sums.remove(&two);
        assert_eq!(sums, WorkSums::default());
    }

    #[test]
    fn means_are_weighted_by_requests() {
        let mut sums = WorkSums::default();
        sums.add(&adapter(1.0, 100.0));
        sums.add(&adapter(3.0, 200.0));
        let demand = sums.demand();
        assert!((demand.output_tokens - 175.0).abs() < 1e-9);
        assert!((demand.effective_adapters - 700.0 * 700.0 / 370_000.0).abs() < 1e-6);
        assert!((demand.hottest_share - 600.0 / 700.0).abs() < 1e-9);
        assert_eq!(demand.groups().len(), 2);
    }

    #[test]
    fn an_adapter_without_requests_counts_but_asks_for_nothing() {
        let mut sums = WorkSums::default();
        sums.add(&adapter(0.0, 100.0));
        let demand = sums.demand();
        assert_eq!((demand.adapters, demand.rate_rps), (1.0, 0.0));
        assert!(demand.groups().is_empty());
    }
}
