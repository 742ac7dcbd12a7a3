//! The waiting queue: preempted requests in front, arrivals behind, and a way to pass over those whose
//! adapter has no slot without walking them.
//!
//! Arrivals are numbered as they come; one bit a number says who still waits, and counts over 512 and
//! 32,768 bits make "how many wait before this one" a handful of additions. Each adapter's requests
//! are a list of their own, first come first; when all slots are taken, the next request that could
//! be admitted is the earliest head among the adapters in slots, kept in a heap.

use std::cmp::Reverse;
use std::collections::binary_heap::{BinaryHeap, PeekMut};

use super::batch::AdapterSet;
use super::requests::{Requests, NONE};

const WORDS_A_BLOCK: usize = 8;
const BLOCKS_A_SPAN: usize = 64;
/// With no more than this many waiting, they are walked: cheaper than keeping the heap.
const WALK_LEN: u32 = 16;

/// The waiting requests.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// Rule 3: preempted requests; the last is the front of the whole queue.
    preempted: Vec<u32>,
    queue: Queue,
    /// First and last waiting request of each adapter.
    ends: Vec<(u32, u32)>,
    /// (number, adapter) of the first request of each adapter in a slot; see [`Heads`].
    heads: Heads,
}

impl Waiting {
    pub(crate) fn new(n_adapters: usize) -> Self {
        Waiting {
            preempted: Vec::new(),
            queue: Queue::default(),
            ends: vec![(NONE, NONE); n_adapters],
            heads: Heads {
                heap: BinaryHeap::new(),
                entered: vec![NONE; n_adapters],
                kept: false,
            },
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.preempted.len() as u32 + self.queue.len
    }

    /// An arrival joins the back.
    #[inline]
    pub(crate) fn push_back(&mut self, id: u32, batch: &AdapterSet, requests: &mut Requests) {
        if self.queue.is_sparse() {
            self.queue.renumber(requests);
            self.heads.forget();
        }
        let number = self.queue.push(id);
        let request = &mut requests[id];
        request.place = number;
        request.next = NONE;
        let adapter = request.adapter;
        let (first, last) = &mut self.ends[adapter as usize];
        if *first == NONE {
            *first = id;
            *last = id;
            if self.heads.kept && batch.contains(adapter) {
                self.heads.enter(adapter, number);
            }
        } else {
            requests[*last].next = id;
            *last = id;
        }
    }

    /// Rule 3: a preempted request goes to the very front.
    #[inline]
    pub(crate) fn push_front(&mut self, id: u32) {
        self.preempted.push(id);
    }

    /// The front, if it is a preempted request.
    #[inline]
    pub(crate) fn first_preempted(&self) -> Option<u32> {
        self.preempted.last().copied()
    }

    /// Takes the front, a preempted request.
    pub(crate) fn take_preempted(&mut self) {
        self.preempted.pop();
    }

    /// The first of the arrivals.
    #[inline]
    pub(crate) fn first(&mut self) -> Option<u32> {
        self.queue.first()
    }

    /// The first of the arrivals that needs no further slot.
    pub(crate) fn first_in_slots(
        &mut self,
        batch: &AdapterSet,
        requests: &Requests,
    ) -> Option<u32> {
        if self.queue.len <= WALK_LEN {
            let mut ids = self.queue.iter();
            return ids.find(|&id| batch.contains(requests[id].adapter));
        }
        if !self.heads.kept {
            self.heads.kept = true;
            for &adapter in batch.members() {
                let (first, _) = self.ends[adapter as usize];
                if first != NONE {
                    self.heads.enter(adapter, requests[first].place);
                }
            }
        }
        while let Some((number, adapter)) = self.heads.first() {
            let (first, _) = self.ends[adapter as usize];
            let is_head = first != NONE && requests[first].place == number;
            if is_head && batch.contains(adapter) {
                return Some(first);
            }
            self.heads.drop_first();
        }
        None
    }

    /// Takes an arrival that is the first of its adapter.
    #[inline]
    pub(crate) fn take(&mut self, id: u32, batch: &AdapterSet, requests: &Requests) {
        let request = &requests[id];
        debug_assert_eq!(self.ends[request.adapter as usize].0, id);
        self.queue.take(request.place);
        self.ends[request.adapter as usize].0 = request.next;
        if self.queue.len == 0 {
            self.heads.forget();
        } else if self.heads.kept && request.next != NONE && batch.contains(request.adapter) {
            let next = &requests[request.next];
            requests.prefetch(next.next);
            self.heads
                .follow(request.adapter, request.place, next.place);
        }
    }

    /// An adapter has taken a slot.
    #[inline]
    pub(crate) fn adapter_joined(&mut self, adapter: u32, requests: &Requests) {
        if self.heads.kept {
            let (first, _) = self.ends[adapter as usize];
            if first != NONE {
                self.heads.enter(adapter, requests[first].place);
            }
        }
    }

    /// Arrivals that wait before the one with this number.
    #[inline]
    pub(crate) fn before(&self, number: u32) -> u32 {
        self.queue.before(number)
    }

    /// Arrivals that wait.
    #[inline]
    pub(crate) fn arrivals(&self) -> u32 {
        self.queue.len
    }
}

/// The earliest request of each adapter in a slot, found lazily: an entry that is out of date (its
/// adapter has left, its request is gone) is dropped when it comes to the top.
#[derive(Clone, Debug)]
struct Heads {
    /// Number of the request above, adapter below: one comparison orders them.
    heap: BinaryHeap<Reverse<u64>>,
    /// By adapter, the number that its entry in the heap has: an entry is never made twice.
    entered: Vec<u32>,
    /// Whether the heap is kept up to date; it is when a scan has needed it.
    kept: bool,
}

impl Heads {
    fn entry(number: u32, adapter: u32) -> Reverse<u64> {
        Reverse(u64::from(number) << 32 | u64::from(adapter))
    }

