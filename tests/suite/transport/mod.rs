//! Transports: one contract for all of them, and what each does when its place misbehaves.

mod agent;
mod contract;
mod faults;
mod http;
mod subjects;
