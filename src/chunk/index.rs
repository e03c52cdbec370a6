//! The list of an archive's chunks, in order: `.caibx`, and `.caidx`, which differ in nothing but flags.
//!
//! ```text
//! INDEX element   48 bytes: size, type, flags, least, average and largest chunk size
//! TABLE element   size "unknown", type; then for each chunk: where it ends in the stream, its id
//! tail            0, 0, 48, size of the table, mark
//! ```
//!
//! All numbers are little-endian words of 64 bits. Nothing in the file protects it, so reading is strict: every word has
//! one possible value, or is checked against the others. The layout is casync's (`docs/formats.md`).

use super::cut::LARGEST;
use super::{ChunkId, Digest, Sizes};
use crate::error::{Error, Result};

const INDEX: u64 = 0x9682_4d9c_7b12_9ff9;
const TABLE: u64 = 0xe75b_9e11_2f17_417d;
const TAIL: u64 = 0x4b4f_050e_5549_ecd1;
const HEADER_LEN: usize = 64;
const ITEM_LEN: usize = 40;
const INDEX_ELEMENT: u64 = 48;

/// The flag that says that ids are SHA-512/256.
pub const SHA512_256: u64 = 0x2000_0000_0000_0000;

/// An index of more bytes than this is not read: its archive would have 800 GB in chunks of the usual size.
pub const MOST_INDEX_BYTES: u64 = 512 << 20;

/// A chunk in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Position in the archive where it ends; the next one starts there.
    pub end: u64,
    /// Its id.
    pub id: ChunkId,
}

/// An archive as a list of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// What the archive holds, see [`check_flags`]; the digest's bit is set and cleared when it is written.
    pub flags: u64,
    /// How it was cut.
    pub sizes: Sizes,
    /// What the ids are.
    pub digest: Digest,
    /// Its chunks, in order. Ends grow, and no chunk is longer than the largest size.
    pub items: Vec<Item>,
}

impl Index {
    /// Length of the archive in bytes.
    pub fn len(&self) -> u64 {
        self.items.last().map_or(0, |item| item.end)
    }

    /// Whether the archive has no bytes.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Where a chunk starts.
    pub fn start(&self, chunk: usize) -> u64 {
        chunk.checked_sub(1).map_or(0, |before| self.items[before].end)
    }

    /// How long a chunk is.
    pub fn chunk_len(&self, chunk: usize) -> usize {
        usize::try_from(self.items[chunk].end - self.start(chunk)).unwrap_or(usize::MAX)
    }

    /// Whether a file begins like an index.
    pub fn is_index(head: &[u8]) -> bool {
        head.len() >= 16 && word(head, 1) == INDEX
    }

    /// Reads an index. Anything that no index has is an error of class [`Damaged`](crate::error::Class::Damaged).
    pub fn read(bytes: &[u8]) -> Result<Index> {
        let bad = |why: &str| Error::damaged(format_args!("the index is damaged: {why}"));
        if !Self::is_index(bytes) {
            return Err(Error::damaged("this is no index of chunks: it does not begin like one"));
        }
        if bytes.len() < HEADER_LEN + ITEM_LEN || !(bytes.len() - HEADER_LEN).is_multiple_of(ITEM_LEN) {
            return Err(bad("it is truncated, or something follows it"));
        }
        if word(bytes, 0) != INDEX_ELEMENT {
            return Err(bad("its header has another length than 48"));
        }
        let flags = word(bytes, 2);
        check_flags(flags).map_err(bad)?;
        let sizes = Sizes { min: word(bytes, 3), avg: word(bytes, 4), max: word(bytes, 5) };
        if sizes.min == 0 || sizes.min > sizes.avg || sizes.avg > sizes.max || sizes.max > LARGEST {
            return Err(bad("its chunk sizes are out of order, or larger than 128 MiB"));
        }
        if word(bytes, 6) != u64::MAX || word(bytes, 7) != TABLE {
            return Err(bad("its table does not begin as it should"));
        }
        let (items, tail) = bytes[HEADER_LEN..].split_at(bytes.len() - HEADER_LEN - ITEM_LEN);
        let table_len = 16 + (items.len() + tail.len()) as u64;
        if [0, 1, 2, 3, 4].map(|at| word(tail, at)) != [0, 0, INDEX_ELEMENT, table_len, TAIL] {
            return Err(bad("it does not end as it should"));
        }
        let mut before = 0;
        let read = |item: &[u8; ITEM_LEN]| {
            let end = word(item, 0);
            if end <= before {
                return Err(bad("a chunk ends before it starts"));
            }
            if end - before > sizes.max {
                return Err(bad("a chunk is longer than the largest size"));
            }
            before = end;
            let mut id = [0; 32];
            id.copy_from_slice(&item[8..]);
            Ok(Item { end, id: ChunkId(id) })
        };
        let items = items.as_chunks().0.iter().map(read).collect::<Result<_>>()?;
        let digest = if flags & SHA512_256 == 0 { Digest::Sha256 } else { Digest::Sha512_256 };
        Ok(Index { flags, sizes, digest, items })
    }

