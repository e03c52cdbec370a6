//! Files to an artifact.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use super::chunks::{self, Chunks};
use super::{IfEmpty, ListSource, Outcome, Selection, UploadRequest};
use crate::archive::catar::layout::Layout;
use crate::archive::codec::{self, Codec};
use crate::archive::pack;
use crate::archive::source::{self, Source, Stream};
use crate::artifact::Format;
use crate::cancel::Cancel;
use crate::collect::{self, Entry, FileSet, Globs, Kind};
use crate::context::Context;
use crate::error::{Class, Error, IoContext, Result, from_io};
use crate::pipe::Pipe;
use crate::text::{Count, Shown};
use crate::transport::Transport;

/// Packs the selected files and uploads them. Blocks. Nothing is published unless all went well.
pub fn upload(
    request: &UploadRequest,
    transport: &dyn Transport,
    chunks: &Chunks,
    context: &Context,
) -> Result<Outcome> {
    let started = Instant::now();
    let name = &request.name;
    let format = name.format()?;
    let codec = Codec::new(format, request.level)?;
    let selected = select(&request.selection, context)?;
    let mut outcome = Outcome { warnings: selected.warnings, ..Outcome::default() };
    let files = selected.files;
    count(&files, &mut outcome);
    if files.entries().is_empty() {
        let nothing = format!("nothing was selected for `{name}`, so it was not uploaded");
        match request.if_empty {
            IfEmpty::Warn => outcome.warnings.push(nothing),
            IfEmpty::Ignore => outcome.warnings.clear(),
            IfEmpty::Error => {
                let why = outcome.warnings.join("; ");
                let error =
                    Error::new(Class::NotThere, nothing).hint("check the globs or the list, or set if-empty to `warn`");
                return Err(if why.is_empty() { error } else { error.caused_by(why) });
            }
        }
        outcome.took = started.elapsed();
        return Ok(outcome);
    }
    context.progress.expect(outcome.content_bytes);
    let root = &request.selection.root;
    let plain = (format == Format::Plain).then(|| single_file(&files, name.as_str())).transpose()?;
    // Before the upload begins: what is wrong with the store is found at once, and nothing is half there.
    let index = (format == Format::CatarCaibx)
        .then(|| store_chunks(root, &files, name.as_str(), &*chunks.get()?, &mut outcome, context))
        .transpose()?;
    let mut upload = transport.upload(name)?;
    outcome.artifact_bytes = match (plain, index) {
        (Some(entry), _) => copy_file(root, &files, entry, &mut *upload, context)?,
        (None, Some(index)) => {
            upload.write_all(&index).map_err(|e| from_io("cannot write the artifact", e))?;
            index.len() as u64 + outcome.chunks.map_or(0, |chunks| chunks.moved_bytes)
        }
        (None, None) => {
            let source = Source::new(root, &files)?;
            pack::pack(&*pack::stream(&files, format)?, &source, codec, &mut *upload, context)?
        }
    };
    context.cancel.check()?;
    upload.finish()?;
    outcome.moved = true;
    outcome.took = started.elapsed();
    Ok(outcome)
}

/// Stores a catar's chunks, and returns its index as a file.
fn store_chunks(
    root: &Path,
    files: &FileSet,
    name: &str,
    chunking: &chunks::Chunking,
    outcome: &mut Outcome,
    context: &Context,
) -> Result<Vec<u8>> {
    let stream = Layout::new(files, chunking.digest)?;
    let source = Source::new(root, files)?;
    let seed = chunking.seeds.as_ref().and_then(|seeds| seeds.begin(name, stream.len()));
    let stored = chunks::store(&stream, &source, chunking, seed.as_ref(), context);
    let (index, counts) = stored.map_err(|e| {
        e.context(format_args!(
            "nothing was uploaded; what chunk store `{}` holds by now stays",
            chunking.store.place()
        ))
    })?;
    if let (Some(seeds), Some(seed)) = (&chunking.seeds, &seed) {
        outcome.warnings.extend(seeds.publish(seed, &index));
    }
    outcome.chunks = Some(counts);
    Ok(index.write())
}

/// Compresses a tar file (or what a reader gives) into the format that `format` names. Any known compression of the
/// input is undone first. Returns the content's and the output's length.
pub fn deflate(
    input: Box<dyn Read + Send>,
    format: Format,
    level: Option<i32>,
    out: &mut dyn Write,
    chunks: &Chunks,
    context: &Context,
) -> Result<(u64, u64)> {
    let codec = Codec::new(format, level)?;
    if matches!(format, Format::Catar | Format::CatarCaibx) {
        return convert(input, format, out, chunks, context);
    }
    pack::compress(codec::decode(input, context)?, codec, out, context)
}

