//! What a scan of the waiting queue ended with, and what is known of the next.

/// What is known of the next scan of the waiting queue without making it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prospect {
    /// Nothing, unless nobody waits.
    Open,
    /// It would skip all who wait: slots are full, and nobody waits for an adapter that has one. So it
    /// stays until a slot is given up, somebody is preempted, or a request arrives that needs no slot.
    AllSkipped,
    /// It would stop where the last one did, for lack of blocks or of room, and skip as many. So it
    /// stays until somebody leaves or is preempted: decodes take blocks and give none, and whoever
    /// arrives stands behind.
    Stopped,
}

/// Why a scan of the waiting queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanEnd {
    /// All who are left were skipped.
    NobodyLeft,
    /// A request's blocks are not free.
    NoBlocks,
    /// The budget is spent, or `max_num_seqs` run.
    NoRoom,
}
