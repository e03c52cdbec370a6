//! gc: what goes, in which order, and above all what stays.

mod cache;
mod store;
mod trouble;
