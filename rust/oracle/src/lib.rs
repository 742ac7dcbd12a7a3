//! Per-token reference engine.
