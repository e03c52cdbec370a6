//! `monofo store`: artifacts under a hash of what went in and what came out.

mod list;
mod moving;
mod roots;

use super::Commands;
use crate::cli::entries::StoreCommand;
use crate::config::entries::{Keeping, resolve};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;

impl Commands<'_> {
    pub(super) fn store(&self, command: &StoreCommand) -> u8 {
        match command {
            StoreCommand::Add(asked) => self.answers("meta.store-add/1", |context| self.store_add(asked, context)),
            StoreCommand::Query(asked) => self.store_query(asked),
            StoreCommand::Get(asked) => self.answers("meta.store-get/1", |context| self.store_get(asked, context)),
            StoreCommand::Verify => self.answers("meta.store-verify/1", |context| self.store_verify(context)),
            StoreCommand::Pin { name, hash } => self.answers("meta.store-pin/1", |_| self.store_pin(name, hash)),
            StoreCommand::Unpin { name } => self.answers("meta.store-unpin/1", |_| self.store_unpin(name)),
            StoreCommand::Switch(asked) => self.answers("meta.store-switch/1", |_| self.store_switch(asked)),
            StoreCommand::Generations { profile } => {
                self.answers("meta.store-generations/1", |_| self.store_generations(profile))
            }
            StoreCommand::List => self.answers("meta.store-list/1", |_| self.store_list()),
            StoreCommand::Stats => self.answers("meta.store-stats/1", |_| self.store_stats()),
        }
    }
}

/// The address that a user names: a hash, the beginning of one, or `inputs:KEY`.
fn address(keeping: &Keeping, text: &str) -> Result<Hash> {
    let store = &keeping.store;
    let Some(inputs) = text.strip_prefix("inputs:") else { return resolve(store, text) };
    // Judged like a hash, before anything is looked for.
    if Hash::parse(inputs).is_none() {
        match resolve(store, inputs) {
            Err(error) if error.class() == Class::Usage && !error.to_string().contains("entries begin") => {
                return Err(error);
            }
            _ => {}
        }
    }
    let found = crate::engine::entries::survey::survey(store)?;
    let fits = |entry: &&crate::engine::entries::survey::Entry| entry.record.key.to_string().starts_with(inputs);
    match found.entries.iter().filter(fits).collect::<Vec<_>>().as_slice() {
        [one] => Ok(one.name),
        [] => Err(Error::new(Class::NotThere, format_args!("nothing in the store was made from inputs {inputs}"))
            .hint("see `monofo store list`")),
        several => {
            let names: Vec<_> = several.iter().take(5).map(|entry| entry.name.to_string()).collect();
            Err(Error::usage(format_args!(
                "{} artifacts were made from inputs {inputs}: {}",
                several.len(),
                names.join(", ")
            ))
            .hint("name one of them"))
        }
    }
}
