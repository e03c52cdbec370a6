//! The selected files, packed tightly: a million entries must fit in memory beside everything else.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::thread;

use crate::error::{Error, Result};
use crate::text::Count;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link; its text is [`FileSet::link_text`].
    Symlink,
    /// Another name of a file earlier in the set, [`FileSet::link_target`].
    HardLink,
}

/// One file, link or folder. Its name lives in the [`FileSet`].
///
/// 40 bytes, so that a million of them take 40 MB.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    name_start: u32,
    name_len: u16,
    /// Permission bits, set-id and sticky included.
    pub mode: u16,
    /// What it is.
    pub kind: Kind,
    /// When the status changed last, see [`stamp`](super::stamp).
    pub stamp: Option<NonZeroU32>,
    /// Modification time, nanoseconds part.
    pub mtime_nanos: u32,
    /// Modification time, whole seconds since 1970, rounded down.
    pub mtime: i64,
    /// Bytes of content; 0 unless a regular file.
    pub size: u64,
    /// Symlink: index into `texts`. File with several names: index into `inodes`. Hard link: index of the first entry.
    pub(super) extra: u32,
}

/// No `extra`.
pub(super) const NONE: u32 = u32::MAX;

/// Entries in archive order: depth first, each folder's names in byte order, parents before children.
#[derive(Debug, Default)]
pub struct FileSet {
    names: Vec<u8>,
    entries: Vec<Entry>,
    /// Symlink texts.
    texts: Vec<Box<[u8]>>,
    /// Device and inode number of files that have several names.
    inodes: Vec<(u64, u64)>,
}

/// A name that has been stored in the arena of a set, and will become an entry once its status is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    start: u32,
    len: u16,
}

/// What `lstat` told about a name.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) mtime: i64,
    pub(super) mtime_nanos: u32,
    /// See [`Entry::stamp`].
    pub(super) stamp: Option<NonZeroU32>,
    pub(super) size: u64,
    pub(super) text: Option<Box<[u8]>>,
    /// Device and inode, for files with several names.
    pub(super) inode: Option<(u64, u64)>,
}

impl FileSet {
    /// An empty set whose arena of names begins with these bytes, so that a long list is not held twice.
    pub(super) fn over(names: Vec<u8>) -> Self {
        FileSet { names, ..FileSet::default() }
    }

    /// The first so many bytes of the arena.
    pub(super) fn arena(&self, len: usize) -> &[u8] {
        &self.names[..len]
    }

    /// The name that these bytes of the arena are.
    pub(super) fn name_at(range: std::ops::Range<usize>) -> Result<Name> {
        let start = u32::try_from(range.start)
            .map_err(|_| Error::failed("the names of all selected files take more than 4 GiB"))?;
        let len = u16::try_from(range.len()).map_err(|_| Error::failed("a path is longer than 65,535 bytes"))?;
        Ok(Name { start, len })
    }

    /// Stores a name.
    pub(super) fn add_name(&mut self, name: &[u8]) -> Result<Name> {
        let start = self.names.len();
        let stored = Self::name_at(start..start + name.len())?;
        self.names.extend_from_slice(name);
        Ok(stored)
    }

    /// The bytes of a stored name.
    pub(super) fn name_of(&self, name: Name) -> &[u8] {
        &self.names[name.start as usize..][..usize::from(name.len)]
    }

    /// Makes a stored name an entry.
    pub(super) fn add(&mut self, name: Name, status: Status) {
        let index = |len: usize| u32::try_from(len).unwrap_or(NONE);
        let extra = if let Some(text) = status.text {
            self.texts.push(text);
            index(self.texts.len() - 1)
        } else if let Some(inode) = status.inode {
            self.inodes.push(inode);
            index(self.inodes.len() - 1)
        } else {
            NONE
        };
        self.entries.push(Entry {
            name_start: name.start,
            name_len: name.len,
            mode: status.mode,
            kind: status.kind,
            stamp: status.stamp,
            mtime_nanos: status.mtime_nanos,
            mtime: status.mtime,
            size: status.size,
            extra,
        });
    }

    /// Sorts into archive order, stores each path once, and turns second names of a file into hard links.
    pub(super) fn finish(&mut self) {
        let names = &self.names;
        let name = |e: &Entry| &names[e.name_start as usize..][..usize::from(e.name_len)];
        let order = |a: &Entry, b: &Entry| path_order(name(a), name(b));
        if !self.entries.is_sorted_by(|a, b| order(a, b) != Ordering::Greater) {
            // Two halves at a time; the stable sort then finds two sorted runs and merges them.
            let middle = self.entries.len() / 2;
            let (front, back) = self.entries.split_at_mut(middle);
            thread::scope(|scope| {
                scope.spawn(|| front.sort_unstable_by(order));
                back.sort_unstable_by(order);
            });
            self.entries.sort_by(order);
        }
        self.entries.dedup_by(|a, b| name(a) == name(b));
        self.link_names();
    }

