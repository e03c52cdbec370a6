//! GNU sparse files: a map of extents, in one of four encodings.
//!
//! | encoding | where the map is |
//! |---|---|
//! | old GNU (`S`) | four extents in the header, then extension blocks of 21 |
//! | pax 0.0 | records `GNU.sparse.offset` and `GNU.sparse.numbytes`, repeated |
//! | pax 0.1 | record `GNU.sparse.map`: `offset,length,…` |
//! | pax 1.0 | decimal lines in front of the content, padded to a block |
//!
//! Source: GNU tar manual, "Storing Sparse Files" and "Old GNU Format".

use super::BLOCK;

/// A run of stored bytes and where in the file it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the unpacked file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// Most extents of one file; a map of this many takes 16 MiB.
const MOST: usize = 1 << 20;

/// What pax records say about a sparse file.
#[derive(Debug, Default, Clone)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) extents: Vec<Extent>,
    major: Option<u64>,
    offset: Option<u64>,
    seen: bool,
}

impl PaxSparse {
    pub(super) fn is_sparse(&self) -> bool {
        self.seen
    }

    pub(super) fn map_is_in_content(&self) -> bool {
        self.major == Some(1)
    }

    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        self.seen = true;
        let number = || decimal(value).ok_or("a sparse file with a bad number");
        match key {
            b"GNU.sparse.name" => self.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.real_size = Some(number()?),
            b"GNU.sparse.major" => self.major = Some(number()?),
            b"GNU.sparse.offset" => self.offset = Some(number()?),
            b"GNU.sparse.numbytes" => {
                let offset = self.offset.take().ok_or("a sparse file with a length before its offset")?;
                push(&mut self.extents, Extent { offset, len: number()? })?;
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> =
                    value.split(|byte| *byte == b',').filter(|n| !n.is_empty()).map(decimal).collect();
                let numbers = numbers.ok_or("a sparse file with a bad map")?;
                self.extents.clear();
                for pair in numbers.chunks(2) {
                    let [offset, len] = *pair else { return Err("a sparse file with an odd map") };
                    push(&mut self.extents, Extent { offset, len })?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Size, extents, and whether extension blocks follow.
pub(super) fn from_gnu_header(header: &tar::Header) -> Result<(u64, Vec<Extent>, bool), &'static str> {
    let gnu = header.as_gnu().ok_or("a sparse member without a GNU header")?;
    let real = gnu.real_size().map_err(|_| "a sparse file with a bad size")?;
    let mut map = Vec::new();
    add_gnu(&gnu.sparse, &mut map)?;
    Ok((real, map, gnu.is_extended()))
}

/// Adds an extension block's extents; true when another follows.
pub(super) fn from_gnu_extension(block: &[u8; BLOCK as usize], map: &mut Vec<Extent>) -> Result<bool, &'static str> {
    let mut extension = tar::GnuExtSparseHeader::new();
    extension.as_mut_bytes().copy_from_slice(block);
    add_gnu(extension.sparse(), map)?;
    Ok(extension.is_extended())
}

fn add_gnu(headers: &[tar::GnuSparseHeader], map: &mut Vec<Extent>) -> Result<(), &'static str> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        let offset = header.offset().map_err(|_| "a sparse file with a bad map")?;
        let len = header.length().map_err(|_| "a sparse file with a bad map")?;
        push(map, Extent { offset, len })?;
    }
    Ok(())
}

fn push(map: &mut Vec<Extent>, extent: Extent) -> Result<(), &'static str> {
    if map.len() == MOST {
        return Err("a sparse file with more than a million extents");
    }
    map.push(extent);
    Ok(())
}

/// Extents must rise without overlap, stay inside the file, and account for every stored byte; the file must be one that
/// a file system can hold.
pub(super) fn check(map: &[Extent], real: u64, stored: u64) -> Result<(), &'static str> {
    if i64::try_from(real).is_err() {
        return Err("a sparse file with an impossible size");
    }
    let mut end = 0u64;
    let mut sum = 0u64;
    for extent in map {
        if extent.offset < end {
            return Err("a sparse file whose extents overlap");
        }
        end = extent.offset.checked_add(extent.len).ok_or("a sparse file with an impossible extent")?;
        sum += extent.len;
    }
    if end > real || sum != stored {
        return Err("a sparse file whose map does not fit its size");
    }
    Ok(())
}

/// Parses the map of format 1.0, block by block: a count, then offset and length of each extent, one number a line.
#[derive(Debug, Default)]
pub(super) struct MapParser {
    number: Option<u64>,
    count: Option<u64>,
    offset: Option<u64>,
    map: Vec<Extent>,
}

impl MapParser {
    /// Takes a block; the map once it is complete.
    pub(super) fn feed(&mut self, block: &[u8]) -> Result<Option<Vec<Extent>>, &'static str> {
        for byte in block {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let number = self.number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit));
                    self.number = Some(number.ok_or("a sparse file with a bad map")?);
                }
                b'\n' => {
                    let number = self.number.take().ok_or("a sparse file with a bad map")?;
                    match (self.count, self.offset.take()) {
                        (None, _) => self.count = Some(number),
                        (Some(_), None) => self.offset = Some(number),
                        (Some(_), Some(offset)) => push(&mut self.map, Extent { offset, len: number })?,
                    }
                    if self.count == Some(self.map.len() as u64) && self.offset.is_none() {
                        return Ok(Some(std::mem::take(&mut self.map)));
                    }
                }
                _ => return Err("a sparse file with a bad map"),
            }
        }
        Ok(None)
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_may_span_blocks() {
        let text = b"2\n0\n512\n1048576\n7\n\0\0\0";
        for cut in 0..17 {
            let mut parser = MapParser::default();
            let first = parser.feed(&text[..cut]).unwrap();
            assert_eq!(first, None, "{cut}");
            let map = parser.feed(&text[cut..]).unwrap().unwrap();
            assert_eq!(map, [Extent { offset: 0, len: 512 }, Extent { offset: 1_048_576, len: 7 }]);
        }
        assert_eq!(MapParser::default().feed(b"0\n").unwrap(), Some(vec![]));
        assert!(MapParser::default().feed(b"x").is_err());
        assert!(MapParser::default().feed(b"99999999999999999999999\n").is_err());
    }

    #[test]
    fn extents_that_lie_are_refused() {
        let extent = |offset, len| Extent { offset, len };
        assert!(check(&[extent(0, 5), extent(10, 5)], 20, 10).is_ok());
        assert!(check(&[extent(0, 5), extent(4, 5)], 20, 10).is_err());
        assert!(check(&[extent(0, 5)], 4, 5).is_err());
        assert!(check(&[extent(0, 5)], 20, 6).is_err());
        assert!(check(&[extent(u64::MAX, 5)], 20, 5).is_err());
        assert!(check(&[], u64::MAX, 0).is_err());
    }
}
