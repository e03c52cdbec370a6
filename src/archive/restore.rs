//! A normalized archive to a fresh tree and its listing, in one pass: what is written is what was digested.
//!
//! Stricter than [`super::unpack`]: only what cache and store write is taken. Files, folders and symbolic links, each path
//! once, nothing through a link; no hard links, no devices. The caller compares the listing's digest with what it expects
//! before anybody sees the tree.

use std::cmp::Ordering;
use std::path::Path;
use std::thread;

use super::codec::Content;
use super::member::{Member, MemberKind, Members};
use super::tar::read::TarReader;
use super::tree::{Attributes, SafePath, Tree, umask};
use super::writers::{Lines, Writers};
use crate::collect::path_order;
use crate::context::Context;
use crate::error::{Class, Error, Result};
use crate::hash::{Hash, Line, LineKind, Listing, ListingKind};
use crate::text::Shown;

/// Most nodes that an archive may have.
pub const MOST_NODES: u64 = 2_000_000;

/// Where a part of an archive goes.
#[derive(Debug)]
pub struct Place<'a> {
    /// What the names of its entries are, or are below; nothing for all.
    pub prefix: &'a [u8],
    /// A new and empty folder. Names keep their prefix in it.
    pub root: &'a Path,
}

/// Modes and times of what is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Everything gets this time, and one of two modes.
    Same(i64, u32),
    /// What the archive states; set-id bits are never set.
    Stored,
}

/// Unpacks into `root`, a new and empty folder. Returns the listing of what was written, and its digest. Blocks. Content of
/// more bytes than `most` is refused, before it fills the disk.
///
/// Everything that is wrong with the archive is of class `Damaged`: it is none that cache or store wrote.
pub fn restore(
    input: Content,
    root: &Path,
    kind: ListingKind,
    given: Given,
    most: u64,
    context: &Context,
) -> Result<(Listing, Hash)> {
    restore_apart(input, &[Place { prefix: b"", root }], kind, given, most, context)
}

/// As [`restore`], to several places. An entry that belongs to none, and is not on the way to one, is damage.
pub fn restore_apart(
    input: Content,
    places: &[Place<'_>],
    kind: ListingKind,
    given: Given,
    most: u64,
    context: &Context,
) -> Result<(Listing, Hash)> {
    unpack(input, places, kind, given, most, context).map_err(|error| match error.class() {
        Class::Refused => error.with_class(Class::Damaged),
        _ => error,
    })
}

/// The trees at several places, each opened.
struct Trees<'a>(Vec<(&'a [u8], Tree)>);

