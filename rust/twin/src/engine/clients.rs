//! Clients that send, the cap on requests in flight, and the API server before the engine: it
//! handles requests one by one, in order of arrival.

use std::collections::VecDeque;

use super::journeys::Journeys;
use super::scheduler::Scheduler;
use crate::metrics::Tally;
use crate::requests::RequestSource;
use crate::scenario::Scenario;
use crate::units::Time;

/// Everything that happens to a request before the engine sees it.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    source: RequestSource,
    /// When the source's next request arrives (`Time::MAX`: it has no more), and of which adapter.
    next_arrival: Time,
    next_adapter: u32,
    server: ApiServer,
    /// Accepted and not done.
    pub(super) in_flight: u32,
    max_in_flight: u32,
    /// Requests sent so far.
    sent: u64,
}

/// Accepted requests on their way to the engine.
#[derive(Clone, Debug)]
struct ApiServer {
    /// By the time at which the engine can see them.
    queue: VecDeque<(Time, u32)>,
    free: Time,
    request: Time,
    first_use: Time,
    adapter_seen: Vec<bool>,
}

impl ApiServer {
    /// When the server would be done with a request.
    #[inline]
    fn ready(&self, arrival: Time, adapter: u32) -> Time {
        let ready = arrival.max(self.free) + self.request;
        if self.adapter_seen[adapter as usize] {
            ready
        } else {
            ready + self.first_use
        }
    }

    #[inline]
    fn accept(&mut self, id: u32, adapter: u32, ready: Time) {
        self.adapter_seen[adapter as usize] = true;
        self.free = ready;
        self.queue.push_back((ready, id));
    }
}

impl Clients {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut source = RequestSource::new(scenario);
        let first = source.drawn().first().copied();
        Clients {
            source,
            next_arrival: first.map_or(Time::MAX, |request| request.arrival),
            next_adapter: first.map_or(0, |request| request.adapter),
            server: ApiServer {
                queue: VecDeque::new(),
                free: Time::ZERO,
                request: scenario.front_end.request,
                first_use: scenario.front_end.first_use,
                adapter_seen: (scenario.adapters.iter())
                    .map(|adapter| adapter.is_base || scenario.warm)
                    .collect(),
            },
            in_flight: 0,
            max_in_flight: scenario.max_in_flight.unwrap_or(u32::MAX),
            sent: 0,
        }
    }

    /// Requests that the API server holds.
    #[cfg(debug_assertions)]
    pub(super) fn in_server(&self) -> u32 {
        self.server.queue.len() as u32
    }

    /// Whether the engine may still see a request that it has not seen.
    pub(super) fn has_more(&self) -> bool {
        !self.server.queue.is_empty() || self.next_arrival < Time::MAX
    }

    /// When the engine next sees a request, if nobody finishes before; `Time::MAX`: never.
    #[inline]
    pub(super) fn next_ready(&self) -> Time {
        if let Some(&(ready, _)) = self.server.queue.front() {
            return ready;
        }
        if self.next_arrival == Time::MAX || self.in_flight >= self.max_in_flight {
            return Time::MAX;
        }
        self.server.ready(self.next_arrival, self.next_adapter)
    }

    /// Takes what clients send before `until`, or turns it away because too many are in flight.
    #[inline]
    pub(super) fn receive_until(
        &mut self,
        until: Time,
        scheduler: &mut Scheduler,
        journeys: &mut Journeys,
        tally: &mut Tally,
    ) {
        while self.next_arrival < until {
            self.receive_drawn(until, scheduler, journeys, tally);
        }
    }

    /// The same, for the requests drawn so far; the first of them arrives before `until`.
    fn receive_drawn(
        &mut self,
        until: Time,
        scheduler: &mut Scheduler,
        journeys: &mut Journeys,
        tally: &mut Tally,
    ) {
        let mut taken = 0;
        for request in self.source.drawn() {
            if request.arrival >= until {
                break;
            }
            tally.arrival(request);
            if self.in_flight >= self.max_in_flight {
                tally.dropped(request.arrival);
                journeys.dropped(request);
            } else {
                let adapter = request.adapter;
                let ready = self.server.ready(request.arrival, adapter);
                let id = scheduler.add(adapter, request.prompt_tokens, request.output_tokens);
                journeys.accepted(id, self.sent + taken, request, ready);
                self.server.accept(id, adapter, ready);
                self.in_flight += 1;
            }
            taken += 1;
        }
        self.sent += taken;
        self.source.consume(taken as usize);
        let next = self.source.drawn().first();
        self.next_arrival = next.map_or(Time::MAX, |request| request.arrival);
        self.next_adapter = next.map_or(0, |request| request.adapter);
    }

    /// Requests that are ready by `now` join the engine's waiting queue.
    #[inline]
    pub(super) fn hand_over(&mut self, now: Time, scheduler: &mut Scheduler) {
        while let Some(&(ready, id)) = self.server.queue.front() {
            if ready > now {
                break;
            }
            self.server.queue.pop_front();
            scheduler.enqueue(id);
        }
    }
}
