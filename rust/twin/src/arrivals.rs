//! When an adapter's requests come: one generated sequence of times per adapter.
//!
//! Gamma and Weibull gaps start in their steady state (the first gap is what is left of a gap that
//! began long ago), so that the expected number of requests in any window is rate times length
//! however bursty the gaps are.

use rand::Rng;
use rand_distr::{Distribution, Exp1, Gamma, Open01};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::scenario::Arrivals;

const PS_PER_S: f64 = 1e12;

/// The arrival times of one adapter, in picoseconds, ascending.
#[derive(Clone, Debug)]
pub(crate) struct ArrivalStream {
    law: Law,
    rng: Xoshiro256PlusPlus,
}

#[derive(Clone, Debug)]
enum Law {
    Never,
    Exponential {
        mean_ps: f64,
    },
    Even {
        gap_ps: f64,
    },
    Gamma {
        gap_ps: Gamma<f64>,
    },
    Weibull {
        scale_ps: f64,
        inverse_shape: f64,
    },
    OnOff {
        gap_s: f64,
        on_s: f64,
        off_s: f64,
        on_until_s: f64,
    },
    Diurnal {
        peak_gap_s: f64,
        amplitude: f64,
        turns_per_s: f64,
        phase: f64,
    },
    Piecewise {
        starts_s: Vec<f64>,
        rates_rps: Vec<f64>,
        piece: usize,
    },
}

impl ArrivalStream {
    /// The stream, and its first arrival (`u64::MAX`: none).
    pub(crate) fn new(arrivals: &Arrivals, mut rng: Xoshiro256PlusPlus) -> (Self, u64) {
        let (law, first) = match *arrivals {
            Arrivals::None => (Law::Never, u64::MAX),
            Arrivals::Poisson { rate_rps } => poisson(rate_rps, &mut rng),
            Arrivals::Gamma { rate_rps, cv } => gamma(rate_rps, cv, &mut rng),
            Arrivals::Weibull { rate_rps, cv } => weibull(rate_rps, cv, &mut rng),
            Arrivals::OnOff {
                rate_rps,
                on_s,
                off_s,
            } => on_off(rate_rps, on_s, off_s, &mut rng),
            Arrivals::Diurnal {
                rate_rps,
                amplitude,
                period_s,
                phase,
            } => diurnal(rate_rps, amplitude, period_s, phase, &mut rng),
            Arrivals::Piecewise {
                ref starts_s,
                ref rates_rps,
            } => {
                let mut law = Law::Piecewise {
                    starts_s: starts_s.clone(),
                    rates_rps: rates_rps.clone(),
                    piece: 0,
                };
                let first = law.after(0, &mut rng);
                (law, first)
            }
        };
        (ArrivalStream { law, rng }, first)
    }

    /// Hands every arrival from `next` up to, not including, `until` to `take`; returns the one after.
    #[inline]
    pub(crate) fn advance(&mut self, next: u64, until: u64, mut take: impl FnMut(u64)) -> u64 {
        let mut at = next;
        if let Law::Exponential { mean_ps } = self.law {
            // The commonest law, kept free of the match, its generator in registers.
            let mut rng = self.rng.clone();
            while at < until {
                take(at);
                at = later(at, exponential(&mut rng) * mean_ps);
            }
            self.rng = rng;
        } else {
            while at < until {
                take(at);
                at = self.law.after(at, &mut self.rng);
            }
        }
        at
    }
}

impl Law {
    /// The arrival that follows one at `at`.
    fn after(&mut self, at: u64, rng: &mut Xoshiro256PlusPlus) -> u64 {
        match self {
            Law::Never => u64::MAX,
            Law::Exponential { mean_ps } => later(at, exponential(rng) * *mean_ps),
            Law::Even { gap_ps } => later(at, *gap_ps),
            Law::Gamma { gap_ps } => later(at, gap_ps.sample(rng)),
            Law::Weibull {
                scale_ps,
                inverse_shape,
            } => later(at, *scale_ps * exponential(rng).powf(*inverse_shape)),
            Law::OnOff {
                gap_s,
                on_s,
                off_s,
                on_until_s,
            } => {
                let mut at_s = at as f64 / PS_PER_S + exponential(rng) * *gap_s;
                while at_s >= *on_until_s {
                    // What is left of the gap runs on when the next on-period begins.
                    let off = exponential(rng) * *off_s;
                    at_s += off;
                    *on_until_s += off + exponential(rng) * *on_s;
                    if !at_s.is_finite() {
                        return u64::MAX;
                    }
                }
                ((at_s * PS_PER_S).round() as u64).max(at)
            }
            Law::Diurnal {
                peak_gap_s,
                amplitude,
                turns_per_s,
                phase,
            } => {
                // Thinning: candidates at the peak rate, each kept with probability rate / peak.
                let mut at_s = at as f64 / PS_PER_S;
                loop {
                    at_s += exponential(rng) * *peak_gap_s;
                    if !at_s.is_finite() {
                        return u64::MAX;
                    }
                    let turn = (at_s * *turns_per_s + *phase).fract();
                    let rate = 1.0 + *amplitude * (std::f64::consts::TAU * turn).sin();
                    if uniform(rng) * (1.0 + *amplitude) < rate {
                        return ((at_s * PS_PER_S).round() as u64).max(at);
                    }
                }
            }
            Law::Piecewise {
                starts_s,
                rates_rps,
                piece,
            } => {
                // An exponential amount of rate x time is spent piece by piece.
                let mut at_s = at as f64 / PS_PER_S;
                let mut left = exponential(rng);
                loop {
                    let rate = rates_rps[*piece];
                    let end_s = starts_s.get(*piece + 1).copied().unwrap_or(f64::INFINITY);
                    if rate > 0.0 && at_s + left / rate < end_s {
                        at_s += left / rate;
                        return ((at_s * PS_PER_S).round() as u64).max(at);
                    }
                    if end_s.is_infinite() {
                        return u64::MAX;
                    }
                    left -= (end_s - at_s).max(0.0) * rate;
                    at_s = at_s.max(end_s);
                    *piece += 1;
                }
            }
        }
    }
}

