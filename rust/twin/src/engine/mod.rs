//! The loop: arrivals due, decide, load, price, hand out tokens; or jump over steps that are alike.
//!
//! Read [`Engine::run`] first. What each part knows: [`clients`] who sends when and what the API
//! server adds; [`scheduler`] the rules; [`lora_slots`] what a batch loads; [`jump`] alike steps.

mod batch;
mod clients;
mod journeys;
mod jump;
pub(crate) mod kv_cache;
pub(crate) mod lora_slots;
mod prefetch;
pub(crate) mod requests;
mod running;
pub(crate) mod scheduler;
mod scrapes;
mod waiting;

use crate::error::SimulateError;
use crate::front_end::FrontEnd;
use crate::metrics::{Done, Outcome, Tally};
use crate::record::{RequestColumns, StepColumns, StepCounts};
use crate::scenario::Scenario;
use crate::units::Time;
use clients::Clients;
use journeys::Journeys;
use lora_slots::{Loads, LoraSlots};
use scheduler::{Completed, Decision, Scheduler};

/// Which records to keep besides the summary: memory is then O(requests), O(steps).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// One row a request.
    pub requests: bool,
    /// One row a step.
    pub steps: bool,
}

/// Loop turns between two looks at whether the caller wants to stop.
const TURNS_A_POLL: u32 = 4096;

/// Runs a scenario.
///
/// # Errors
/// If the scenario cannot run, if a request can never be scheduled, or when `interrupted` says so.
pub fn simulate(
    scenario: &Scenario,
    records: Records,
    interrupted: &dyn Fn() -> bool,
) -> Result<Outcome, SimulateError> {
    scenario.check()?;
    let mut engine = Engine::new(scenario, records);
    engine.run(interrupted)?;
    Ok(engine.outcome())
}

/// One run under way.
struct Engine<'a> {
    scenario: &'a Scenario,
    now: Time,
    /// No step may end later.
    end: Time,
    clients: Clients,
    scheduler: Scheduler,
    lora_slots: LoraSlots,
    journeys: Journeys,
    /// Whether the next step cannot be like the last one that ran: somebody left after it, or it
    /// computed prompts.
    batch_changed: bool,
    /// Steps so far whose tokens reached clients with those of the step before.
    merged: u64,
    tally: Tally,
    steps: Option<StepColumns>,
    decision: Decision,
    completed: Completed,
}

impl<'a> Engine<'a> {
    fn new(scenario: &'a Scenario, records: Records) -> Self {
        let is_base: Vec<bool> = (scenario.adapters.iter())
            .map(|adapter| adapter.is_base)
            .collect();
        Engine {
            scenario,
            now: Time::ZERO,
            end: scenario.duration.unwrap_or(Time::MAX),
            clients: Clients::new(scenario),
            scheduler: Scheduler::new(&scenario.engine, &is_base),
            lora_slots: LoraSlots::new(scenario),
            journeys: Journeys::new(records.requests.then(RequestColumns::default)),
            batch_changed: true,
            merged: 0,
            tally: Tally::new(scenario),
            steps: records.steps.then(StepColumns::default),
            decision: Decision::default(),
            completed: Completed::default(),
        }
    }

    fn run(&mut self, interrupted: &dyn Fn() -> bool) -> Result<(), SimulateError> {
        let mut turn = 0_u32;
        loop {
            turn = turn.wrapping_add(1);
            if turn % TURNS_A_POLL == 0 && interrupted() {
                return Err(SimulateError::Interrupted);
            }
            self.receive_until(Time(self.now.0 + 1));
            self.clients.hand_over(self.now, &mut self.scheduler);
            self.report();
            if self.now >= self.end {
                break;
            }
            if self.scheduler.is_idle() {
                if !self.wait_for_request() {
                    break;
                }
            } else if !self.jump() && !self.step()? {
                break;
            }
        }
        self.receive_until(Time::MAX);
        Ok(())
    }

    /// After a step the API server learns who waits and who runs.
    #[inline]
    fn report(&mut self) {
        if let Some(scrapes) = &mut self.clients.scrapes {
            if self.tally.ended_last() == self.now {
                scrapes.report_at(self.now, self.decision.shape.scheduled);
            }
        }
    }

