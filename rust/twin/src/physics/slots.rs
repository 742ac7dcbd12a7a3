//! How adapters share the LoRA slots in time.
//!
//! An adapter whose clumps of requests keep it busy `a` times over holds a slot for a busy period of
//! `B = (e^a - 1) / a` service times, then asks for nothing until the next clump. Where more slots are
//! wanted than there are, each waits `w` for its turn, with `sum T / (T + idle + w) = 0.98 slots`; and
//! a turn then lasts longer than `B`, because it begins with all that queued meanwhile:
//!
//! - the last of so many requests ends later than one would ([`Slots::tail`]);
//! - queues that fill the batch take the time that the batch needs for them, if that is longer; a
//!   slot whose queue is short leaves its places to the others;
//! - but what queued elsewhere meanwhile is older than what comes in during the turn and goes first,
//!   which is what ends the turn of an adapter that would never go idle by itself.
//!
//! Where there are enough slots on average, all may be in use now and then (`all_used`): who
//! comes then waits for the first that falls free, and pushes out adapters that are still needed.

use super::work::{self, Demand};
use super::Setting;

/// Share of the slots that time-sharing keeps busy.
const BUSY_SLOTS: f64 = 0.98;

/// Times over that an adapter is busy from which on it never goes idle: e^30 service times.
const ALWAYS_BUSY: f64 = 30.0;

/// Steps for the slot wait, at most.
const WAIT_STEPS: usize = 12;

/// Share of the slots to which they are shared.
const SHARED: f64 = 1e-3;

/// Of the logarithm by which the last of several requests that begin together ends later: between
/// the first two (1/2 a request) and the last of many (1, less Euler's constant).
const LAST_ENDS: f64 = 0.6;

/// Share of the slots that are copied out and in again for one adapter that comes when all are in
/// use: a third on average from one place of the walk to a later one, in one case out of four.
const PUSHED_OUT: f64 = 1.0 / 12.0;

/// Answers have a longest one: the last of very many ends no later than ten deviations.
const LAST_OF_ALL: f64 = 11.0;

/// How adapters share the slots, in service times.
#[derive(Clone, Copy)]
pub(super) struct Sharing {
    pub(super) distinct_adapters: f64,
    pub(super) pressure: f64,
    /// Mean over requests.
    pub(super) wait: f64,
    /// Adapters copied into a slot for each request completed.
    pub(super) loads: f64,
    /// Share of the work whose turn comes within the window.
    pub(super) served: f64,
    /// Share of the work whose adapter holds a slot.
    pub(super) held_work: f64,
    /// Requests of its adapter's queue that a token finds beside it in the batch.
    pub(super) crowd: f64,
    /// Requests that wait for a slot over those that would be in service, mean over the window.
    pub(super) queue: f64,
}

impl Default for Sharing {
    fn default() -> Self {
        Sharing {
            distinct_adapters: 0.0,
            pressure: 0.0,
            wait: 0.0,
            loads: 0.0,
            served: 1.0,
            held_work: 1.0,
            crowd: 0.0,
            queue: 0.0,
        }
    }
}

/// The slots, and who asks for them.
pub(super) struct Slots<'a> {
    demand: &'a Demand,
    setting: &'a Setting,
    /// Requests that can run.
    places: f64,
    /// Standard deviation of an adapter's answers over their mean.
    spread: f64,
    /// Share of the work that adapters ask for, the base model not counted.
    own_share: f64,
}

impl<'a> Slots<'a> {
    pub(super) fn new(demand: &'a Demand, setting: &'a Setting, places: f64) -> Self {
        let (output, work) = (demand.output_tokens, demand.rate_rps * demand.output_tokens);
        let square_of_means = output * output * (1.0 + demand.output_spread);
        let own: f64 = demand
            .groups()
            .iter()
            .map(|group| group.adapters * group.work)
            .sum();
        Slots {
            demand,
            setting,
            places,
            spread: (demand.output_square / square_of_means - 1.0)
                .clamp(0.0, 4.0)
                .sqrt(),
            own_share: (own / work.max(1e-300)).min(1.0),
        }
    }