fn poisson(rate_rps: f64, rng: &mut Xoshiro256PlusPlus) -> (Law, u64) {
    if rate_rps <= 0.0 {
        return (Law::Never, u64::MAX);
    }
    let mean_ps = PS_PER_S / rate_rps;
    let first = later(0, exponential(rng) * mean_ps);
    (Law::Exponential { mean_ps }, first)
}

fn even(rate_rps: f64, rng: &mut Xoshiro256PlusPlus) -> (Law, u64) {
    let gap_ps = PS_PER_S / rate_rps;
    (Law::Even { gap_ps }, later(0, uniform(rng) * gap_ps))
}

fn gamma(rate_rps: f64, cv: f64, rng: &mut Xoshiro256PlusPlus) -> (Law, u64) {
    if rate_rps <= 0.0 {
        return (Law::Never, u64::MAX);
    }
    let shape = 1.0 / (cv * cv);
    let scale_ps = PS_PER_S / rate_rps / shape;
    match (
        Gamma::new(shape, scale_ps),
        Gamma::new(shape + 1.0, scale_ps),
    ) {
        (Ok(gap_ps), Ok(spanning_ps)) => {
            // The gap that spans time zero has its density weighted by its length: for
            // Gamma(k, s) that is Gamma(k + 1, s). Time zero falls anywhere in it.
            let first = later(0, uniform(rng) * spanning_ps.sample(rng));
            (Law::Gamma { gap_ps }, first)
        }
        _ => even(rate_rps, rng), // cv so small that the shape is infinite
    }
}

fn weibull(rate_rps: f64, cv: f64, rng: &mut Xoshiro256PlusPlus) -> (Law, u64) {
    if rate_rps <= 0.0 {
        return (Law::Never, u64::MAX);
    }
    if cv < 1e-3 {
        return even(rate_rps, rng);
    }
    let inverse_shape = weibull_inverse_shape(cv);
    let scale_ps = PS_PER_S / rate_rps / ln_gamma(1.0 + inverse_shape).exp();
    // Weighted by its length, (gap / scale)^shape is Gamma(1 + 1/shape) instead of exponential.
    let first = match Gamma::new(1.0 + inverse_shape, 1.0) {
        Ok(spanning) => later(
            0,
            uniform(rng) * scale_ps * spanning.sample(rng).powf(inverse_shape),
        ),
        Err(_) => 0,
    };
    (
        Law::Weibull {
            scale_ps,
            inverse_shape,
        },
        first,
    )
}

