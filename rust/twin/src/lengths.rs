//! How long an adapter's requests are: prompt and output drawn jointly, stretched, rounded, cut.

use std::sync::Arc;

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::scenario::{LengthShape, Lengths};

/// The lengths of one adapter's requests.
#[derive(Clone, Debug)]
pub(crate) struct LengthStream {
    law: LengthLaw,
    rng: Xoshiro256PlusPlus,
}

/// A shape stretched and cut as one adapter, or many, use it.
#[derive(Clone, Debug)]
pub(crate) enum LengthLaw {
    /// Rows drawn uniformly, stretched and cut beforehand.
    Rows(Arc<[(u32, u32)]>),
    /// Rows drawn uniformly.
    Pairs {
        prompt: Arc<[f32]>,
        output: Arc<[f32]>,
        stretch: Stretch,
    },
    Lognormal {
        prompt_log_mean: f64,
        prompt_sigma: f64,
        output_log_mean: f64,
        output_sigma: f64,
        correlation: f64,
        independent: f64,
        stretch: Stretch,
    },
}

/// Factors on the tokens, and the cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    prompt: f64,
    output: f64,
    max_model_len: u32,
}

impl Stretch {
    #[inline]
    fn apply(self, prompt: f64, output: f64) -> (u32, u32) {
        // `+ 0.5` and truncation: to the nearest token; anything past u32 saturates.
        cut(
            (prompt * self.prompt + 0.5) as u32,
            (output * self.output + 0.5) as u32,
            self.max_model_len,
        )
    }
}

/// The laws of a scenario; adapters of one shape and one pair of factors share one.
pub(crate) struct LengthLaws<'a> {
    shapes: &'a [LengthShape],
    max_model_len: u32,
    made: Vec<(Lengths, LengthLaw)>,
}

/// Rows are prepared for the first so many different laws (most fleets have one or two).
const PREPARED_LAWS: usize = 4;
/// And only as many rows as are soon paid back.
const PREPARED_ROWS: usize = 1 << 14;

impl<'a> LengthLaws<'a> {
    pub(crate) fn new(shapes: &'a [LengthShape], max_model_len: u32) -> Self {
        LengthLaws {
            shapes,
            max_model_len,
            made: Vec::new(),
        }
    }

    /// The law of an adapter with these lengths.
    pub(crate) fn law(&mut self, lengths: Lengths) -> LengthLaw {
        if let Some((_, law)) = self.made.iter().find(|(own, _)| *own == lengths) {
            return law.clone();
        }
        let prepare = self.made.len() < PREPARED_LAWS;
        let law = self.make(lengths, prepare);
        if prepare {
            self.made.push((lengths, law.clone()));
        }
        law
    }

    fn make(&self, lengths: Lengths, prepare: bool) -> LengthLaw {
        let stretch = Stretch {
            prompt: lengths.prompt_scale,
            output: lengths.output_scale,
            max_model_len: self.max_model_len,
        };
        match self.shapes[lengths.shape as usize] {
            LengthShape::Constant {
                prompt_tokens,
                output_tokens,
            } => {
                let row = stretch.apply(f64::from(prompt_tokens), f64::from(output_tokens));
                LengthLaw::Rows([row].into())
            }
            LengthShape::Lognormal {
                prompt_mean,
                prompt_sigma,
                output_mean,
                output_sigma,
                correlation,
            } => LengthLaw::Lognormal {
                prompt_log_mean: prompt_mean.ln() - 0.5 * prompt_sigma * prompt_sigma,
                prompt_sigma,
                output_log_mean: output_mean.ln() - 0.5 * output_sigma * output_sigma,
                output_sigma,
                correlation,
                independent: (1.0 - correlation * correlation).max(0.0).sqrt(),
                stretch,
            },
            LengthShape::Pairs {
                ref prompt_tokens,
                ref output_tokens,
            } => {
                if prepare && prompt_tokens.len() <= PREPARED_ROWS {
                    let rows = prompt_tokens.iter().zip(output_tokens.iter());
                    let stretched = rows.map(|(&prompt, &output)| {
                        stretch.apply(f64::from(prompt), f64::from(output))
                    });
                    LengthLaw::Rows(stretched.collect())
                } else {
                    LengthLaw::Pairs {
                        prompt: Arc::clone(prompt_tokens),
                        output: Arc::clone(output_tokens),
                        stretch,
                    }
                }
            }
        }
    }
}

impl LengthStream {
    pub(crate) fn new(law: LengthLaw, rng: Xoshiro256PlusPlus) -> Self {
        LengthStream { law, rng }
    }

