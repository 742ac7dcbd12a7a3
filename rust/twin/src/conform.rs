//! A recorded run through the engine's own rules, the recording's clock in place of ours: where do the
//! two first differ?
//!
//! Recordings come as flat arrays of `u32` (whoever reads the files makes them so): one number a step
//! in a column, and a list a step as all its values in one array beside how many each step has
//! ([`Lists`]).

use std::fmt::Debug;

use crate::engine::lora_slots::{Caches, Event};
use crate::engine::scheduler::{Completed, Decision, Scheduler};
use crate::error::ScenarioError;
use crate::scenario::EngineSettings;

/// One list a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lists<'a> {
    /// All values, step after step.
    pub values: &'a [u32],
    /// How many values each step has.
    pub sizes: &'a [u32],
}

/// What a real scheduler was given and what it decided.
///
/// Requests are numbered by their place in the request columns. A request joins the waiting queue in
/// the step `arrival_step`, in order of its number; adapter 0 is the base model.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordedSchedule<'a> {
    /// By request; not descending.
    pub arrival_step: &'a [u32],
    /// By request.
    pub adapter: &'a [u32],
    /// By request.
    pub prompt_tokens: &'a [u32],
    /// By request.
    pub output_tokens: &'a [u32],
    /// Whether the recording goes on until the last request has ended.
    pub completed: bool,
    /// Number of each recorded step, ascending. Steps with nobody waiting or running are left out.
    pub step: &'a [u32],
    /// Requests scheduled, in the order decided.
    pub scheduled: Lists<'a>,
    /// Tokens of each, in the layout of `scheduled`.
    pub scheduled_tokens: &'a [u32],
    /// Requests admitted for the first time.
    pub new: Lists<'a>,
    /// Requests admitted again.
    pub resumed: Lists<'a>,
    /// Requests preempted, in order.
    pub preempted: Lists<'a>,
    /// Requests that ended, in running order.
    pub finished: Lists<'a>,
    /// Requests waiting after scheduling.
    pub waiting: &'a [u32],
    /// Requests running after scheduling.
    pub running: &'a [u32],
    /// Free blocks after scheduling.
    pub free_blocks: &'a [u32],
    /// Free blocks at the step's end.
    pub free_blocks_end: &'a [u32],
    /// Distinct adapters scheduled.
    pub distinct_adapters: &'a [u32],
    /// Waiting requests passed over for lack of a slot.
    pub skipped: &'a [u32],
}

/// What a real adapter manager was given and what it did.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordedResidency<'a> {
    /// GPU slots.
    pub max_loras: u32,
    /// Adapters the CPU cache holds.
    pub max_cpu_loras: u32,
    /// Number of each step (for the report only; the start, -1, is a step like any other).
    pub step: &'a [i32],
    /// The step's adapters in the order walked.
    pub batch: Lists<'a>,
    /// Adapters to which something happened, in order.
    pub events: Lists<'a>,
    /// What happened to each, in the layout of `events`: 0 read from disk into the CPU cache, 1 copied
    /// into a GPU slot, 2 its slot was freed.
    pub event_kinds: &'a [u32],
}

/// Where a replay first departs from its recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Number of the step, as recorded.
    pub step: i64,
    /// Field of the step; `steps` where one of the two goes on when the other has ended.
    pub field: &'static str,
    /// What the real engine did.
    pub recorded: String,
    /// What these rules do.
    pub simulated: String,
}

impl Lists<'_> {
    /// The lists one by one; the arrays have been checked.
    fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let mut rest = self.values;
        self.sizes.iter().map(move |&size| {
            let (list, behind) = rest.split_at(size as usize);
            rest = behind;
            list
        })
    }

    fn check(&self, place: &str, steps: usize) -> Result<(), ScenarioError> {
        check_len(place, self.sizes.len(), steps)?;
        let values = self.sizes.iter().map(|&size| size as usize).sum();
        check_len(place, self.values.len(), values)
    }
}

