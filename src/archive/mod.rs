//! File set to archive bytes and back.
