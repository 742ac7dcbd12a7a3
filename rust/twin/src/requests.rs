//! All adapters' requests as one sequence: ordered by (arrival, adapter, number within the adapter).
//!
//! Time is cut into chunks of a few thousand requests. In each chunk every adapter draws its own
//! arrivals and lengths, the rows are dealt into about as many buckets of time as there are rows,
//! and what little disorder is left within a bucket is mended by insertion. So a request costs a few
//! nanoseconds whether ten or ten thousand adapters send, where a heap over adapters would cost a
//! logarithm and a cache miss each.

use std::sync::Arc;

use crate::arrivals::ArrivalStream;
use crate::lengths::{cut, LengthLaws, LengthStream};
use crate::scenario::{Arrivals, Scenario, Trace};
use crate::streams::{stream, Purpose};
use crate::units::Time;

/// One request as the client sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Client's send time.
    pub arrival: Time,
    /// Index into the scenario's adapters.
    pub adapter: u32,
    /// Tokens, 1 or more.
    pub prompt_tokens: u32,
    /// Tokens, 1 or more, after the cut at `max_model_len`.
    pub output_tokens: u32,
    /// Place among the adapter's generated requests of one chunk, trace rows behind: breaks ties.
    number: u32,
}

impl Request {
    fn key(&self) -> (Time, u32, u32) {
        (self.arrival, self.adapter, self.number)
    }
}

/// Rows a chunk aims at; with more adapters than this, rows grow so that visiting every adapter
/// once a chunk stays cheap.
const CHUNK_ROWS: usize = 4096;
/// Trace rows are numbered from here, behind any generated one at the same time.
const TRACE_NUMBER: u32 = 1 << 31;
/// A bucket with more rows than this (many arrivals at one instant) is sorted, not inserted into.
const BUCKET_ROWS: u32 = 24;

/// The requests of a scenario, in order, generated as they are asked for.
#[derive(Clone, Debug)]
pub struct RequestSource {
    next_arrival: Vec<u64>,
    streams: Vec<(ArrivalStream, LengthStream)>,
    trace: Option<Arc<Trace>>,
    trace_row: usize,
    max_model_len: u32,
    /// Nothing at or after this time is yielded.
    horizon: u64,
    chunk_ps: u64,
    chunk_rows: usize,
    /// One adapter's arrivals in a chunk.
    times: Vec<u64>,
    drawn: Vec<Request>,
    bucket_ends: Vec<u32>,
    sorted: Vec<Request>,
    at: usize,
}

