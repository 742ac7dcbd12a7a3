//! The loop: a clock, clients and prices around the plain rules, and a diary of all that happened.

use std::collections::{BTreeSet, VecDeque};

use lorapack_twin::front_end::FrontEnd;
use lorapack_twin::requests::{Request as Arrival, RequestSource};
use lorapack_twin::scenario::Scenario;
use lorapack_twin::step_time::BatchShape;
use lorapack_twin::units::Time;

use crate::residency::{Event, Residency};
use crate::scheduler::{Decision, Request, Scheduler};

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub struct Journey {
    /// As the client sent it.
    pub sent: Arrival,
    /// When the engine could see it; `None` if dropped.
    pub ready: Option<Time>,
    /// End of the step that made its first token.
    pub first_token: Option<Time>,
    /// Time to first token as the client saw it.
    pub ttft: Option<Time>,
    /// End of the step that made its latest token.
    pub latest_token: Time,
    /// End of the step that made its last token.
    pub done: Option<Time>,
    /// Times it was preempted.
    pub preemptions: u32,
    /// Steps merged in the run, up to the one that made its first token.
    pub merged_before: u64,
    /// Gaps merged away on the client's side, from its first token to its latest.
    pub merged: u64,
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// When it began.
    pub start: Time,
    /// When it ended.
    pub end: Time,
    /// What it was priced by.
    pub shape: BatchShape,
    /// Requests running after scheduling.
    pub running: u32,
    /// KV blocks in use after scheduling.
    pub used_blocks: u32,
    /// Requests preempted.
    pub preempted: u32,
    /// Requests finished at its end.
    pub finished: u32,
    /// Copies into a GPU slot.
    pub gpu_loads: u32,
    /// Reads from disk.
    pub disk_loads: u32,
    /// What the loads took.
    pub load: Time,
}

/// Adapters that wait, adapters that run.
pub type Report = (BTreeSet<u32>, BTreeSet<u32>);

/// Names in a time series of two reports.
#[must_use]
pub fn names((first, last): &(Report, Report)) -> u64 {
    let names = |report: &Report| (report.0.len() + report.1.len()) as u64;
    names(first).max(names(last))
}

/// Everything that happened.
#[derive(Clone, Debug, Default)]
pub struct Diary {
    /// Requests in order of arrival.
    pub journeys: Vec<Journey>,
    /// Steps that ended inside the run.
    pub steps: Vec<Step>,
    /// The step that the end of the run cut off, if one was under way.
    pub cut: Option<Step>,
    /// (end of the step, time since the same request's token before), one a token after the first.
    pub gaps: Vec<(Time, Time)>,
    /// Every pair of reports to be scraped: after the first and the last slice of a step's outputs.
    pub lora_series: BTreeSet<(Report, Report)>,
    /// While the API server answered a scrape.
    pub freezes: Vec<(Time, Time)>,
}

/// A request that waits alone in an engine that can never run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its place in the order of arrival.
    pub request: usize,
}

/// One run under way.
pub struct Run<'a> {
    scenario: &'a Scenario,
    /// Requests clients have still to send.
    clients: VecDeque<Arrival>,
    /// Accepted requests the API server has not yet handed to the engine.
    in_server: VecDeque<usize>,
    server_free: Time,
    adapter_seen: Vec<bool>,
    in_flight: u32,
    next_scrape: Time,
    reported: Report,
    /// The freeze in which a step has ended already.
    holding: Option<usize>,
    scheduler: Scheduler,
    /// The scheduler's request number -> place in `diary.journeys`.
    names: Vec<usize>,
    residency: Residency,
    /// The requests of the last step that ran, if each had one token in it.
    last_decodes: Option<Vec<usize>>,
    /// Adapters in the order in which a batch is walked.
    walk_order: Vec<u32>,
    now: Time,
    /// Steps so far whose tokens reached clients with those of the step before.
    merged: u64,
    diary: Diary,
}

