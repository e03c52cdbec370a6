//! Where every byte of a tar stream comes from, known before any content is read.
//!
//! Each member is `[pax header + records] + header + content + padding`; the stream ends with two zero blocks. With the
//! sizes known from `lstat`, the start of each member is a sum, so any span of the stream can be made on its own.
//!
//! The same file set gives the same bytes: owner 0:0, no names of owners, whole seconds (rounded down, so that nothing
//! becomes newer than what it was made from), symbolic links with mode 0777. Pax records are written only where the
//! ustar header cannot hold a name, link, size or time. Normalized, for cache and store, modes are 0644 and 0755 and times 0,
//! so that equal trees give the same bytes wherever and whenever they are packed.

use crate::archive::source::{Part, Stream};
use crate::archive::tar::{BLOCK, padded};
use crate::collect::{Entry, FileSet, Kind};
use crate::error::{Error, Result};

/// Largest size and time that eleven octal digits hold.
const OCTAL_11: u64 = 0o77_777_777_777;

/// What a stream says of modes and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// What the files have.
    AsIs,
    /// Two modes, by whether the owner may execute, and no times.
    Normalized,
}

/// The tar stream of a file set.
#[derive(Debug)]
pub struct Layout<'a> {
    files: &'a FileSet,
    policy: Policy,
    /// Where each member starts; one more element for the end of the last.
    starts: Vec<u64>,
}

impl<'a> Layout<'a> {
    /// Lays out a file set.
    pub fn new(files: &'a FileSet) -> Result<Self> {
        Self::with(files, Policy::AsIs)
    }

    /// Lays out a file set, with modes and times by this policy.
    pub fn with(files: &'a FileSet, policy: Policy) -> Result<Self> {
        let too_large = || Error::failed("the archive would be larger than 16 EiB");
        let mut starts = Vec::with_capacity(files.entries().len() + 1);
        let mut at = 0u64;
        for entry in files.entries() {
            starts.push(at);
            let content = padded(entry.size).ok_or_else(too_large)?;
            at = content
                .checked_add(header_len(files, &policy.applied(entry)))
                .and_then(|len| at.checked_add(len))
                .ok_or_else(too_large)?;
        }
        starts.push(at);
        at.checked_add(2 * BLOCK).ok_or_else(too_large)?;
        Ok(Layout { files, policy, starts })
    }

    /// Whether the stream has no members. Even then it has an end.
    pub fn is_empty(&self) -> bool {
        self.members_end() == 0
    }

    fn members_end(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }
}

impl Policy {
    /// The entry as its header tells it.
    fn applied(self, entry: &Entry) -> Entry {
        match self {
            Policy::AsIs => *entry,
            Policy::Normalized => {
                let executable = entry.kind == Kind::Dir || entry.mode & 0o100 != 0;
                let mut told = *entry;
                (told.mode, told.mtime, told.mtime_nanos) = (if executable { 0o755 } else { 0o644 }, 0, 0);
                told
            }
        }
    }
}

impl Stream for Layout<'_> {
    fn len(&self) -> u64 {
        self.members_end() + 2 * BLOCK
    }

    fn parts(
        &self,
        start: u64,
        end: u64,
        scratch: &mut Vec<u8>,
        part: &mut dyn FnMut(Part<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut at = start;
        let mut index = self.starts.partition_point(|member| *member <= start).saturating_sub(1);
        while at < end && at < self.members_end() {
            let entry = &self.files.entries()[index];
            let member = self.starts[index];
            let stored = self.policy.applied(entry);
            let header_end = member + header_len(self.files, &stored);
            if at == member {
                part(Part::Begin(entry))?;
            }
            if at < header_end {
                scratch.clear();
                write_header(self.files, &stored, scratch);
                debug_assert_eq!(scratch.len() as u64, header_end - member);
                let upto = header_end.min(end);
                part(Part::Bytes(&scratch[to_usize(at - member)..to_usize(upto - member)]))?;
                at = upto;
            }
            let content_end = header_end + entry.size;
            if at < end && at < content_end {
                let upto = content_end.min(end);
                part(Part::Content { entry, offset: at - header_end, len: upto - at })?;
                at = upto;
            }
            let member_end = self.starts[index + 1];
            if at < end && at < member_end {
                let upto = member_end.min(end);
                part(Part::Zeros(upto - at))?;
                at = upto;
            }
            index += 1;
        }
        if at < end {
            part(Part::Zeros(end.min(self.len()) - at))?;
        }
        Ok(())
    }
}

/// Offsets within one member's header, which is at most a few hundred kilobytes.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Name and link name as the header stores them.
struct Fields<'a> {
    /// Path, without the `/` that a folder's name ends with.
    name: &'a [u8],
    is_dir: bool,
    link: &'a [u8],
    /// Where the path is cut into prefix and name, when it has to be.
    split: Option<usize>,
    long_name: bool,
    long_link: bool,
    large: bool,
    odd_time: bool,
}

