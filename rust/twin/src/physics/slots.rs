//! How adapters share the LoRA slots in time: busy periods, and the wait for a turn.

use super::work::{self, Demand};
use super::Setting;

/// Share of the slots that time-sharing keeps busy.
const BUSY_SLOTS: f64 = 0.98;

/// Requests in service from which on an adapter never goes idle: e^30 service times is for ever.
const ALWAYS_BUSY: f64 = 30.0;

/// Newton steps for the slot wait, on the inverse of the slots held: a straight line for like
/// adapters, concave for unlike ones, so that steps from the left never overshoot.
const WAIT_STEPS: usize = 5;

/// Share of the slots to which they are shared.
const SHARED: f64 = 1e-4;

/// How adapters share the slots, in service times.
pub(super) struct Sharing {
    pub(super) distinct_adapters: f64,
    pub(super) pressure: f64,
    /// Mean over requests.
    pub(super) wait: f64,
    /// Adapters copied into a slot for each request completed.
    pub(super) loads: f64,
    /// Share of the work whose turn comes within the window.
    pub(super) served: f64,
}

impl Default for Sharing {
    fn default() -> Self {
        Sharing {
            distinct_adapters: 0.0,
            pressure: 0.0,
            wait: 0.0,
            loads: 0.0,
            served: 1.0,
        }
    }
}

impl Sharing {
    /// How the slots are shared if steps take `step_s`. Within a window an adapter cannot hold a
    /// slot for longer than the window, and one whose turn does not come is not served.
    pub(super) fn of(demand: &Demand, setting: &Setting, step_s: f64) -> Sharing {
        let work = demand.rate_rps * demand.output_tokens;
        if step_s <= 0.0 || work <= 0.0 || demand.groups().is_empty() || setting.max_loras == 0.0 {
            return Sharing::default();
        }
        let window = (setting.duration_s / (demand.output_tokens * step_s)).max(1.0);
        let busy_slots = BUSY_SLOTS * setting.max_loras;
        let mut turns = Turns::default();
        let mut own_work = 0.0;
        for group in demand.groups() {
            turns.push(group.adapters, group.work * step_s, window);
            own_work += group.adapters * group.work;
        }
        let wanted = turns.held(0.0).0;
        let mut wait = 0.0;
        if wanted > busy_slots {
            for _ in 0..WAIT_STEPS {
                let (held, slope) = turns.held(wait);
                if held - busy_slots <= SHARED * busy_slots {
                    break;
                }
                wait += held * (held - busy_slots) / (busy_slots * slope);
            }
        }
        let (held, _) = turns.held(wait);
        let idle = (demand.adapters - held).max(1e-9);
        let kept = ((setting.max_loras - held) / idle).clamp(0.0, 1.0);
        let served = window / (window + wait);
        let in_service = work * step_s;
        Sharing {
            distinct_adapters: (turns.distinct() * served).min(setting.max_loras),
            pressure: wanted / busy_slots,
            wait: turns.mean_wait(wait).min(window),
            loads: (1.0 - kept) * turns.cycles(wait) / in_service,
            served: 1.0 - (own_work / work).min(1.0) * (1.0 - served),
        }
    }
}

/// Busy periods of the adapters, group by group, in service times.
#[derive(Default)]
struct Turns {
    groups: [Turn; work::BINS],
    n: usize,
}

#[derive(Clone, Copy, Default)]
struct Turn {
    adapters: f64,
    in_service: f64,
    present: f64,
    busy: f64,
    cycle: f64,
}

impl Turns {
    fn push(&mut self, adapters: f64, in_service: f64, window: f64) {
        let in_service = in_service.clamp(1e-12, ALWAYS_BUSY);
        let absent = (-in_service).exp();
        // (e^a - 1) / a, from the side that loses no digits.
        let busy = if in_service < 1e-6 {
            1.0
        } else {
            (1.0 - absent) / (absent * in_service)
        };
        let busy = busy.min(window);
        let cycle = busy + 1.0 / in_service;
        self.groups[self.n] = Turn {
            adapters,
            in_service,
            present: 1.0 - absent,
            busy,
            cycle,
        };
        self.n += 1;
    }

    fn turns(&self) -> &[Turn] {
        &self.groups[..self.n]
    }

    /// Slots held when every turn starts with a wait, and how fast that falls with the wait.
    fn held(&self, wait: f64) -> (f64, f64) {
        let (mut held, mut slope) = (0.0, 0.0);
        for turn in self.turns() {
            let per_cycle = 1.0 / (turn.cycle + wait);
            let share = turn.adapters * turn.busy * per_cycle;
            held += share;
            slope += share * per_cycle;
        }
        (held, slope)
    }

    fn distinct(&self) -> f64 {
        self.turns()
            .iter()
            .map(|turn| turn.adapters * turn.present)
            .sum()
    }

    /// Turns begun in one service time.
    fn cycles(&self, wait: f64) -> f64 {
        self.turns()
            .iter()
            .map(|turn| turn.adapters / (turn.cycle + wait))
            .sum()
    }

    /// Wait of a request, mean over requests: the turn's first waits in full, those who come while
    /// it waits on average for half.
    fn mean_wait(&self, wait: f64) -> f64 {
        let (mut waits, mut requests) = (0.0, 0.0);
        for turn in self.turns() {
            let (adapters, a) = (turn.adapters, turn.in_service);
            let turns = adapters / (turn.cycle + wait);
            waits += turns * (wait + 0.5 * a * wait * wait);
            requests += turns * (1.0 + a * (turn.busy + wait));
        }
        waits / requests.max(1e-300)
    }
}
