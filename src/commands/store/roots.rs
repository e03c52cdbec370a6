//! `monofo store pin`, `unpin`, `switch` and `generations`.

use serde_json::json;

use super::address;
use crate::cli::entries::StoreSwitch;
use crate::commands::Commands;
use crate::commands::table::Table;
use crate::config::workspace::read_lock;
use crate::entry::{open, pins, profiles};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::native_platform;
use crate::text::{Count, Shown};

impl Commands<'_> {
    pub(super) fn store_pin(&self, name: &str, hash: &str) -> Result<()> {
        let keeping = self.keeping()?;
        let hash = address(&keeping, hash)?;
        // Held until the pin is durable: gc leaves alone what is being read.
        let Some(held) = open(&keeping.store, &hash)? else {
            return Err(Error::new(Class::NotThere, format_args!("there is no artifact {hash} in the store"))
                .hint("add it first; see `monofo store list`"));
        };
        pins::pin(&keeping.store, name, &hash)?;
        drop(held);
        self.report.section("name", json!(name));
        self.report.section("hash", json!(hash.to_string()));
        self.report.note(format_args!("pinned {} as {name}", hash.short()));
        Ok(())
    }

    pub(super) fn store_unpin(&self, name: &str) -> Result<()> {
        let keeping = self.keeping()?;
        pins::unpin(&keeping.store, name)?;
        self.report.section("name", json!(name));
        self.report.note(format_args!("removed the pin {name}"));
        Ok(())
    }

    pub(super) fn store_switch(&self, asked: &StoreSwitch) -> Result<()> {
        let keeping = self.keeping()?;
        let (store, profile) = (&keeping.store, asked.profile.as_str());
        let generation = if asked.back || asked.to.is_some() {
            if !store.exists()? {
                return Err(Error::new(Class::NotThere, "there is no store yet").hint("add an artifact first"));
            }
            profiles::switch_back(store, profile, asked.to, self.cancel)?
        } else {
            let (hashes, lock) = match &asked.lock {
                Some(path) => {
                    let lock = read_lock(path)?;
                    let platform = native_platform();
                    let of = |artifacts: &[(String, Hash)], wanted: &str| -> Vec<Hash> {
                        artifacts.iter().filter(|(of, _)| of == wanted).map(|(_, hash)| *hash).collect()
                    };
                    let hashes: Vec<Hash> = lock
                        .components
                        .values()
                        .flat_map(|component| match of(&component.artifacts, &platform) {
                            // What runs everywhere stands in where nothing was made for here.
                            native if native.is_empty() => of(&component.artifacts, "any"),
                            native => native,
                        })
                        .collect();
                    if hashes.is_empty() {
                        return Err(Error::new(
                            Class::Workspace,
                            format_args!("`{}` names no artifact for {platform}", Shown::path(path)),
                        )
                        .hint("name the artifacts themselves: `monofo store switch PROFILE HASH…`"));
                    }
                    (hashes, Some(lock.digest))
                }
                None => {
                    let hashes = asked.hashes.iter().map(|text| address(&keeping, text)).collect::<Result<Vec<_>>>()?;
                    (hashes, None)
                }
            };
            if !store.exists()? {
                return Err(Error::new(Class::NotThere, "there is no store yet").hint("add an artifact first"));
            }
            profiles::switch(store, profile, &hashes, lock, self.cancel)?
        };
        self.report.section("profile", json!(profile));
        self.report.section("generation", generation.document());
        self.report.note(format_args!(
            "{profile} is at generation {}, {}",
            generation.number,
            Count(generation.artifacts.len() as u64, "artifact")
        ));
        Ok(())
    }

    pub(super) fn store_generations(&self, profile: &str) -> Result<()> {
        let keeping = self.keeping()?;
        let known = profiles::generations(&keeping.store, profile)?;
        let current = profiles::current(&keeping.store, profile)?;
        self.report.section("profile", json!(profile));
        self.report.section("current", json!(current));
        self.report.section("generations", known.iter().map(profiles::Generation::document).collect());
        if known.is_empty() {
            self.report.note(format_args!("profile {profile} has no generations"));
            return Ok(());
        }
        let mut table = Table::new(["GENERATION", "CREATED", "ARTIFACTS", "CURRENT"]);
        for generation in &known {
            let named: Vec<_> =
                generation.artifacts.iter().map(|(component, hash)| format!("{component}={}", hash.short())).collect();
            let mark = if current == Some(generation.number) { "yes" } else { "" };
            table.row([generation.number.to_string(), generation.created_at.clone(), named.join(" "), mark.to_owned()]);
        }
        self.report.answer(table)
    }
}
