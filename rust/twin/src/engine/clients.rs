//! Clients that send, the cap on requests in flight, and the API server before the engine: it
//! handles requests one by one, in order of arrival.

use std::collections::VecDeque;

use super::journeys::Journeys;
use super::scheduler::Scheduler;
use super::scrapes::Scrapes;
use crate::metrics::Tally;
use crate::requests::{Request, RequestSource};
use crate::scenario::Scenario;
use crate::units::Time;

/// Everything that happens to a request before the engine sees it.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    source: RequestSource,
    /// When the source's next request arrives (`Time::MAX`: it has no more), and of which adapter.
    next_arrival: Time,
    next_adapter: u32,
    /// When the API server would be done with it (`Time::MAX`: it has no more).
    next_served: Time,
    server: ApiServer,
    pub(super) scrapes: Option<Scrapes>,
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
    /// That time of the first in the queue; `Time::MAX` if it is empty.
    first_ready: Time,
    free: Time,
    request: Time,
    first_use: Time,
    adapter_seen: Vec<bool>,
}

impl ApiServer {
    /// When the server would be done with a request, free from `free` on.
    #[inline]
    fn ready(&self, arrival: Time, adapter: u32, free: Time) -> Time {
        let ready = arrival.max(free) + self.request;
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
        self.first_ready = self.first_ready.min(ready);
        self.queue.push_back((ready, id));
    }

    /// The first in the queue, if it is ready by `now`.
    #[inline]
    fn release(&mut self, now: Time) -> Option<u32> {
        if self.first_ready > now {
            return None;
        }
        let (_, id) = self.queue.pop_front()?;
        self.first_ready = (self.queue.front()).map_or(Time::MAX, |&(ready, _)| ready);
        Some(id)
    }
}

impl Clients {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut clients = Clients {
            source: RequestSource::new(scenario),
            next_arrival: Time::MAX,
            next_adapter: 0,
            next_served: Time::MAX,
            server: ApiServer {
                queue: VecDeque::new(),
                first_ready: Time::MAX,
                free: Time::ZERO,
                request: scenario.front_end.request,
                first_use: scenario.front_end.first_use,
                adapter_seen: (scenario.adapters.iter())
                    .map(|adapter| adapter.is_base || scenario.warm)
                    .collect(),
            },
            scrapes: Scrapes::of(scenario),
            in_flight: 0,
            max_in_flight: scenario.max_in_flight.unwrap_or(u32::MAX),
            sent: 0,
        };
        clients.look_ahead(None);
        clients
    }

    /// Notes when the source's next request arrives; `drawn` if it is drawn already.
    #[inline]
    fn look_ahead(&mut self, drawn: Option<Request>) {
        let next = drawn.or_else(|| self.source.drawn().first().copied());
        let Some(next) = next else {
            (self.next_arrival, self.next_served) = (Time::MAX, Time::MAX);
            return;
        };
        (self.next_arrival, self.next_adapter) = (next.arrival, next.adapter);
        self.next_served = (self.server).ready(next.arrival, next.adapter, self.server.free);
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
        // The API server is done with whom it has before it is with the next.
        let is_full = self.in_flight >= self.max_in_flight;
        let next = match &self.scrapes {
            _ if is_full => Time::MAX,
            None => self.next_served,
            // Scrapes that come before it take their time first.
            Some(scrapes) if self.next_arrival < Time::MAX => {
                let free = scrapes.free_at(self.next_arrival, self.server.free);
                (self.server).ready(self.next_arrival, self.next_adapter, free)
            }
            Some(_) => Time::MAX,
        };
        next.min(self.server.first_ready)
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
        // What nobody is left to wait for is not answered.
        if let (Some(scrapes), true) = (&mut self.scrapes, until < Time::MAX) {
            scrapes.answer_until(until, &mut self.server.free);
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
        let drawn = self.source.drawn();
        let mut taken = 0;
        for request in drawn {
            if request.arrival >= until {
                break;
            }
            tally.arrival(request);
            if let Some(scrapes) = &mut self.scrapes {
                scrapes.answer_until(Time(request.arrival.0 + 1), &mut self.server.free);
            }
            if self.in_flight >= self.max_in_flight {
                tally.dropped(request.arrival);
                journeys.dropped(request);
            } else {
                let adapter = request.adapter;
                let ready = self
                    .server
                    .ready(request.arrival, adapter, self.server.free);
                let id = scheduler.add(adapter, request.prompt_tokens, request.output_tokens);
                journeys.accepted(id, self.sent + taken as u64, request, ready);
                self.server.accept(id, adapter, ready);
                self.in_flight += 1;
            }
            taken += 1;
        }
        self.sent += taken as u64;
        let next = drawn.get(taken).copied();
        self.source.consume(taken);
        self.look_ahead(next);
    }

    /// Requests that are ready by `now` join the engine's waiting queue.
    #[inline]
    pub(super) fn hand_over(&mut self, now: Time, scheduler: &mut Scheduler) {
        while let Some(id) = self.server.release(now) {
            scheduler.enqueue(id);
            if let Some(scrapes) = &mut self.scrapes {
                scrapes.joined(scheduler.requests[id].adapter);
            }
        }
    }
}