    /// Everybody served, and all slots in use.
    pub(super) fn all(&self) -> Sharing {
        Sharing {
            distinct_adapters: self.setting.max_loras.min(self.demand.adapters),
            ..Sharing::default()
        }
    }

    /// How the slots are shared if steps take `step_s`. Within a window an adapter cannot hold a
    /// slot for longer than the window, and one whose turn does not come is not served.
    ///
    /// What they ask for may be less, as if steps took only `asked_s`.
    pub(super) fn shared(&self, asked_s: f64, step_s: f64) -> Sharing {
        let (demand, setting) = (self.demand, self.setting);
        if asked_s <= 0.0 || demand.groups().is_empty() || setting.max_loras == 0.0 {
            return Sharing::default();
        }
        let turns = self.turns(asked_s, step_s);
        let window = turns.window;
        let busy_slots = BUSY_SLOTS * setting.max_loras;
        let wanted = turns.held(0.0);
        let in_service = demand.rate_rps * demand.output_tokens * asked_s;
        let short = wanted > busy_slots && demand.adapters > setting.max_loras;
        let wait = if short {
            turns.wait(wanted, busy_slots)
        } else {
            0.0
        };
        let taken = turns.taken(wait);
        let idle = (demand.adapters - taken.held).max(1e-9);
        let kept = ((setting.max_loras - taken.held) / idle).clamp(0.0, 1.0);
        let all_used = turns.all_used(wanted);
        let mean_wait = if short || demand.adapters <= setting.max_loras {
            taken.mean_wait
        } else {
            // A turn that finds no slot waits until one of those held comes free, and behind others.
            let length = taken.held / taken.turns.max(1e-300);
            let free = setting.max_loras - wanted + 0.5;
            all_used * length / free.max(0.5) * taken.turns / in_service
        };
        let hogged = if short { turns.hogged() } else { 0.0 };
        // Who comes first keeps its slot: an adapter is the likelier there the more it asks for.
        let of_hogs = (setting.max_loras / demand.effective_adapters.max(1.0)).min(1.0);
        // At the end who waits for his turn has waited for half of it, unless there was but one.
        let lost = wait * (0.5 + (2.0 * wait / window).min(0.5));
        let served = (1.0 - hogged) * window / (window + lost) + hogged * of_hogs;
        Sharing {
            distinct_adapters: turns.distinct().min(setting.max_loras),
            pressure: wanted / busy_slots,
            wait: mean_wait.min(window),
            loads: (1.0 - kept) * taken.turns / in_service
                * (1.0 + PUSHED_OUT * all_used * setting.max_loras),
            served: 1.0 - self.own_share * (1.0 - served),
            held_work: taken.held_work,
            crowd: taken.crowd * (1.0 - hogged),
            queue: taken.queue,
        }
    }

    /// Turns of the adapters if steps take `step_s`, of what they would ask for if steps took
    /// `asked_s`.
    fn turns(&self, asked_s: f64, step_s: f64) -> Turns<'_> {
        let (demand, setting) = (self.demand, self.setting);
        let mut turns = Turns {
            slots: self,
            window: (setting.duration_s / (demand.output_tokens * step_s)).max(1.0),
            filled: setting.max_loras / self.places,
            turns: [Turn::default(); work::BINS],
            n: 0,
        };
        for group in demand.groups() {
            turns.push(group, asked_s);
        }
        turns
    }

    /// How many adapters want a slot at once, were there one for each, if steps take `step_s`.
    pub(super) fn crowd(&self, step_s: f64) -> Crowd {
        let turns = self.turns(step_s, step_s);
        let (mut mean, mut variance, mut begun, mut requests) = (0.0, 0.0, 0.0, 0.0);
        for turn in turns.turns() {
            let length = turns.length(turn, 0.0);
            let present = length / (length + turn.idle);
            mean += turn.adapters * present;
            variance += turn.adapters * present * (1.0 - present);
            begun += turn.adapters / (length + turn.idle);
            requests += turn.adapters * turn.in_service;
        }
        Crowd {
            mean,
            variance,
            begun_share: self.own_share * (begun / requests).min(1.0),
        }
    }

    /// What the last of so many further requests that begin together adds, in service times.
    fn tail(&self, further: f64) -> f64 {
        let late = 1.1 * (1.0 + LAST_ENDS * further).ln();
        self.spread * late / (1.0 + late / LAST_OF_ALL)
    }
}

