//! The one door from Python into work that may take long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// How often Python is asked whether somebody pressed Ctrl-C.
const POLL: Duration = Duration::from_millis(50);

/// Tells the work that it is no longer wanted.
pub type Interrupted<'a> = &'a (dyn Fn() -> bool + Sync);

/// Runs `work` on a thread of its own with the GIL released. Meanwhile this thread, the only one to
/// which Python delivers signals, wakes 20 times a second, looks for them, and calls `meanwhile`.
///
/// `work` is told by its argument when to give up; what it then returns is thrown away.
///
/// # Errors
/// What `work` or `meanwhile` failed with, what a signal handler raised (`KeyboardInterrupt`), or
/// `RuntimeError` if `work` panicked, which is a bug of the twin.
pub fn enter<T, E>(
    py: Python<'_>,
    work: impl FnOnce(Interrupted<'_>) -> Result<T, E> + Send,
    mut meanwhile: impl FnMut(Python<'_>) -> PyResult<()>,
) -> PyResult<T>
where
    T: Send,
    E: Into<PyErr> + Send,
{
    let stop = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    let caller = thread::current();
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let _bell = Bell {
                done: &done,
                caller: &caller,
            };
            work(&|| stop.load(Ordering::Relaxed))
        });
        let mut refusal: PyResult<()> = Ok(());
        while !done.load(Ordering::Acquire) {
            py.detach(|| thread::park_timeout(POLL));
            if refusal.is_ok() {
                refusal = py.check_signals().and_then(|()| meanwhile(py));
                stop.store(refusal.is_err(), Ordering::Relaxed);
            }
        }
        let outcome = py.detach(|| worker.join());
        refusal?;
        match outcome {
            Ok(result) => result.map_err(Into::into),
            Err(panic) => Err(PyRuntimeError::new_err(format!(
                "the twin broke one of its own laws, which is a bug: {}",
                message(&*panic)
            ))),
        }
    })
}

/// Says that the work is over, however it ended.
struct Bell<'a> {
    done: &'a AtomicBool,
    caller: &'a thread::Thread,
}

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.caller.unpark();
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
