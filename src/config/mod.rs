//! What the user asked for, complete and validated: environment and plugin configuration into plain requests.
//!
//! [`listing`] finds the plugin's configuration, [`plugin`] turns it into requests; [`mistakes`] and [`fields`] are how
//! it reads JSON so that every mistake is told with its place. [`yaml`] reads YAML likewise: [`pipeline`] a whole pipeline
//! file, [`workspace`] a workspace's manifest and lock files.

pub mod cache_block;
pub mod chunks;
pub mod entries;
pub mod fields;
pub mod job_scopes;
pub mod listing;
pub mod mistakes;
pub mod pipeline;
pub mod plugin;
pub mod references;
pub mod sizes;
pub mod switches;
pub mod workspace;
pub mod yaml;
