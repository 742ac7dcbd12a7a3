//! The fast engine against the plain one, and against the laws both must keep.

mod compare;
mod determinism;
mod equal_to_oracle;
mod laws;
mod swarm;
