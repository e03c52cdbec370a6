//! Where every byte of a catar comes from, known before any content is read.

use super::{
    ENTRY, ENTRY_LEN, FILENAME, GOODBYE, GOODBYE_ITEM_LEN, GOODBYE_TAIL, HEADER_LEN, PAYLOAD, SYMLINK, flags, name_hash,
};
use crate::archive::source::{Part, Stream};
use crate::chunk::Digest;
use crate::collect::{Entry, FileSet, Kind};
use crate::error::{Error, Result};
use crate::text::Shown;

/// Mode of the folder that everything lies in. Its owner is 0:0 and its time 1970, whatever it was made from: unpacking
/// leaves that folder as it is.
const ROOT_MODE: u64 = 0o040_755;

/// The catar of a file set.
#[derive(Debug)]
pub struct Layout<'a> {
    files: &'a FileSet,
    flags: u64,
    /// Where each element or group of elements starts, in order.
    items: Vec<Item>,
    /// The bytes of all GOODBYEs.
    goodbyes: Vec<u8>,
    len: u64,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    start: u64,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Root,
    /// An entry of the set, by its index.
    Entry(u32),
    /// A GOODBYE, which starts here in the bytes of all of them.
    Goodbye(u32),
}

/// A folder whose end has not been reached.
struct Open {
    /// Its path; empty for the root.
    path_len: usize,
    entry: Option<usize>,
    /// Where its FILENAME starts.
    start: u64,
    /// Where its ENTRY starts.
    node: u64,
    /// How many children of folders above it are known.
    children: usize,
}

/// What a GOODBYE says of a child, but for where the GOODBYE itself starts.
struct Child {
    hash: u64,
    start: u64,
    len: u64,
}

impl<'a> Layout<'a> {
    /// Lays out a file set, for chunks that this digest names.
    pub fn new(files: &'a FileSet, digest: Digest) -> Result<Self> {
        let mut building = Building {
            layout: Layout { files, flags: flags(digest), items: Vec::new(), goodbyes: Vec::new(), len: 0 },
            open: Vec::new(),
            children: Vec::new(),
        };
        building.item(What::Root, ENTRY_LEN)?;
        building.open.push(Open { path_len: 0, entry: None, start: 0, node: 0, children: 0 });
        for (index, entry) in files.entries().iter().enumerate() {
            building.entry(index, entry)?;
        }
        while building.close()? {}
        Ok(building.layout)
    }

    /// The elements of an entry up to its content.
    fn header(&self, entry: &Entry, out: &mut Vec<u8>) {
        let path = self.files.name(entry);
        let (name, _) = split(path);
        let mut put = |word: u64| out.extend_from_slice(&word.to_le_bytes());
        put(HEADER_LEN + name.len() as u64 + 1);
        put(FILENAME);
        out.extend_from_slice(name);
        out.push(0);
        let kind = match entry.kind {
            Kind::Dir => 0o040_000,
            Kind::File | Kind::HardLink => 0o100_000,
            Kind::Symlink => 0o120_000,
        };
        let mode = if entry.kind == Kind::Symlink { 0o777 } else { u64::from(entry.mode) };
        // Checked when it was laid out.
        let mtime = nanoseconds(entry).unwrap_or(0);
        write_entry(self.flags, kind | mode, mtime, out);
        match entry.kind {
            Kind::Dir => {}
            Kind::File | Kind::HardLink => {
                out.extend_from_slice(&(HEADER_LEN + self.files.content_of(entry).size).to_le_bytes());
                out.extend_from_slice(&PAYLOAD.to_le_bytes());
            }
            Kind::Symlink => {
                let text = self.files.link_text(entry);
                out.extend_from_slice(&(HEADER_LEN + text.len() as u64 + 1).to_le_bytes());
                out.extend_from_slice(&SYMLINK.to_le_bytes());
                out.extend_from_slice(text);
                out.push(0);
            }
        }
    }

    fn header_len(&self, entry: &Entry) -> u64 {
        let (name, _) = split(self.files.name(entry));
        let rest = match entry.kind {
            Kind::Dir => 0,
            Kind::File | Kind::HardLink => HEADER_LEN,
            Kind::Symlink => HEADER_LEN + self.files.link_text(entry).len() as u64 + 1,
        };
        HEADER_LEN + name.len() as u64 + 1 + ENTRY_LEN + rest
    }

    fn end_of(&self, item: usize) -> u64 {
        self.items.get(item + 1).map_or(self.len, |next| next.start)
    }
}

struct Building<'a> {
    layout: Layout<'a>,
    open: Vec<Open>,
    /// Children of all open folders, those of the innermost last.
    children: Vec<Child>,
}

