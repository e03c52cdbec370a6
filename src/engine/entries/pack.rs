//! An artifact to a payload: archived, compressed and digested in one pass.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::archive::pack::{Digests, pack_and_digest};
use crate::archive::restore::MOST_NODES;
use crate::archive::source::{Root, Source};
use crate::archive::tar::layout::{Layout, Policy};
use crate::cancel::Cancel;
use crate::collect::{FileSet, Kind, leads_out, links_warning, whole_tree};
use crate::context::Context;
use crate::entry::{Encoding, Output, Payload, RootKind, sync_file};
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::{Hash, Hasher, Line, LineKind, Listing, ListingKind, escape};
use crate::text::Shown;

/// An artifact on disk, looked at but not read.
pub struct Artifact {
    /// The folder that its names are relative to.
    pub root: PathBuf,
    /// Its files.
    pub files: FileSet,
    /// Whether it is a folder or a file.
    pub kind: RootKind,
    /// Its name, escaped.
    pub name: String,
    /// When its newest file was changed, seconds since 1970.
    pub newest: i64,
    /// How long it took to build, where that is known.
    pub built_in: Option<Duration>,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
    /// Whether modes and times are stored, too.
    pub mtimes: bool,
    /// Where its files lie, if not all below `root`.
    pub apart: Vec<Root>,
}

/// The real path of something that may have to be made first.
fn will_be(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|there| {
        let rest = path.strip_prefix(there).ok()?;
        Some(there.canonicalize().ok()?.join(rest))
    })
}

impl Artifact {
    /// Looks at an artifact. A link as the last part of its path is followed, links in it are not. Class `Refused` when there
    /// is nothing, or when one of `not_in` lies in it, or it in one of them.
    pub fn look(path: &Path, not_in: &[PathBuf], cancel: &Cancel) -> Result<Artifact> {
        let shown = Shown::path(path);
        let refused = |why: &str| Error::refused(format_args!("`{shown}` {why}"));
        let status = match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refused("does not exist").hint("build it first, and name it with --source"));
            }
            other => other.or_fail(|| format!("cannot read `{shown}`"))?,
        };
        let real = path.canonicalize().or_fail(|| format!("cannot read `{shown}`"))?;
        Self::contains_none(path, not_in)?;
        let around = |own: &PathBuf| own.canonicalize().is_ok_and(|own| real.starts_with(own));
        if let Some(own) = not_in.iter().find(|own| around(own)) {
            return Err(refused(&format!("lies in `{}`, which is no part of an artifact", Shown::path(own)))
                .hint("name what a build made; what is stored already, get to a folder of its own"));
        }
        let (root, only, kind): (PathBuf, Option<OsString>, _) = if status.is_dir() {
            (real.clone(), None, RootKind::Dir)
        } else if status.is_file() {
            let parent = real.parent().unwrap_or(Path::new("/")).to_owned();
            (parent, real.file_name().map(OsString::from), RootKind::File)
        } else {
            return Err(refused("is neither a folder nor a file"));
        };
        let (files, mut warnings) = whole_tree(&root, only.as_deref(), cancel)?;
        refuse_too_many(&files, &shown.to_string())?;
        let (mut newest, mut leading_out) = (i64::MIN, 0);
        for entry in files.entries() {
            match entry.kind {
                Kind::File => newest = newest.max(entry.mtime),
                Kind::Symlink => {
                    leading_out += u64::from(leads_out(files.name(entry), files.link_text(entry)));
                }
                _ => {}
            }
        }
        if leading_out > 0 {
            warnings.push(links_warning(leading_out));
        }
        // A file lies under its real name in what is stored.
        let typed = if status.is_file() { real.file_name() } else { path.file_name().or(real.file_name()) };
        let typed = typed.unwrap_or_default();
        Ok(Artifact {
            root,
            files,
            kind,
            name: escape::escape(typed.as_encoded_bytes()),
            newest,
            built_in: None,
            warnings,
            mtimes: false,
            apart: Vec::new(),
        })
    }

    /// Whether none of these lies in an artifact, or would if it was there. Class `Refused`.
    pub fn contains_none(path: &Path, not_in: &[PathBuf]) -> Result<()> {
        let Ok(real) = path.canonicalize() else { return Ok(()) };
        match not_in.iter().find(|own| will_be(own).is_some_and(|own| own.starts_with(&real))) {
            Some(own) => Err(Error::refused(format_args!(
                "`{}` contains `{}`, which is no part of an artifact",
                Shown::path(path),
                Shown::path(own)
            ))
            .hint("name the folder of the build's output alone")),
            None => Ok(()),
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.entries().iter().map(|entry| entry.size).sum()
    }

    /// Its listing, once the content of every file that has some was digested.
    pub fn listing(&self, digests: Vec<(usize, Hash)>) -> Result<Listing> {
        let entries = self.files.entries();
        let mut hashes: Vec<Option<Hash>> = vec![None; entries.len()];
        for (index, hash) in digests {
            hashes[index] = Some(hash);
        }
        let empty = Hash::of(b"");
        let mut lines = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let path = self.files.name(entry);
            let (kind, hash, size) = match entry.kind {
                Kind::Dir => {
                    let next = entries.get(index + 1).map(|next| self.files.name(next));
                    let filled =
                        next.and_then(|next| next.strip_prefix(path)).is_some_and(|rest| rest.starts_with(b"/"));
                    if filled {
                        continue;
                    }
                    (LineKind::EmptyDir, Hash([0; 32]), 0)
                }
                Kind::Symlink => {
                    let text = self.files.link_text(entry);
                    (LineKind::Link, Hash::of(text), text.len() as u64)
                }
                Kind::File | Kind::HardLink => {
                    let hash = if entry.size == 0 { Some(empty) } else { hashes[index] };
                    let hash = hash.ok_or_else(|| {
                        Error::new(Class::Changed, format_args!("`{}` was not read to its end", Shown(path)))
                    })?;
                    let kind = if entry.mode & 0o100 != 0 { LineKind::Executable } else { LineKind::File };
                    (kind, hash, entry.size)
                }
            };
            let path = if self.kind == RootKind::File { b"." } else { path };
            lines.push(Line { kind, hash, size, path: path.to_vec() });
        }
        let kind = match self.kind {
            RootKind::Dir => ListingKind::Dir,
            RootKind::File => ListingKind::File,
        };
        Ok(Listing::new(kind, lines))
    }

    /// What came out, as metadata tell it; `tree` is the digest of the listing.
    pub fn output(&self, listing: &Listing, tree: Hash) -> Output {
        Output { mtimes: self.mtimes, ..output(listing, self.kind, self.name.clone(), tree) }
    }
}