fn check_len(place: &str, found: usize, right: usize) -> Result<(), ScenarioError> {
    if found == right {
        return Ok(());
    }
    Err(ScenarioError {
        place: place.to_owned(),
        value: format!("{found} entries"),
        mend: format!("must have {right}"),
    })
}

/// Replays recorded scheduling decisions by the rules of `settings`; the first difference, if any.
///
/// # Errors
/// If the arrays do not fit together.
pub fn replay_schedule(
    settings: &EngineSettings,
    recorded: &RecordedSchedule<'_>,
) -> Result<Option<Difference>, ScenarioError> {
    check_schedule(recorded)?;
    let mut replay = Replay::new(settings, recorded);
    let mut lists = [
        &recorded.scheduled,
        &recorded.new,
        &recorded.resumed,
        &recorded.preempted,
        &recorded.finished,
    ]
    .map(Lists::iter);
    let mut tokens = Lists {
        values: recorded.scheduled_tokens,
        sizes: recorded.scheduled.sizes,
    };
    for (index, &step) in recorded.step.iter().enumerate() {
        let Some(simulated) = replay.next_step() else {
            return Ok(Some(ended(step, "simulated run has ended")));
        };
        let [scheduled, new, resumed, preempted, finished] =
            lists.each_mut().map(|list| list.next().unwrap_or(&[]));
        let (scheduled_tokens, rest) = tokens.values.split_at(scheduled.len());
        tokens.values = rest;
        let compare = Compare { step };
        let difference = compare
            .numbers("step", step, simulated.step)
            .or_else(|| compare.lists("scheduled", scheduled, &simulated.scheduled))
            .or_else(|| compare.lists("scheduled", scheduled_tokens, &simulated.scheduled_tokens))
            .or_else(|| compare.lists("new", new, &simulated.new))
            .or_else(|| compare.lists("resumed", resumed, &simulated.resumed))
            .or_else(|| compare.lists("preempted", preempted, &simulated.preempted))
            .or_else(|| compare.lists("finished", finished, &simulated.finished))
            .or_else(|| compare.numbers("waiting", recorded.waiting[index], simulated.waiting))
            .or_else(|| compare.numbers("running", recorded.running[index], simulated.running))
            .or_else(|| {
                let free = recorded.free_blocks[index];
                compare.numbers("free_blocks", free, simulated.free_blocks)
            })
            .or_else(|| {
                let free = recorded.free_blocks_end[index];
                compare.numbers("free_blocks_end", free, simulated.free_blocks_end)
            })
            .or_else(|| {
                let distinct = recorded.distinct_adapters[index];
                compare.numbers("distinct_adapters", distinct, simulated.distinct_adapters)
            })
            .or_else(|| compare.numbers("skipped", recorded.skipped[index], simulated.skipped));
        if difference.is_some() {
            return Ok(difference);
        }
    }
    let goes_on = recorded.completed && replay.next_step().is_some();
    let last = recorded.step.last().copied().unwrap_or(0);
    Ok(goes_on.then(|| ended(last, "simulated run goes on")))
}

fn ended(step: u32, simulated: &str) -> Difference {
    Difference {
        step: i64::from(step),
        field: "steps",
        recorded: if simulated.ends_with("on") {
            "recorded run has ended".to_owned()
        } else {
            "recorded run goes on".to_owned()
        },
        simulated: simulated.to_owned(),
    }
}

