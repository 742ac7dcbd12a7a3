//! Places in the walk as bits.

/// A set of places: one bit each.
#[derive(Clone, Debug)]
pub(super) struct Places {
    words: Vec<u64>,
}

impl Places {
    pub(super) fn new(n_places: usize) -> Self {
        Places {
            words: vec![0; n_places.div_ceil(64)],
        }
    }

    #[inline]
    pub(super) fn contains(&self, place: u32) -> bool {
        self.words[place as usize / 64] >> (place % 64) & 1 != 0
    }

    #[inline]
    pub(super) fn insert(&mut self, place: u32) {
        self.words[place as usize / 64] |= 1 << (place % 64);
    }

    #[inline]
    pub(super) fn remove(&mut self, place: u32) {
        self.words[place as usize / 64] &= !(1 << (place % 64));
    }

    /// The next one behind a place.
    #[inline]
    pub(super) fn after(&self, place: u32) -> Option<u32> {
        let mut word = place as usize / 64;
        // Two shifts, since one by 64 is none.
        let mut bits = self.words[word] & (u64::MAX << (place % 64) << 1);
        while bits == 0 {
            word += 1;
            bits = *self.words.get(word)?;
        }
        Some(word as u32 * 64 + bits.trailing_zeros())
    }
}