/// An archive of any kind to a catar, or to its index and chunks. Names come sorted in a catar, so the files are unpacked
/// first, into a folder of their own that is removed again.
fn convert(
    input: Box<dyn Read + Send>,
    format: Format,
    out: &mut dyn Write,
    chunks: &Chunks,
    context: &Context,
) -> Result<(u64, u64)> {
    let unpacked = tempfile::Builder::new().prefix("monofo-").tempdir().or_fail(|| "cannot make a temporary folder")?;
    super::inflate(input, unpacked.path(), false, chunks, context)?;
    // A list, since globs leave out folders such as `.git`; of names, since a folder leaves out its `.monofo`.
    let mut names = Vec::new();
    for entry in std::fs::read_dir(unpacked.path()).or_fail(|| "cannot read the temporary folder")? {
        let name = entry.or_fail(|| "cannot read the temporary folder")?.file_name();
        names.extend_from_slice(name.as_encoded_bytes());
        names.push(0);
    }
    let everything = Some((names, "the archive".to_owned()));
    let globs = Globs::new(&[], &[])?;
    let source = collect::Source { root: unpacked.path(), globs: &globs, list: everything, null_separated: true };
    let files = collect::select(source, &context.cancel)?.files;
    let content = files.entries().iter().map(|entry| files.content_of(entry).size).sum();
    if format == Format::Catar {
        let source = Source::new(unpacked.path(), &files)?;
        let written = pack::pack(&*pack::stream(&files, format)?, &source, Codec::None, out, context)?;
        return Ok((content, written));
    }
    let mut outcome = Outcome::default();
    let index = store_chunks(unpacked.path(), &files, "deflated", &*chunks.get()?, &mut outcome, context)?;
    out.write_all(&index).or_fail(|| "cannot write the index")?;
    Ok((content, index.len() as u64 + outcome.chunks.map_or(0, |chunks| chunks.moved_bytes)))
}

fn select(selection: &Selection, context: &Context) -> Result<collect::Selected> {
    let globs = Globs::new(&selection.globs, &selection.exclude)?;
    let list = selection.list.as_ref().map(|list| read_list(list, &selection.root, &context.cancel)).transpose()?;
    if list.is_none() && !globs.selects() {
        return Err(Error::usage("no files are asked for").hint("give globs, or a list of paths with --files-from"));
    }
    let source =
        collect::Source { root: &selection.root, globs: &globs, list, null_separated: selection.null_separated };
    collect::select(source, &context.cancel)
}

/// The bytes of a list, and what to call it.
fn read_list(list: &ListSource, root: &Path, cancel: &Cancel) -> Result<(Vec<u8>, String)> {
    match list {
        ListSource::Stdin => {
            let mut bytes = Vec::new();
            Pipe::stdin(cancel)
                .read_to_end(&mut bytes)
                .map_err(|e| from_io("cannot read the list from standard input", e))?;
            Ok((bytes, "standard input".to_owned()))
        }
        ListSource::File(path) => {
            let shown = Shown::path(path).to_string();
            let bytes = std::fs::read(root.join(path)).map_err(|error| {
                let class = if error.kind() == io::ErrorKind::NotFound { Class::Usage } else { Class::Failed };
                Error::new(class, format_args!("cannot read the list `{shown}`"))
                    .hint("make the list before the upload; in a pipeline its path starts at the checkout")
                    .caused_by(error)
            })?;
            Ok((bytes, shown))
        }
    }
}

fn count(files: &FileSet, outcome: &mut Outcome) {
    let mut leading_out = 0;
    for entry in files.entries() {
        outcome.files += u64::from(entry.kind != Kind::Dir);
        outcome.content_bytes = outcome.content_bytes.saturating_add(entry.size);
        if entry.kind == Kind::Symlink {
            leading_out += u64::from(collect::leads_out(files.name(entry), files.link_text(entry)));
        }
    }
    if leading_out > 0 {
        outcome.warnings.push(collect::links_warning(leading_out));
    }
}

/// The one file of a set, for an artifact that is no archive.
fn single_file<'a>(files: &'a FileSet, name: &str) -> Result<&'a Entry> {
    let not_one = |what: String| {
        Error::usage(format_args!(
            "`{name}` has no archive suffix, so it is one file sent as it is, but {what} selected"
        ))
        .hint("name it .tar.lz4, .tar.zst, .tar.gz or .tar to pack several files")
    };
    let mut others = files.entries().iter().filter(|entry| entry.kind != Kind::Dir);
    match (others.next(), others.next()) {
        (Some(one), None) if one.kind == Kind::File => Ok(one),
        (Some(_), None) => Err(not_one("a symbolic link is".to_owned())),
        (None, _) => Err(not_one("only folders are".to_owned())),
        (Some(_), Some(_)) => Err(not_one(format!("{} are", Count(2 + others.count() as u64, "file")))),
    }
}

fn copy_file(root: &Path, files: &FileSet, entry: &Entry, out: &mut dyn Write, context: &Context) -> Result<u64> {
    let shown = Shown(files.name(entry)).to_string();
    let root = File::open(root).or_fail(|| "cannot open the working directory")?;
    let opened = source::open_selected(root.as_fd(), files, entry)?;
    source::check_unchanged(&opened, files, entry)?;
    let mut file = File::from(opened);
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        context.cancel.check()?;
        let n = file.read(&mut buffer).or_fail(|| format!("cannot read `{shown}`"))?;
        if n == 0 {
            break;
        }
        out.write_all(&buffer[..n]).map_err(|e| from_io("cannot write the artifact", e))?;
        context.progress.add(n as u64);
        total += n as u64;
    }
    source::check_unchanged(&file.into(), files, entry)?;
    Ok(total)
}