    /// Draws lengths for requests at these times, and hands both to `take`.
    #[inline]
    pub(crate) fn draw_for(&mut self, times: &[u64], mut take: impl FnMut(u64, (u32, u32))) {
        if let LengthLaw::Rows(rows) = &self.law {
            // The commonest law, its generator kept in registers.
            let mut rng = self.rng.clone();
            for &at in times {
                take(at, rows[uniform_row(&mut rng, rows.len())]);
            }
            self.rng = rng;
        } else {
            for &at in times {
                take(at, self.draw());
            }
        }
    }

    /// Prompt and output tokens of the next request.
    fn draw(&mut self) -> (u32, u32) {
        match self.law {
            LengthLaw::Rows(ref rows) => rows[uniform_row(&mut self.rng, rows.len())],
            LengthLaw::Pairs {
                ref prompt,
                ref output,
                stretch,
            } => {
                let row = uniform_row(&mut self.rng, prompt.len());
                stretch.apply(f64::from(prompt[row]), f64::from(output[row]))
            }
            LengthLaw::Lognormal {
                prompt_log_mean,
                prompt_sigma,
                output_log_mean,
                output_sigma,
                correlation,
                independent,
                stretch,
            } => {
                let first: f64 = StandardNormal.sample(&mut self.rng);
                let second: f64 = StandardNormal.sample(&mut self.rng);
                let joint = correlation * first + independent * second;
                stretch.apply(
                    (prompt_log_mean + prompt_sigma * first).exp(),
                    (output_log_mean + output_sigma * joint).exp(),
                )
            }
        }
    }
}

/// A row below `rows`, from the upper half of one draw.
#[inline]
fn uniform_row(rng: &mut Xoshiro256PlusPlus, rows: usize) -> usize {
    (((rng.next_u64() >> 32) * rows as u64) >> 32) as usize
}

/// At least one token each; the prompt at most `max_model_len - 1`, then both `max_model_len`.
#[inline]
pub(crate) fn cut(prompt: u32, output: u32, max_model_len: u32) -> (u32, u32) {
    let prompt = prompt.clamp(1, max_model_len - 1);
    (prompt, output.clamp(1, max_model_len - prompt))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{stream, Purpose};

    fn draws(shape: LengthShape, scale: f64, n: usize) -> Vec<(u32, u32)> {
        let lengths = Lengths {
            shape: 0,
            prompt_scale: scale,
            output_scale: scale,
        };
        let rng = stream(1, 2, Purpose::Lengths);
        let law = LengthLaws::new(&[shape], 100_000).law(lengths);
        let mut stream = LengthStream::new(law, rng);
        (0..n).map(|_| stream.draw()).collect()
    }

    #[test]
    fn lengths_are_cut_prompt_first() {
        assert_eq!(cut(0, 0, 10), (1, 1));
        assert_eq!(cut(4, 9, 10), (4, 6));
        assert_eq!(cut(40, 9, 10), (9, 1));
    }

    #[test]
    fn lognormal_has_its_means_and_its_correlation() {
        let shape = LengthShape::Lognormal {
            prompt_mean: 200.0,
            prompt_sigma: 0.5,
            output_mean: 300.0,
            output_sigma: 0.8,
            correlation: -0.6,
        };
        let rows = draws(shape, 2.0, 100_000);
        let n = rows.len() as f64;
        let mean = |pick: fn(&(u32, u32)) -> u32| {
            rows.iter().map(|row| f64::from(pick(row))).sum::<f64>() / n
        };
        assert!((mean(|row| row.0) / 400.0 - 1.0).abs() < 0.02);
        assert!((mean(|row| row.1) / 600.0 - 1.0).abs() < 0.03);
        let logs: Vec<(f64, f64)> = rows
            .iter()
            .map(|&(p, o)| (f64::from(p).ln(), f64::from(o).ln()))
            .collect();
        let (mp, mo) = (
            logs.iter().map(|l| l.0).sum::<f64>() / n,
            logs.iter().map(|l| l.1).sum::<f64>() / n,
        );
        let covariance = logs.iter().map(|l| (l.0 - mp) * (l.1 - mo)).sum::<f64>() / n;
        assert!((covariance / (0.5 * 0.8) + 0.6).abs() < 0.02);
    }

    #[test]
    fn pairs_are_drawn_together_and_evenly() {
        let shape = LengthShape::Pairs {
            prompt_tokens: vec![1.0, 2.0, 3.0].into(),
            output_tokens: vec![10.0, 20.0, 30.0].into(),
        };
        let rows = draws(shape, 1.0, 30_000);
        assert!(rows.iter().all(|&(p, o)| o == 10 * p));
        let ones = rows.iter().filter(|row| row.0 == 1).count();
        assert!((ones as f64 / 10_000.0 - 1.0).abs() < 0.05);
    }
}
