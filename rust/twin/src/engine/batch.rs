//! Which adapters are in the batch: how many of its requests each has, and who came and went.

/// The adapters that hold a slot, with the base model as a member that takes none.
#[derive(Clone, Debug)]
pub(crate) struct AdapterSet {
    /// Requests of each adapter; the base model's start at one, so that it is always a member.
    requests: Vec<u32>,
    /// Place of each member in `members`.
    place: Vec<u32>,
    members: Vec<u32>,
    n_base: u32,
    /// Came and went since these lists were last cleared, in no meaningful order.
    joined: Vec<u32>,
    left: Vec<u32>,
}

impl AdapterSet {
    pub(crate) fn new(is_base: &[bool]) -> Self {
        let n_adapters = is_base.len();
        let mut set = AdapterSet {
            requests: vec![0; n_adapters],
            place: vec![0; n_adapters],
            members: Vec::new(),
            n_base: 0,
            joined: Vec::new(),
            left: Vec::new(),
        };
        for (adapter, _) in is_base.iter().enumerate().filter(|(_, &base)| base) {
            set.add(adapter as u32);
        }
        set.n_base = set.members.len() as u32;
        set.joined.clear();
        set
    }

    /// Whether a request of this adapter would need no further slot.
    #[inline]
    pub(crate) fn contains(&self, adapter: u32) -> bool {
        self.requests[adapter as usize] > 0
    }

    /// Slots in use.
    #[inline]
    pub(crate) fn distinct(&self) -> u32 {
        self.members.len() as u32 - self.n_base
    }

    /// Adapters in slots, and the base model's.
    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }

    /// Adapters that left and adapters that joined since [`AdapterSet::clear_changes`].
    #[inline]
    pub(crate) fn changes(&self) -> (&[u32], &[u32]) {
        (&self.left, &self.joined)
    }

    #[inline]
    pub(crate) fn clear_changes(&mut self) {
        self.left.clear();
        self.joined.clear();
    }

    /// One more request of this adapter; true if the adapter is new in the set.
    #[inline]
    pub(crate) fn add(&mut self, adapter: u32) -> bool {
        let requests = &mut self.requests[adapter as usize];
        *requests += 1;
        let joins = *requests == 1;
        if joins {
            self.place[adapter as usize] = self.members.len() as u32;
            self.members.push(adapter);
            self.joined.push(adapter);
        }
        joins
    }

    /// One request of this adapter less.
    #[inline]
    pub(crate) fn remove(&mut self, adapter: u32) {
        let requests = &mut self.requests[adapter as usize];
        *requests -= 1;
        if *requests == 0 {
            let place = self.place[adapter as usize] as usize;
            self.members.swap_remove(place);
            if let Some(&moved) = self.members.get(place) {
                self.place[moved as usize] = place as u32;
            }
            self.left.push(adapter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_model_is_always_a_member_and_takes_no_slot() {
        let mut set = AdapterSet::new(&[false, true, false]);
        assert!(set.contains(1));
        assert_eq!(set.distinct(), 0);
        set.add(1);
        set.remove(1);
        assert!(set.contains(1));
        assert_eq!(set.changes(), (&[][..], &[][..]));
    }

    #[test]
    fn adapter_leaves_with_its_last_request() {
        let mut set = AdapterSet::new(&[false, false]);
        assert!(set.add(0));
        assert!(!set.add(0));
        assert!(set.add(1));
        set.remove(0);
        assert_eq!(set.distinct(), 2);
        set.remove(0);
        assert_eq!(set.distinct(), 1);
        assert_eq!(set.changes(), (&[0][..], &[0, 1][..]));
    }
}
