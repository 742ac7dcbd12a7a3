//! One small table a rule, made by hand, in the columns of a recorded run: requests, then steps. The
//! tables stand in `decisions/`; each says in its first lines what to check it by.

use super::{Completed, Decision, Prospect, Scheduler};
use crate::conform::{replay_schedule, Difference, Lists, RecordedSchedule};
use crate::engine::jump::Series;
use crate::scenario::{EngineSettings, RuleSet};
use crate::step_time::BatchShape;

/// A table's lines: `name value` settings, `request ...` and `step ...` rows with columns set apart
/// by `|`. A list is `-` when empty; scheduled is `request:tokens`.
#[derive(Default)]
struct Table {
    settings: Vec<(String, u32)>,
    requests: [Vec<u32>; 4],
    step: Vec<u32>,
    scheduled_tokens: Vec<u32>,
    /// scheduled, new, resumed, preempted, finished: values and sizes.
    lists: [(Vec<u32>, Vec<u32>); 5],
    /// waiting, running, free_blocks, free_blocks_end, distinct_adapters, skipped.
    counts: [Vec<u32>; 6],
}

fn number(text: &str) -> u32 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number"))
}

impl Table {
    fn read(text: &str) -> Self {
        let mut table = Table::default();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (word, rest) = line.split_once(' ').expect("a word, then values");
            match word {
                "request" => {
                    for (column, text) in table.requests.iter_mut().zip(rest.split_whitespace()) {
                        column.push(number(text));
                    }
                }
                "step" => table.read_step(rest),
                name => table.settings.push((name.to_owned(), number(rest.trim()))),
            }
        }
        table
    }

    fn read_step(&mut self, row: &str) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 12, "columns of {row:?}");
        self.step.push(number(cells[0]));
        for (cell, (values, sizes)) in cells[1..6].iter().zip(&mut self.lists) {
            let before = values.len();
            for entry in cell.split_whitespace().filter(|&entry| entry != "-") {
                let (request, tokens) = entry.split_once(':').unwrap_or((entry, ""));
                values.push(number(request));
                if !tokens.is_empty() {
                    self.scheduled_tokens.push(number(tokens));
                }
            }
            sizes.push((values.len() - before) as u32);
        }
        for (cell, column) in cells[6..].iter().zip(&mut self.counts) {
            column.push(number(cell));
        }
    }

    fn engine(&self, rule_set: RuleSet) -> EngineSettings {
        let setting = |name: &str, otherwise: u32| {
            let found = self.settings.iter().find(|(own, _)| own == name);
            found.map_or(otherwise, |&(_, value)| value)
        };
        EngineSettings {
            rule_set,
            block_size: setting("block_size", 4),
            num_blocks: setting("num_blocks", 1000),
            max_loras: setting("max_loras", 8),
            max_cpu_loras: 8,
            max_num_seqs: setting("max_num_seqs", 8),
            max_num_batched_tokens: setting("max_num_batched_tokens", 64),
            max_model_len: setting("max_model_len", 10_000),
            long_prefill_token_threshold: setting("long_prefill_token_threshold", 0),
        }
    }

    fn difference(&self, rule_set: RuleSet) -> Option<Difference> {
        let list = |index: usize| Lists {
            values: &self.lists[index].0,
            sizes: &self.lists[index].1,
        };
        let recorded = RecordedSchedule {
            arrival_step: &self.requests[0],
            adapter: &self.requests[1],
            prompt_tokens: &self.requests[2],
            output_tokens: &self.requests[3],
            completed: false,
            step: &self.step,
            scheduled: list(0),
            scheduled_tokens: &self.scheduled_tokens,
            new: list(1),
            resumed: list(2),
            preempted: list(3),
            finished: list(4),
            waiting: &self.counts[0],
            running: &self.counts[1],
            free_blocks: &self.counts[2],
            free_blocks_end: &self.counts[3],
            distinct_adapters: &self.counts[4],
            skipped: &self.counts[5],
        };
        replay_schedule(&self.engine(rule_set), &recorded).expect("the table's columns fit")
    }
}

fn holds_in(text: &str, rule_sets: &[RuleSet]) {
    for &rule_set in rule_sets {
        assert_eq!(Table::read(text).difference(rule_set), None, "{rule_set:?}");
    }
}

const BOTH: [RuleSet; 2] = [RuleSet::Vllm085, RuleSet::Vllm033];

#[test]
fn rule_1_running_requests_come_first_and_the_budget_cuts_the_prompt() {
    holds_in(include_str!("decisions/rule_1_running_first.txt"), &BOTH);
}

#[test]
fn rule_2_block_is_taken_in_the_step_that_computes_its_first_token() {
    holds_in(include_str!("decisions/rule_2_blocks.txt"), &BOTH);
}

#[test]
fn rule_3_who_lacks_a_block_preempts_the_last_running_request() {
    holds_in(include_str!("decisions/rule_3_preempt_last.txt"), &BOTH);
}

#[test]
fn rule_3_last_request_that_lacks_a_block_preempts_itself() {
    let table = include_str!("decisions/rule_3_preempt_itself.txt");
    holds_in(table, &[RuleSet::Vllm085]);
}

#[test]
fn rule_4_after_a_preemption_nobody_waiting_is_looked_at() {
    let table = include_str!("decisions/rule_4_no_scan_after_preemption.txt");
    holds_in(table, &BOTH);
}