impl<'a> Trees<'a> {
    fn open(places: &[Place<'a>]) -> Result<Self> {
        Ok(Trees(places.iter().map(|place| Ok((place.prefix, Tree::open(place.root)?))).collect::<Result<_>>()?))
    }

    /// The tree that a path belongs to. `None` for a folder on the way to one.
    fn of(&mut self, path: &[u8]) -> Result<Option<&mut Tree>> {
        let is_in = |path: &[u8], folder: &[u8]| {
            folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        match self.0.iter().position(|(prefix, _)| is_in(path, prefix)) {
            Some(at) => Ok(self.0.get_mut(at).map(|(_, tree)| tree)),
            None if self.0.iter().any(|(prefix, _)| is_in(prefix, path)) => Ok(None),
            None => Err(strange(path, "lies at none of the entry's paths")),
        }
    }
}

fn unpack(
    input: Content,
    places: &[Place<'_>],
    kind: ListingKind,
    given: Given,
    most: u64,
    context: &Context,
) -> Result<(Listing, Hash)> {
    let lines = Lines::default();
    let mut trees = Trees::open(places)?;
    let mut folders: Vec<(SafePath, Attributes)> = Vec::new();
    let mut others = Vec::new();
    // The owner's bits stay whatever the umask: whether a file is executable is part of what is restored.
    let kept = !umask() | 0o700;
    let attributes = |member: &Member| {
        let executable = member.kind != MemberKind::File || member.mode & 0o100 != 0;
        match given {
            Given::Same(mtime, mtime_nanos) => {
                let mode = (if executable { 0o755 } else { 0o644 }) & kept;
                Attributes { mode, mtime, mtime_nanos, owner: None }
            }
            Given::Stored => Attributes {
                mode: member.mode & 0o777,
                mtime: member.mtime,
                mtime_nanos: member.mtime_nanos,
                owner: None,
            },
        }
    };
    Writers::with(context, Some(&lines), |writers| {
        let mut reader = TarReader::new(input);
        // The folder that came last, until something comes that lies in it.
        let mut open: Option<SafePath> = None;
        let (mut last, mut above): (Option<Vec<u8>>, Vec<SafePath>) = (None, Vec::new());
        let mut left = most;
        let mut nodes = 0;
        while let Some(member) = reader.next_member()? {
            context.cancel.check()?;
            nodes += 1;
            if nodes > MOST_NODES {
                return Err(Error::refused("the payload has more than 2,000,000 entries"));
            }
            let path = SafePath::new(&member.path)?;
            // As we write them: sorted, each once, by its plain name, in a folder that came before.
            let written = member.path.strip_suffix(b"/").unwrap_or(&member.path) == path.as_bytes();
            if path.is_root() || !written || last.as_ref().is_some_and(|last| !follows(last, path.as_bytes())) {
                return Err(strange(&member.path, "is not named, or not placed, as it must be"));
            }
            while above.last().is_some_and(|folder| !path.is_below(folder)) {
                above.pop();
            }
            if above.last().map_or(b"".as_slice(), SafePath::as_bytes) != path.split().0 {
                return Err(strange(&member.path, "lies in a folder that has no entry before it"));
            }
            last = Some(path.as_bytes().to_vec());
            if let Some(folder) = open.take().filter(|folder| !path.is_below(folder)) {
                others.push(empty_dir(&folder));
            }
            let attributes = attributes(&member);
            let Some(tree) = trees.of(path.as_bytes())? else {
                if member.kind != MemberKind::Dir {
                    return Err(strange(path.as_bytes(), "is on the way to a path of the entry, and no folder"));
                }
                above.push(path.clone());
                open = Some(path);
                continue;
            };
            match &member.kind {
                MemberKind::Dir => {
                    tree.make_dir(&path)?;
                    folders.push((path.clone(), attributes));
                    above.push(path.clone());
                    open = Some(path);
                }
                MemberKind::Symlink(text) => {
                    tree.symlink(&path, text, attributes)?;
                    let (hash, size) = (Hash::of(text), text.len() as u64);
                    others.push(Line { kind: LineKind::Link, hash, size, path: path.as_bytes().to_vec() });
                }
                MemberKind::File => {
                    left = left.checked_sub(member.size).ok_or_else(|| {
                        Error::damaged(format_args!(
                            "the payload holds more than the {most} bytes that its record states"
                        ))
                    })?;
                    let (folder, name) = path.split();
                    let folder = tree.folder(folder)?;
                    let (name_len, path) = (name.len(), path.as_bytes());
                    if member.extents.is_some() {
                        return Err(strange(path, "is a sparse file"));
                    }
                    if member.size <= Writers::SMALL {
                        let len = usize::try_from(member.size).unwrap_or(0);
                        writers.small(&folder, path, name_len, attributes, len, |most| reader.take(most))?;
                    } else {
                        let whole = [super::tar::Extent { offset: 0, len: member.size }];
                        let mut large = writers.large(&folder, path, name_len, attributes, member.size)?;
                        large.fill(&whole, |most| reader.take(most), context)?;
                    }
                    context.progress.add(member.size);
                }
                MemberKind::HardLink(_) => return Err(strange(path.as_bytes(), "is a hard link")),
                MemberKind::Special(what) => return Err(strange(path.as_bytes(), &format!("is {what}"))),
            }
        }
        others.extend(open.as_ref().map(empty_dir));
        writers.settle()
    })?;
    lines.add(others);
    let lines = lines.into_inner();
    thread::scope(|scope| {
        let listed = scope.spawn(|| {
            let listing = listing(lines, kind);
            let digest = listing.digest();
            (listing, digest)
        });
        // Below before above, so that no time is touched again.
        folders.sort_by(|(a, _), (b, _)| b.as_bytes().cmp(a.as_bytes()));
        for (folder, attributes) in folders {
            if let Some(tree) = trees.of(folder.as_bytes())? {
                tree.finish_dir(&folder, attributes)?;
            }
        }
        Ok(listed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The listing of what was written.
pub fn listing(mut lines: Vec<Line>, kind: ListingKind) -> Listing {
    if kind == ListingKind::File
        // Anything else is not the file, and its digest tells.
        && let [line] = lines.as_mut_slice()
        && matches!(line.kind, LineKind::File | LineKind::Executable)
        && !line.path.contains(&b'/')
    {
        line.path = b".".to_vec();
    }
    Listing::new(kind, lines)
}

/// Whether a path comes after another one in an archive.
fn follows(last: &[u8], path: &[u8]) -> bool {
    path_order(last, path) == Ordering::Less
}

fn empty_dir(path: &SafePath) -> Line {
    Line { kind: LineKind::EmptyDir, hash: Hash([0; 32]), size: 0, path: path.as_bytes().to_vec() }
}

fn strange(path: &[u8], what: &str) -> Error {
    Error::refused(format_args!("entry `{}` {what}, which no payload of a cache or store has", Shown(path)))
}