impl<'a> Fields<'a> {
    fn of(files: &'a FileSet, entry: &Entry) -> Self {
        let name = files.name(entry);
        let is_dir = entry.kind == Kind::Dir;
        let link = match entry.kind {
            Kind::Symlink => files.link_text(entry),
            Kind::HardLink => files.link_target(entry),
            Kind::Dir | Kind::File => b"",
        };
        let len = name.len() + usize::from(is_dir);
        let split = if len > 100 { split(name, usize::from(is_dir)) } else { None };
        Fields {
            name,
            is_dir,
            link,
            split,
            long_name: len > 100 && split.is_none(),
            long_link: link.len() > 100,
            large: entry.size > OCTAL_11,
            odd_time: u64::try_from(entry.mtime).map_or(true, |time| time > OCTAL_11),
        }
    }

    fn needs_pax(&self) -> bool {
        self.long_name || self.long_link || self.large || self.odd_time
    }

    fn pax_records(&self, entry: &Entry) -> Vec<u8> {
        let mut records = Vec::new();
        let binary = |bytes: &[u8]| std::str::from_utf8(bytes).is_err();
        if self.long_name && binary(self.name) || self.long_link && binary(self.link) {
            push_record(&mut records, "hdrcharset", b"BINARY");
        }
        if self.long_link {
            push_record(&mut records, "linkpath", self.link);
        }
        if self.odd_time {
            push_record(&mut records, "mtime", entry.mtime.to_string().as_bytes());
        }
        if self.long_name {
            let mut name = self.name.to_vec();
            if self.is_dir {
                name.push(b'/');
            }
            push_record(&mut records, "path", &name);
        }
        if self.large {
            push_record(&mut records, "size", entry.size.to_string().as_bytes());
        }
        records
    }
}

/// Cuts a path that is too long for the name field into a prefix of at most 155 bytes and a name of at most 100.
fn split(name: &[u8], trailing: usize) -> Option<usize> {
    let earliest = (name.len() + trailing).saturating_sub(101);
    let latest = name.len().min(156);
    (earliest.max(1)..latest).find(|at| name[*at] == b'/')
}

/// Appends a pax record, `<length> <key>=<value>\n`, where the length counts itself.
fn push_record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut digits = 1;
    while (rest + digits).to_string().len() > digits {
        digits += 1;
    }
    out.extend_from_slice((rest + digits).to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn header_len(files: &FileSet, entry: &Entry) -> u64 {
    let fields = Fields::of(files, entry);
    if !fields.needs_pax() {
        return BLOCK;
    }
    let records = fields.pax_records(entry).len() as u64;
    2 * BLOCK + records.next_multiple_of(BLOCK)
}

fn write_header(files: &FileSet, entry: &Entry, out: &mut Vec<u8>) {
    let fields = Fields::of(files, entry);
    if fields.needs_pax() {
        let records = fields.pax_records(entry);
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        if let Some(ustar) = header.as_ustar_mut() {
            put(&mut ustar.name, b"././@PaxHeader");
        }
        finish(header, 0o644, records.len() as u64, 0, out);
        out.extend_from_slice(&records);
        out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(match entry.kind {
        Kind::Dir => tar::EntryType::Directory,
        Kind::File => tar::EntryType::Regular,
        Kind::Symlink => tar::EntryType::Symlink,
        Kind::HardLink => tar::EntryType::Link,
    });
    if let Some(ustar) = header.as_ustar_mut() {
        let name = match fields.split {
            Some(at) => {
                put(&mut ustar.prefix, &fields.name[..at]);
                &fields.name[at + 1..]
            }
            None => fields.name,
        };
        let used = put(&mut ustar.name, name);
        if fields.is_dir && used < ustar.name.len() {
            ustar.name[used] = b'/';
        }
        put(&mut ustar.linkname, fields.link);
    }
    let mode = if entry.kind == Kind::Symlink { 0o777 } else { u32::from(entry.mode) };
    let size = if fields.large { 0 } else { entry.size };
    let mtime = if fields.odd_time { 0 } else { u64::try_from(entry.mtime).unwrap_or(0) };
    finish(header, mode, size, mtime, out);
}

/// Copies as much as fits; what does not is in a pax record.
fn put(field: &mut [u8], value: &[u8]) -> usize {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
    len
}

fn finish(mut header: tar::Header, mode: u32, size: u64, mtime: u64, out: &mut Vec<u8>) {
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(mtime);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        for len in [0, 1, 80, 86, 87, 88, 89, 90, 980, 985, 990, 995] {
            let mut out = Vec::new();
            push_record(&mut out, "path", &vec![b'x'; len]);
            let (digits, _) = std::str::from_utf8(&out).unwrap().split_once(' ').unwrap();
            assert_eq!(digits.parse::<usize>().unwrap(), out.len());
        }
    }

    #[test]
    fn long_paths_are_split_where_both_halves_fit() {
        let name = [vec![b'a'; 150], vec![b'b'; 99]].join(&b'/');
        assert_eq!(split(&name, 0), Some(150));
        assert_eq!(split(&[vec![b'a'; 150], vec![b'b'; 101]].join(&b'/'), 0), None);
        assert_eq!(split(&[vec![b'a'; 150], vec![b'b'; 100]].join(&b'/'), 1), None);
        assert_eq!(split(&[vec![b'a'; 156], vec![b'b'; 10]].join(&b'/'), 0), None);
        assert_eq!(split(&[b'a'; 120], 0), None);
    }
}
