//! The line of adapters whose slots may go first.

/// Adapters that have a slot and are not in the batch (or not yet reached in the walk that brings
/// them back), in order of their stamps: a list linked through the adapters.
#[derive(Clone, Debug)]
pub(super) struct Idle {
    /// By adapter, the one before and the one behind; itself if it is not in line. The last entry
    /// is the line's two ends.
    links: Vec<(u32, u32)>,
}

impl Idle {
    pub(super) fn new(n_adapters: usize) -> Self {
        Idle {
            links: (0..=n_adapters as u32).map(|own| (own, own)).collect(),
        }
    }

    #[inline]
    fn ends(&self) -> u32 {
        self.links.len() as u32 - 1
    }

    #[inline]
    pub(super) fn oldest(&self) -> Option<u32> {
        let (_, first) = self.links[self.ends() as usize];
        (first != self.ends()).then_some(first)
    }

    /// Joins the line behind all whose stamps are lower: at the end, or a few places before.
    #[inline]
    pub(super) fn insert(&mut self, adapter: u32, stamps: &[u64]) {
        let ends = self.ends();
        let mut behind = ends;
        let mut before = self.links[ends as usize].0;
        while before != ends && stamps[before as usize] > stamps[adapter as usize] {
            behind = before;
            before = self.links[before as usize].0;
        }
        self.links[adapter as usize] = (before, behind);
        self.links[before as usize].1 = adapter;
        self.links[behind as usize].0 = adapter;
    }

    /// Leaves the line, if it is in line.
    #[inline]
    pub(super) fn remove(&mut self, adapter: u32) {
        let (before, behind) = self.links[adapter as usize];
        self.links[before as usize].1 = behind;
        self.links[behind as usize].0 = before;
        self.links[adapter as usize] = (adapter, adapter);
    }
}
