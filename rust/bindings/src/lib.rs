//! The private module `lorapack._native`: plain arrays in, Arrow tables out, nothing decided here.
//!
//! A [`scenario::Scenario`] is put together from frozen parts, [`run`] hands it to the twin through
//! the one door [`enter`], [`outcome`] shows what came of it, [`error`] says what was wrong.

mod conform;
mod enter;
mod error;
mod fullness;
mod memory;
mod network;
mod outcome;
mod physics;
mod run;
mod scenario;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::conform::{conform_residency, conform_schedule};
    #[pymodule_export]
    use crate::fullness::Fullness;
    #[pymodule_export]
    use crate::memory::{Block, CachingAllocator};
    #[pymodule_export]
    use crate::network::Network;
    #[pymodule_export]
    use crate::outcome::{Outcome, Table};
    #[pymodule_export]
    use crate::physics::{physics_features, GpuPhysics, Work, WorkList, WorkSums};
    #[pymodule_export]
    use crate::run::{simulate, simulate_many};
    #[pymodule_export]
    use crate::scenario::{
        Adapter, Arrivals, EngineSettings, FrontEnd, LengthShape, Scenario, StepTime, Trace,
    };
}
