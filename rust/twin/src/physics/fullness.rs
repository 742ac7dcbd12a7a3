//! How full a GPU is: by its engine's time or by its slots, whichever binds; 1 is full.

use super::work::Demand;
use super::{Gpu, Setting};

/// Pressure on slots that breaks a GPU as a load of 1 does: where the twin's cliffs lie, which are
/// between 0.85 and 0.95 for GPUs short of slots, 0.95 and 1.05 for GPUs short of time.
const CROWDED: f64 = 0.9;

/// Load and pressure that differ by less than this share bind alike: other slots gain no more.
const ALIKE: f64 = 0.005;

/// What binds, each over its limit.
struct Parts {
    load: f64,
    pressure: f64,
}

impl Gpu {
    /// How full a GPU is with the slots that are set, where such a load is full.
    #[must_use]
    pub fn fullness(&self, demand: &Demand, setting: &Setting, limit: f64) -> f64 {
        let parts = self.parts(demand, setting, limit);
        parts.load.max(parts.pressure)
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
        let mut best = (self.fullness(demand, &with_slots(most), limit), most);
        let (mut low, mut high) = (0, most);
        while high - low > 1 {
            let middle = (low + high) / 2;
            let Parts { load, pressure } = self.parts(demand, &with_slots(middle), limit);
            let full = load.max(pressure);
            if (full, middle) < best {
                best = (full, middle);
            }
            if (load - pressure).abs() < ALIKE * load {
                break;
            }
            (low, high) = if pressure > load {
                (middle, high)
            } else {
                (low, middle)
            };
        }
        best
    }

    fn parts(&self, demand: &Demand, setting: &Setting, limit: f64) -> Parts {
        let state = self.solve(demand, setting);
        let is_short = setting.max_loras < demand.adapters;
        Parts {
            load: single(state.load) / limit,
            // With a slot each nobody waits for one, however busy they are.
            pressure: if is_short {
                single(state.slot_pressure) / (CROWDED * limit)
            } else {
                0.0
            },
        }
    }
}

/// As precise as a feature is.
fn single(value: f64) -> f64 {
    f64::from(value as f32)
}