impl<'a> Run<'a> {
    /// A run about to begin.
    #[must_use]
    pub fn new(scenario: &'a Scenario) -> Self {
        let adapters = &scenario.adapters;
        let mut residency =
            Residency::new(scenario.engine.max_loras, scenario.engine.max_cpu_loras);
        let on_disk = (0..adapters.len() as u32).filter(|&index| !adapters[index as usize].is_base);
        if scenario.warm && scenario.engine.max_loras > 0 {
            residency.walk(&on_disk.collect::<Vec<u32>>());
        }
        Run {
            scenario,
            clients: RequestSource::new(scenario).collect(),
            in_server: VecDeque::new(),
            server_free: Time::ZERO,
            adapter_seen: adapters
                .iter()
                .map(|adapter| adapter.is_base || scenario.warm)
                .collect(),
            in_flight: 0,
            next_scrape: scenario.scrape_interval.unwrap_or(Time::MAX),
            reported: Report::default(),
            holding: None,
            scheduler: Scheduler::new(scenario.engine.clone()),
            names: Vec::new(),
            residency,
            last_decodes: None,
            walk_order: lorapack_twin::streams::walk_order(scenario),
            now: Time::ZERO,
            merged: 0,
            diary: Diary::default(),
        }
    }

    /// Runs until the end of the window, or until there is nothing left to do.
    ///
    /// # Errors
    /// If a request can never be scheduled.
    pub fn finish(mut self) -> Result<Diary, Stuck> {
        let end = self.scenario.duration.unwrap_or(Time::MAX);
        loop {
            self.clients_send_until(self.now, true);
            self.server_hands_over();
            if self
                .diary
                .steps
                .last()
                .is_some_and(|step| step.end == self.now)
            {
                self.report();
            }
            if self.now >= end {
                break;
            }
            if self.scheduler.waiting.is_empty() && self.scheduler.running.is_empty() {
                if !self.jump_to_next_request() {
                    break;
                }
            } else if !self.step(end)? {
                break;
            }
        }
        while let Some(request) = self.clients.pop_front() {
            self.receive(request);
        }
        Ok(self.diary)
    }

    /// Clients send what they have to send before `time`, or at it too.
    fn clients_send_until(&mut self, time: Time, at_it_too: bool) {
        while let Some(&request) = self.clients.front() {
            let due = request.arrival < time || (at_it_too && request.arrival == time);
            if !due {
                break;
            }
            self.clients.pop_front();
            self.receive(request);
        }
        while self.next_scrape < time || (at_it_too && self.next_scrape == time) {
            self.answer_scrape();
        }
    }

    /// The API server renders every series, each with its names, once it has time.
    fn answer_scrape(&mut self) {
        let front_end = &self.scenario.front_end;
        let begin = self.next_scrape.max(self.server_free);
        self.server_free = begin;
        for series in &self.diary.lora_series {
            self.server_free += front_end.series + front_end.series_adapter * names(series);
        }
        self.diary.freezes.push((begin, self.server_free));
        let interval = self.scenario.scrape_interval.expect("somebody scrapes");
        self.next_scrape = self.server_free + interval;
    }

    /// The engine reports which adapters wait and which run, if any do.
    fn report(&mut self) {
        if self.scenario.scrape_interval.is_none() {
            return;
        }
        let adapters = |requests: &mut dyn Iterator<Item = usize>| -> BTreeSet<u32> {
            requests
                .filter_map(|request| self.scheduler.requests[request].adapter)
                .collect()
        };
        let waiting = adapters(&mut self.scheduler.waiting.iter().copied());
        let running = adapters(&mut self.scheduler.running.iter().copied());
        let now = (waiting, running);
        let scheduled = self
            .diary
            .steps
            .last()
            .expect("reports a step")
            .shape
            .scheduled;
        let before = std::mem::replace(&mut self.reported, now.clone());
        let first = if FrontEnd::slices(scheduled) > 1 {
            before
        } else {
            now.clone()
        };
        let series = (first, now);
        if names(&series) > 0 {
            self.diary.lora_series.insert(series);
        }
    }

