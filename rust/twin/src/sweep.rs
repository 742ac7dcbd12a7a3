//! Many scenarios on many threads: outcomes in input order, whatever the number of threads.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::engine::{simulate, Records};
use crate::error::SimulateError;
use crate::metrics::Outcome;
use crate::scenario::Scenario;

/// Outcomes that may wait for an earlier scenario to be done: bounds memory, whatever the input.
const MOST_AHEAD: usize = 1024;

/// Runs scenarios on `threads` threads (0: one a core) and hands each outcome to `on_done` with its
/// index, in input order, as soon as those before it are done. A scenario that fails does not stop the
/// others. Only as many outcomes as wait for their turn are held. Summaries only, no records.
///
/// # Errors
/// [`SimulateError::Interrupted`] when `interrupted` said so; `on_done` has then seen a beginning of
/// the outcomes.
///
/// # Panics
/// If no thread can be started.
pub fn simulate_many<S, F>(
    scenarios: &[S],
    threads: usize,
    interrupted: &(dyn Fn() -> bool + Sync),
    on_done: F,
) -> Result<(), SimulateError>
where
    S: Borrow<Scenario> + Sync,
    F: FnMut(usize, Result<Outcome, SimulateError>) + Send,
{
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.min(scenarios.len().max(1)))
        .build()
        .expect("threads can be started");
    let next = AtomicUsize::new(0);
    let turns = InTurn::new(on_done);
    pool.scope(|scope| {
        for _ in 0..pool.current_num_threads() {
            scope.spawn(|_| loop {
                // Taken in order, so the earliest unfinished scenario is always being worked on.
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(scenario) = scenarios.get(index) else {
                    return;
                };
                let outcome = simulate(scenario.borrow(), Records::default(), &interrupted);
                let given_up = matches!(outcome, Err(SimulateError::Interrupted));
                if given_up || !turns.take(index, outcome) {
                    turns.stop();
                    return;
                }
            });
        }
    });
    if turns.is_stopped() {
        return Err(SimulateError::Interrupted);
    }
    Ok(())
}

/// Puts outcomes back in input order.
struct InTurn<F> {
    state: Mutex<State<F>>,
    turn_over: Condvar,
}

struct State<F> {
    on_done: F,
    /// Index whose turn it is.
    turn: usize,
    early: BTreeMap<usize, Result<Outcome, SimulateError>>,
    stopped: bool,
}

impl<F> InTurn<F>
where
    F: FnMut(usize, Result<Outcome, SimulateError>),
{
    fn new(on_done: F) -> Self {
        InTurn {
            state: Mutex::new(State {
                on_done,
                turn: 0,
                early: BTreeMap::new(),
                stopped: false,
            }),
            turn_over: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the outcome on if it is its turn, and those that waited for it; waits itself if it is
    /// far ahead. False if all is to stop.
    fn take(&self, index: usize, outcome: Result<Outcome, SimulateError>) -> bool {
        let mut state = self.lock();
        while index > state.turn + MOST_AHEAD && !state.stopped {
            state = (self.turn_over.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return false;
        }
        state.early.insert(index, outcome);
        loop {
            let turn = state.turn;
            let Some(outcome) = state.early.remove(&turn) else {
                break;
            };
            (state.on_done)(turn, outcome);
            state.turn += 1;
        }
        self.turn_over.notify_all();
        true
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.turn_over.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.lock().stopped
    }
}
