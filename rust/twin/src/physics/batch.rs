//! What a step costs with so many requests running: their tokens, their context, the prompts that
//! come in, the adapters among them, and the queue that is looked at.

use super::slots::Sharing;
use super::work::Demand;
use super::{place, Case, Gpu, Point, Setting};

/// Preemptions of a request over output / prompt in a full KV cache, as the twin has them.
const PREEMPTED: f64 = 0.22;

/// Of the harmonic numbers: how far they are above the logarithm.
const EULER_GAMMA: f64 = 0.577;

/// Futile steps over what prompts that are all alike would make of them.
const FUTILE: f64 = 0.8;

/// Share of the KV cache from which on it counts as getting full.
const NEARLY_FULL: f64 = 0.9;

/// Slots wanted over those there are, from which on they count as getting short.
const NEARLY_SHORT: f64 = 0.8;

/// A step with a given number of running requests.
pub(super) struct Batch {
    pub(super) step_s: f64,
    /// The same with a large prefill in it.
    pub(super) prefill_step_s: f64,
    pub(super) batched_tokens: f64,
    pub(super) load_s: f64,
    /// Share of the steps that compute a chunk in vain.
    pub(super) futile: f64,
}

/// What of the demand each step's price needs, worked out once.
pub(super) struct Mix {
    /// KV tokens of a running request, mean over its life and over running requests.
    pub(super) held_tokens: f64,
    /// Requests that a running one finds beside it because they came together.
    mates: f64,
    /// Prompt that a token finds itself in, mean.
    prompt_met: f64,
    /// Three prompts over the mean one, with the weights 1/6, 2/3, 1/6: a lognormal law's.
    prompts: [f64; 3],
}

impl Mix {
    pub(super) fn of(demand: &Demand) -> Mix {
        let prompt = demand.prompt_tokens.max(1.0);
        let variance = (demand.prompt_square / (prompt * prompt)).max(1.0).ln();
        let (middle, apart) = ((-0.5 * variance).exp(), (3.0 * variance).sqrt().exp());
        let held = demand.prompt_output + 0.5 * demand.output_square;
        Mix {
            held_tokens: held / demand.output_tokens,
            mates: 0.5 * (demand.clump - 1.0),
            prompt_met: demand.prompt_square / prompt,
            prompts: [middle / apart, middle, middle * apart],
        }
    }
}

/// Steps over how many prompts fall into them.
struct MeanStep {
    /// Price of the tokens, mean.
    step_s: f64,
    /// The same with a large prefill.
    large_step_s: f64,
    /// Share of the steps that have any prompt.
    with_prompts: f64,
}

