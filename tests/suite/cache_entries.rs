//! Artifacts into the cache and back: what comes out, what metadata say, and what targets are never replaced.

mod explaining;
mod roundtrip;
mod scopes;
mod targets;
mod unusable;