    /// The index as a file.
    pub fn write(&self) -> Vec<u8> {
        let flags = match self.digest {
            Digest::Sha512_256 => self.flags | SHA512_256,
            Digest::Sha256 => self.flags & !SHA512_256,
        };
        let table_len = (16 + ITEM_LEN * (self.items.len() + 1)) as u64;
        let mut out = Vec::with_capacity(HEADER_LEN + ITEM_LEN * (self.items.len() + 1));
        let Sizes { min, avg, max } = self.sizes;
        for word in [INDEX_ELEMENT, INDEX, flags, min, avg, max, u64::MAX, TABLE] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for item in &self.items {
            out.extend_from_slice(&item.end.to_le_bytes());
            out.extend_from_slice(&item.id.0);
        }
        for word in [0, 0, INDEX_ELEMENT, table_len, TAIL] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.as_chunks().0.get(at).map_or(0, |word| u64::from_le_bytes(*word))
}

/// Flags are what an archive can hold, one bit each; an index and every entry of an archive carry them. Those that exclude
/// each other, or that nobody has given a meaning, are refused, as casync does.
pub fn check_flags(flags: u64) -> std::result::Result<(), &'static str> {
    /// All bits with a meaning: 33 kinds of metadata, and four on how the archive was made.
    const KNOWN: u64 = 0xf000_0001_ffff_ffff;
    const UIDS: u64 = 0x1 | 0x2;
    const USER_NAMES: u64 = 0x4;
    const TIMES: u64 = 0x8 | 0x10 | 0x20 | 0x40;
    const READ_ONLY: u64 = 0x80;
    const PERMISSIONS: u64 = 0x100;
    const NODUMP: u64 = 0x10_0000;
    const SUBVOLUME: u64 = 0x400_0000;
    const SUBVOLUME_READ_ONLY: u64 = 0x800_0000;
    const ACL: u64 = 0x2000_0000;
    const EXCLUDE_NODUMP: u64 = 0x8000_0000_0000_0000;
    let has = |bits: u64| flags & bits != 0;
    if flags & !KNOWN != 0 {
        return Err("it has a flag that no version of the format knows");
    }
    let twice = (flags & TIMES).count_ones() > 1
        || flags & UIDS == UIDS
        || has(PERMISSIONS) && has(READ_ONLY)
        || has(ACL) && has(PERMISSIONS | READ_ONLY)
        || has(ACL) && !has(UIDS | USER_NAMES)
        || has(EXCLUDE_NODUMP) && has(NODUMP)
        || has(SUBVOLUME_READ_ONLY) && !has(SUBVOLUME);
    if twice { Err("its flags contradict each other") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    /// casync's flags for an index of a plain stream: exclude-nodump, exclude-file and the digest's.
    const BLOB: u64 = 0xb000_0000_0000_0000;

    fn hello(digest: Digest) -> Index {
        let item = Item { end: 12, id: digest.id(b"hello world\n") };
        Index { flags: BLOB, sizes: Sizes::default(), digest, items: vec![item] }
    }

    fn sha256(bytes: &[u8]) -> String {
        Digest::Sha256.id(bytes).to_string()
    }

    #[test]
    fn small_indexes_are_casyncs_to_the_byte() {
        let index = hello(Digest::Sha512_256);
        assert_eq!(sha256(&index.write()), "afd9fac7ac961b71d56ed01a46e29e271287ea3c6c34a1f6c259ce14a647f107");
        let older = Index { flags: 0xa000_0000_0000_0000, ..index.clone() };
        assert_eq!(sha256(&older.write()), "6a6936773557b1cae1078bfcdcac62ffff632bd344a90ac0b6e81fa55387e10e");
        assert_eq!(
            sha256(&hello(Digest::Sha256).write()),
            "2dc5fefce5f84a4c62d28b489eae471afc1dafbaa5a42ac23bdf7ca5f23cbd88"
        );
        let empty = Index { items: vec![], ..index.clone() };
        assert_eq!(sha256(&empty.write()), "16ddad079094dc0f11dfb87986aebcb24d7975f2edb4442778f5f8f34208b7ab");
        for index in [index, hello(Digest::Sha256), empty] {
            let back = Index::read(&index.write()).unwrap();
            assert_eq!((back.items, back.digest, back.sizes), (index.items, index.digest, index.sizes));
        }
    }

    #[test]
    fn every_deviation_is_damage() {
        let three = || {
            let item = |end, id| Item { end, id: ChunkId([id; 32]) };
            Index { items: vec![item(20_000, 1), item(60_000, 2), item(61_000, 3)], ..hello(Digest::Sha512_256) }
        };
        let whole = three().write();
        assert!(Index::read(&whole).is_ok());
        let with = |at: usize, word: u64| {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
            bytes
        };
        let tail = whole.len() - 40;
        let flags = |flags| with(16, flags);
        let mutated = [
            ("empty", vec![]),
            ("a header only", whole[..64].to_vec()),
            ("no tail", whole[..tail].to_vec()),
            ("cut in an item", whole[..90].to_vec()),
            ("cut in the tail", whole[..whole.len() - 1].to_vec()),
            ("a byte behind the tail", [&whole[..], b"x"].concat()),
            ("an item behind the tail", [&whole[..], &[0; 40]].concat()),
            ("the tail twice", [&whole[..], &whole[tail..]].concat()),
            ("element size", with(0, 49)),
            ("element type", with(8, TABLE)),
            ("table size", with(48, 1000)),
            ("table type", with(56, INDEX)),
            ("unknown flag", flags(BLOB | 0x2_0000_0000)),
            ("two time flags", flags(BLOB | 0x30)),
            ("two uid flags", flags(BLOB | 0x3)),
            ("permissions and read-only", flags(BLOB | 0x180)),
            ("acl and permissions", flags(BLOB | 0x2000_0102)),
            ("acl without owners", flags(BLOB | 0x2000_0000)),
            ("nodump twice", flags(BLOB | 0x10_0000)),
            ("subvolume read-only without subvolume", flags(BLOB | 0x800_0000)),
            ("all flags", flags(u64::MAX)),
            ("min over avg", with(24, 65_537)),
            ("min zero", with(24, 0)),
            ("avg over max", with(32, 262_145)),
            ("sizes over 128 MiB", with(40, (128 << 20) + 1)),
            ("end not growing", with(104, 20_000)),
            ("end shrinking", with(104, 10)),
            ("end zero", with(64, 0)),
            ("chunk too long", with(64, 262_145)),
            ("tail: first zero", with(tail, 1)),
            ("tail: second zero", with(tail + 8, 1)),
            ("tail: index offset", with(tail + 16, 64)),
            ("tail: table size", with(tail + 24, 1)),
            ("tail: mark", with(tail + 32, 0)),
        ];
        for (what, bytes) in mutated {
            assert_eq!(Index::read(&bytes).unwrap_err().class(), Class::Damaged, "{what}");
        }
        // Shorter than the least size, and not last: both peers take it.
        assert!(Index::read(&with(64, 100)).is_ok());
    }

    #[test]
    fn flags_of_both_programs_are_taken() {
        for flags in [BLOB, 0x9000_0000_0000_0000, 0xa000_0000_0000_0000, 0x8000_0000_0000_0000, 0xb000_0000_1000_1f22]
        {
            assert_eq!(check_flags(flags), Ok(()));
        }
        assert_eq!(check_flags(0xb000_0001_ffef_fe26), Ok(()), "casync's, for a folder");
    }
}
