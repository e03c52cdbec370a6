//! The command line of apply and lock.

use std::num::NonZeroUsize;

use clap::Args;

use super::entries::RemoteArgs;

/// `monofo apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// Take versions from a lock file, and insist that the sources are those that it locks
    #[arg(long)]
    pub locked: bool,

    /// The environment whose lock counts, components.lock.ENV.yaml, and whose profile is switched when all went well
    #[arg(long, value_name = "ENV", requires = "locked")]
    pub env: Option<String>,

    /// Only this component and what it needs (may be given several times; default: all)
    #[arg(long, value_name = "NAME")]
    pub component: Vec<String>,

    /// How many components are worked on at once (default: the number of processors)
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,

    /// Print what would be done, and why, and change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Build everything, whatever the cache has; what is built is stored as ever
    #[arg(long)]
    pub no_cache: bool,

    /// Only warn where lock and manifest differ
    #[arg(long, requires = "locked")]
    pub allow_drift: bool,

    /// Where to look for artifacts that this machine has not, and to share those that are built
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// `monofo lock`.
#[derive(Debug, Args)]
pub struct Lock {
    /// The environment: the lock is components.lock.ENV.yaml (default: components.lock.yaml)
    #[arg(long, value_name = "ENV")]
    pub env: Option<String>,
}

/// Examples of `apply`.
pub const APPLY_EXAMPLES: &str = "\
Every component comes after those that it needs, and independent ones at once: its artifact from the cache or the remote, else from \
its `build` command. A component that fails skips those that need it; the others go on. Exit status: 0 all there; 1 a component \
failed, or would; 4 manifest or lock invalid, or they differ; 5 inputs changed meanwhile; 8 the remote is required and did not help; 9 another apply works here

Examples:
  monofo apply
  monofo apply --dry-run
  monofo apply --component app --jobs 4
  monofo apply --locked --env prod --remote s3://bucket/cache && monofo store generations prod
  monofo store switch prod --back";

/// Examples of `lock`.
pub const LOCK_EXAMPLES: &str = "\
Versions and dependencies come from the manifest, commits and digests of sources from the trees that are here. Fields that monofo \
does not know stay, comments do not. Nothing is written when nothing changed.

Examples:
  monofo lock
  monofo lock --env prod";
