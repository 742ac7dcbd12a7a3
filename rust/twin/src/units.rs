//! Time as integer picoseconds: the one unit in which the engine adds and compares.
//!
//! Costs are rounded to picoseconds once, when a scenario is built; from there on everything is
//! integer arithmetic, so `k` alike steps are an exact arithmetic series and the fast engine can be
//! held to the per-token oracle bit by bit. 2^64 ps is 213 days.

use std::ops::{Add, AddAssign, Mul, Sub};

/// A point in simulated time, or a span of it, in picoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The start of the simulation, and a span of no length.
    pub const ZERO: Time = Time(0);
    /// Later than anything that happens.
    pub const MAX: Time = Time(u64::MAX);

    /// Rounds seconds to the nearest picosecond; what is negative or not a number becomes zero.
    #[must_use]
    pub fn from_seconds(seconds: f64) -> Self {
        Time((seconds * 1e12).round() as u64)
    }

    /// Seconds, as a float: for records and reports only.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0 as f64 * 1e-12
    }

    /// Milliseconds, as a float: for records and reports only.
    #[must_use]
    pub fn milliseconds(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    /// The span from `earlier` to `self`, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> Time {
        Time(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Time {
    type Output = Time;
    fn add(self, other: Time) -> Time {
        Time(self.0 + other.0)
    }
}

impl AddAssign for Time {
    fn add_assign(&mut self, other: Time) {
        self.0 += other.0;
    }
}

impl Sub for Time {
    type Output = Time;
    fn sub(self, other: Time) -> Time {
        Time(self.0 - other.0)
    }
}

impl Mul<u64> for Time {
    type Output = Time;
    fn mul(self, count: u64) -> Time {
        Time(self.0 * count)
    }
}
