//! Opening the file that a command is given, or standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::context::Context;
use crate::error::{Class, Error, Result};
use crate::pipe::Pipe;
use crate::text::Shown;

/// Opens a file, a pipe or, for `-`, standard input. `what` it should be is for messages: `an archive`; `folder` is what to
/// do about a folder.
pub(super) fn open(path: &Path, what: &str, folder: &str, context: &Context) -> Result<Box<dyn Read + Send>> {
    if path.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            return Err(
                Error::usage("standard input is a terminal").hint(format_args!("pipe {what} in, or name a file"))
            );
        }
        return Ok(Box::new(Pipe::stdin(&context.cancel)));
    }
    if path.metadata().is_ok_and(|status| status.file_type().is_fifo()) {
        return Ok(Box::new(Pipe::open(path, &context.cancel)));
    }
    let file = File::open(path).map_err(|error| {
        let class = if error.kind() == io::ErrorKind::NotFound { Class::NotThere } else { Class::Failed };
        Error::new(class, format_args!("cannot open `{}`", Shown::path(path))).caused_by(error)
    })?;
    if file.metadata().is_ok_and(|status| status.is_dir()) {
        return Err(Error::usage(format_args!("`{}` is a folder, not {what}", Shown::path(path))).hint(folder));
    }
    context.progress.expect(0);
    Ok(Box::new(file))
}