    /// Takes what clients send before `until`.
    #[inline]
    fn receive_until(&mut self, until: Time) {
        self.clients.receive_until(
            until,
            &mut self.scheduler,
            &mut self.journeys,
            &mut self.tally,
        );
    }

    /// Nothing waits or runs: on to when something can; false if nothing ever will.
    fn wait_for_request(&mut self) -> bool {
        if self.clients.next_ready() == Time::MAX {
            return false;
        }
        self.now = self.clients.next_ready();
        true
    }

    /// One engine step; false if the end of the run cut it off.
    ///
    /// Not inlined: the loop around it would have no registers left for it.
    #[inline(never)]
    fn step(&mut self) -> Result<bool, SimulateError> {
        self.scheduler.schedule(&mut self.decision);
        self.note_change();
        if self.clients.scrapes.is_some() {
            self.report_moves();
        }
        for preempted in &self.decision.preempted {
            if preempted.was_decoding {
                // Its last token came at the end of the step before.
                self.journeys[preempted.id].latest_token = self.now;
            }
        }
        if self.journeys.are_many() {
            for chunk in &self.decision.chunks {
                self.journeys.prefetch(chunk.id);
            }
        }
        let shape = &self.decision.shape;
        if shape.scheduled == 0 {
            self.refuse_if_stuck()?;
        }
        let loads = self.lora_slots.walk(self.scheduler.batch());
        let shape = &self.decision.shape;
        let took = self.scenario.step_time.price(shape) + loads.time;
        let distinct = shape.distinct_adapters;
        let start = self.now;
        let end = start + took;
        let counts = self.step_counts(loads);
        if end > self.end {
            self.tally.state(start, self.end, &counts, distinct);
            return Ok(false);
        }
        self.receive_until(end);
        self.now = end;
        self.hand_out_tokens(took);
        self.tally.state(start, end, &counts, distinct);
        self.tally.steps(end, &counts);
        if self.steps.is_some() {
            self.record_step(start, took, &counts);
        }
        Ok(true)
    }

    /// Whether the batch is a new one, and whether the next will be for what this one computes.
    #[inline]
    fn note_change(&mut self) {
        let decision = &mut self.decision;
        if decision.shape.scheduled == 0 {
            return;
        }
        let has_prompts = decision.chunks.iter().any(|chunk| chunk.tokens > 1);
        decision.shape.is_new = self.batch_changed
            || has_prompts
            || decision.chunks.len() > decision.n_continued
            || !decision.preempted.is_empty();
        self.batch_changed = has_prompts;
    }

    /// Who moved between the waiting queue and the batch, for who reports it.
    fn report_moves(&mut self) {
        let Some(scrapes) = &mut self.clients.scrapes else {
            return;
        };
        for preempted in &self.decision.preempted {
            scrapes.preempted(self.scheduler.requests[preempted.id].adapter);
        }
        for chunk in &self.decision.chunks[self.decision.n_continued..] {
            scrapes.admitted(self.scheduler.requests[chunk.id].adapter);
        }
    }

    /// Counts the steps merged among those of so many requests that led up to `now`;
    /// `ended_before` says how many of them ended before a time.
    #[inline]
    pub(super) fn merge(&mut self, scheduled: u32, ended_before: impl Fn(Time) -> u64) {
        if let Some(scrapes) = &mut self.clients.scrapes {
            let together = scrapes.held_together(self.now, ended_before);
            if FrontEnd::slices(scheduled) == 1 {
                self.merged += together;
            }
        }
    }

    fn step_counts(&self, loads: Loads) -> StepCounts {
        StepCounts {
            steps: 1,
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            used_blocks: self.scheduler.kv_cache().used(),
            preempted: self.decision.preempted.len() as u32,
            gpu_loads: loads.gpu,
            disk_loads: loads.disk,
            load: loads.time,
        }
    }

