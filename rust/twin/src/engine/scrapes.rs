//! Scrapes of the engine's metrics, which hold up the API server that answers them.
//!
//! vLLM 0.8.5 keeps `vllm:lora_requests_info`, a gauge labelled with the adapters that run and those
//! that wait (`v1/metrics/loggers.py`). Every pair of sets not seen before is one more time series,
//! none is ever dropped, and a scrape renders them all in the event loop that also takes requests
//! and hands out tokens: with many adapters, a little longer each time.

use std::collections::{HashSet, VecDeque};

use crate::front_end::FrontEnd;
use crate::scenario::Scenario;
use crate::streams::mix;
use crate::units::Time;

/// Adapters that some requests use, as one number: the same for the same set.
#[derive(Clone, Debug)]
struct NameSet {
    /// Requests by adapter.
    requests: Vec<u32>,
    names: u32,
    hash: u64,
}

impl NameSet {
    fn new(n_adapters: usize) -> Self {
        NameSet {
            requests: vec![0; n_adapters],
            names: 0,
            hash: 0,
        }
    }

    fn add(&mut self, adapter: u32) {
        let requests = &mut self.requests[adapter as usize];
        *requests += 1;
        if *requests == 1 {
            self.names += 1;
            self.hash ^= mix(u64::from(adapter));
        }
    }

    fn remove(&mut self, adapter: u32) {
        let requests = &mut self.requests[adapter as usize];
        *requests -= 1;
        if *requests == 0 {
            self.names -= 1;
            self.hash ^= mix(u64::from(adapter));
        }
    }
}

/// The set of adapters that wait and the set of those that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Report {
    waiting: u64,
    running: u64,
    names: u32,
}

/// While the API server renders an answer, nothing else is done.
#[derive(Clone, Copy, Debug)]
struct Freeze {
    begin: Time,
    end: Time,
    /// A step has ended in it: tokens of further ones reach the client with that one's.
    holds_tokens: bool,
}

/// Who scrapes, what there is to render, and what that holds up.
#[derive(Clone, Debug)]
pub(super) struct Scrapes {
    /// From one answer to the next request for one.
    interval: Time,
    /// When the next one comes.
    due: Time,
    series: Time,
    series_adapter: Time,
    is_base: Vec<bool>,
    waiting: NameSet,
    running: NameSet,
    /// Who waited and who ran at the last report, and the end of that step.
    last: Report,
    last_at: Time,
    seen: HashSet<(Report, Report)>,
    /// Names in all series.
    names: u64,
    /// Begun and, when last looked at, not over.
    freezes: VecDeque<Freeze>,
}

/// Not inlined, any of it: most runs are not scraped, and their loop would have fewer registers.
impl Scrapes {
    /// `None`: nobody scrapes.
    pub(super) fn of(scenario: &Scenario) -> Option<Self> {
        let is_base = scenario.adapters.iter().map(|adapter| adapter.is_base);
        let front_end = &scenario.front_end;
        let prices = (front_end.series, front_end.series_adapter);
        Some(Scrapes::new(
            scenario.scrape_interval?,
            prices,
            is_base.collect(),
        ))
    }

    fn new(interval: Time, (series, series_adapter): (Time, Time), is_base: Vec<bool>) -> Self {
        Scrapes {
            interval,
            due: interval,
            series,
            series_adapter,
            waiting: NameSet::new(is_base.len()),
            running: NameSet::new(is_base.len()),
            is_base,
            last: Report::default(),
            last_at: Time::ZERO,
            seen: HashSet::new(),
            names: 0,
            freezes: VecDeque::new(),
        }
    }

