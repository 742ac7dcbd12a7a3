//! How full a GPU is: by its engine's time or by its slots, whichever binds; 1 is full.

use super::work::Demand;
use super::{Gpu, Setting};

/// Pressure on slots that breaks a GPU as a load of 1 does: where the twin's cliffs lie, which are
/// between 0.85 and 0.95 for GPUs short of slots, 0.95 and 1.05 for GPUs short of time.
const CROWDED: f64 = 0.9;

/// Load and pressure that differ by less than this share bind alike: other slots gain no more.
const ALIKE: f64 = 0.005;

/// Of either: a GPU without traffic.
const LEAST: f64 = 1e-9;

/// What binds, each over its limit.
struct Parts {
    load: f64,
    pressure: f64,
    is_short: bool,
}

impl Gpu {
    /// How full a GPU is with the slots that are set, where such a load is full.
    #[must_use]
    pub fn fullness(&self, demand: &Demand, setting: &Setting, limit: f64) -> f64 {
        self.parts(demand, setting, limit).fullness()
    }

    /// The fullness with the best number of slots, and that number.
    ///
    /// Slots take engine time and relieve pressure: the best is where the two bind alike, or a slot
    /// each, with which nobody waits for one. `kv_cache_tokens` is the KV capacity by slots, up to
    /// the most there may be.
    #[must_use]
    pub fn least_full(
        &self,
        demand: &Demand,
        setting: &Setting,
        limit: f64,
        kv_cache_tokens: &[u32],
    ) -> (f64, usize) {
        let with_slots = |slots: usize| Setting {
            max_loras: slots as f64,
            kv_cache_tokens: f64::from(kv_cache_tokens[slots]),
            ..*setting
        };
        let most = (demand.adapters as usize).min(kv_cache_tokens.len() - 1);
        let at_most = self.parts(demand, &with_slots(most), limit);
        let mut best = (at_most.fullness(), most);
        // On logarithms, pressure over load is nearly a straight line in the slots.
        let mut high = ((most as f64).ln(), at_most.tilt());
        let (mut above, mut below, mut low) = (most, 0, None);
        while above - below > 1 && high.1 < 0.0 {
            let crossing = match low {
                None => high.0 + high.1,
                Some((at, tilt)) => at + tilt * (high.0 - at) / (tilt - high.1),
            };
            let middle = (crossing.exp().round() as usize).clamp(below + 1, above - 1);
            let parts = self.parts(demand, &with_slots(middle), limit);
            if (parts.fullness(), middle) < best {
                best = (parts.fullness(), middle);
            }
            let tilt = parts.tilt();
            if tilt.abs() < ALIKE {
                break;
            }
            let here = ((middle as f64).ln(), tilt);
            if tilt > 0.0 {
                (below, low) = (middle, Some(here));
            } else {
                (above, high) = (middle, here);
            }
        }
        best
    }

    fn parts(&self, demand: &Demand, setting: &Setting, limit: f64) -> Parts {
        let state = self.solve(demand, setting);
        Parts {
            load: single(state.load) / limit,
            pressure: single(state.slot_pressure) / (CROWDED * limit),
            is_short: setting.max_loras < demand.adapters,
        }
    }
}

impl Parts {
    fn fullness(&self) -> f64 {
        // With a slot each nobody waits for one, however busy they are.
        if self.is_short {
            self.load.max(self.pressure)
        } else {
            self.load
        }
    }

    /// How far pressure is above load, on logarithms.
    fn tilt(&self) -> f64 {
        (self.pressure.max(LEAST) / self.load.max(LEAST)).ln()
    }
}

/// As precise as a feature is.
fn single(value: f64) -> f64 {
    f64::from(value as f32)
}
