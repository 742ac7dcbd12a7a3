//! KV blocks: taken all or none, given back whole; free + taken is always the number of usable ones.
//!
//! A decoding request computes one token a step, so it takes a block in every `block_size`-th step,
//! and in which of them is settled when it starts: the *phase* (step number modulo `block_size`) at
//! which its computed tokens fill a block. One counter a phase says how many blocks a step takes.

use super::jump::Series;

/// Tokens a block holds, with the division that goes with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSize {
    tokens: u32,
    /// `log2(tokens)` if that is whole: engines use 16, and a shift is several times cheaper.
    shift: Option<u32>,
}

impl BlockSize {
    fn new(tokens: u32) -> Self {
        BlockSize {
            tokens,
            shift: tokens.is_power_of_two().then_some(tokens.trailing_zeros()),
        }
    }

    /// Blocks that hold this many tokens.
    #[inline]
    fn blocks(self, tokens: u32) -> u32 {
        match self.shift {
            Some(shift) => (tokens + (self.tokens - 1)) >> shift,
            None => tokens.div_ceil(self.tokens),
        }
    }

    /// Whole blocks in this many tokens.
    #[inline]
    fn whole(self, tokens: u32) -> u32 {
        match self.shift {
            Some(shift) => tokens >> shift,
            None => tokens / self.tokens,
        }
    }

    /// Tokens in the last block, 0 if that is full.
    #[inline]
    fn rest(self, tokens: u32) -> u32 {
        match self.shift {
            Some(_) => tokens & (self.tokens - 1),
            None => tokens % self.tokens,
        }
    }
}

/// The blocks of one engine. Rule 9: block 0 is the null block, never handed out.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    block_size: BlockSize,
    usable: u32,
    free: u32,
    phase: u32,
    /// Decoding requests by the phase at which they take a block.
    takers: Vec<u32>,
}

impl KvCache {
    pub(crate) fn new(num_blocks: u32, block_size: u32) -> Self {
        KvCache {
            block_size: BlockSize::new(block_size),
            usable: num_blocks - 1,
            free: num_blocks - 1,
            phase: 0,
            takers: vec![0; block_size as usize],
        }
    }

    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    #[inline]
    pub(crate) fn used(&self) -> u32 {
        self.usable - self.free
    }

    /// Rule 2: blocks that a request needs for this many computed tokens.
    #[inline]
    pub(crate) fn blocks(&self, tokens: u32) -> u32 {
        self.block_size.blocks(tokens)
    }

    #[inline]
    pub(crate) fn take(&mut self, blocks: u32) {
        debug_assert!(blocks <= self.free);
        self.free -= blocks;
    }

    #[inline]
    pub(crate) fn give_back(&mut self, blocks: u32) {
        self.free += blocks;
        debug_assert!(self.free <= self.usable);
    }

    /// Blocks that the decodes of the current step take.
    #[inline]
    pub(crate) fn decode_demand(&self) -> u32 {
        self.takers[self.phase as usize]
    }

    /// Whether a decode with this many computed tokens takes a block in the current step.
    #[inline]
    pub(crate) fn starts_block(&self, computed: u32) -> bool {
        self.block_size.rest(computed) == 0
    }

    /// A request with this many computed tokens decodes from the current step on.
    #[inline]
    pub(crate) fn add_decode(&mut self, computed: u32) {
        let phase = self.taking_phase(computed);
        self.takers[phase] += 1;
    }

    /// It does not decode in the current step any more.
    #[inline]
    pub(crate) fn remove_decode(&mut self, computed: u32) {
        let phase = self.taking_phase(computed);
        self.takers[phase] -= 1;
    }

    #[inline]
    fn taking_phase(&self, computed: u32) -> usize {
        let rest = self.block_size.rest(computed);
        // From here the request fills its block in `block_size - rest` steps; if rest is 0, now.
        let steps = if rest == 0 {
            0
        } else {
            self.block_size.tokens - rest
        };
        self.phase_after(steps)
    }

    /// The phase `steps < block_size` steps on.
    #[inline]
    fn phase_after(&self, steps: u32) -> usize {
        let phase = self.phase + steps;
        let wrapped = phase >= self.block_size.tokens;
        (if wrapped {
            phase - self.block_size.tokens
        } else {
            phase
        }) as usize
    }

    /// On to the next step.
    #[inline]
    pub(crate) fn next_step(&mut self) {
        self.phase = self.phase_after(1) as u32;
    }

    /// Of the next `steps` steps of decodes alone, those whose blocks are free.
    #[inline]
    pub(crate) fn steps_that_fit(&self, steps: u32, decodes: u32) -> u32 {
        // Every decode takes at most one block in `block_size` steps, begun ones included.
        let cycles = self.block_size.whole(steps) + 1;
        if u64::from(cycles) * u64::from(decodes) <= u64::from(self.free) {
            return steps;
        }
        let whole = self.free.checked_div(decodes).unwrap_or(0);
        let mut free = self.free - whole * decodes;
        let mut fit = u64::from(whole) * u64::from(self.block_size.tokens);
        let mut phase = self.phase as usize;
        while fit < u64::from(steps) && self.takers[phase] <= free {
            free -= self.takers[phase];
            fit += 1;
            phase = if phase + 1 == self.takers.len() {
                0
            } else {
                phase + 1
            };
        }
        fit.min(u64::from(steps)) as u32
    }

