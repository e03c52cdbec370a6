//! What a key template comes to, here and now.

mod secret;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use self::secret::secret_in;
use super::sources::{self, Hashing};
use crate::cancel::Cancel;
use crate::entry::StatCache;
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::template::{Call, Function, Piece, Template, date};
use crate::key::{KeyPart, text_of};
use crate::text::Shown;

/// The longest readable key. It travels in a variable of the environment.
const LONGEST: usize = 2048;

/// What calls ask for.
pub struct Facts<'a> {
    /// The folder that globs are relative to.
    pub root: &'a Path,
    /// The branch that is built, if a job says so.
    pub branch: Option<&'a str>,
    /// The pipeline's default branch, if a job says so.
    pub default_branch: Option<&'a str>,
    /// The pipeline, if a job says so.
    pub pipeline: Option<&'a str>,
    /// Values of variables.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Seconds since 1970.
    pub now: u64,
    /// Folders of cache and store, which are never hashed.
    pub own: &'a [PathBuf],
    /// Digests that are known already.
    pub known: &'a StatCache,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

/// Finds out what templates come to. The same files are hashed once.
pub struct Evaluator<'a> {
    facts: Facts<'a>,
    checksums: RefCell<HashMap<Vec<String>, Checksum>>,
    unset: RefCell<BTreeSet<String>>,
}

#[derive(Clone)]
struct Checksum {
    digest: Option<Hash>,
    unmatched: Vec<String>,
}

impl<'a> Evaluator<'a> {
    /// One for these facts.
    pub fn new(facts: Facts<'a>) -> Self {
        Evaluator { facts, checksums: RefCell::default(), unset: RefCell::default() }
    }

    /// Variables that templates asked for and that are not set.
    pub fn unset(&self) -> BTreeSet<String> {
        self.unset.borrow().clone()
    }

    /// What a template comes to. Reads files; writes nothing. Blocks. Class `Usage` for a checksum of nothing that is not
    /// optional, and for values that cannot be part of a key.
    pub fn evaluate(&self, template: &Template) -> Result<Vec<KeyPart>> {
        let part = |piece: &Piece| match piece {
            Piece::Text(text) => Ok(KeyPart::Text(text.clone())),
            // Whether it was optional matters no more.
            Piece::Call(call) => Ok(KeyPart::Result(Call { optional: false, ..call.clone() }, self.call(call)?)),
        };
        let parts: Vec<KeyPart> = template.pieces().iter().map(part).collect::<Result<_>>()?;
        let text = text_of(&parts);
        if text.len() > LONGEST || text.contains(char::is_control) {
            let shown: String = text.chars().take(60).collect();
            return Err(Error::usage(format_args!(
                "a key of more than {LONGEST} bytes, or with control characters, is none: `{}…`",
                Shown(shown.as_bytes())
            )));
        }
        Ok(parts)
    }

    fn call(&self, call: &Call) -> Result<Option<String>> {
        let facts = &self.facts;
        let argument = call.arguments.first().map_or("", String::as_str);
        Ok(match call.function {
            Function::Os => Some(std::env::consts::OS.to_owned()),
            Function::Arch => Some(std::env::consts::ARCH.to_owned()),
            Function::Branch => facts.branch.map(str::to_owned),
            Function::DefaultBranch => facts.default_branch.map(str::to_owned),
            Function::Pipeline => facts.pipeline.map(str::to_owned),
            Function::Date => Some(date(argument, facts.now)),
            Function::Env => match (facts.variable)(argument).map(OsString::into_string) {
                None => {
                    self.unset.borrow_mut().insert(argument.to_owned());
                    None
                }
                Some(Ok(value)) => {
                    if let Some(what) = secret_in(&value) {
                        let error = format!("the value of {argument} is {what}, and keys are shown");
                        return Err(Error::usage(error).hint("leave it out of the key"));
                    }
                    Some(value)
                }
                Some(Err(_)) => {
                    return Err(Error::usage(format_args!(
                        "the value of {argument} is no text, and cannot be part of a key"
                    )));
                }
            },
            Function::Checksum => self.checksum(call)?.map(|digest| digest.to_string()),
        })
    }

    fn checksum(&self, call: &Call) -> Result<Option<Hash>> {
        let known = self.checksums.borrow().get(&call.arguments).cloned();
        let Checksum { digest, unmatched } = match known {
            Some(known) => known,
            None => {
                let Facts { own, known, cancel, root, .. } = self.facts;
                let hashing = Hashing { own, known, cancel, follow: true };
                let hashed = sources::named(root, &call.arguments, hashing)
                    .map_err(|error| error.context(format_args!("cannot compute `{call}`")))?;
                let digest = (!hashed.listing.lines().is_empty()).then(|| hashed.listing.digest());
                let found = Checksum { digest, unmatched: hashed.unmatched };
                self.checksums.borrow_mut().insert(call.arguments.clone(), found.clone());
                found
            }
        };
        let missing = unmatched.first().map(String::as_str).or(if digest.is_none() {
            call.arguments.first().map(String::as_str)
        } else {
            None
        });
        match missing.filter(|_| !call.optional) {
            Some(glob) => Err(Error::usage(format_args!("`{call}`: `{}` matches no file", Shown(glob.as_bytes())))
                .hint("correct the name, make the file in an earlier step, or write `optional` behind it")),
            None => Ok(digest),
        }
    }
}