    /// The API server takes a request, or turns it away because too many are in flight.
    fn receive(&mut self, sent: Arrival) {
        while self.next_scrape <= sent.arrival {
            self.answer_scrape();
        }
        let full = self
            .scenario
            .max_in_flight
            .is_some_and(|cap| self.in_flight >= cap);
        let ready = (!full).then(|| self.serve(&sent));
        if ready.is_some() {
            self.in_flight += 1;
            self.in_server.push_back(self.diary.journeys.len());
        }
        self.diary.journeys.push(Journey {
            sent,
            ready,
            first_token: None,
            ttft: None,
            latest_token: Time::ZERO,
            done: None,
            preemptions: 0,
            merged_before: 0,
            merged: 0,
        });
    }

    /// When the API server, which does one thing at a time, is done with a request.
    fn serve(&mut self, sent: &Arrival) -> Time {
        let front_end = &self.scenario.front_end;
        let seen = std::mem::replace(&mut self.adapter_seen[sent.adapter as usize], true);
        let first_use = if seen {
            Time::ZERO
        } else {
            front_end.first_use
        };
        self.server_free = sent.arrival.max(self.server_free) + front_end.request + first_use;
        self.server_free
    }

    /// Requests that are ready by now join the engine's waiting queue.
    fn server_hands_over(&mut self) {
        while let Some(&name) = self.in_server.front() {
            let journey = &self.diary.journeys[name];
            if journey.ready.expect("accepted") > self.now {
                break;
            }
            let sent = journey.sent;
            let adapter = &self.scenario.adapters[sent.adapter as usize];
            self.scheduler.add(Request::new(
                (!adapter.is_base).then_some(sent.adapter),
                sent.prompt_tokens,
                sent.output_tokens,
            ));
            self.names.push(name);
            self.in_server.pop_front();
        }
    }

    /// Nothing waits or runs: on to when something can; false if nothing ever will.
    fn jump_to_next_request(&mut self) -> bool {
        if self.in_server.is_empty() {
            match self.clients.pop_front() {
                Some(request) => self.receive(request),
                None => return false,
            }
        }
        if let Some(&name) = self.in_server.front() {
            self.now = self.diary.journeys[name].ready.expect("accepted");
        }
        true
    }

    /// One engine step; false if the end of the run cut it off.
    fn step(&mut self, end: Time) -> Result<bool, Stuck> {
        let decision = self.scheduler.schedule();
        let hopeless = self.scheduler.running.is_empty()
            && self.in_server.is_empty()
            && self.clients.is_empty();
        if decision.scheduled.is_empty() && hopeless {
            return Err(Stuck {
                request: self.names[self.scheduler.waiting[0]],
            });
        }
        let mut step = self.price(&decision);
        if step.end > end {
            self.diary.cut = Some(step);
            return Ok(false);
        }
        self.clients_send_until(step.end, false);
        step.finished = self.hand_out_tokens(&decision, &step);
        self.diary.steps.push(step);
        self.now = step.end;
        Ok(true)
    }

    /// Whether the batch is anything but one token of each of the same requests once more.
    fn is_new_batch(&mut self, decision: &Decision) -> bool {
        if decision.scheduled.is_empty() {
            return false;
        }
        let decodes: Option<Vec<usize>> = (decision.scheduled.iter())
            .map(|&(request, tokens)| (tokens == 1).then_some(request))
            .collect();
        let is_new = decodes.is_none() || decodes != self.last_decodes;
        self.last_decodes = decodes;
        is_new
    }