    #[inline]
    fn first(&self) -> Option<(u32, u32)> {
        let &Reverse(entry) = self.heap.peek()?;
        Some(((entry >> 32) as u32, entry as u32))
    }

    #[inline]
    fn enter(&mut self, adapter: u32, number: u32) {
        let entered = &mut self.entered[adapter as usize];
        if *entered != number {
            *entered = number;
            self.push(Heads::entry(number, adapter));
        }
    }

    /// Not inlined: those who mostly do without would have no registers left for it.
    #[inline(never)]
    fn push(&mut self, entry: Reverse<u64>) {
        self.heap.push(entry);
    }

    /// The adapter's request `number` is gone, and `next` is its first now.
    #[inline]
    fn follow(&mut self, adapter: u32, number: u32, next: u32) {
        if let Some(mut first) = self.heap.peek_mut() {
            if *first == Heads::entry(number, adapter) {
                self.entered[adapter as usize] = next;
                *first = Heads::entry(next, adapter);
                return;
            }
        }
        self.enter(adapter, next);
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.heap.peek_mut() {
            let Reverse(entry) = PeekMut::pop(first);
            let entered = &mut self.entered[entry as u32 as usize];
            if *entered == (entry >> 32) as u32 {
                *entered = NONE;
            }
        }
    }

    #[inline]
    fn forget(&mut self) {
        if self.kept {
            self.kept = false;
            for Reverse(entry) in self.heap.drain() {
                self.entered[entry as u32 as usize] = NONE;
            }
        }
    }
}

/// Arrivals by number: who waits, and how many before a number.
#[derive(Clone, Debug, Default)]
struct Queue {
    len: u32,
    /// By number; what is left of those that went is stale.
    ids: Vec<u32>,
    bits: Vec<u64>,
    blocks: Vec<u32>,
    spans: Vec<u32>,
    /// Words before this one are zero.
    first_word: usize,
}

impl Queue {
    #[inline]
    fn push(&mut self, id: u32) -> u32 {
        let number = self.ids.len();
        self.ids.push(id);
        let word = number / 64;
        if word == self.bits.len() {
            self.lengthen();
        }
        self.bits[word] |= 1 << (number % 64);
        self.blocks[word / WORDS_A_BLOCK] += 1;
        self.spans[word / (WORDS_A_BLOCK * BLOCKS_A_SPAN)] += 1;
        self.len += 1;
        number as u32
    }

    #[cold]
    fn lengthen(&mut self) {
        let words = (self.bits.len() * 2).max(64);
        self.bits.resize(words, 0);
        self.blocks.resize(words.div_ceil(WORDS_A_BLOCK), 0);
        self.spans
            .resize(words.div_ceil(WORDS_A_BLOCK * BLOCKS_A_SPAN), 0);
    }

