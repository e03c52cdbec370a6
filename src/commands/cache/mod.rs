//! `monofo cache`: what was built, kept under a key of everything that went into it.

mod build;
mod get;
mod list;
pub(in crate::commands) mod upkeep;

use serde_json::{Value, json};

use super::Commands;
use crate::cli::entries::{CacheCommand, RemoteArgs};
use crate::config::entries::{Keeping, keeping};
use crate::context::Context;
use crate::engine::entries::share::report_line;
use crate::entry::HomeKind;
use crate::error::{Class, Error, IoContext, Result};
use crate::remote::{Failure, Remote};

impl Commands<'_> {
    pub(super) fn cache(&self, command: &CacheCommand) -> u8 {
        match command {
            CacheCommand::Build(asked) => {
                self.answers("meta.cache-build/1", |context| self.cache_build(asked, context))
            }
            CacheCommand::Get(asked) => self.cache_get(asked),
            CacheCommand::Key(asked) => self.answers("meta.cache-key-report/1", |_| self.cache_key(asked)),
            CacheCommand::Explain(asked) => {
                self.answers("meta.cache-explain/1", |context| self.cache_explain(asked, context))
            }
            CacheCommand::Verify => self.answers("meta.cache-verify/1", |context| self.cache_verify(context)),
            CacheCommand::Invalidate(asked) => {
                self.answers("meta.cache-invalidate/1", |_| self.cache_invalidate(asked))
            }
            CacheCommand::List => self.answers("meta.cache-list/1", |_| self.cache_list()),
            CacheCommand::Stats => self.answers("meta.cache-stats/1", |_| self.cache_stats()),
        }
    }

    /// Runs a command whose JSON document has a schema of its own.
    pub(super) fn answers(&self, schema: &'static str, work: impl FnOnce(&Context) -> Result<()>) -> u8 {
        self.report.schema(schema);
        let status = self.status(self.watched(work));
        self.report.finish(status)
    }

    /// Workspace, cache and store of this command.
    pub(super) fn keeping(&self) -> Result<Keeping> {
        let directory = std::env::current_dir().or_fail(|| "cannot tell the current folder")?;
        keeping(self.env, &directory)
    }

    /// The remote that a command is given, or why it cannot be used. One that is required has to be named.
    pub(super) fn remote(&self, keeping: &Keeping, asked: &RemoteArgs) -> Result<(Option<Remote>, Option<Failure>)> {
        required(keeping.remote(asked.remote.as_deref(), self.cancel)?, asked)
    }

    /// A failure of the remote: the command goes on without it, unless that was forbidden.
    pub(super) fn remote_failed(&self, failure: Failure, kind: HomeKind, required: bool) -> Result<()> {
        if required {
            let error = Error::new(Class::Unavailable, required_line(&failure, kind));
            let hint = failure.error.next_step().map(str::to_owned);
            return Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
        self.report.warning(report_line(&failure, kind));
        if let Some(hint) = failure.error.next_step() {
            self.report.detail(format_args!("hint: {hint}"));
        }
        Ok(())
    }
}

/// The same line where nothing is used instead.
fn required_line(failure: &Failure, kind: HomeKind) -> String {
    report_line(failure, kind).replace("; using", "; not using").replace("; treated as a miss, the", "; the")
}

/// A remote as it was opened, if there is one where one is required.
pub(super) fn required<R>(
    opened: (Option<R>, Option<Failure>),
    asked: &RemoteArgs,
) -> Result<(Option<R>, Option<Failure>)> {
    match opened {
        (None, None) if asked.remote_required => Err(Error::usage("--remote-required without a remote")
            .hint("name one with --remote URL or MONOFO_REMOTE, or leave out --remote-required")),
        opened => Ok(opened),
    }
}

/// What became of a remote, for documents.
pub(super) fn trouble(failure: Option<&Failure>) -> Value {
    failure.map_or(Value::Null, |failure| json!({ "kind": failure.trouble.name(), "message": failure.error.chain() }))
}
