//! An artifact to files.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::chunks::inspect::read_index;
use super::chunks::{self, ChunkCounts, Chunks};
use super::{DownloadRequest, Outcome};
use crate::archive::codec;
use crate::archive::tree::{SafePath, Tree};
use crate::archive::unpack::{Unpacked, unpack};
use crate::artifact::Format;
use crate::chunk::Index;
use crate::context::Context;
use crate::error::{IoContext, Result, from_io};
use crate::text::Shown;
use crate::transport::Transport;

/// Downloads an artifact and unpacks it (or places it, when it is a plain file). Blocks.
pub fn download(
    request: &DownloadRequest,
    transport: &dyn Transport,
    chunks: &Chunks,
    context: &Context,
) -> Result<Outcome> {
    let started = Instant::now();
    let name = &request.name;
    let format = name.format()?;
    let download = transport.download(name, &request.pick)?;
    let (reader, travelled) = Counting::new(download.reader);
    let reader = Box::new(reader);
    let unpacked = if format == Format::Plain {
        context.progress.expect(download.size.unwrap_or(0));
        place(reader, name.as_str(), open(request)?, context).map(|unpacked| (unpacked, None))
    } else {
        let into = request.root.join(&request.into);
        unpack_any(reader, || open(request), &into, request.same_owner, Some(name.as_str()), chunks, context)
    };
    let (unpacked, chunks) =
        unpacked.map_err(|e| e.context(format_args!("downloading `{name}` ({})", download.from)))?;
    Ok(Outcome {
        files: unpacked.files,
        content_bytes: unpacked.bytes,
        artifact_bytes: travelled.load(Ordering::Relaxed) + chunks.map_or(0, |chunks| chunks.moved_bytes),
        chunks,
        took: started.elapsed(),
        warnings: unpacked.warnings,
        from: Some(download.from),
        moved: true,
    })
}

/// The folder that a download goes to.
fn open(request: &DownloadRequest) -> Result<Tree> {
    let into = SafePath::new(request.into.as_os_str().as_encoded_bytes())?;
    Tree::open(&request.root)?.below(&into)
}

/// Unpacks an archive of any known compression below `into`, which is made when it is missing; of an index of chunks, the
/// archive that it is the index of. Blocks.
pub fn inflate(
    input: Box<dyn Read + Send>,
    into: &Path,
    same_owner: bool,
    chunks: &Chunks,
    context: &Context,
) -> Result<(Unpacked, Option<ChunkCounts>)> {
    unpack_any(input, || Tree::open(into), into, same_owner, None, chunks, context)
}

/// `open` makes the folder: not before what is known about the archive has been checked.
fn unpack_any(
    mut input: Box<dyn Read + Send>,
    open: impl FnOnce() -> Result<Tree>,
    into: &Path,
    same_owner: bool,
    name: Option<&str>,
    chunks: &Chunks,
    context: &Context,
) -> Result<(Unpacked, Option<ChunkCounts>)> {
    let mut head = Vec::new();
    input.by_ref().take(16).read_to_end(&mut head).map_err(|e| from_io("cannot read the archive", e))?;
    let input = Box::new(io::Cursor::new(head.clone()).chain(input));
    if !Index::is_index(&head) {
        return Ok((unpack(codec::decode(input, context)?, open()?, into, same_owner, context)?, None));
    }
    let index = read_index(input)?;
    context.progress.expect(index.len());
    let (content, fetched) = chunks::fetch(index, &chunks.get()?, name, context)?;
    let mut unpacked = unpack(content, open()?, into, same_owner, context)?;
    let (counts, warnings) = fetched.finish();
    unpacked.warnings.extend(warnings);
    Ok((unpacked, Some(counts)))
}

/// Puts a plain file at its name below `into`: written beside its place, then renamed, following no link.
fn place(mut reader: impl Read, name: &str, mut tree: Tree, context: &Context) -> Result<Unpacked> {
    let path = SafePath::new(name.as_bytes())?;
    let mut staged = tree.stage(&path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        context.cancel.check()?;
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(from_io("cannot read the artifact", e)),
        };
        io::Write::write_all(staged.file(), &buffer[..n])
            .or_fail(|| format!("cannot write `{}`", Shown(name.as_bytes())))?;
        context.progress.add(n as u64);
        bytes += n as u64;
    }
    staged.publish()?;
    Ok(Unpacked { files: 1, bytes, ..Unpacked::default() })
}

/// Counts the bytes that travelled.
pub(crate) struct Counting<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R> Counting<R> {
    /// A reader of the same bytes, and their count so far.
    pub(crate) fn new(inner: R) -> (Self, Arc<AtomicU64>) {
        let count = Arc::default();
        (Counting { inner, count: Arc::clone(&count) }, count)
    }
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