fn check_schedule(recorded: &RecordedSchedule<'_>) -> Result<(), ScenarioError> {
    let requests = recorded.arrival_step.len();
    for (place, column) in [
        ("adapter", recorded.adapter),
        ("prompt_tokens", recorded.prompt_tokens),
        ("output_tokens", recorded.output_tokens),
    ] {
        check_len(&format!("requests.{place}"), column.len(), requests)?;
    }
    let steps = recorded.step.len();
    for (place, column) in [
        ("waiting", recorded.waiting),
        ("running", recorded.running),
        ("free_blocks", recorded.free_blocks),
        ("free_blocks_end", recorded.free_blocks_end),
        ("distinct_adapters", recorded.distinct_adapters),
        ("skipped", recorded.skipped),
    ] {
        check_len(place, column.len(), steps)?;
    }
    for (place, lists) in [
        ("scheduled", recorded.scheduled),
        ("new", recorded.new),
        ("resumed", recorded.resumed),
        ("preempted", recorded.preempted),
        ("finished", recorded.finished),
    ] {
        lists.check(place, steps)?;
    }
    let scheduled = recorded.scheduled.values.len();
    check_len(
        "scheduled_tokens",
        recorded.scheduled_tokens.len(),
        scheduled,
    )
}

/// One step as a recording would hold it.
#[derive(Clone, Debug, Default)]
struct Step {
    step: u32,
    scheduled: Vec<u32>,
    scheduled_tokens: Vec<u32>,
    new: Vec<u32>,
    resumed: Vec<u32>,
    preempted: Vec<u32>,
    finished: Vec<u32>,
    waiting: u32,
    running: u32,
    free_blocks: u32,
    free_blocks_end: u32,
    distinct_adapters: u32,
    skipped: u32,
}

/// The scheduler under the recording's clock.
struct Replay<'a> {
    recorded: &'a RecordedSchedule<'a>,
    max_model_len: u32,
    scheduler: Scheduler,
    decision: Decision,
    completed: Completed,
    step: u32,
    arrived: usize,
    is_capped: bool,
}

impl<'a> Replay<'a> {
    fn new(settings: &EngineSettings, recorded: &'a RecordedSchedule<'a>) -> Self {
        let n_adapters = recorded.adapter.iter().max().map_or(1, |&most| most + 1);
        let is_base: Vec<bool> = (0..n_adapters).map(|adapter| adapter == 0).collect();
        Replay {
            recorded,
            max_model_len: settings.max_model_len,
            scheduler: Scheduler::new(settings, &is_base),
            decision: Decision::default(),
            completed: Completed::default(),
            step: 0,
            arrived: 0,
            is_capped: settings.long_prefill_token_threshold > 0,
        }
    }

    /// One step; none when all requests have ended.
    fn next_step(&mut self) -> Option<Step> {
        if self.scheduler.is_idle() {
            self.step = self
                .step
                .max(*self.recorded.arrival_step.get(self.arrived)?);
        }
        self.arrive();
        self.scheduler.schedule(&mut self.decision);
        let mut step = self.decided();
        self.scheduler.complete(&self.decision, &mut self.completed);
        step.finished.clone_from(&self.completed.finished);
        step.free_blocks_end = self.scheduler.kv_cache().free();
        self.step += 1;
        Some(step)
    }

    /// Requests of this step join; none leaves its row, so their ids are their numbers.
    fn arrive(&mut self) {
        let recorded = self.recorded;
        while recorded
            .arrival_step
            .get(self.arrived)
            .is_some_and(|&due| due <= self.step)
        {
            let index = self.arrived;
            let prompt = recorded.prompt_tokens[index];
            // Rule 8: it also ends when prompt + generated reach `max_model_len`.
            let room = self.max_model_len.saturating_sub(prompt).max(1);
            let output = recorded.output_tokens[index].min(room);
            let id = self.scheduler.add(recorded.adapter[index], prompt, output);
            self.scheduler.enqueue(id);
            self.arrived += 1;
        }
    }