    /// Blocks taken in the `step`-th of the steps to come (0 is the current one).
    #[inline]
    pub(crate) fn demand_ahead(&self, step: u32) -> u32 {
        self.takers[self.phase_after(self.block_size.rest(step))]
    }

    /// `steps` steps of decodes alone pass; returns the sum of blocks used in each times its weight.
    #[inline]
    pub(crate) fn advance(&mut self, steps: u32, decodes: u32, weights: Series) -> u128 {
        if steps > self.block_size.tokens {
            return self.advance_cycles(steps, decodes, weights);
        }
        let mut used = self.used();
        let (mut sum, mut sum_by_step) = (0, 0);
        for step in 0..u64::from(steps) {
            used += self.takers[self.phase as usize];
            sum += u64::from(used);
            sum_by_step += u64::from(used) * step;
            self.next_step();
        }
        self.take(used - self.used());
        u128::from(weights.first) * u128::from(sum)
            + u128::from(weights.growth) * u128::from(sum_by_step)
    }

    /// The same for many steps: step `cycle * q + r` uses what step `r` does and `decodes` blocks
    /// more a cycle, so sums over `q` are of squares at most.
    fn advance_cycles(&mut self, steps: u32, decodes: u32, weights: Series) -> u128 {
        let cycle = u128::from(self.block_size.tokens);
        let (whole, rest) = (self.block_size.whole(steps), self.block_size.rest(steps));
        let more = u128::from(decodes);
        let mut used = self.used();
        let (mut sum, mut sum_by_step) = (0, 0);
        for r in 0..self.block_size.tokens {
            used += self.takers[self.phase_after(r)];
            let n = u128::from(whole + u32::from(r < rest));
            let (first, r) = (u128::from(used), u128::from(r));
            let q = n * (n - 1) / 2;
            let q_squared = q * (2 * n - 1) / 3;
            sum += first * n + more * q;
            sum_by_step += first * (r * n + cycle * q) + more * (r * q + cycle * q_squared);
        }
        let mut taken = whole * decodes;
        for _ in 0..rest {
            taken += self.decode_demand();
            self.next_step();
        }
        self.take(taken);
        u128::from(weights.first) * sum + u128::from(weights.growth) * sum_by_step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_is_taken_in_the_step_that_computes_its_first_token() {
        let kv = KvCache::new(10, 16);
        assert_eq!(kv.blocks(16), 1);
        assert_eq!(kv.blocks(17), 2);
        assert!(kv.starts_block(16));
        assert!(!kv.starts_block(15));
    }

    #[test]
    fn null_block_is_never_handed_out() {
        assert_eq!(KvCache::new(10, 16).free(), 9);
    }

    #[test]
    fn demand_of_each_step_is_that_of_walking_every_decode() {
        for block_size in [1, 3, 16] {
            let mut kv = KvCache::new(1_000, block_size);
            let mut computed = Vec::new();
            for step in 0..200_u32 {
                if step % 3 == 0 {
                    kv.add_decode(step * 7 % 50);
                    computed.push(step * 7 % 50);
                }
                if step % 5 == 4 {
                    let gone = computed.swap_remove((step as usize * 3) % computed.len());
                    kv.remove_decode(gone);
                }
                let walked = computed.iter().filter(|&&c| c % block_size == 0).count();
                assert_eq!(kv.decode_demand() as usize, walked, "step {step}");
                computed.iter_mut().for_each(|c| *c += 1);
                kv.next_step();
            }
        }
    }

    #[test]
    fn steps_fit_as_long_as_every_one_of_them_finds_its_blocks() {
        for free in 0..40 {
            let mut kv = KvCache::new(free + 1, 4);
            for computed in [0, 1, 1, 3, 6, 8, 9] {
                kv.add_decode(computed);
            }
            for asked in [1, 3, 4, 9, 30] {
                let mut walked = kv.clone();
                let mut fit = 0;
                let (weights, mut used) = (
                    Series {
                        first: 1_000,
                        growth: 7,
                    },
                    0,
                );
                while fit < asked && walked.decode_demand() <= walked.free() {
                    walked.take(walked.decode_demand());
                    walked.next_step();
                    used += u128::from(walked.used() * (1_000 + 7 * fit));
                    fit += 1;
                }
                assert_eq!(
                    kv.steps_that_fit(asked, 7),
                    fit,
                    "{free} free, {asked} asked"
                );
                let mut jumped = kv.clone();
                assert_eq!(jumped.advance(fit, 7, weights), used);
                assert_eq!(jumped.free(), walked.free());
                assert_eq!(jumped.phase, walked.phase);
            }
        }
    }
}
