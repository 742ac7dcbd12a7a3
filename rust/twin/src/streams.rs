//! The random stream of (seed, adapter, purpose): no generator is shared, so an adapter's draws are
//! the same whatever else is in the fleet.

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::scenario::Scenario;

/// What a stream is drawn for; each purpose has a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Gaps between an adapter's requests.
    Arrivals,
    /// Prompt and output lengths of an adapter's requests.
    Lengths,
    /// The adapter's place in the order in which the engine walks a batch's adapters.
    Walk,
}

/// The generator of one adapter's draws for one purpose.
#[must_use]
pub fn stream(seed: u64, key: u64, purpose: Purpose) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(hash(seed, key, purpose))
}

/// The order in which the engine walks a batch's adapters: one permutation a seed, sorted by a hash
/// of (seed, adapter key), ties by index. Entry `i` is the adapter walked `i`-th.
#[must_use]
pub fn walk_order(scenario: &Scenario) -> Vec<u32> {
    let place = |index: u32| {
        let key = scenario.adapters[index as usize].key;
        (hash(scenario.seed, key, Purpose::Walk), index)
    };
    let mut order: Vec<u32> = (0..scenario.adapters.len() as u32).collect();
    order.sort_by_cached_key(|&index| place(index));
    order
}

fn hash(seed: u64, key: u64, purpose: Purpose) -> u64 {
    let tag = match purpose {
        Purpose::Arrivals => 0x6172_7269_7661_6c73,
        Purpose::Lengths => 0x6c65_6e67_7468_7300,
        Purpose::Walk => 0x7761_6c6b_0000_0000,
    };
    mix(mix(mix(seed) ^ key) ^ tag)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection whose output bits each depend
/// on every input bit.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_differ_by_seed_key_and_purpose() {
        let first = |seed, key, purpose| stream(seed, key, purpose).next_u64();
        let base = first(1, 2, Purpose::Arrivals);
        assert_eq!(base, first(1, 2, Purpose::Arrivals));
        assert_ne!(base, first(2, 1, Purpose::Arrivals));
        assert_ne!(base, first(1, 3, Purpose::Arrivals));
        assert_ne!(base, first(1, 2, Purpose::Lengths));
    }
}