    /// Turns second names of a file into hard links.
    fn link_names(&mut self) {
        let mut first: HashMap<(u64, u64), u32> = HashMap::with_capacity(self.inodes.len());
        for index in 0..self.entries.len() {
            let entry = &mut self.entries[index];
            if entry.kind != Kind::File || entry.extra == NONE {
                continue;
            }
            let inode = self.inodes[entry.extra as usize];
            let index = u32::try_from(index).unwrap_or(NONE);
            let earlier = *first.entry(inode).or_insert(index);
            if earlier == index {
                entry.extra = NONE;
            } else {
                *entry = Entry { kind: Kind::HardLink, size: 0, extra: earlier, ..*entry };
            }
        }
        self.inodes = Vec::new();
    }

    /// An entry's place in the set.
    pub fn index_of(&self, entry: &Entry) -> usize {
        (std::ptr::from_ref(entry).addr() - self.entries.as_ptr().addr()) / size_of::<Entry>()
    }

    /// The entries, in archive order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// An entry's path, relative to the root, without a leading or trailing `/`.
    pub fn name(&self, entry: &Entry) -> &[u8] {
        &self.names[entry.name_start as usize..][..usize::from(entry.name_len)]
    }

    /// A symbolic link's text.
    pub fn link_text(&self, entry: &Entry) -> &[u8] {
        match entry.kind {
            Kind::Symlink => &self.texts[entry.extra as usize],
            _ => b"",
        }
    }

    /// The file that an entry's content is: itself, or for a hard link the entry that it is another name of.
    pub fn content_of<'a>(&'a self, entry: &'a Entry) -> &'a Entry {
        match entry.kind {
            Kind::HardLink => &self.entries[entry.extra as usize],
            _ => entry,
        }
    }

    /// The path of the entry that a hard link is another name of; it comes earlier in the set.
    pub fn link_target(&self, entry: &Entry) -> &[u8] {
        match entry.kind {
            Kind::HardLink => self.name(&self.entries[entry.extra as usize]),
            _ => b"",
        }
    }
}

/// Archive order: as if `/` sorted before every other byte, so that a folder's contents directly follow it.
pub(crate) fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    match first_difference(a, b) {
        None => a.len().cmp(&b.len()),
        Some(at) => match (a[at], b[at]) {
            (b'/', _) => Ordering::Less,
            (_, b'/') => Ordering::Greater,
            (x, y) => x.cmp(&y),
        },
    }
}

/// Where two paths differ first, within the length of the shorter. Paths of one tree share long beginnings, so whole
/// words are compared first.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let equal = words_a.iter().zip(words_b).take_while(|(x, y)| x == y).count() * 8;
    a[equal..].iter().zip(&b[equal..]).position(|(x, y)| x != y).map(|at| equal + at)
}

/// Whether a symbolic link at `path` with this text leads out of the tree, as far as the text goes.
pub fn leads_out(path: &[u8], text: &[u8]) -> bool {
    if text.first() == Some(&b'/') {
        return true;
    }
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    for part in text.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// The one warning about links that lead out of the tree.
pub fn links_warning(count: u64) -> String {
    match count {
        1 => "1 symbolic link leads out of the tree; it was kept as it is".to_owned(),
        count => format!("{} lead out of the tree; they were kept as they are", Count(count, "symbolic link")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_followed_by_its_contents() {
        let mut names = ["a-b", "a/z", "a", "a.c", "a/b/c", "a/b", "b", "a/b-"];
        names.sort_by(|a, b| path_order(a.as_bytes(), b.as_bytes()));
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b-", "a/z", "a-b", "a.c", "b"]);
        // The same whatever two paths share in front, words or not.
        for shared in 0..20 {
            let front = "x".repeat(shared);
            let mut longer: Vec<String> = names.iter().rev().map(|name| format!("{front}{name}")).collect();
            longer.sort_by(|a, b| path_order(a.as_bytes(), b.as_bytes()));
            assert_eq!(longer, names.map(|name| format!("{front}{name}")));
        }
    }

    #[test]
    fn links_that_lead_out_are_told_from_those_that_stay() {
        for (path, text, out) in [
            ("a", "b", false),
            ("a/b", "../c", false),
            ("a", "../c", true),
            ("a/b/c", "../../../x", true),
            ("a/b", "/abs", true),
            ("a", "b/../../x", true),
        ] {
            assert_eq!(leads_out(path.as_bytes(), text.as_bytes()), out, "{path} -> {text}");
        }
    }

    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry>() <= 40, "{}", size_of::<Entry>());
    }
}