    /// Time series so far.
    pub(super) fn n_series(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Adapters named in them, each as often as it is.
    pub(super) fn n_names(&self) -> u64 {
        self.names
    }

    #[inline(never)]
    pub(super) fn joined(&mut self, adapter: u32) {
        if !self.is_base[adapter as usize] {
            self.waiting.add(adapter);
        }
    }

    #[inline(never)]
    pub(super) fn admitted(&mut self, adapter: u32) {
        if !self.is_base[adapter as usize] {
            self.waiting.remove(adapter);
            self.running.add(adapter);
        }
    }

    #[inline(never)]
    pub(super) fn preempted(&mut self, adapter: u32) {
        if !self.is_base[adapter as usize] {
            self.running.remove(adapter);
            self.waiting.add(adapter);
        }
    }

    #[inline(never)]
    pub(super) fn finished(&mut self, adapter: u32) {
        if !self.is_base[adapter as usize] {
            self.running.remove(adapter);
        }
    }

    /// The report after the step that ended at `now`, once.
    #[inline(never)]
    pub(super) fn report_at(&mut self, now: Time, scheduled: u32) {
        if self.last_at < now {
            self.last_at = now;
            self.report(scheduled);
        }
    }

    /// The engine reports who waits and runs after a step of so many requests.
    ///
    /// Outputs that are worked off in several slices are looked at after each: who was there after
    /// the first is named, then who came since, so what is named depends on the report before too.
    #[inline(never)]
    pub(super) fn report(&mut self, scheduled: u32) {
        let now = Report {
            waiting: self.waiting.hash,
            running: self.running.hash,
            names: self.waiting.names + self.running.names,
        };
        let first = if FrontEnd::slices(scheduled) > 1 {
            self.last
        } else {
            now
        };
        self.last = now;
        let names = now.names.max(first.names);
        if names > 0 && self.seen.insert((first, now)) {
            self.names += u64::from(names);
        }
    }

    /// Answers those that come before `until`, in turn; `free` is when the server has time.
    #[inline(never)]
    pub(super) fn answer_until(&mut self, until: Time, free: &mut Time) {
        while self.due < until {
            let begin = self.due.max(*free);
            let end = begin + self.answer();
            self.freezes.push_back(Freeze {
                begin,
                end,
                holds_tokens: false,
            });
            *free = end;
            self.due = end + self.interval;
        }
    }

    /// When the server will have time for a request that arrives then, if nothing else comes.
    #[inline(never)]
    pub(super) fn free_at(&self, arrival: Time, free: Time) -> Time {
        let (mut due, mut free) = (self.due, free);
        while due <= arrival {
            free = due.max(free) + self.answer();
            due = free + self.interval;
        }
        free
    }

    /// What rendering takes now.
    fn answer(&self) -> Time {
        Time(self.n_series() * self.series.0 + self.names * self.series_adapter.0)
    }

    /// How long a token made now is held up.
    #[inline(never)]
    pub(super) fn held(&self, now: Time) -> Time {
        (self.freezes.iter())
            .find(|freeze| freeze.begin < now && now < freeze.end)
            .map_or(Time::ZERO, |freeze| freeze.end.since(now))
    }

    /// Of steps up to `now`, how many made tokens that will reach clients with those of the step
    /// before; `ended_before` counts the steps that ended before a time.
    #[inline(never)]
    pub(super) fn held_together(&mut self, now: Time, ended_before: impl Fn(Time) -> u64) -> u64 {
        let mut together = 0;
        for freeze in &mut self.freezes {
            let held = ended_before(freeze.end) - ended_before(Time(freeze.begin.0 + 1));
            if held > 0 {
                together += held - u64::from(!freeze.holds_tokens);
                freeze.holds_tokens = true;
            }
        }
        self.freezes.retain(|freeze| freeze.end > now);
        together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrapes(n_adapters: usize) -> Scrapes {
        Scrapes::new(Time(100), (Time(10), Time(1)), vec![false; n_adapters])
    }

    #[test]
    fn only_sets_not_seen_before_are_new_series() {
        let mut scrapes = scrapes(2);
        for _ in 0..3 {
            scrapes.joined(0);
            scrapes.report(1);
            scrapes.admitted(0);
            scrapes.report(1);
            scrapes.finished(0);
            scrapes.report(1);
        }
        // One that waits, one that runs; nobody at all is no series.
        assert_eq!((scrapes.n_series(), scrapes.n_names()), (2, 2));
        scrapes.joined(1);
        scrapes.joined(0);
        scrapes.report(1);
        assert_eq!((scrapes.n_series(), scrapes.n_names()), (3, 4));
    }

    #[test]
    fn several_slices_name_the_report_before_too() {
        let mut scrapes = scrapes(2);
        scrapes.joined(0);
        scrapes.admitted(0);
        scrapes.report(200);
        scrapes.report(200);
        // (nobody, one), then (one, one).
        assert_eq!(scrapes.n_series(), 2);
    }

    #[test]
    fn answers_wait_their_turn_and_hold_tokens_meanwhile() {
        let mut scrapes = scrapes(1);
        scrapes.joined(0);
        scrapes.report(1);
        let mut free = Time(150);
        scrapes.answer_until(Time(200), &mut free);
        // Due at 100, begun at 150, one series with one name: 11; the next is due 100 later.
        assert_eq!((free, scrapes.due), (Time(161), Time(261)));
        assert_eq!(scrapes.held(Time(150)), Time::ZERO);
        assert_eq!(scrapes.held(Time(151)), Time(10));
        assert_eq!(scrapes.held(Time(161)), Time::ZERO);
        assert_eq!(scrapes.free_at(Time(261), Time(161)), Time(272));
        // Steps end at 152, 155 and 158: the tokens of the last two come with the first one's.
        let ended_before =
            |time: Time| [152, 155, 158].iter().filter(|&&end| end < time.0).count() as u64;
        assert_eq!(scrapes.held_together(Time(158), ended_before), 2);
    }
}
