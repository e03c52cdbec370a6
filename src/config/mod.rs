//! What the user asked for, complete and validated: environment and plugin configuration into plain requests.

pub mod env;
pub mod pipeline;
