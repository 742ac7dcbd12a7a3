//! How likely it is that all LoRA slots are in use although there are enough of them on average.
//!
//! How many adapters want a slot at once, `w`, goes up and down as they come and go each for itself,
//! with the variance `V` of so many coins, around the mean `W(T)` that a step of `T` seconds gives.
//! But more of them make steps longer, and in longer steps more of them are present: from `w`, the
//! number is drawn not to the mean but to `W(f(T))`, where `T` is the step at which `w` were the mean
//! and `f(T)` the step that such a batch takes. Such a walk is at `S` slots or more a share of the
//! time that is at most, after Freidlin and Wentzell,
//!
//! ```text
//! exp(-sum) / 2,   sum = integral from the mean to S of (w - W(f(T))) / V dw
//! ```
//!
//! which without the drawing is Chernoff's `exp(-(S - W)^2 / 2V) / 2`. Who begins a turn then waits,
//! and where slots are pushed from under those who still need them, the queue may never end.

use super::slots::Crowd;
use super::work::Demand;
use super::{Case, Full, Gpu, Setting};

/// Parts of the integral.
const PARTS: usize = 6;

/// Longest step looked at, over the mean one: where not even then all slots are wanted, they hardly
/// ever are.
const LONGEST: f64 = 16.0;

/// Deviations above the mean that fewest slots are looked for at first, over those of independent
/// coins.
const FURTHER: f64 = 1.3;

/// Shares looked at, at most, for the fewest slots, which are found to such a share of themselves.
const MOST_TRIES: usize = 12;
const NEAR: f64 = 0.01;

/// Chords drawn between it and the mean step, at most, and how near full slots they are to end.
const CHORDS: usize = 12;
const CLOSE: f64 = 0.002;

impl Gpu {
    /// Share of the requests that find all slots in use when their adapter comes for one, at most.
    #[must_use]
    pub fn queued_share(&self, demand: &Demand, setting: &Setting) -> f64 {
        if demand.adapters <= setting.max_loras || demand.groups().is_empty() {
            return 0.0;
        }
        let (case, full, step_s) = self.settled(demand, setting);
        let crowd = case.slots.crowd(step_s);
        let Some(end_s) = step_of_full_slots(&case, step_s, &crowd) else {
            return 0.0;
        };
        let ratio = (end_s / step_s).powf(1.0 / PARTS as f64);
        // By trapezoids; from the mean itself nothing is drawn back.
        let (mut sum, mut below, mut pull_below, mut at_s) = (0.0, crowd.mean, 0.0, step_s);
        for _ in 0..PARTS {
            at_s *= ratio;
            let here = case.slots.crowd(at_s);
            let answer_s = case.point(&full, at_s).batch.step_s;
            let drawn_to = case.slots.crowd(answer_s).mean;
            let pull = (here.mean - drawn_to).max(0.0) / here.variance.max(1e-9);
            sum += 0.5 * (pull_below + pull) * (here.mean - below).max(0.0);
            (below, pull_below) = (here.mean, pull);
        }
        crowd.begun_share * 0.5 * (-sum).exp()
    }

    /// The fewest slots with which no more than so many requests find all in use, as
    /// [`Gpu::queued_share`] has it, to a hundredth, and no fewer than are wanted on average; as many
    /// as are set where fewer do not do.
    #[must_use]
    pub fn fewest_slots(&self, demand: &Demand, setting: &Setting, most_queued: f64) -> f64 {
        let (case, _, step_s) = self.settled(demand, setting);
        let crowd = case.slots.crowd(step_s);
        let most = setting.max_loras.min(demand.adapters);
        // In deviations above the mean the share is nearly a straight line in the slots.
        let deviations = |share: f64| {
            let tail = 2.0 * share / crowd.begun_share.max(1e-300);
            (-2.0 * tail.clamp(1e-300, 1.0).ln()).sqrt()
        };
        let wanted = deviations(most_queued);
        let (mut low, mut high) = ((crowd.mean.min(most), 0.0), None);
        // With fewer than are wanted on average, a queue is certain.
        let (mut below, mut above) = (crowd.mean.floor().min(most - 1.0), most);
        let mut guess = crowd.mean + FURTHER * wanted * crowd.variance.sqrt();
        if 0.5 * crowd.begun_share <= most_queued {
            return below + 1.0;
        }
        for _ in 0..MOST_TRIES {
            if above - below <= 1.0_f64.max(NEAR * above) {
                break;
            }
            let max_loras = guess.round().clamp(below + 1.0, above - 1.0);
            let setting = Setting {
                max_loras,
                ..*setting
            };
            let share = self.queued_share(demand, &setting);
            let here = (max_loras, deviations(share));
            if share <= most_queued {
                (above, high) = (max_loras, Some(here));
            } else {
                (below, low) = (max_loras, here);
            }
            guess = match high {
                Some(high) if high.1 > low.1 => {
                    low.0 + (wanted - low.1) * (high.0 - low.0) / (high.1 - low.1)
                }
                _ => 0.5 * (below + above),
            };
        }
        above
    }

    /// The question, what a full batch comes to, and the mean step.
    fn settled<'a>(&'a self, demand: &'a Demand, setting: &'a Setting) -> (Case<'a>, Full, f64) {
        let case = Case::new(self, demand, setting);
        let full = case.full();
        let full_step_s = case
            .batch(case.limit.running, &full.all_served, 0.0, 1.0)
            .step_s;
        let step_s = case.operating_point(&full, full_step_s).batch.step_s;
        (case, full, step_s)
    }
}

/// The step at which as many slots are wanted as there are, from the mean one on; none where that
/// is out of reach.
fn step_of_full_slots(case: &Case<'_>, step_s: f64, crowd: &Crowd) -> Option<f64> {
    let slots = case.setting.max_loras;
    if crowd.mean >= slots {
        return Some(step_s);
    }
    let (mut low, mut high) = ((0.0, crowd.mean), (LONGEST.ln(), f64::NAN));
    high.1 = case.slots.crowd(LONGEST * step_s).mean;
    if high.1 < slots {
        return None;
    }
    let mut at = 0.0;
    for _ in 0..CHORDS {
        let chord = low.0 + (high.0 - low.0) * (slots - low.1) / (high.1 - low.1);
        // The number wanted levels off, so that chords fall short of it.
        at = chord.clamp(
            low.0 + 0.1 * (high.0 - low.0),
            high.0 - 0.1 * (high.0 - low.0),
        );
        let wanted = case.slots.crowd(step_s * at.exp()).mean;
        if (wanted - slots).abs() <= CLOSE * slots {
            break;
        }
        if wanted < slots {
            low = (at, wanted);
        } else {
            high = (at, wanted);
        }
    }
    Some(step_s * at.exp())
}
