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
    /// When the source's next request arrives; `Time::MAX`: it has no more.
    next_arrival: Time,
    next_adapter: u32,
    /// Accepted requests by the time at which the engine can see them.
    in_server: VecDeque<(Time, u32)>,
    server_free: Time,
    request: Time,
    first_use: Time,
    adapter_seen: Vec<bool>,
    /// Accepted and not done.
    pub(super) in_flight: u32,
    max_in_flight: u32,
    /// Requests sent so far.
    sent: u64,
}

impl Clients {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut clients = Clients {
            source: RequestSource::new(scenario),
            next_arrival: Time::MAX,
            next_adapter: 0,
            in_server: VecDeque::new(),
            server_free: Time::ZERO,
            request: scenario.front_end.request,
            first_use: scenario.front_end.first_use,
            adapter_seen: (scenario.adapters.iter())
                .map(|adapter| adapter.is_base || scenario.warm)
                .collect(),
            in_flight: 0,
            max_in_flight: scenario.max_in_flight.unwrap_or(u32::MAX),
            sent: 0,
        };
        clients.look_ahead();
        clients
    }

    fn look_ahead(&mut self) {
        match self.source.peek() {
            Some(request) => {
                self.next_arrival = request.arrival;
                self.next_adapter = request.adapter;
            }
            None => self.next_arrival = Time::MAX,
        }
    }

    /// When a client next sends something; `Time::MAX`: never.
    #[inline]
    pub(super) fn next_arrival(&self) -> Time {
        self.next_arrival
    }

    /// Whether the engine may still see a request that it has not seen.
    pub(super) fn has_more(&self) -> bool {
        !self.in_server.is_empty() || self.next_arrival < Time::MAX
    }

    /// When the engine next sees a request, if nobody finishes before; `Time::MAX`: never.
    #[inline]
    pub(super) fn next_ready(&self) -> Time {
        if let Some(&(ready, _)) = self.in_server.front() {
            return ready;
        }
        if self.next_arrival == Time::MAX || self.in_flight >= self.max_in_flight {
            return Time::MAX;
        }
        self.ready(self.next_arrival, self.next_adapter)
    }

    /// When the API server would be done with a request.
    #[inline]
    fn ready(&self, arrival: Time, adapter: u32) -> Time {
        let ready = arrival.max(self.server_free) + self.request;
        if self.adapter_seen[adapter as usize] {
            ready
        } else {
            ready + self.first_use
        }
    }

    /// Takes the next request, or turns it away because too many are in flight.
    #[inline]
    pub(super) fn receive(
        &mut self,
        scheduler: &mut Scheduler,
        journeys: &mut Journeys,
        tally: &mut Tally,
    ) {
        let Some(request) = self.source.next() else {
            return;
        };
        let (adapter, arrival) = (request.adapter, request.arrival);
        let (prompt, output) = (request.prompt_tokens, request.output_tokens);
        let number = self.sent;
        self.sent += 1;
        tally.arrival(adapter, arrival, prompt, output);
        if self.in_flight >= self.max_in_flight {
            tally.dropped(arrival);
            journeys.dropped(&request);
        } else {
            let ready = self.ready(arrival, adapter);
            self.adapter_seen[adapter as usize] = true;
            self.server_free = ready;
            self.in_flight += 1;
            let id = scheduler.add(adapter, prompt, output);
            journeys.accepted(id, number, &request, ready);
            self.in_server.push_back((ready, id));
        }
        self.look_ahead();
    }

    /// Requests that are ready by `now` join the engine's waiting queue; says how many.
    #[inline]
    pub(super) fn hand_over(&mut self, now: Time, scheduler: &mut Scheduler) -> u32 {
        let mut joined = 0;
        while let Some(&(ready, id)) = self.in_server.front() {
            if ready > now {
                break;
            }
            self.in_server.pop_front();
            scheduler.enqueue(id);
            joined += 1;
        }
        joined
    }
}