    /// A step that schedules nothing, with nothing running and nothing to come, will repeat for ever.
    fn refuse_if_stuck(&mut self) -> Result<(), SimulateError> {
        if self.scheduler.running() > 0 || self.clients.has_more() {
            return Ok(());
        }
        let Some(id) = self.scheduler.first_waiting() else {
            return Ok(());
        };
        let request = &self.scheduler.requests[id];
        Err(SimulateError::Stuck {
            request: self.journeys[id].number,
            adapter: request.adapter,
            prompt_tokens: request.prompt_tokens,
            output_tokens: request.output_tokens,
        })
    }

    /// At the end of a step: tokens for who earned one, farewell to who is done.
    fn hand_out_tokens(&mut self, took: Time) {
        let shape = self.decision.shape;
        let front_end = &self.scenario.front_end;
        let now = self.now;
        self.merge(shape.scheduled, |time| u64::from(now < time));
        let held = match &self.clients.scrapes {
            Some(scrapes) => scrapes.held(self.now),
            None => Time::ZERO,
        };
        for preempted in &self.decision.preempted {
            self.journeys.preempted(preempted.id);
        }
        // Every decode got its last token at the end of the step before.
        let decodes = u64::from(self.decision.decodes);
        self.tally.gaps(self.now, took, decodes);
        self.scheduler.complete(&self.decision, &mut self.completed);
        #[cfg(debug_assertions)]
        self.assert_laws();
        for &id in &self.completed.sampled {
            let journey = &mut self.journeys[id];
            if journey.first_token == Time::MAX {
                let engine_ttft = self.now.since(journey.arrival);
                journey.ttft = front_end.ttft(engine_ttft, shape.scheduled, took) + held;
                journey.first_token = self.now;
                journey.merged_before = self.merged;
            } else {
                let gap = self.now.since(journey.latest_token);
                self.tally.gaps(self.now, gap, 1);
            }
            journey.latest_token = self.now;
        }
        self.finish();
    }

    /// Every request in flight is in exactly one place, and the scheduler's own laws hold.
    #[cfg(debug_assertions)]
    fn assert_laws(&self) {
        self.scheduler.assert_laws();
        let finished = self.completed.finished.len() as u32;
        let in_engine = self.scheduler.running() + self.scheduler.waiting() + finished;
        let in_flight = in_engine + self.clients.in_server();
        assert_eq!(in_flight, self.clients.in_flight, "requests are conserved");
    }

    /// Those who have all their tokens leave.
    fn finish(&mut self) {
        self.batch_changed |= !self.completed.finished.is_empty();
        for &id in &self.completed.finished {
            let request = &self.scheduler.requests[id];
            let journey = &self.journeys[id];
            self.tally.done(&Done {
                adapter: request.adapter,
                prompt_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
                arrival: journey.arrival,
                first_token: journey.first_token,
                ttft: journey.ttft,
                done: self.now,
                merged: self.merged - journey.merged_before,
            });
            self.journeys.done(id, self.now);
            if let Some(scrapes) = &mut self.clients.scrapes {
                scrapes.finished(request.adapter);
            }
            self.scheduler.requests.release(id);
        }
        self.clients.in_flight -= self.completed.finished.len() as u32;
        if self.journeys.are_many() {
            for id in self.scheduler.ending_next() {
                self.journeys.prefetch(id);
            }
        }
    }

    /// A row for the step that has just ended.
    fn record_step(&mut self, start: Time, took: Time, counts: &StepCounts) {
        let finished = self.completed.finished.len() as u32;
        if let Some(steps) = &mut self.steps {
            steps.push(start, took, &self.decision.shape, counts, finished);
        }
    }

    fn outcome(mut self) -> Outcome {
        let end = self.tally.end(self.scenario);
        for (arrival, ttft) in self.journeys.unfinished() {
            let ttft = ttft.unwrap_or(end.since(arrival));
            self.tally.unfinished(arrival, ttft);
        }
        let unfinished = u64::from(self.clients.in_flight);
        let series = (self.clients.scrapes.as_ref())
            .map_or((0, 0), |scrapes| (scrapes.n_series(), scrapes.n_names()));
        Outcome {
            summary: self.tally.summary(self.scenario, unfinished, series),
            adapters: self.tally.adapter_columns(),
            requests: self.journeys.into_columns(),
            steps: self.steps,
        }
    }
}
