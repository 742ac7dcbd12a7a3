//! A hint that a row will be needed soon: when overloaded, tens of thousands of requests wait, their
//! rows are met in no order, and fetching each only when it is used was half of the engine's time.

/// So few rows are in a near cache anyway.
const FEW_ROWS: usize = 1024;

/// Whether there are so many rows that those needed soon are worth looking for.
#[inline]
pub(super) fn are_many<T>(rows: &[T]) -> bool {
    rows.len() > FEW_ROWS
}

/// Starts fetching a row; has no effect but on speed.
#[inline]
pub(super) fn prefetch<T>(rows: &[T], index: u32) {
    #[cfg(target_arch = "x86_64")]
    if let Some(row) = rows.get(index as usize) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: a hint that reads nothing; the address is that of a live row.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(row).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (rows, index);
}
