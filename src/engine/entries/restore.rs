//! An entry to a target: made ready beside it, compared with its digest, then swapped in. Until then the target stays as it is.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::target::Target;
use crate::archive::codec;
use crate::archive::restore::{Given, restore};
use crate::context::Context;
use crate::entry::{Home, Output, Record, RootKind};
use crate::error::{Error, IoContext, Result};
use crate::hash::{Hash, Listing, ListingKind, escape};

/// How a payload becomes files: made ready beside where they belong, compared with the metadata, and put in place once the last
/// argument agrees, which waits for the payload's end. Returns what the user should know; an error of class `Damaged` says that
/// the entry is wrong. Nothing that was there changes before all is right.
pub type Restore<'a> =
    dyn Fn(Box<dyn Read + Send>, &Record, &mut dyn FnMut() -> Result<()>) -> Result<Vec<String>> + 'a;

/// Restores an artifact from an archive. What does not have the digest that its metadata states is an error of class
/// `Damaged`, and touches nothing. Returns what the user should know.
pub fn from_payload(
    payload: Box<dyn Read + Send>,
    output: &Output,
    target: &Target,
    home: &Home,
    whole: &mut dyn FnMut() -> Result<()>,
    context: &Context,
) -> Result<Vec<String>> {
    target.check_kind(output.root)?;
    let beside = target.beside(home)?;
    context.progress.expect(output.bytes);
    let tree = beside.path.join("tree");
    fs::create_dir(&tree).or_fail(|| "cannot make a folder beside the target")?;
    let content = codec::decode(payload, context)?;
    let (listing, digest) = restore(content, &tree, kind_of(output), given(output, &tree)?, output.bytes, context)?;
    check(&listing, &digest, output)?;
    whole()?;
    context.cancel.check()?;
    place(&tree, output, target, beside)
}

/// The time that the kernel gives to what is made now.
pub(super) fn time_of(folder: &Path) -> Result<(i64, u32)> {
    let status = fs::symlink_metadata(folder).or_fail(|| "cannot read a folder that was just made")?;
    Ok((status.mtime(), u32::try_from(status.mtime_nsec()).unwrap_or(0)))
}

/// Modes and times of what is restored: its own where the payload has them, else those of this moment.
pub(super) fn given(output: &Output, folder: &Path) -> Result<Given> {
    if output.mtimes {
        return Ok(Given::Stored);
    }
    let (seconds, nanos) = time_of(folder)?;
    Ok(Given::Same(seconds, nanos))
}

/// Compares what was written with what was stored, the digest first; then what its metadata says of it.
pub(super) fn check(listing: &Listing, digest: &Hash, output: &Output) -> Result<()> {
    let told = super::pack::output(listing, output.root, output.name.clone(), *digest);
    if *digest == output.tree && told.same_counts(output) {
        return Ok(());
    }
    if *digest == output.tree {
        return Err(Error::damaged("its metadata count other files than it holds").hint("build and store it again"));
    }
    Err(Error::damaged("its content is not what was stored").hint("build and store it again"))
}

/// What kind of listing an output has.
pub(super) fn kind_of(output: &Output) -> ListingKind {
    match output.root {
        RootKind::Dir => ListingKind::Dir,
        RootKind::File => ListingKind::File,
    }
}

/// Makes sure that the one file of a tree has the name that its metadata states.
pub(super) fn check_name(tree: &Path, output: &Output) -> Result<()> {
    let file = super::stored::only_file(tree)?;
    let name = file.file_name().map(std::ffi::OsStr::as_encoded_bytes).unwrap_or_default();
    if escape::escape(name) == output.name {
        return Ok(());
    }
    Err(Error::damaged("its file has another name than its metadata states"))
}

/// Swaps in a tree that is right, and removes what was there.
pub(super) fn place(
    tree: &Path,
    output: &Output,
    target: &Target,
    beside: super::target::Beside,
) -> Result<Vec<String>> {
    target.check_repositories(tree)?;
    let warning = match output.root {
        RootKind::Dir => target.swap(tree, RootKind::Dir, &beside)?,
        RootKind::File => target.swap(&super::stored::only_file(tree)?, RootKind::File, &beside)?,
    };
    Ok(warning.into_iter().chain(beside.finish()).collect())
}