    /// Loads the batch's adapters and prices the step.
    fn price(&mut self, decision: &Decision) -> Step {
        let batch = self.adapters_in_walk_order(decision);
        let mut shape = self.shape(decision, batch.len() as u32);
        shape.is_new = self.is_new_batch(decision);
        let mut step = Step {
            start: self.now,
            end: self.now,
            shape,
            running: self.scheduler.running.len() as u32,
            used_blocks: self.scenario.engine.num_blocks - 1 - self.scheduler.free_blocks,
            preempted: decision.preempted.len() as u32,
            finished: 0,
            gpu_loads: 0,
            disk_loads: 0,
            load: Time::ZERO,
        };
        for event in self.residency.walk(&batch) {
            match event {
                Event::LoadDisk(adapter) => {
                    step.disk_loads += 1;
                    step.load += self.scenario.adapters[adapter as usize].disk_load;
                }
                Event::LoadGpu(adapter) => {
                    step.gpu_loads += 1;
                    step.load += self.scenario.adapters[adapter as usize].gpu_load;
                }
                Event::EvictGpu(_) => {}
            }
        }
        step.end = self.now + self.scenario.step_time.price(&shape) + step.load;
        step
    }

    fn adapters_in_walk_order(&self, decision: &Decision) -> Vec<u32> {
        let scheduled: Vec<Option<u32>> = decision
            .scheduled
            .iter()
            .map(|&(request, _)| self.scheduler.requests[request].adapter)
            .collect();
        let in_batch = |adapter: &u32| scheduled.contains(&Some(*adapter));
        self.walk_order.iter().copied().filter(in_batch).collect()
    }

    fn shape(&self, decision: &Decision, distinct_adapters: u32) -> BatchShape {
        let mut shape = BatchShape {
            scheduled: decision.scheduled.len() as u32,
            distinct_adapters,
            skipped: decision.skipped,
            waiting: self.scheduler.waiting.len() as u32,
            ..BatchShape::default()
        };
        for &(request, tokens) in &decision.scheduled {
            let context = u64::from(self.scheduler.requests[request].computed - tokens);
            shape.batched_tokens += tokens;
            shape.context_tokens += context;
            if tokens > 1 {
                let tokens = u64::from(tokens);
                shape.attention_pairs += tokens * context + tokens * (tokens + 1) / 2;
            }
        }
        shape
    }

    /// At the end of a step: tokens for who earned one, farewell to who is done; says how many.
    fn hand_out_tokens(&mut self, decision: &Decision, step: &Step) -> u32 {
        let scheduled = step.shape.scheduled;
        let front_end = &self.scenario.front_end;
        for &request in &decision.preempted {
            self.diary.journeys[self.names[request]].preemptions += 1;
        }
        // A request that has its first token may be absent from steps while it waits or is
        // recomputed; what is merged is counted over the steps of the engine, not over its own.
        let freeze = (self.diary.freezes.iter())
            .rposition(|&(begin, end)| begin < step.end && step.end < end);
        let held = freeze.map_or(Time::ZERO, |index| {
            self.diary.freezes[index].1.since(step.end)
        });
        let held_together = freeze.is_some() && freeze == self.holding;
        self.holding = freeze.or(self.holding);
        self.merged += u64::from(held_together && FrontEnd::slices(scheduled) == 1);
        let update = self.scheduler.update(decision);
        for &request in &update.sampled {
            let journey = &mut self.diary.journeys[self.names[request]];
            if journey.first_token.is_none() {
                let engine_ttft = step.end.since(journey.sent.arrival);
                let took = step.end.since(step.start);
                journey.ttft = Some(front_end.ttft(engine_ttft, scheduled, took) + held);
                journey.first_token = Some(step.end);
                journey.merged_before = self.merged;
            } else {
                self.diary
                    .gaps
                    .push((step.end, step.end.since(journey.latest_token)));
            }
            journey.latest_token = step.end;
            journey.merged = self.merged - journey.merged_before;
        }
        for &request in &update.finished {
            self.diary.journeys[self.names[request]].done = Some(step.end);
            self.in_flight -= 1;
        }
        update.finished.len() as u32
    }
}
