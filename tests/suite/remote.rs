//! Remotes: one contract for all places, and what happens when a remote is dead, lies or is in the way.

mod contract;
mod dead;
mod faults;
mod silent;
mod subjects;