/// Refuses what could not be restored.
pub(super) fn refuse_too_many(files: &FileSet, what: &str) -> Result<()> {
    if files.entries().len() as u64 <= MOST_NODES {
        return Ok(());
    }
    Err(Error::refused(format_args!("`{what}` holds more than 2,000,000 files, links and folders"))
        .hint("store parts of it"))
}

/// What a listing says, as metadata tell it.
pub fn output(listing: &Listing, root: RootKind, name: String, tree: Hash) -> Output {
    Output {
        tree,
        root,
        name,
        files: listing.count(&[LineKind::File, LineKind::Executable]),
        links: listing.count(&[LineKind::Link]),
        empty_dirs: listing.count(&[LineKind::EmptyDir]),
        bytes: listing.bytes(),
        mtimes: false,
    }
}

/// Archives an artifact into a new file, and makes it durable. Returns what was written and the listing of what went in.
pub fn payload(artifact: &Artifact, encoding: Encoding, place: &Path, context: &Context) -> Result<(Payload, Listing)> {
    payload_and(artifact, encoding, place, context, |listing| listing)
}

/// The same, with what `make` makes of the listing while the disk is still at it.
pub(super) fn payload_and<T>(
    artifact: &Artifact,
    encoding: Encoding,
    place: &Path,
    context: &Context,
    make: impl FnOnce(Listing) -> T,
) -> Result<(Payload, T)> {
    let doing = || format!("cannot write `{}`", Shown::path(place));
    let codec = encoding.codec()?;
    let policy = if artifact.mtimes { Policy::AsIs } else { Policy::Normalized };
    let layout = Layout::with(&artifact.files, policy)?;
    let source = match artifact.apart.as_slice() {
        [] => Source::new(&artifact.root, &artifact.files)?,
        apart => Source::several(apart.to_vec(), &artifact.files)?,
    };
    let digests = Digests::of(&artifact.files);
    let file = File::create(place).or_fail(doing)?;
    let syncing = file.try_clone().or_fail(doing)?;
    let (wake, woken) = crossbeam_channel::bounded(1);
    let mut file = Hashing { file, hasher: Hasher::new(), unsynced: 0, wake };
    // The disk is busy while the rest is packed, so that little is left to wait for at the end.
    let bytes = thread::scope(|scope| {
        scope.spawn(move || {
            for () in woken {
                // That it fails shows at the end again.
                let _ = syncing.sync_data();
            }
        });
        let packed = pack_and_digest(&layout, &source, codec, &mut file, Some(&digests), context);
        // Ends the thread, which the scope waits for.
        file.wake = crossbeam_channel::bounded(0).0;
        packed
    })?;
    let Hashing { file, hasher, .. } = file;
    let (synced, made) = thread::scope(|scope| {
        let syncing = scope.spawn(|| sync_file(&file));
        let made = artifact.listing(digests.into_found()).map(make);
        (syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), made)
    });
    synced?;
    let (sha256, made) = (hasher.finish(), made?);
    Ok((Payload { encoding, sha256, bytes }, made))
}

/// So much is written before the disk is told to keep it.
const SYNC_EVERY: usize = 32 << 20;

/// Digests what is written, and has it synced now and then.
struct Hashing {
    file: File,
    hasher: Hasher,
    unsynced: usize,
    wake: Sender<()>,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.unsynced += n;
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            // It may still be at it.
            let _ = self.wake.try_send(());
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
