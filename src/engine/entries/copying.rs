//! A copy of a file, with holes where the file has some.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::Stat;

use crate::archive::tree::is_zero;

/// What is looked at for a hole at once; the kernel's smallest holes are smaller, and seldom.
const BLOCK: usize = 64 << 10;

/// A new file that a copy goes into.
pub(super) struct Copy<'a> {
    file: &'a File,
    at: u64,
    /// Whether the file takes less room than its content, so that looking for zeros pays.
    sparse: bool,
}

impl<'a> Copy<'a> {
    /// A copy of a file with this status.
    pub(super) fn new(file: &'a File, of: &Stat) -> Self {
        Copy { file, at: 0, sparse: i128::from(of.st_blocks) * 512 < i128::from(of.st_size) }
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.sparse {
            return self.file.write_all(bytes);
        }
        for block in bytes.chunks(BLOCK) {
            if !is_zero(block) {
                self.file.write_all_at(block, self.at)?;
            }
            self.at += block.len() as u64;
        }
        Ok(())
    }

    /// Gives the file its whole length.
    pub(super) fn finish(self) -> io::Result<()> {
        if self.sparse { self.file.set_len(self.at) } else { Ok(()) }
    }
}