/// How many adapters want a slot at once.
pub(super) struct Crowd {
    pub(super) mean: f64,
    pub(super) variance: f64,
    /// Share of the requests that begin a turn.
    pub(super) begun_share: f64,
}

/// Turns of the adapters, group by group, in service times.
struct Turns<'a> {
    slots: &'a Slots<'a>,
    window: f64,
    /// Share of the batch that the queues of all slots fill, for each request queued behind a slot.
    filled: f64,
    turns: [Turn; work::BINS],
    n: usize,
}

/// The turns of one group's adapters.
#[derive(Clone, Copy, Default)]
struct Turn {
    adapters: f64,
    /// Requests that would be in service, were there no wait.
    in_service: f64,
    /// Until the next clump.
    idle: f64,
    present: f64,
    /// A busy period, were the window without end.
    alone: f64,
    /// The same within the window.
    busy: f64,
    /// Further, where the turn begins with a queue: a busy period begun with more than one request.
    busier: f64,
}

/// What a wait comes to.
struct Taken {
    /// Slots.
    held: f64,
    held_work: f64,
    crowd: f64,
    /// Turns begun in one service time.
    turns: f64,
    mean_wait: f64,
    /// Requests that wait, over those that would be in service.
    queue: f64,
}

impl Turns<'_> {
    fn push(&mut self, group: &work::Group, step_s: f64) {
        let in_service = (group.work * step_s).max(1e-12);
        let clumps = (group.clumps * step_s).clamp(1e-12, in_service);
        let mates = in_service / clumps - 1.0;
        let together = if mates > 1e-6 {
            1.0 + self.slots.tail(mates)
        } else {
            1.0
        };
        let load = (clumps * together).min(ALWAYS_BUSY);
        let absent = (-load).exp();
        // (e^a - 1) / a, from the side that loses no digits.
        let busy = if load < 1e-6 {
            1.0
        } else {
            (1.0 - absent) / (absent * load)
        };
        let alone = busy * together;
        let busy = alone.min(self.window);
        self.turns[self.n] = Turn {
            adapters: group.adapters,
            in_service,
            idle: 1.0 / clumps,
            present: 1.0 - absent,
            alone,
            busy,
            busier: (busy - 1.0).max(0.0) * (1.35 / load).min(0.65),
        };
        self.n += 1;
    }

    fn turns(&self) -> &[Turn] {
        &self.turns[..self.n]
    }

    /// Share of the time in which as many slots are wanted as there are: the number wanted varies as
    /// adapters come and go each for itself (a logistic law in a normal one's place).
    fn all_used(&self, wanted: f64) -> f64 {
        let variance: f64 = self
            .turns()
            .iter()
            .map(|turn| turn.adapters * turn.present * (1.0 - turn.present))
            .sum();
        let score = (wanted - self.slots.setting.max_loras) / variance.max(0.25).sqrt();
        1.0 / (1.0 + (-1.7 * score).exp())
    }

    /// How long a turn lasts that begins after a wait.
    fn length(&self, turn: &Turn, wait: f64) -> f64 {
        if wait == 0.0 {
            return turn.busy.max(1.0);
        }
        let queued = turn.in_service * wait.min(self.window);
        let filled = queued * self.filled;
        let alone = 1.0 + self.slots.tail(queued);
        let further = turn.busy - 1.0 + turn.busier * queued / (1.0 + queued);
        // The places that a slot has on average limit it only when others have use for theirs.
        let full = (filled / alone) * (filled / alone);
        alone * (1.0 + full * full).sqrt().sqrt() + further.max(0.0) / (1.0 + filled * filled)
    }

    /// Slots held when every turn starts with a wait.
    fn held(&self, wait: f64) -> f64 {
        self.turns()
            .iter()
            .map(|turn| {
                let length = self.length(turn, wait);
                turn.adapters * length / (length + turn.idle + wait)
            })
            .sum()
    }

    /// The wait at which adapters that want so many slots hold so many; where they would hold more
    /// after any wait that the window allows, as much longer than the window.
    fn wait(&self, wanted: f64, slots: f64) -> f64 {
        let at_end = self.held(self.window);
        if at_end >= slots {
            return self.window * at_end / slots;
        }
        // On the inverse of the slots held: nearly a straight line.
        let gap = |held: f64| 1.0 / held - 1.0 / slots;
        let (mut low, mut high) = ((0.0, gap(wanted)), (self.window, gap(at_end)));
        let mut wait = 0.0;
        for step in 0..WAIT_STEPS {
            let chord = low.0 - low.1 * (high.0 - low.0) / (high.1 - low.1);
            // Now and then to the middle, lest one end stays where it is.
            wait = if step % 3 == 2 {
                0.5 * (chord + 0.5 * (low.0 + high.0))
            } else {
                chord
            };
            let held = self.held(wait);
            if (held - slots).abs() <= SHARED * slots {
                break;
            }
            if held > slots {
                low = (wait, gap(held));
            } else {
                high = (wait, gap(held));
            }
        }
        wait
    }

    fn taken(&self, wait: f64) -> Taken {
        let (mut held, mut held_work, mut crowd, mut turns, mut work) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let (mut waits, mut requests, mut queue) = (0.0, 0.0, 0.0);
        let within = wait.min(self.window);
        // In a cycle a queue grows from nothing; before the first turn is over all of it is there.
        let mean = 0.5 * (1.0 + within / self.window);
        for turn in self.turns() {
            let length = self.length(turn, wait);
            let begun = turn.adapters / (length + turn.idle + wait);
            let own = turn.adapters * turn.in_service;
            held += begun * length;
            turns += begun;
            work += own;
            held_work += own * length * begun / turn.adapters;
            crowd += own * (0.5 * turn.in_service * wait).min(self.slots.places);
            // The turn's first waits in full, those who come while it waits on average for half.
            waits += begun * (wait + 0.5 * turn.in_service * wait * wait);
            queue += own * within * mean * begun * wait / turn.adapters;
            requests += begun * (1.0 + turn.in_service * (length + wait));
        }
        Taken {
            held,
            held_work: held_work / work,
            crowd: crowd / work,
            turns,
            mean_wait: waits / requests.max(1e-300),
            queue: queue / work,
        }
    }

    fn distinct(&self) -> f64 {
        self.turns()
            .iter()
            .map(|turn| turn.adapters * turn.present)
            .sum()
    }

    /// Share of the window until a slot comes free, where all are taken at its beginning: by those
    /// who come first, which are the likelier the more they ask for. Where fewer than there are slots
    /// would stay, the others share the rest.
    fn hogged(&self) -> f64 {
        let (mut asked, mut stays, mut staying) = (0.0, 0.0, 0.0);
        for turn in self.turns() {
            let over = turn.alone / self.window;
            let stay = over * (1.0 - (-1.0 / over).exp());
            let asks = turn.adapters / turn.idle;
            asked += asks;
            stays += asks * stay;
            staying += turn.adapters * stay;
        }
        let slots = self.slots.setting.max_loras;
        stays / asked * (1.0 - slots / staying.max(slots))
    }
}