#[test]
fn rule_5_slots_in_use_are_the_adapters_of_the_running_requests() {
    holds_in(include_str!("decisions/rule_5_slots.txt"), &BOTH);
}

#[test]
fn rule_6_request_whose_adapter_does_not_fit_is_skipped_not_blocking() {
    holds_in(include_str!("decisions/rule_6_skip.txt"), &BOTH);
}

#[test]
fn rule_7_request_whose_blocks_are_not_free_stops_the_scan() {
    holds_in(include_str!("decisions/rule_7_stop.txt"), &BOTH);
}

#[test]
fn rule_7_in_085_the_first_chunks_blocks_suffice() {
    let table = include_str!("decisions/rule_7_first_chunk.txt");
    holds_in(table, &[RuleSet::Vllm085]);
    let difference = Table::read(table).difference(RuleSet::Vllm033);
    assert!(difference.is_some_and(|difference| difference.step == 1));
}

#[test]
fn rule_7_in_033_all_known_tokens_must_fit() {
    let table = include_str!("decisions/rule_7_whole_sequence.txt");
    holds_in(table, &[RuleSet::Vllm033]);
}

#[test]
fn rule_8_requests_end_by_output_or_by_model_length_and_free_their_blocks() {
    holds_in(include_str!("decisions/rule_8_end.txt"), &BOTH);
}

#[test]
fn rule_9_null_block_is_not_usable() {
    holds_in(include_str!("decisions/rule_9_null_block.txt"), &BOTH);
}

#[test]
fn capped_chunks_let_several_prompts_run_side_by_side() {
    holds_in(include_str!("decisions/capped_chunks.txt"), &BOTH);
}

#[test]
fn in_033_a_request_that_is_alone_is_not_capped() {
    let table = include_str!("decisions/capped_chunks_alone.txt");
    holds_in(table, &[RuleSet::Vllm033]);
}

#[test]
fn table_with_a_wrong_entry_is_told_apart() {
    let table = include_str!("decisions/rule_2_blocks.txt");
    let wrong = table.replace("| 7 | 7 |", "| 6 | 7 |");
    assert_ne!(table, wrong);
    let difference = Table::read(&wrong).difference(RuleSet::Vllm085);
    assert!(difference.is_some_and(|difference| difference.field == "free_blocks"));
}

/// An engine of two adapters that has taken its first step with one request of the first.
fn one_runs(table: &str) -> Scheduler {
    let engine = Table::read(table).engine(RuleSet::Vllm085);
    let mut scheduler = Scheduler::new(&engine, &[false, false]);
    arrive(&mut scheduler, 0, 8);
    step(&mut scheduler);
    scheduler
}

fn arrive(scheduler: &mut Scheduler, adapter: u32, prompt_tokens: u32) {
    let id = scheduler.add(adapter, prompt_tokens, 20);
    scheduler.enqueue(id);
}

fn step(scheduler: &mut Scheduler) -> Decision {
    let mut decision = Decision::default();
    scheduler.schedule(&mut decision);
    scheduler.complete(&decision, &mut Completed::default());
    decision
}

#[test]
fn arrival_that_can_only_be_skipped_leaves_the_next_steps_alike() {
    let mut scheduler = one_runs("max_loras 1");
    for arrivals in 1..=2 {
        arrive(&mut scheduler, 1, 8);
        assert_eq!(scheduler.prospect, Prospect::AllSkipped);
        assert!(scheduler.alike_steps() > 0);
        let mut shape = BatchShape::default();
        scheduler.alike_shape(&mut shape);
        assert_eq!((shape.skipped, shape.waiting), (arrivals, arrivals));
        // As deciding the step finds too.
        assert_eq!(scheduler.clone_and_decide().skipped, arrivals);
    }
    arrive(&mut scheduler, 0, 8);
    assert_eq!(scheduler.alike_steps(), 0, "it needs no further slot");
    assert_eq!(step(&mut scheduler).chunks.len(), 1);
}

#[test]
fn arrival_behind_one_that_lacks_blocks_leaves_the_next_steps_alike() {
    let mut scheduler = one_runs("num_blocks 9");
    arrive(&mut scheduler, 1, 30);
    assert_eq!(scheduler.alike_steps(), 0, "its blocks may be free");
    step(&mut scheduler);
    assert_eq!(scheduler.prospect, Prospect::Stopped);
    arrive(&mut scheduler, 0, 1);
    assert!(scheduler.alike_steps() > 0);
    let mut shape = BatchShape::default();
    scheduler.alike_shape(&mut shape);
    assert_eq!((shape.skipped, shape.waiting), (0, 2));
    assert_eq!(scheduler.clone_and_decide(), shape);
}

#[test]
fn slot_that_is_given_up_opens_the_queue() {
    let mut scheduler = one_runs("max_loras 1");
    arrive(&mut scheduler, 1, 8);
    let mut completed = Completed::default();
    let steps = scheduler.alike_steps();
    assert_eq!(steps, 19, "all its tokens but the first");
    scheduler.advance(
        steps,
        Series {
            first: 1,
            growth: 0,
        },
    );
    scheduler.end_decodes(&mut completed);
    assert_eq!(completed.finished, [0]);
    assert!(!scheduler.is_settled());
    assert_eq!(step(&mut scheduler).chunks.len(), 1);
}

impl Scheduler {
    /// The shape of the next step, decided apart.
    fn clone_and_decide(&self) -> BatchShape {
        step(&mut self.clone()).shape
    }
}
