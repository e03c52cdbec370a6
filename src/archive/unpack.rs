//! Unpacking: members of an archive to files, created by several threads at a time.
//!
//! The calling thread reads members, makes folders and links, and hands files to writers: small ones in batches of
//! whole runs, large ones through a channel of their own. Nothing outside the target folder is touched, see
//! [`super::tree`]. A name that the archive used for something else before is refused, and so is anything below a name
//! that the archive made a file or a link.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::BufRead;
use std::path::Path;

use super::catar;
use super::codec::Content;
use super::member::{Member, MemberKind, Members};
use super::tar::read::TarReader;
use super::tree::{Attributes, SafePath, Tree};
use super::writers::Writers;
use crate::collect::{leads_out, links_warning};
use crate::context::Context;
use crate::error::{Error, Result, from_io};
use crate::text::{Count, Shown};

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and links.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Unpacks a tar or catar stream into a tree; `into` is its name in messages. Blocks.
///
/// Entries that could touch anything outside are an error of class `Refused`, broken streams one of class `Damaged`;
/// what had been unpacked before stays, the file being written does not.
pub fn unpack(mut input: Content, tree: Tree, into: &Path, same_owner: bool, context: &Context) -> Result<Unpacked> {
    let mut done = Unpacked::default();
    let begins = input.fill_buf().map_err(|e| from_io("cannot read the archive", e))?;
    let reader: Box<dyn Members> = if catar::is_catar(begins) {
        Box::new(catar::read::CatarReader::new(input))
    } else {
        Box::new(TarReader::new(input))
    };
    let result = Writers::with(context, None, |writers| {
        Unpacker {
            reader,
            tree,
            writers,
            seen: Seen::default(),
            dirs: Vec::new(),
            dir_bytes: 0,
            links: Vec::new(),
            link_bytes: 0,
            leading_out: 0,
            same_owner,
            context,
            done: &mut done,
        }
        .run()
    });
    match result {
        Ok(()) => Ok(done),
        Err(error) if done.files + done.folders == 0 => Err(error),
        Err(error) => {
            let read = Count(done.files + done.folders, "entry");
            let into = Shown::path(into);
            Err(error.context(format_args!("`{into}` now holds only a part of the archive (at most {read})")))
        }
    }
}

/// Hard links wait for their targets until their names take this much memory.
const MOST_LINK_BYTES: usize = 8 << 20;

/// Folders wait for the end until their names take this much memory; then those that the archive has left are
/// finished, and what still comes into them shows in their times.
const MOST_DIR_BYTES: usize = 64 << 20;

struct Unpacker<'a, 'w> {
    reader: Box<dyn Members>,
    tree: Tree,
    writers: &'a mut Writers<'w>,
    seen: Seen,
    /// Folders whose mode and time are set at the end.
    dirs: Vec<(SafePath, Attributes)>,
    dir_bytes: usize,
    /// Hard links whose target may still be in the hands of a writer.
    links: Vec<(SafePath, SafePath)>,
    link_bytes: usize,
    leading_out: u64,
    same_owner: bool,
    context: &'a Context,
    done: &'a mut Unpacked,
}

impl Unpacker<'_, '_> {
    fn run(mut self) -> Result<()> {
        while let Some(member) = self.reader.next_member()? {
            self.context.cancel.check()?;
            let path = SafePath::new(&member.path)?;
            if path.is_root() {
                // The folder itself, as `tar -c .` stores it: it is the user's, and keeps its mode.
                if member.kind == MemberKind::Dir {
                    continue;
                }
                return Err(Error::refused(format_args!("entry `{}` names the folder itself", Shown(&member.path))));
            }
            if self.seen.note(&path, &member.kind)? {
                // The same file again, as `tar -r` appends: what came before must be in place first.
                self.settle()?;
            }
            self.member(&path, member)?;
        }
        self.settle()?;
        self.finish_dirs(None)?;
        self.done.warnings.extend(self.reader.warnings());
        if self.leading_out > 0 {
            self.done.warnings.push(links_warning(self.leading_out));
        }
        Ok(())
    }

    fn member(&mut self, path: &SafePath, member: Member) -> Result<()> {
        let attributes = self.attributes(&member)?;
        match &member.kind {
            MemberKind::Dir => {
                self.done.folders += 1;
                self.tree.make_dir(path)?;
                self.dir_bytes += path.as_bytes().len() + size_of::<(SafePath, Attributes)>();
                self.dirs.push((path.clone(), attributes));
                if self.dir_bytes > MOST_DIR_BYTES {
                    self.settle()?;
                    self.finish_dirs(Some(path))?;
                }
                return Ok(());
            }
            MemberKind::File => self.file(path, &member, attributes)?,
            MemberKind::Symlink(text) => {
                if text.is_empty() || text.contains(&0) {
                    return Err(Error::damaged(format_args!(
                        "entry `{}` is a symbolic link to nowhere",
                        Shown(path.as_bytes())
                    )));
                }
                self.leading_out += u64::from(leads_out(path.as_bytes(), text));
                self.tree.symlink(path, text, attributes)?;
            }
            MemberKind::HardLink(target) => {
                let shown = Shown(path.as_bytes());
                let hard_link = |e: Error| e.context(format_args!("entry `{shown}` is a hard link"));
                let target = SafePath::new(target).map_err(hard_link)?;
                if target == *path || target.is_root() {
                    return Err(Error::refused(format_args!(
                        "entry `{shown}` is a hard link to itself or to the folder"
                    )));
                }
                self.seen.check_above(&target).map_err(hard_link)?;
                self.link_bytes += path.as_bytes().len() + target.as_bytes().len();
                self.links.push((path.clone(), target));
                if self.link_bytes > MOST_LINK_BYTES {
                    self.settle()?;
                }
            }
            MemberKind::Special(what) => {
                return Err(Error::refused(format_args!("entry `{}` is {what}", Shown(path.as_bytes())))
                    .hint("only files, folders and links are unpacked"));
            }
        }
        self.done.files += 1;
        Ok(())
    }