impl Building<'_> {
    fn item(&mut self, what: What, len: u64) -> Result<()> {
        self.layout.items.push(Item { start: self.layout.len, what });
        let end = self.layout.len.checked_add(len);
        self.layout.len = end.ok_or_else(|| Error::failed("the archive would be larger than 16 EiB"))?;
        Ok(())
    }

    fn entry(&mut self, index: usize, entry: &Entry) -> Result<()> {
        let files = self.layout.files;
        let path = files.name(entry);
        let (name, folder) = split(path);
        while self.open.last().is_some_and(|open| open.path_len != folder.len() || !self.is_in(open, folder)) {
            self.close()?;
        }
        if name.len() > 255 {
            return Err(Error::failed(format_args!("`{}` has a name of more than 255 bytes", Shown(path))));
        }
        if nanoseconds(entry).is_none() {
            return Err(Error::failed(format_args!(
                "`{}` has a modification time that a .catar cannot hold",
                Shown(path)
            ))
            .hint("give it one between the years 1678 and 2262, for example with `touch`, or use a .tar name"));
        }
        let start = self.layout.len;
        let what = What::Entry(u32::try_from(index).map_err(|_| Error::failed("too many files for one archive"))?);
        self.item(what, self.layout.header_len(entry).saturating_add(files.content_of(entry).size))?;
        if entry.kind == Kind::Dir {
            self.open.push(Open {
                path_len: path.len(),
                entry: Some(index),
                start,
                node: start + HEADER_LEN + name.len() as u64 + 1,
                children: self.children.len(),
            });
        } else {
            self.children.push(Child { hash: name_hash(name), start, len: self.layout.len - start });
        }
        Ok(())
    }

    fn is_in(&self, open: &Open, folder: &[u8]) -> bool {
        open.entry.is_none_or(|index| self.layout.files.name(&self.layout.files.entries()[index]) == folder)
    }

    /// Ends the innermost folder; false when there is none.
    fn close(&mut self) -> Result<bool> {
        let Some(open) = self.open.pop() else { return Ok(false) };
        let here = self.layout.len;
        let mut children = self.children.split_off(open.children);
        children.sort_unstable_by_key(|child| (child.hash, child.start));
        let goodbyes = &mut self.layout.goodbyes;
        let first = goodbyes.len();
        let len = HEADER_LEN + (GOODBYE_ITEM_LEN * (children.len() + 1)) as u64;
        let mut put = |word: u64| goodbyes.extend_from_slice(&word.to_le_bytes());
        put(len);
        put(GOODBYE);
        for slot in search_tree(children.len()) {
            let Child { hash, start, len } = children[slot];
            put(here - start);
            put(len);
            put(hash);
        }
        put(here - open.node);
        put(len);
        put(GOODBYE_TAIL);
        let first = u32::try_from(first).map_err(|_| Error::failed("too many files for one archive"))?;
        self.item(What::Goodbye(first), len)?;
        if let Some(index) = open.entry {
            let (name, _) = split(self.layout.files.name(&self.layout.files.entries()[index]));
            self.children.push(Child { hash: name_hash(name), start: open.start, len: self.layout.len - open.start });
        }
        Ok(true)
    }
}

impl Stream for Layout<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn parts(
        &self,
        start: u64,
        end: u64,
        scratch: &mut Vec<u8>,
        part: &mut dyn FnMut(Part<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut at = start;
        let mut index = self.items.partition_point(|item| item.start <= start).saturating_sub(1);
        while at < end && index < self.items.len() {
            let item = self.items[index];
            let item_end = self.end_of(index);
            let header: &[u8] = match item.what {
                What::Root => {
                    scratch.clear();
                    write_entry(self.flags, ROOT_MODE, 0, scratch);
                    scratch
                }
                What::Entry(entry) => {
                    let entry = &self.files.entries()[entry as usize];
                    if at == item.start {
                        part(Part::Begin(entry))?;
                    }
                    scratch.clear();
                    if at < item.start + self.header_len(entry) {
                        self.header(entry, scratch);
                    }
                    scratch
                }
                What::Goodbye(first) => {
                    &self.goodbyes[first as usize..][..usize::try_from(item_end - item.start).unwrap_or(0)]
                }
            };
            let header_end = match item.what {
                What::Entry(entry) => item.start + self.header_len(&self.files.entries()[entry as usize]),
                What::Root | What::Goodbye(_) => item_end,
            };
            if at < header_end {
                let upto = header_end.min(end);
                let within = |position: u64| usize::try_from(position - item.start).unwrap_or(usize::MAX);
                part(Part::Bytes(&header[within(at)..within(upto)]))?;
                at = upto;
            }
            if let What::Entry(entry) = item.what
                && at < end
                && at < item_end
            {
                let entry = self.files.content_of(&self.files.entries()[entry as usize]);
                let upto = item_end.min(end);
                part(Part::Content { entry, offset: at - header_end, len: upto - at })?;
                at = upto;
            }
            index += 1;
        }
        Ok(())
    }
}

fn write_entry(flags: u64, mode: u64, mtime: u64, out: &mut Vec<u8>) {
    for word in [ENTRY_LEN, ENTRY, flags, mode, 0, 0, 0, mtime] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// A path's last part, and the folder it is in.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[at + 1..], &path[..at]),
        None => (path, b""),
    }
}

/// A modification time as a catar holds it; times before 1970 in two's complement, as desync does it. All ones is no time.
fn nanoseconds(entry: &Entry) -> Option<u64> {
    let nanos = entry.mtime.checked_mul(1_000_000_000)?.checked_add(i64::from(entry.mtime_nanos))?;
    (nanos != -1).then_some(nanos.cast_unsigned())
}

/// The slots of a complete binary search tree stored breadth first: which of the sorted items each one holds.
fn search_tree(len: usize) -> Vec<usize> {
    fn fill(slots: &mut [usize], slot: usize, next: &mut usize) {
        if slot >= slots.len() {
            return;
        }
        // In order: smaller ones, itself, larger ones. The depth is the logarithm of the length.
        fill(slots, 2 * slot + 1, next);
        slots[slot] = *next;
        *next += 1;
        fill(slots, 2 * slot + 2, next);
    }
    let mut slots = vec![0; len];
    fill(&mut slots, 0, &mut 0);
    slots
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
