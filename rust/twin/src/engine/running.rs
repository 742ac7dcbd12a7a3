//! The running list, in order of admission, and the calendar of who ends when.

use super::requests::{Requests, NONE};

/// Requests in order of admission. One that ends leaves a hole; holes are closed when they are many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running {
    order: Vec<u32>,
    len: u32,
}

impl Running {
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// In order of admission.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.order.iter().copied().filter(|&id| id != NONE)
    }

    /// Where a walk by [`Running::at`] ends.
    pub(crate) fn places(&self) -> usize {
        self.order.len()
    }

    /// The request at a place, if it is not a hole.
    #[inline]
    pub(crate) fn at(&self, place: usize) -> Option<u32> {
        self.order.get(place).copied().filter(|&id| id != NONE)
    }

    /// Rule 7: admitted to the end.
    #[inline]
    pub(crate) fn push(&mut self, id: u32, requests: &mut Requests) {
        if self.order.len() >= 64 + 2 * self.len as usize {
            self.close_holes(requests);
        }
        requests[id].place = self.order.len() as u32;
        self.order.push(id);
        self.len += 1;
    }

    #[cold]
    fn close_holes(&mut self, requests: &mut Requests) {
        self.order.retain(|&id| id != NONE);
        for (place, &id) in self.order.iter().enumerate() {
            requests[id].place = place as u32;
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, place: u32) {
        debug_assert_ne!(self.order[place as usize], NONE);
        self.order[place as usize] = NONE;
        self.len -= 1;
    }

    /// The last admitted, taken off.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        while let Some(id) = self.order.pop() {
            if id != NONE {
                self.len -= 1;
                return Some(id);
            }
        }
        None
    }
}

/// Decoding requests by the step that makes their last token: a ring of lists, one a step.
#[derive(Clone, Debug)]
pub(crate) struct Calendar {
    /// First request of each step's list; the step's place is its number modulo the length.
    first: Vec<u32>,
    /// One bit a place: whether its list holds anyone.
    occupied: Vec<u64>,
}

impl Calendar {
    pub(crate) fn new() -> Self {
        Calendar {
            first: vec![NONE; 1024],
            occupied: vec![0; 1024 / 64],
        }
    }

    #[inline]
    fn place(&self, step: u32) -> usize {
        step as usize & (self.first.len() - 1)
    }

    /// Enters a request, whose `last_step` is set, in a calendar whose current step is `now`.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32, now: u32, requests: &mut Requests) {
        let last_step = requests[id].last_step();
        while (last_step - now) as usize >= self.first.len() {
            self.grow(now);
        }
        let place = self.place(last_step);
        let first = std::mem::replace(&mut self.first[place], id);
        if first == NONE {
            self.occupied[place / 64] |= 1 << (place % 64);
        } else {
            requests[first].previous = id;
        }
        let request = &mut requests[id];
        request.next = first;
        request.previous = NONE;
    }

    /// Twice as many places; all entered steps are within the old length from `now`.
    #[cold]
    fn grow(&mut self, now: u32) {
        let old = std::mem::take(&mut self.first);
        self.first = vec![NONE; old.len() * 2];
        self.occupied = vec![0; old.len() * 2 / 64];
        for ahead in 0..old.len() as u32 {
            let step = now + ahead;
            let first = old[step as usize & (old.len() - 1)];
            if first != NONE {
                let place = self.place(step);
                self.first[place] = first;
                self.occupied[place / 64] |= 1 << (place % 64);
            }
        }
    }

    /// Takes out a request that is preempted.
    pub(crate) fn remove(&mut self, id: u32, requests: &mut Requests) {
        let request = requests[id];
        if request.next != NONE {
            requests[request.next].previous = request.previous;
        }
        if request.previous != NONE {
            requests[request.previous].next = request.next;
            return;
        }
        let place = self.place(request.last_step());
        self.first[place] = request.next;
        if request.next == NONE {
            self.occupied[place / 64] &= !(1 << (place % 64));
        }
    }

    /// Takes out all who end in `step`, in order of admission.
    #[inline]
    pub(crate) fn take(&mut self, step: u32, requests: &Requests, ended: &mut Vec<u32>) {
        let place = self.place(step);
        let id = self.first[place];
        if id == NONE {
            return;
        }
        self.first[place] = NONE;
        self.occupied[place / 64] &= !(1 << (place % 64));
        if requests[id].next == NONE {
            ended.push(id);
        } else {
            Calendar::list(id, requests, ended);
        }
    }

    /// A list from its first on, put in order of admission.
    #[inline(never)]
    fn list(mut id: u32, requests: &Requests, ended: &mut Vec<u32>) {
        let begin = ended.len();
        while id != NONE {
            ended.push(id);
            id = requests[id].next;
        }
        ended[begin..].sort_unstable_by_key(|&id| requests[id].place);
    }

    /// Who ends in `step`, in no order.
    #[inline]
    pub(crate) fn ending<'a>(
        &self,
        step: u32,
        requests: &'a Requests,
    ) -> impl Iterator<Item = u32> + 'a {
        let first = Some(self.first[self.place(step)]).filter(|&id| id != NONE);
        std::iter::successors(first, |&id| {
            Some(requests[id].next).filter(|&next| next != NONE)
        })
    }

    /// Steps from `now` to the next in which someone ends, that one included; somebody must.
    #[inline]
    pub(crate) fn steps_to_next(&self, now: u32) -> u32 {
        let place = self.place(now);
        let here = self.occupied[place / 64] >> (place % 64);
        if here != 0 {
            return here.trailing_zeros() + 1;
        }
        let words = self.occupied.len();
        let mut steps = 64 - (place % 64) as u32;
        for ahead in 1..=words {
            let word = self.occupied[(place / 64 + ahead) & (words - 1)];
            if word != 0 {
                return steps + word.trailing_zeros() + 1;
            }
            steps += 64;
        }
        unreachable!("every decoding request is in the calendar")
    }
}

#[cfg(test)]
mod tests {
    use super::super::requests::Request;
    use super::*;

    fn calendar_of(last_steps: &[u32]) -> (Calendar, Requests) {
        let mut requests = Requests::default();
        let mut calendar = Calendar::new();
        for (place, &last_step) in last_steps.iter().enumerate() {
            let id = requests.add(Request::new(0, 1, 1));
            requests[id].set_last_step(last_step);
            requests[id].place = place as u32;
            calendar.insert(id, 0, &mut requests);
        }
        (calendar, requests)
    }

    #[test]
    fn requests_that_end_together_are_in_order_of_admission() {
        let (mut calendar, mut requests) = calendar_of(&[5, 3, 5, 5, 4000]);
        assert_eq!(calendar.steps_to_next(0), 4);
        let mut ended = Vec::new();
        calendar.take(3, &requests, &mut ended);
        calendar.remove(2, &mut requests);
        calendar.take(5, &requests, &mut ended);
        assert_eq!(ended, [1, 0, 3]);
        assert_eq!(calendar.steps_to_next(6), 4000 - 6 + 1);
    }

    #[test]
    fn holes_are_closed_without_changing_the_order() {
        let mut requests = Requests::default();
        let mut running = Running::default();
        for index in 0..1000 {
            let id = requests.add(Request::new(0, 1, 1));
            running.push(id, &mut requests);
            if index % 10 != 0 {
                running.remove(requests[id].place);
            }
        }
        assert_eq!(running.len(), 100);
        assert!(running.places() < 500);
        let order: Vec<u32> = running.iter().collect();
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(running.pop(), order.last().copied());
    }
}
