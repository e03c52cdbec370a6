//! Opening what ought to be a file or folder of ours, and may be anything: no link is followed, and no FIFO waited for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::text::Shown;

/// Options that follow no link and wait for nobody.
pub(crate) fn options() -> OpenOptions {
    let mut options = File::options();
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

/// The content of a file. What is none is an error of kind `InvalidData`.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let no_file = || io::Error::new(ErrorKind::InvalidData, "not a file");
    let mut file = match options().read(true).open(path) {
        Err(error) if is_link(&error) => return Err(no_file()),
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Err(no_file());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A folder, opened. `None` when there is nothing, or something else.
pub(super) fn folder(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed();
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) if is_link(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether something is there that is no folder.
pub(super) fn is_in_the_way(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|status| !status.is_dir())
}

/// Makes sure that a folder is one, or that nothing is there: what is in something else's place is not known. Class
/// `Damaged`.
pub(super) fn check_folder(path: &Path) -> Result<()> {
    if path.is_dir() || !is_in_the_way(path) {
        return Ok(());
    }
    Err(Error::damaged(format_args!("`{}` is no folder", Shown::path(path)))
        .hint("put back what was there, or remove it"))
}

/// Whether opening failed because of a link in the place of what was to be opened.
pub(super) fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}
