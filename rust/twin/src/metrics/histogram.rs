//! Quantiles of times without keeping them: counts in buckets that grow with the value.

use crate::units::Time;

/// Bits of a value that tell buckets apart, the leading one included: a bucket is between 1/512 and
/// 1/256 (0.4 %) of its values wide; values below 512 ps have one each.
const BITS: u32 = 9;
/// Buckets of values between one power of two and the next.
const OCTAVE: usize = 1 << (BITS - 1);

/// Counts by bucket, and of values that are infinite.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// Of the octaves from the lowest met to the highest: most runs meet a tenth of those there are,
    /// and memory that is touched for the first time costs more than all else that a short run does.
    counts: Vec<u64>,
    /// The bucket that `counts` begins with.
    lowest: usize,
    infinite: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Histogram::default()
    }

    /// The bucket of a value.
    #[inline]
    fn bucket(value: Time) -> usize {
        // The lowest bit of the lowest octave, so that a shift below none need not be asked for.
        let shift = (u64::BITS - BITS) - (value.0 | OCTAVE as u64).leading_zeros();
        ((shift as usize) << (BITS - 1)) + (value.0 >> shift) as usize
    }

    /// The smallest value of a bucket.
    #[inline]
    fn lower_bound(bucket: usize) -> u64 {
        let shift = (bucket >> (BITS - 1)).saturating_sub(1);
        ((bucket - (shift << (BITS - 1))) as u64) << shift
    }

    #[inline]
    pub(crate) fn add(&mut self, value: Time, count: u64) {
        self.add_to(Histogram::bucket(value), count);
    }

    #[inline]
    fn add_to(&mut self, bucket: usize, count: u64) {
        match self.counts.get_mut(bucket.wrapping_sub(self.lowest)) {
            Some(counted) => *counted += count,
            None => {
                self.widen_to(bucket);
                self.counts[bucket - self.lowest] += count;
            }
        }
    }

    /// Makes room for the bucket's octave and all between it and those there are.
    #[cold]
    fn widen_to(&mut self, bucket: usize) {
        let octave = bucket / OCTAVE * OCTAVE;
        if self.counts.is_empty() {
            self.lowest = octave;
        }
        if octave < self.lowest {
            let more = self.lowest - octave;
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
            self.lowest = octave;
        }
        let buckets = (octave + OCTAVE - self.lowest).max(self.counts.len());
        self.counts.resize(buckets, 0);
    }

    /// Adds what another has counted.
    pub(crate) fn add_all(&mut self, other: &Histogram) {
        for (bucket, &count) in (other.lowest..).zip(&other.counts) {
            if count > 0 {
                self.add_to(bucket, count);
            }
        }
    }

    /// Takes away what another has counted, of which this has no less.
    pub(crate) fn remove_all(&mut self, other: &Histogram) {
        for (bucket, &count) in (other.lowest..).zip(&other.counts) {
            if count > 0 {
                self.counts[bucket - self.lowest] -= count;
            }
        }
    }

    pub(crate) fn add_infinite(&mut self, count: u64) {
        self.infinite += count;
    }

    /// Adds `count` to each of `terms` values that begin with `first` and grow by `growth`.
    #[inline]
    pub(crate) fn add_series(&mut self, first: Time, growth: Time, terms: u64, count: u64) {
        let last = Time(first.0 + growth.0 * (terms - 1));
        let last_bucket = Histogram::bucket(last);
        let mut value = first;
        let mut left = terms;
        loop {
            let bucket = Histogram::bucket(value);
            if bucket == last_bucket {
                self.add_to(bucket, count * left);
                return;
            }
            // Those below the next bucket; growth is not zero, or this were the last one.
            let room = Histogram::lower_bound(bucket + 1) - value.0;
            let terms = room.div_ceil(growth.0);
            self.add_to(bucket, count * terms);
            value += growth * terms;
            left -= terms;
        }
    }

    /// The nearest-rank quantiles at ascending shares, milliseconds; NaN when empty.
    pub(crate) fn quantiles_ms<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let total = self.counts.iter().sum::<u64>() + self.infinite;
        let mut quantiles = [f64::NAN; N];
        if total == 0 {
            return quantiles;
        }
        let mut below = 0;
        let mut buckets = (self.lowest..).zip(&self.counts);
        let mut current = None;
        for (share, quantile) in shares.iter().zip(&mut quantiles) {
            let rank = ((share * total as f64).ceil() as u64).max(1);
            while below < rank {
                let Some((bucket, &count)) = buckets.next() else {
                    current = None;
                    break;
                };
                below += count;
                current = Some(bucket);
            }
            *quantile = current.map_or(f64::INFINITY, |bucket| {
                let lower = Histogram::lower_bound(bucket);
                let upper = Histogram::lower_bound(bucket + 1);
                Time(lower + (upper - 1 - lower) / 2).milliseconds()
            });
        }
        quantiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_at_most_0_4_percent_wide() {
        let mut bucket = 0;
        for value in (0..5_000).chain((0..50_000).map(|i| 5_000 + i * i)) {
            let found = Histogram::bucket(Time(value));
            assert!(found >= bucket);
            bucket = found;
            let (lower, upper) = (
                Histogram::lower_bound(found),
                Histogram::lower_bound(found + 1),
            );
            assert!((lower..upper).contains(&value));
            assert!(upper - lower == 1 || (upper - lower) as f64 / lower as f64 <= 0.004);
        }
        assert_eq!(
            Histogram::bucket(Time::MAX),
            (64 - BITS as usize + 2) * OCTAVE - 1
        );
    }

    #[test]
    fn series_counts_as_its_terms_do() {
        for (first, growth, terms) in [(1_000_000, 0, 5), (1_000, 3, 900), (77_777, 70, 4_000)] {
            let (mut whole, mut single) = (Histogram::new(), Histogram::new());
            whole.add_series(Time(first), Time(growth), terms, 3);
            for term in 0..terms {
                single.add(Time(first + growth * term), 3);
            }
            assert_eq!(whole.counts, single.counts);
        }
    }

    #[test]
    fn octaves_are_kept_from_the_lowest_met_to_the_highest() {
        let mut histogram = Histogram::new();
        let values = [1 << 40, 3, u64::MAX, 1 << 20, 1 << 40];
        for value in values {
            histogram.add(Time(value), 1);
        }
        assert_eq!(histogram.lowest, 0);
        assert_eq!(histogram.counts.iter().sum::<u64>(), values.len() as u64);
        for (value, count) in [(3, 1), (1 << 20, 1), (1 << 40, 2), (u64::MAX, 1)] {
            assert_eq!(histogram.counts[Histogram::bucket(Time(value))], count);
        }
        let mut narrow = Histogram::new();
        narrow.add(Time(1 << 40), 1);
        narrow.add(Time(1 << 38), 1);
        assert_eq!(narrow.counts.len(), 3 * OCTAVE);
    }

    #[test]
    fn quantiles_are_nearest_rank_and_know_the_infinite() {
        let mut histogram = Histogram::new();
        assert!(histogram.quantiles_ms([0.5])[0].is_nan());
        for value in 1..=90 {
            histogram.add(Time(value * 1_000_000_000), 1);
        }
        histogram.add_infinite(10);
        let [p50, p90, p99] = histogram.quantiles_ms([0.5, 0.9, 0.99]);
        assert!((p50 / 50.0 - 1.0).abs() < 0.004);
        assert!((p90 / 90.0 - 1.0).abs() < 0.004);
        assert!(p99.is_infinite());
    }
}
