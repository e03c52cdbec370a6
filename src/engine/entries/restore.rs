//! An entry to a target: made ready beside it, compared with its digest, then swapped in. Until then the target stays as it is.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::target::Target;
use crate::archive::codec;
use crate::archive::restore::restore;
use crate::context::Context;
use crate::entry::{Home, Output, RootKind};
use crate::error::{Error, IoContext, Result};
use crate::hash::{Line, Listing, ListingKind};

/// Restores an artifact from an archive. What does not have the digest that its metadata states is an error of class
/// `Damaged`, and touches nothing. Returns what the user should know.
pub fn from_payload(
    payload: Box<dyn Read + Send>,
    output: &Output,
    target: &Target,
    home: &Home,
    context: &Context,
) -> Result<Vec<String>> {
    target.check_kind(output.root)?;
    let beside = target.beside(home)?;
    context.progress.expect(output.bytes);
    let tree = beside.path.join("tree");
    fs::create_dir(&tree).or_fail(|| "cannot make a folder beside the target")?;
    let content = codec::decode(payload, context)?;
    let lines = restore(content, &tree, time_of(&tree)?, output.bytes, context)?;
    check(lines, output)?;
    context.cancel.check()?;
    place(&tree, output, target, &beside)
}

/// The time that the kernel gives to what is made now.
pub(super) fn time_of(folder: &Path) -> Result<(i64, u32)> {
    let status = fs::symlink_metadata(folder).or_fail(|| "cannot read a folder that was just made")?;
    Ok((status.mtime(), u32::try_from(status.mtime_nsec()).unwrap_or(0)))
}

/// Compares what was written with what was stored.
pub(super) fn check(mut lines: Vec<Line>, output: &Output) -> Result<()> {
    let damaged = || {
        Error::damaged("its content is not what was stored").hint("it was moved to quarantine; the next build stores it again")
    };
    let kind = match output.root {
        RootKind::Dir => ListingKind::Dir,
        RootKind::File => ListingKind::File,
    };
    if output.root == RootKind::File {
        let [line] = lines.as_mut_slice() else { return Err(damaged()) };
        line.path = b".".to_vec();
    }
    if Listing::new(kind, lines).digest() == output.tree { Ok(()) } else { Err(damaged()) }
}

/// Swaps in a tree that is right.
pub(super) fn place(
    tree: &Path,
    output: &Output,
    target: &Target,
    beside: &super::target::Beside,
) -> Result<Vec<String>> {
    let warning = match output.root {
        RootKind::Dir => target.swap(tree, RootKind::Dir, beside)?,
        RootKind::File => {
            let mut entries = fs::read_dir(tree).or_fail(|| "cannot read what was restored")?;
            let file = entries.next().transpose().or_fail(|| "cannot read what was restored")?;
            let file = file.ok_or_else(|| Error::damaged("the entry holds no file"))?;
            target.swap(&file.path(), RootKind::File, beside)?
        }
    };
    Ok(warning.into_iter().collect())
}
