//! Archives built by hand, block by block, so that they can lie.

use monofo::archive::codec::Codec;
use monofo::archive::pack::compress;
use monofo::context::Context;
use tar::{EntryType, Header};

/// A tar stream under construction.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// A header with the name as it is, valid checksum, then content and padding.
    pub fn entry(mut self, kind: u8, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        self.push(header(kind, name, link, content.len() as u64), content);
        self
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name.as_bytes(), b"", content.as_bytes())
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", b"")
    }

    pub fn symlink(self, name: &str, text: &str) -> Self {
        self.entry(b'2', name.as_bytes(), text.as_bytes(), b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), target.as_bytes(), b"")
    }

    /// Any header, changed before its checksum is made.
    pub fn changed(mut self, kind: u8, name: &str, content: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = header(kind, name.as_bytes(), b"", content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.push(header, content);
        self
    }

    /// A pax header (`x` or `g`) with these records.
    pub fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.entry(kind, b"././@PaxHeader", b"", &content)
    }

    /// A GNU long name (`L`) or long link text (`K`) for the next entry.
    pub fn long(self, kind: u8, name: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..13].copy_from_slice(b"././@LongLink");
        header.set_entry_type(EntryType::new(kind));
        header.set_size(name.len() as u64 + 1);
        header.set_cksum();
        let mut tar = self;
        tar.push(header, &[name, b"\0"].concat());
        tar
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The stream with its end mark.
    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    fn push(&mut self, header: Header, content: &[u8]) {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }
}

/// A ustar header with a valid checksum; the name is not judged.
pub fn header(kind: u8, name: &[u8], link: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    let ustar = header.as_ustar_mut().unwrap();
    ustar.name[..name.len()].copy_from_slice(name);
    ustar.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

/// A pax record that counts its own length.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let len = (rest + 1..).find(|len| len.to_string().len() + rest == *len).unwrap();
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// The stream in each compression, by the name of the format.
pub fn compressed(tar: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    [("gz", Codec::Gzip(6)), ("lz4", Codec::Lz4), ("zst", Codec::Zstd(3))]
        .into_iter()
        .map(|(name, codec)| {
            let mut out = Vec::new();
            compress(tar, codec, &mut out, &Context::default()).unwrap();
            (name, out)
        })
        .collect()
}
