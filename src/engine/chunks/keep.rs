//! The chunks that a clean-up has to leave: those of every index that it is told to keep.
//!
//! An index that is overlooked costs an archive, so whatever cannot be read, or is named like an index and is none, ends the
//! search with an error.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::inspect::read_index;
use crate::cancel::Cancel;
use crate::chunk::{ChunkId, Index};
use crate::error::{Class, Error, Result, from_io};
use crate::text::Shown;

/// What the kept indexes name.
#[derive(Debug, Default)]
pub struct Kept {
    /// How many indexes there are.
    pub indexes: u64,
    /// The chunks that they name.
    pub ids: HashSet<ChunkId>,
    /// Links in folders, which are not followed.
    pub links: u64,
}

impl Kept {
    /// Reads the indexes at these paths: each is one, or a folder that is looked through.
    pub fn read(paths: &[PathBuf], cancel: &Cancel) -> Result<Kept> {
        let mut kept = Kept::default();
        for path in paths {
            let status = fs::metadata(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    Error::new(Class::NotThere, format_args!("`{}` is not there", Shown::path(path)))
                        .hint("check the path: its indexes are to be kept")
                }
                _ => unreadable(path, error),
            })?;
            match (status.is_dir(), status.is_file()) {
                (true, _) => kept.folder(path, cancel)?,
                (_, true) => kept.file(path, true)?,
                _ => {
                    return Err(Error::usage(format_args!("`{}` is neither a file nor a folder", Shown::path(path)))
                        .hint("name indexes, or folders with indexes"));
                }
            }
        }
        Ok(kept)
    }

    fn folder(&mut self, folder: &Path, cancel: &Cancel) -> Result<()> {
        let before = self.indexes;
        for entry in WalkDir::new(folder).min_depth(1) {
            cancel.check()?;
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(folder).to_owned();
                unreadable(&path, error.into())
            })?;
            let (path, kind) = (entry.path(), entry.file_type());
            let named = is_named_like_an_index(path);
            if kind.is_file() {
                self.file(path, named)?;
            } else if kind.is_symlink() && named {
                return Err(Error::usage(format_args!(
                    "`{}` is a link, and links are not followed",
                    Shown::path(path)
                ))
                .hint("give --keep what it leads to as well, and remove the link or leave its folder out"));
            } else if kind.is_symlink() {
                self.links += 1;
            }
        }
        if self.indexes == before {
            return Err(Error::usage(format_args!("there is no index in `{}`", Shown::path(folder))).hint(
                "name a folder with the indexes that are still needed; to drop a whole store, remove its folder or prefix",
            ));
        }
        Ok(())
    }

    /// Reads a file. One that does not begin like an index, and need not be one, is left alone.
    fn file(&mut self, path: &Path, is_index: bool) -> Result<()> {
        let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
        let mut head = Vec::new();
        file.by_ref().take(16).read_to_end(&mut head).map_err(|error| unreadable(path, error))?;
        if !is_index && !Index::is_index(&head) {
            return Ok(());
        }
        let index = read_index(io::Cursor::new(head).chain(file)).map_err(|error| {
            error
                .hint("nothing was removed: make that index again, or take it away if nobody needs it")
                .context(format_args!("cannot keep the chunks of `{}`", Shown::path(path)))
        })?;
        self.indexes += 1;
        self.ids.extend(index.items.iter().map(|item| item.id));
        Ok(())
    }
}

fn is_named_like_an_index(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "caibx" || end == "caidx")
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    from_io(format_args!("cannot tell which chunks `{}` needs", Shown::path(path)), error)
        .hint("nothing was removed: make it readable, or keep it out of the folder if it is no index")
}