impl RequestSource {
    /// The source of a checked scenario.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let max_model_len = scenario.engine.max_model_len;
        let n_adapters = scenario.adapters.len();
        let mut next_arrival = Vec::with_capacity(n_adapters);
        let mut streams = Vec::with_capacity(n_adapters);
        let mut total_rps = 0.0;
        let mut laws = LengthLaws::new(&scenario.length_shapes, max_model_len);
        for adapter in &scenario.adapters {
            let rng = stream(scenario.seed, adapter.key, Purpose::Arrivals);
            let (arrivals, first) = ArrivalStream::new(&adapter.arrivals, rng);
            let rng = stream(scenario.seed, adapter.key, Purpose::Lengths);
            let lengths = LengthStream::new(laws.law(adapter.lengths), rng);
            next_arrival.push(first);
            streams.push((arrivals, lengths));
            total_rps += largest_rate_rps(&adapter.arrivals);
        }
        let chunk_rows = CHUNK_ROWS.max(2 * n_adapters);
        RequestSource {
            next_arrival,
            streams,
            trace: scenario.trace.clone(),
            trace_row: 0,
            max_model_len,
            horizon: scenario.duration.map_or(u64::MAX, |duration| duration.0),
            chunk_ps: ((chunk_rows as f64 / total_rps * 1e12) as u64).max(1),
            chunk_rows,
            times: Vec::new(),
            drawn: Vec::new(),
            bucket_ends: Vec::new(),
            sorted: Vec::new(),
            at: 0,
        }
    }

    /// The requests drawn so far and not yet taken: at least one, unless there are no more.
    #[inline]
    pub(crate) fn drawn(&mut self) -> &[Request] {
        if self.at == self.sorted.len() {
            self.fill();
        }
        &self.sorted[self.at..]
    }

    /// Takes that many of the drawn ones.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        self.at += n;
    }

    /// Time of a row of the trace.
    fn trace_time(&self, row: usize) -> Option<u64> {
        let arrival = self.trace.as_ref()?.arrival.get(row)?;
        Some(arrival.0)
    }

    /// When the next chunk's first request arrives.
    fn next_start(&self) -> u64 {
        let generated = self.next_arrival.iter().copied().min().unwrap_or(u64::MAX);
        generated.min(self.trace_time(self.trace_row).unwrap_or(u64::MAX))
    }

    /// Draws another chunk: one request at least, unless there are no more.
    #[cold]
    fn fill(&mut self) {
        let start = self.next_start();
        if start >= self.horizon {
            return;
        }
        self.at = 0;
        let mut end = start.saturating_add(self.chunk_ps).min(self.horizon);
        if let Some(far) = self.trace_time(self.trace_row + self.chunk_rows) {
            end = end.min(far.max(start + 1));
        }
        let buckets = Buckets::new(start, end, self.chunk_rows);
        self.draw(end, buckets);
        self.sort(buckets);
    }

    /// Draws everything before `end`, adapter by adapter, and counts the rows of each bucket.
    fn draw(&mut self, end: u64, buckets: Buckets) {
        self.drawn.clear();
        self.bucket_ends.clear();
        self.bucket_ends.resize(buckets.n, 0);
        for (index, next) in self.next_arrival.iter_mut().enumerate() {
            if *next >= end {
                continue;
            }
            let (arrivals, lengths) = &mut self.streams[index];
            self.times.clear();
            *next = arrivals.advance(*next, end, |at| self.times.push(at));
            let mut number = 0;
            lengths.draw_for(&self.times, |at, (prompt_tokens, output_tokens)| {
                self.bucket_ends[buckets.of(at)] += 1;
                self.drawn.push(Request {
                    arrival: Time(at),
                    adapter: index as u32,
                    prompt_tokens,
                    output_tokens,
                    number,
                });
                number += 1;
            });
        }
        if let Some(trace) = &self.trace {
            while let Some(&arrival) = trace.arrival.get(self.trace_row) {
                if arrival.0 >= end {
                    break;
                }
                let row = self.trace_row;
                let (prompt_tokens, output_tokens) = cut(
                    trace.prompt_tokens[row],
                    trace.output_tokens[row],
                    self.max_model_len,
                );
                self.bucket_ends[buckets.of(arrival.0)] += 1;
                self.drawn.push(Request {
                    arrival,
                    adapter: trace.adapter[row],
                    prompt_tokens,
                    output_tokens,
                    number: TRACE_NUMBER + row as u32,
                });
                self.trace_row += 1;
            }
        }
    }

    /// Deals `drawn` into its buckets and mends the order within each.
    fn sort(&mut self, buckets: Buckets) {
        let mut largest = 0;
        let mut total = 0;
        for end in &mut self.bucket_ends {
            // Where the bucket begins for now; dealing moves it to where it ends.
            let count = *end;
            *end = total;
            total += count;
            largest = largest.max(count);
        }
        // What the last chunk left is overwritten.
        self.sorted.resize(self.drawn.len(), Request::default());
        for request in &self.drawn {
            let place = &mut self.bucket_ends[buckets.of(request.arrival.0)];
            self.sorted[*place as usize] = *request;
            *place += 1;
        }
        if largest > BUCKET_ROWS {
            self.sort_buckets();
        } else {
            self.insert();
        }
    }

    fn sort_buckets(&mut self) {
        let mut begin = 0;
        for &end in &self.bucket_ends {
            let bucket = &mut self.sorted[begin..end as usize];
            bucket.sort_unstable_by_key(Request::key);
            begin = end as usize;
        }
    }

    /// Insertion sort; rows are at most a bucket away from their place.
    fn insert(&mut self) {
        let rows = &mut self.sorted;
        let mut last = Time::ZERO;
        for index in 0..rows.len() {
            let row = rows[index];
            let in_order = last < row.arrival;
            last = row.arrival;
            if in_order || index == 0 || rows[index - 1].key() <= row.key() {
                continue;
            }
            last = rows[index - 1].arrival;
            let mut place = index;
            while place > 0 && rows[place - 1].key() > row.key() {
                rows[place] = rows[place - 1];
                place -= 1;
            }
            rows[place] = row;
        }
    }
}

/// A chunk's time cut into equal spans, about as many as it has rows.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    start: u64,
    shift: u32,
    n: usize,
}

impl Buckets {
    fn new(start: u64, end: u64, rows: usize) -> Self {
        let last = end - start - 1;
        let span_bits = u64::BITS - last.leading_zeros();
        let bucket_bits = rows.next_power_of_two().trailing_zeros();
        let shift = span_bits.saturating_sub(bucket_bits).min(u64::BITS - 1);
        Buckets {
            start,
            shift,
            n: (last >> shift) as usize + 1,
        }
    }

    #[inline]
    fn of(self, at: u64) -> usize {
        ((at - self.start) >> self.shift) as usize
    }
}

impl Iterator for RequestSource {
    type Item = Request;

    #[inline]
    fn next(&mut self) -> Option<Request> {
        let request = *self.drawn().first()?;
        self.consume(1);
        Some(request)
    }
}

/// The highest rate a law reaches for long: sizes the chunks, nothing else.
fn largest_rate_rps(arrivals: &Arrivals) -> f64 {
    match arrivals {
        Arrivals::None => 0.0,
        Arrivals::Poisson { rate_rps }
        | Arrivals::Gamma { rate_rps, .. }
        | Arrivals::Weibull { rate_rps, .. }
        | Arrivals::OnOff { rate_rps, .. } => *rate_rps,
        Arrivals::Diurnal {
            rate_rps,
            amplitude,
            ..
        } => rate_rps * (1.0 + amplitude),
        Arrivals::Piecewise { rates_rps, .. } => rates_rps.iter().copied().fold(0.0, f64::max),
    }
}