    #[inline]
    fn take(&mut self, number: u32) {
        let word = number as usize / 64;
        self.bits[word] &= !(1 << (number % 64));
        self.blocks[word / WORDS_A_BLOCK] -= 1;
        self.spans[word / (WORDS_A_BLOCK * BLOCKS_A_SPAN)] -= 1;
        self.len -= 1;
        if self.len == 0 {
            self.ids.clear();
            self.first_word = 0;
        }
    }

    #[inline]
    fn first(&mut self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        while self.bits[self.first_word] == 0 {
            self.first_word += 1;
        }
        let bit = self.bits[self.first_word].trailing_zeros() as usize;
        Some(self.ids[self.first_word * 64 + bit])
    }

    /// Those that wait, in order.
    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut left = self.len;
        let mut word = self.first_word;
        let mut bits = self.bits.get(word).copied().unwrap_or(0);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            while bits == 0 {
                word += 1;
                bits = self.bits[word];
            }
            let number = word * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            left -= 1;
            Some(self.ids[number])
        })
    }

    #[inline]
    fn before(&self, number: u32) -> u32 {
        let word = number as usize / 64;
        let block = word / WORDS_A_BLOCK;
        let span = block / BLOCKS_A_SPAN;
        let spans: u32 = self.spans[..span].iter().sum();
        let blocks: u32 = self.blocks[span * BLOCKS_A_SPAN..block].iter().sum();
        let words = &self.bits[block * WORDS_A_BLOCK..word];
        let whole: u32 = words.iter().map(|bits| bits.count_ones()).sum();
        let below = self.bits[word] & ((1 << (number % 64)) - 1);
        spans + blocks + whole + below.count_ones()
    }

    /// Whether most numbers belong to requests long gone.
    #[inline]
    fn is_sparse(&self) -> bool {
        self.ids.len() > 512 + 4 * self.len as usize
    }

    /// Numbers those that wait from zero again, in the same order.
    #[cold]
    fn renumber(&mut self, requests: &mut Requests) {
        let kept: Vec<u32> = self.iter().collect();
        let old = std::mem::take(self);
        self.ids = old.ids;
        self.ids.clear();
        for id in kept {
            requests[id].place = self.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::requests::Request;
    use super::*;
    use std::collections::VecDeque;

    /// The queue as it is in words: a list walked from the front.
    #[derive(Default)]
    struct Plain(VecDeque<u32>);

    #[test]
    fn queue_with_skips_is_that_of_walking_it() {
        let is_base: Vec<bool> = (0..40).map(|adapter| adapter == 7).collect();
        let mut requests = Requests::default();
        let mut batch = AdapterSet::new(&is_base);
        let mut waiting = Waiting::new(is_base.len());
        let mut plain = Plain::default();
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        let mut in_slots: Vec<u32> = Vec::new();
        for round in 0..60_000 {
            let arrivals_due = if round < 30_000 { 3 } else { 1 };
            if draw(4) < arrivals_due {
                let adapter = draw(40).min(draw(40)) as u32;
                let id = requests.add(Request::new(adapter, 1, 1));
                waiting.push_back(id, &batch, &mut requests);
                plain.0.push_back(id);
            }
            if draw(8) == 0 {
                if let Some(adapter) = in_slots.pop() {
                    batch.remove(adapter);
                }
                let adapter = draw(40) as u32;
                in_slots.insert(0, adapter);
                if batch.add(adapter) {
                    waiting.adapter_joined(adapter, &requests);
                }
            }
            let found = waiting.first_in_slots(&batch, &requests);
            let position = plain
                .0
                .iter()
                .position(|&id| batch.contains(requests[id].adapter));
            assert_eq!(found, position.map(|position| plain.0[position]));
            assert_eq!(waiting.first(), plain.0.front().copied());
            let taken = if draw(3) == 0 { waiting.first() } else { found };
            if let Some(id) = taken {
                let position = plain.0.iter().position(|&other| other == id);
                assert_eq!(Some(waiting.before(requests[id].place) as usize), position);
                waiting.take(id, &batch, &requests);
                plain.0.retain(|&other| other != id);
                requests.release(id);
            }
            assert_eq!(waiting.len() as usize, plain.0.len());
        }
    }

    #[test]
    fn preempted_requests_stand_before_all_others_in_their_old_order() {
        let mut waiting = Waiting::new(1);
        waiting.push_front(3);
        waiting.push_front(2);
        assert_eq!(waiting.first_preempted(), Some(2));
        waiting.take_preempted();
        assert_eq!(waiting.first_preempted(), Some(3));
    }
}