impl Case<'_> {
    /// A step with `running` requests while others wait; so much of what is offered is completed.
    pub(super) fn batch(
        &self,
        running: f64,
        sharing: &Sharing,
        waiting: f64,
        completed: f64,
    ) -> Batch {
        let (demand, step) = (self.demand, &self.gpu.step);
        // What a running request sees: itself, besides those it would see from outside.
        let seen = (running + 1.0 + self.mix.mates).min(self.limit.running);
        let arrivals = seen / demand.output_tokens;
        let tokens = seen + arrivals * (demand.prompt_tokens - 1.0).max(0.0);
        let room = (self.gpu.max_num_batched_tokens - seen).max(1.0);
        let kv_usage = running / self.limit.kv;
        let admitted = arrivals * (1.0 + preemptions(demand, kv_usage));
        let futile = self.futile_steps(kv_usage, room);
        let mean = self.mean_step(seen, admitted, room, futile, sharing.distinct_adapters);
        let without_slot = if running < self.limit.running {
            1.0
        } else {
            share_without_slot(demand, sharing, completed)
        };
        let load_s = sharing.loads * arrivals * demand.gpu_load_s;
        let stretch = 1.0 + step.stretch_s * demand.rate_rps;
        let pairs =
            admitted * 0.5 * demand.prompt_square + futile * room * 0.25 * self.mix.prompt_met;
        let by_batch = step.request * seen
            + seen * self.mix.held_tokens * step.context_price(mean.with_prompts)
            + step.attention_pair * pairs
            + step.waiting * waiting
            + step.skipped * waiting * without_slot
            + self.mapping_s(seen, arrivals, mean.with_prompts);
        Batch {
            step_s: (mean.step_s + by_batch) * stretch + load_s,
            prefill_step_s: (mean.large_step_s + by_batch) * stretch + load_s,
            batched_tokens: tokens.min(self.gpu.max_num_batched_tokens),
            load_s,
            futile,
        }
    }

    /// What new batches add to a step, mean: one is new with its prompts, after a step that had some,
    /// and after one with which somebody ended.
    fn mapping_s(&self, seen: f64, arrivals: f64, with_prompts: f64) -> f64 {
        if self.setting.max_loras <= 0.0 {
            return 0.0;
        }
        let without = 1.0 - with_prompts;
        let new = 1.0 - without * without * (-arrivals).exp();
        let step = &self.gpu.step;
        new * (step.mapping + step.mapping_request * seen)
    }

    /// A step as a token sees it: with more of its adapter's queue in it, where slots are short and
    /// each turn begins with a queue, than there are requests on average.
    pub(super) fn seen_step_s(&self, point: &Point) -> f64 {
        let (running, adapters) = (point.running, point.sharing.distinct_adapters);
        let crowd = (self.limit.running - running).min(point.sharing.crowd);
        if crowd <= 0.0 {
            return point.batch.step_s;
        }
        let price = |tokens| self.gpu.tokens_price(tokens, self.setting, adapters);
        let each = self.gpu.step.request + self.mix.held_tokens * self.gpu.step.context_token;
        point.batch.step_s + price(running + crowd) - price(running) + crowd * each
    }

    /// Share of the steps that compute a chunk in vain, where the KV cache is full: the blocks of a
    /// long prompt's first chunks are free, so it is let in, but those of all its chunks are not, so
    /// it is pushed out again, and stands first in the queue.
    ///
    /// With `k` chunks' blocks free, each round is `k` such steps and one that lets nobody in. `k` is
    /// any number below the prompt's `x` chunks, as likely as another: the mean of `k / (k + 1)` is
    /// `1 - H(x) / x`, `H` the harmonic numbers.
    fn futile_steps(&self, kv_usage: f64, room: f64) -> f64 {
        let chunks = self.mix.prompt_met / room;
        if kv_usage <= NEARLY_FULL || chunks <= 1.0 {
            return 0.0;
        }
        let full = beyond(kv_usage, NEARLY_FULL);
        let harmonic = chunks.ln() + EULER_GAMMA + 0.5 / chunks;
        full * FUTILE * (1.0 - harmonic / chunks).max(0.0)
    }

    /// Mean price of a step over how many prompts fall into it (Poisson), and the price of a large
    /// one. `room` is what the step has left for prompts: what would be more goes into other steps.
    fn mean_step(
        &self,
        running: f64,
        arrivals: f64,
        room: f64,
        futile: f64,
        distinct_adapters: f64,
    ) -> MeanStep {
        let price = |tokens| {
            self.gpu
                .tokens_price(running + tokens, self.setting, distinct_adapters)
        };
        let prompt = self.demand.prompt_tokens.max(1.0);
        // A token finds itself in a prompt of so many chunks.
        let chunks = (self.mix.prompt_met / room).max(1.0);
        let (chunk, chunks_a_step) = (prompt / chunks, arrivals * chunks);
        let chunk_square = (self.demand.prompt_square / (chunks * chunks)).max(chunk * chunk);
        let tokens = arrivals * prompt;
        let none = (-chunks_a_step).exp();
        let one = chunks_a_step * none;
        let more = (1.0 - none - one).max(0.0);
        let (mut step_s, mut placed) = (none * price(0.0), 0.0);
        let mut put = |share: f64, tokens: f64| {
            let tokens = tokens.clamp(0.0, room);
            placed += share * tokens;
            step_s += share * price(tokens);
        };
        let [short, middle, long] = self.mix.prompts;
        put(one / 6.0, chunk * short);
        put(one * 2.0 / 3.0, chunk * middle);
        put(one / 6.0, chunk * long);
        let square = chunks_a_step * chunk_square + tokens * tokens;
        if more > 1e-9 {
            // Two equally likely sums of more than one.
            let mean = (tokens - one * chunk) / more;
            let square = (square - one * chunk_square) / more;
            let deviation = (square - mean * mean).max(0.0).sqrt();
            put(0.5 * more, mean - deviation);
            put(0.5 * more, mean + deviation);
        }
        // What found no room fills other steps, and so does what is computed in vain.
        let full = ((tokens - placed) / (room - placed).max(1e-9)).clamp(0.0, 1.0);
        let full = full + (1.0 - full) * futile;
        if full > 0.0 {
            step_s += full * (price(room) - step_s);
        }
        let some = (1.0 - none).max(tokens / room).clamp(1e-12, 1.0);
        let mean = (tokens / some).min(room);
        let deviation = (square / some - mean * mean).max(0.0).sqrt();
        let large_step_s = price((mean + 2.0 * deviation).min(room));
        MeanStep {
            step_s,
            large_step_s: large_step_s + futile * (price(room) - large_step_s),
            with_prompts: some + (1.0 - some) * futile,
        }
    }
}

impl Gpu {
    pub(super) fn tokens_price(&self, tokens: f64, setting: &Setting, adapters: f64) -> f64 {
        let step = &self.step;
        let (below, part) = place(step.without_lora.len(), tokens);
        let above = (below + 1).min(step.without_lora.len() - 1);
        let at = |table: &[f64]| table[below] + part * (table[above] - table[below]);
        if setting.max_loras == 0.0 {
            return at(&step.without_lora);
        }
        let adapter = at(&step.distinct_adapter) + step.cpu_lora * setting.max_cpu_loras;
        at(&step.with_lora) + setting.max_loras * at(&step.slot) + adapters * adapter
    }
}

/// Times that a request is preempted where the KV cache is full: what ends leaves room for its
/// prompt and its output, which new prompts fill at once, until outputs grow and push them out.
fn preemptions(demand: &Demand, kv_usage: f64) -> f64 {
    let full = beyond(kv_usage, NEARLY_FULL);
    full * (PREEMPTED * demand.output_tokens / demand.prompt_tokens.max(1.0)).min(4.0)
}

/// Share of the queue that is passed over in a full batch: who came before the last one let in, and
/// whose adapter has no slot. Where much more comes than is completed, the batch is filled from a
/// queue of old requests, most of the queue being younger.
fn share_without_slot(demand: &Demand, sharing: &Sharing, completed: f64) -> f64 {
    let short = beyond(sharing.pressure, NEARLY_SHORT);
    let held = sharing.held_work.clamp(0.05, 1.0);
    let older = completed / (held * (1.0 - completed).max(1e-3));
    short * (1.0 - held) * older.min(1.0) * (1.0 - demand.base_share)
}

/// How far a share is on the way from where it begins to count to the whole.
fn beyond(share: f64, begins: f64) -> f64 {
    ((share - begins) / (1.0 - begins)).clamp(0.0, 1.0)
}
