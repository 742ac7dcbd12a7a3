//! The reference engine: slow, plain, and held to recordings of the real one.
//!
//! It exists so that the fast engine of `lorapack-twin` has something to be compared with that does
//! not share its cleverness. Read in this order: [`scheduler`] (the nine rules), [`residency`] (two
//! caches), then the loop that puts a clock around them.

pub mod residency;
pub mod scheduler;
