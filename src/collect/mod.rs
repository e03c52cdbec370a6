//! Patterns and lists of paths to a file set.