    fn file(&mut self, path: &SafePath, member: &Member, attributes: Attributes) -> Result<()> {
        let (folder, name) = path.split();
        let folder = self.tree.folder(folder)?;
        let (reader, writers) = (&mut self.reader, &mut *self.writers);
        let path = path.as_bytes();
        if member.extents.is_none() && member.size <= Writers::SMALL {
            let len = usize::try_from(member.size).unwrap_or(0);
            writers.small(&folder, path, name.len(), attributes, len, |most| reader.take(most))?;
        } else {
            let whole = [super::tar::Extent { offset: 0, len: member.size }];
            let extents = member.extents.as_deref().unwrap_or(&whole);
            let mut large = writers.large(&folder, path, name.len(), attributes, member.size)?;
            large.fill(extents, |most| reader.take(most), self.context)?;
        }
        self.context.progress.add(member.stored);
        // A few sparse files can claim more than a u64 holds.
        self.done.bytes = self.done.bytes.saturating_add(member.size);
        Ok(())
    }

    /// Waits until everything handed out is on disk, then makes the hard links.
    fn settle(&mut self) -> Result<()> {
        self.writers.settle()?;
        self.link_bytes = 0;
        for (path, target) in self.links.drain(..) {
            self.context.cancel.check()?;
            if let Some(text) = self.tree.hard_link(&path, &target)? {
                self.leading_out += u64::from(leads_out(path.as_bytes(), &text));
            }
        }
        Ok(())
    }

    /// Sets mode and time of folders; of all but this one and those above it, while more may come into them.
    fn finish_dirs(&mut self, but: Option<&SafePath>) -> Result<()> {
        let still_open = |path: &SafePath| but.is_some_and(|but| but == path || but.is_below(path));
        let (open, mut dirs): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.dirs).into_iter().partition(|(path, _)| still_open(path));
        self.dir_bytes = 0;
        self.dirs = open;
        // Below before above: a folder may lose its owner's rights. Of the same folder twice, the later counts.
        dirs.reverse();
        dirs.sort_by(|(a, _), (b, _)| b.as_bytes().cmp(a.as_bytes()));
        dirs.dedup_by(|(a, _), (b, _)| a == b);
        for (path, attributes) in dirs {
            self.context.cancel.check()?;
            self.tree.finish_dir(&path, attributes)?;
        }
        Ok(())
    }

    fn attributes(&self, member: &Member) -> Result<Attributes> {
        let id = |id: u64| match u32::try_from(id) {
            // The largest number means "leave the owner as it is" to the kernel.
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(Error::damaged(format_args!("entry `{}` has an impossible owner {id}", Shown(&member.path)))),
        };
        let owner = if self.same_owner { Some((id(member.uid)?, id(member.gid)?)) } else { None };
        Ok(Attributes { mode: member.mode, mtime: member.mtime, mtime_nanos: member.mtime_nanos, owner })
    }
}

/// What kind of thing the archive made of each name, by a keyed hash of the name: 1,000,000 names take about 40 MB.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    kinds: HashMap<u64, u8>,
    /// The folder whose ancestors were checked last.
    checked: Vec<u8>,
}

impl Seen {
    /// Notes a name; true when it comes again, as the same kind of thing or as another name of a file where a file was
    /// (what `tar -r` appends). Any other kind, or something above that is no folder, is refused.
    fn note(&mut self, path: &SafePath, kind: &MemberKind) -> Result<bool> {
        self.check_above(path)?;
        let kind = match kind {
            MemberKind::Dir => b'd',
            MemberKind::File => b'f',
            MemberKind::Symlink(_) => b'l',
            MemberKind::HardLink(_) => b'h',
            MemberKind::Special(_) => b's',
        };
        let name = path.as_bytes();
        if kind != b'd' && self.checked.starts_with(name) && matches!(self.checked.get(name.len()), None | Some(b'/')) {
            // What was found to be fine goes through this very name.
            self.checked.clear();
        }
        match self.kinds.insert(self.hasher.hash_one(name), kind) {
            None => Ok(false),
            Some(b'd') if kind == b'd' => Ok(false),
            Some(before) if before == kind => Ok(true),
            Some(b'f' | b'h') if matches!(kind, b'f' | b'h') => Ok(true),
            Some(before) => {
                let word = |kind| match kind {
                    b'd' => "a folder",
                    b'f' => "a file",
                    b'l' => "a symbolic link",
                    b'h' => "a hard link",
                    _ => "something else",
                };
                Err(Error::refused(format_args!(
                    "entry `{}` comes twice, as {} and as {}",
                    Shown(path.as_bytes()),
                    word(before),
                    word(kind)
                )))
            }
        }
    }

    /// Refuses a path below something that this archive made no folder.
    fn check_above(&mut self, path: &SafePath) -> Result<()> {
        let (folder, _) = path.split();
        if folder.is_empty() || folder == self.checked {
            return Ok(());
        }
        let ends = folder.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([folder.len()]) {
            let above = &folder[..end];
            if self.kinds.get(&self.hasher.hash_one(above)).is_some_and(|kind| *kind != b'd') {
                return Err(Error::refused(format_args!(
                    "entry `{}` lies below `{}`, which this archive made a file or a link",
                    Shown(path.as_bytes()),
                    Shown(above)
                )));
            }
        }
        self.checked = folder.to_vec();
        Ok(())
    }
}