/// `1 / shape` of the Weibull law with this coefficient of variation, by bisection:
/// cv^2 + 1 = Gamma(1 + 2x) / Gamma(1 + x)^2 grows with x.
fn weibull_inverse_shape(cv: f64) -> f64 {
    let target = (cv * cv).ln_1p();
    let (mut low, mut high) = (1e-4_f64, 50.0_f64);
    for _ in 0..200 {
        let middle = (low * high).sqrt();
        if ln_gamma(1.0 + 2.0 * middle) - 2.0 * ln_gamma(1.0 + middle) < target {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low * high).sqrt()
}

fn on_off(rate_rps: f64, on_s: f64, off_s: f64, rng: &mut Xoshiro256PlusPlus) -> (Law, u64) {
    if rate_rps <= 0.0 {
        return (Law::Never, u64::MAX);
    }
    let gap_s = on_s / (rate_rps * (on_s + off_s));
    // Time zero is in an on-period with probability on / (on + off); what is left of either is
    // exponential again.
    let begins_on = uniform(rng) * (on_s + off_s) < on_s;
    let start_s = if begins_on {
        0.0
    } else {
        exponential(rng) * off_s
    };
    let mut law = Law::OnOff {
        gap_s,
        on_s,
        off_s,
        on_until_s: start_s + exponential(rng) * on_s,
    };
    let first = law.after((start_s * PS_PER_S) as u64, rng);
    (law, first)
}

fn diurnal(
    rate_rps: f64,
    amplitude: f64,
    period_s: f64,
    phase: f64,
    rng: &mut Xoshiro256PlusPlus,
) -> (Law, u64) {
    if rate_rps <= 0.0 {
        return (Law::Never, u64::MAX);
    }
    let mut law = Law::Diurnal {
        peak_gap_s: 1.0 / (rate_rps * (1.0 + amplitude)),
        amplitude,
        turns_per_s: 1.0 / period_s,
        phase,
    };
    let first = law.after(0, rng);
    (law, first)
}

#[inline]
fn exponential(rng: &mut Xoshiro256PlusPlus) -> f64 {
    Exp1.sample(rng)
}

fn uniform(rng: &mut impl Rng) -> f64 {
    Open01.sample(rng)
}

/// A gap rounded to picoseconds, saturating.
#[inline]
fn later(at: u64, gap_ps: f64) -> u64 {
    // Through i64, which processors convert to, and which saturates at 106 days.
    at.saturating_add((gap_ps + 0.5) as i64 as u64)
}

/// Logarithm of the gamma function for `x >= 1` (Lanczos, g = 7, n = 9; 1e-15 relative).
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let mut sum = 0.999_999_999_999_809_9;
    for (index, coefficient) in COEFFICIENTS.iter().enumerate() {
        sum += coefficient / (x + index as f64 + 1.0);
    }
    let t = x + 7.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{stream, Purpose};

    fn times_s(arrivals: &Arrivals, until_s: f64) -> Vec<f64> {
        let mut times = Vec::new();
        for key in 0..40 {
            let rng = stream(5, key, Purpose::Arrivals);
            let (mut stream, first) = ArrivalStream::new(arrivals, rng);
            stream.advance(first, (until_s * PS_PER_S) as u64, |at| {
                times.push(at as f64 / PS_PER_S);
            });
        }
        times
    }

    fn rate(arrivals: &Arrivals, until_s: f64) -> f64 {
        times_s(arrivals, until_s).len() as f64 / (40.0 * until_s)
    }

    #[test]
    fn every_law_keeps_its_mean_rate_from_the_first_second() {
        let laws = [
            Arrivals::Poisson { rate_rps: 3.0 },
            Arrivals::Gamma {
                rate_rps: 3.0,
                cv: 3.0,
            },
            Arrivals::Gamma {
                rate_rps: 3.0,
                cv: 0.0,
            },
            Arrivals::Weibull {
                rate_rps: 3.0,
                cv: 2.0,
            },
            Arrivals::Weibull {
                rate_rps: 3.0,
                cv: 0.5,
            },
            Arrivals::OnOff {
                rate_rps: 3.0,
                on_s: 2.0,
                off_s: 6.0,
            },
            Arrivals::Diurnal {
                rate_rps: 3.0,
                amplitude: 0.8,
                period_s: 50.0,
                phase: 0.25,
            },
        ];
        for law in laws {
            let measured = rate(&law, 500.0);
            assert!((measured / 3.0 - 1.0).abs() < 0.05, "{law:?}: {measured}");
        }
        // Steady from the start: over a window of one mean gap a burst that is over does not show.
        let bursty = Arrivals::Gamma {
            rate_rps: 0.02,
            cv: 4.0,
        };
        let mut count = 0;
        for key in 0..20_000 {
            let rng = stream(9, key, Purpose::Arrivals);
            let (mut stream, first) = ArrivalStream::new(&bursty, rng);
            stream.advance(first, (50.0 * PS_PER_S) as u64, |_| count += 1);
        }
        assert!(
            (f64::from(count) / 20_000.0 - 1.0).abs() < 0.1,
            "{count} in 20,000 windows of one mean gap"
        );
    }

    #[test]
    fn gaps_have_the_asked_coefficient_of_variation() {
        for (law, cv) in [
            (
                Arrivals::Gamma {
                    rate_rps: 10.0,
                    cv: 2.0,
                },
                2.0,
            ),
            (
                Arrivals::Weibull {
                    rate_rps: 10.0,
                    cv: 2.0,
                },
                2.0,
            ),
            (
                Arrivals::Weibull {
                    rate_rps: 10.0,
                    cv: 0.3,
                },
                0.3,
            ),
        ] {
            let rng = stream(5, 1, Purpose::Arrivals);
            let (mut stream, first) = ArrivalStream::new(&law, rng);
            let mut times = Vec::new();
            stream.advance(first, (20_000.0 * PS_PER_S) as u64, |at| times.push(at));
            let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            let measured = variance.sqrt() / mean;
            assert!((measured / cv - 1.0).abs() < 0.05, "{law:?}: {measured}");
        }
    }

    #[test]
    fn piecewise_rates_hold_from_start_to_start() {
        let law = Arrivals::Piecewise {
            starts_s: vec![0.0, 100.0, 200.0],
            rates_rps: vec![5.0, 0.0, 1.0],
        };
        let times = times_s(&law, 300.0);
        let within = |from: f64, to: f64| times.iter().filter(|t| (from..to).contains(*t)).count();
        assert!((within(0.0, 100.0) as f64 / 20_000.0 - 1.0).abs() < 0.05);
        assert_eq!(within(100.0, 200.0), 0);
        assert!((within(200.0, 300.0) as f64 / 4_000.0 - 1.0).abs() < 0.1);
    }
}