    /// The decision, with the decodes spelt out in running order.
    fn decided(&self) -> Step {
        let decision = &self.decision;
        let mut step = Step {
            step: self.step,
            new: decision
                .admitted_first()
                .iter()
                .map(|chunk| chunk.id)
                .collect(),
            resumed: decision
                .admitted_again()
                .iter()
                .map(|chunk| chunk.id)
                .collect(),
            preempted: decision.preempted.iter().map(|gone| gone.id).collect(),
            waiting: self.scheduler.waiting(),
            running: self.scheduler.running(),
            free_blocks: self.scheduler.kv_cache().free(),
            distinct_adapters: decision.shape.distinct_adapters,
            skipped: decision.shape.skipped,
            ..Step::default()
        };
        // Decodes stand before all chunks in the running list; with capped chunks all are listed.
        let decodes = if self.is_capped {
            0
        } else {
            decision.decodes as usize
        };
        for id in self.scheduler.running_in_order().take(decodes) {
            step.scheduled.push(id);
            step.scheduled_tokens.push(1);
        }
        for chunk in &decision.chunks {
            step.scheduled.push(chunk.id);
            step.scheduled_tokens.push(chunk.tokens);
        }
        step
    }
}

/// Comparisons within one step.
#[derive(Clone, Copy)]
struct Compare {
    step: u32,
}

impl Compare {
    fn numbers(self, field: &'static str, recorded: u32, simulated: u32) -> Option<Difference> {
        self.differ(field, &recorded, &simulated)
    }

    fn lists(self, field: &'static str, recorded: &[u32], simulated: &[u32]) -> Option<Difference> {
        self.differ(field, recorded, simulated)
    }

    fn differ<T: PartialEq + Debug + ?Sized>(
        self,
        field: &'static str,
        recorded: &T,
        simulated: &T,
    ) -> Option<Difference> {
        (recorded != simulated).then(|| Difference {
            step: i64::from(self.step),
            field,
            recorded: format!("{recorded:?}"),
            simulated: format!("{simulated:?}"),
        })
    }
}

/// Replays recorded adapter residency; the first difference, if any.
///
/// # Errors
/// If the arrays do not fit together, or the CPU cache is smaller than the slots.
pub fn replay_residency(
    recorded: &RecordedResidency<'_>,
) -> Result<Option<Difference>, ScenarioError> {
    let steps = recorded.step.len();
    recorded.batch.check("batch", steps)?;
    recorded.events.check("events", steps)?;
    let events = recorded.events.values.len();
    check_len("event_kinds", recorded.event_kinds.len(), events)?;
    if recorded.max_cpu_loras < recorded.max_loras || recorded.max_loras == 0 {
        return Err(ScenarioError {
            place: "max_cpu_loras".to_owned(),
            value: recorded.max_cpu_loras.to_string(),
            mend: "must be at least max_loras, and that at least 1".to_owned(),
        });
    }
    let n_adapters = recorded
        .batch
        .values
        .iter()
        .max()
        .map_or(0, |&most| most + 1);
    let mut caches = Caches::new(
        n_adapters as usize,
        recorded.max_loras,
        recorded.max_cpu_loras,
    );
    let mut kinds = recorded.event_kinds;
    let mut clock = 0;
    let lists = recorded.batch.iter().zip(recorded.events.iter());
    for (&step, (batch, adapters)) in recorded.step.iter().zip(lists) {
        let (step_kinds, rest) = kinds.split_at(adapters.len());
        kinds = rest;
        let mut simulated = Vec::new();
        for &adapter in batch {
            clock += 1;
            caches.activate(adapter, clock, |event| simulated.push(named(event)));
        }
        let happened = step_kinds.iter().copied().zip(adapters.iter().copied());
        let happened: Vec<(&str, u32)> = happened.map(|(kind, of)| (kind_name(kind), of)).collect();
        if happened != simulated {
            return Ok(Some(Difference {
                step: i64::from(step),
                field: "events",
                recorded: format!("{happened:?}"),
                simulated: format!("{simulated:?}"),
            }));
        }
    }
    Ok(None)
}

fn kind_name(kind: u32) -> &'static str {
    match kind {
        0 => "load_disk",
        1 => "load_gpu",
        2 => "evict_gpu",
        _ => "unknown",
    }
}

fn named(event: Event) -> (&'static str, u32) {
    match event {
        Event::LoadDisk(adapter) => ("load_disk", adapter),
        Event::LoadGpu(adapter) => ("load_gpu", adapter),
        Event::EvictGpu(adapter) => ("evict_gpu", adapter),
    }
}
