//! Several paths in one entry: what the `cache:` block keeps.
//!
//! The tree of such an entry has two folders at its top, `work/` for paths relative to the working folder and `home/` for paths
//! below `~`. Modes and times of files are kept: what compares times, as cargo does, must find them again.
//!
//! To restore, every path is made ready beside where it goes, so on its file system, and only once all of them are right they
//! are put in place: a path of the working folder replaces what is there by a swap, and is swapped back when a later one
//! fails; what is below `~` is shared by the jobs of a machine, so it is merged, last and never taken back, see `merge`.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use super::merge::Newer;
use super::merge::{check_kinds, merge, owner_may_write};
use super::pack::{Artifact, payload, refuse_too_many};
use super::restore::check;
use super::target::{BESIDE, Beside, Guards, Target};
use crate::archive::codec;
use crate::archive::restore::{Given, Place, restore_apart};
use crate::archive::source::Root;
use crate::cancel::Cancel;
use crate::collect::{Kind, RootOf, leads_out, links_warning, whole_trees};
use crate::context::Context;
use crate::entry::{Encoding, Existing, Home, Output, Published, Record, RootKind, Staging, open, publish};
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::ListingKind;
use crate::key::KeyRecord;
use crate::remote::Scopes;
use crate::text::{Count, Shown};

/// A path of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundlePath {
    /// As it is configured: `node_modules`, `~/.npm`.
    pub written: String,
    /// Where that is.
    pub place: PathBuf,
    /// Its name in the tree: `work/node_modules`, `home/.npm`.
    pub name: String,
    /// Whether it is below `~`.
    pub of_home: bool,
    /// Where links on the way led before the command, as [`real_place`] told. Only what is stored is asked for it.
    pub before: Option<PathBuf>,
}

/// Where a path is, links on the way to it followed and the path itself not. As it is written where that cannot be told.
pub fn real_place(place: &Path) -> PathBuf {
    Target::judged(place, &Guards::default()).map_or_else(|_| place.to_owned(), |target| target.real().to_owned())
}

impl BundlePath {
    /// Whether it is a link itself, which any command may have made, also of a job before.
    fn is_link(&self) -> bool {
        fs::symlink_metadata(&self.place).is_ok_and(|there| there.is_symlink())
    }

    /// Whether a link is on the way to it from the working folder or from `~`, or in its place.
    fn is_behind_link(&self, guards: &Guards) -> bool {
        let base = if self.of_home { guards.home.as_deref() } else { Some(guards.workspace.as_path()) };
        let mut on_the_way = self.place.ancestors().take_while(|place| Some(*place) != base);
        on_the_way.any(|place| fs::symlink_metadata(place).is_ok_and(|there| there.is_symlink()))
    }

    /// Where a link on the way leads that nothing is stored from, if it does. `real` is where the path is.
    fn leads_astray(&self, real: &Path, guards: &Guards) -> Option<&'static str> {
        let within = |folder: &Path| folder.canonicalize().is_ok_and(|folder| real.starts_with(folder));
        if !self.of_home && !within(&guards.workspace) {
            return Some("out of the working folder");
        }
        // Whoever owns the machine has put `~/.cache` elsewhere, and did so before this job's command.
        if self.of_home && self.before.as_deref() != Some(real) {
            return Some("elsewhere than before the command");
        }
        if real.components().any(|part| part.as_os_str().eq_ignore_ascii_case(".git")) {
            return Some("into a git repository's own folder");
        }
        guards.own.iter().any(|own| within(own)).then_some("into the cache, the store or the remote")
    }
}

/// What is at the paths of an entry.
pub struct Look {
    /// What is to be stored; `None` when nothing is at any of them.
    pub artifact: Option<Artifact>,
    /// One sentence for each path that is not there, or is not where it says.
    pub warnings: Vec<String>,
    /// What is worth a line, and is nobody's mistake.
    pub note: Option<String>,
}

/// Looks at the paths of an entry. Class `Refused` when a folder of ours lies in what would be stored.
pub fn look(paths: &[BundlePath], name: &str, guards: &Guards, cancel: &Cancel) -> Result<Look> {
    let mut warnings = Vec::new();
    let (mut trees, mut apart) = (Vec::new(), Vec::new());
    for path in paths {
        let shown = Shown(path.written.as_bytes());
        if path.is_link() {
            warnings.push(format!("`{shown}` is a link, and is left out: name what it leads to"));
            continue;
        }
        let real = match path.place.canonicalize() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                warnings.push(format!("`{shown}` is not there, and is left out"));
                continue;
            }
            other => other.or_fail(|| format!("cannot read `{shown}`"))?,
        };
        // The command made what is there, perhaps where it may see less than this process does.
        if let Some(why) = path.leads_astray(&real, guards) {
            warnings.push(format!("a link leads `{shown}` {why}, and it is left out"));
            continue;
        }
        let status = fs::metadata(&real).or_fail(|| format!("cannot read `{shown}`"))?;
        if let Some(own) = guards.own.iter().find(|own| own.canonicalize().is_ok_and(|own| own.starts_with(&real))) {
            return Err(Error::refused(format_args!(
                "`{shown}` contains `{}`, which is no part of an entry",
                Shown::path(own)
            ))
            .hint("name the folders in it that are worth keeping"));
        }
        let prefix = path.name.clone().into_bytes();
        if status.is_dir() {
            trees.push((prefix.clone(), real.clone(), RootOf::Folder));
            apart.push(Root { prefix, folder: real, file: None });
        } else if status.is_file() {
            let (folder, file) = (real.parent().unwrap_or(Path::new("/")), real.file_name().unwrap_or_default());
            apart.push(Root {
                prefix: prefix.clone(),
                folder: folder.to_owned(),
                file: Some(file.as_bytes().to_vec()),
            });
            trees.push((prefix, real, RootOf::File));
        } else {
            return Err(Error::refused(format_args!("`{shown}` is neither a folder nor a file")));
        }
    }
    if trees.is_empty() {
        return Ok(Look { artifact: None, warnings, note: None });
    }
    let trees: Vec<_> = trees.iter().map(|(name, root, kind)| (name.as_slice(), root.as_path(), *kind)).collect();
    // Another job may just restore there.
    let ours = |name: &[u8]| name.starts_with(BESIDE.as_bytes());
    let (files, told) = whole_trees(&trees, &ours, cancel)?;
    warnings.extend(told);
    refuse_too_many(&files, name)?;
    let leading_out = files
        .entries()
        .iter()
        .filter(|entry| entry.kind == Kind::Symlink && leads_out(files.name(entry), files.link_text(entry)));
    let leading_out = leading_out.count() as u64;
    // Every virtual environment of Python has one.
    let note = (leading_out > 0).then(|| links_warning(leading_out));
    let artifact = Artifact {
        built_in: None,
        root: PathBuf::from("/"),
        files,
        kind: RootKind::Dir,
        name: name.to_owned(),
        newest: i64::MIN,
        warnings: Vec::new(),
        mtimes: true,
        apart,
    };
    Ok(Look { artifact: Some(artifact), warnings, note })
}

/// What came of storing an entry.
#[derive(Debug)]
pub enum Saved {
    /// It is stored now. Its metadata.
    New(Box<Record>),
    /// One of this key is there, and stays: another job was quicker, or it could not be restored.
    There,
}

/// Stores an entry, unless one of its key is there that this run reads. One of a scope that it does not read gives way, unless
/// this run writes nothing: [`Scopes::may_replace`]. Blocks.
pub fn save(
    cache: &Home,
    inputs: &KeyRecord,
    artifact: &Artifact,
    encoding: Encoding,
    scopes: &Scopes,
    context: &Context,
) -> Result<Saved> {
    cache.create()?;
    let gives_way = |there: &Record| !scopes.accepts(&there.scope) && scopes.may_replace(&there.scope);
    // Looked at before the work, and once more when it appears.
    if open(cache, &inputs.key()).unwrap_or(None).is_some_and(|there| !gives_way(&there.record)) {
        return Ok(Saved::There);
    }
    let staging = Staging::new(cache)?;
    context.progress.expect(artifact.bytes());
    let file = staging.join("payload");
    let (payload, listing) = payload(artifact, encoding, &file, context)?;
    let mut record = Record::new(inputs.clone(), artifact.output(&listing, listing.digest()), (0, 0), scopes.own());
    record.payload = Some(payload);
    match publish(cache, &staging, &record, &file, Existing::ReplaceIf(&gives_way), &context.cancel)? {
        Published::Same(_) => Ok(Saved::There),
        Published::New | Published::Replaced(_) => Ok(Saved::New(Box::new(record))),
    }
}

/// Where the paths of an entry go.
#[derive(Debug)]
pub struct Targets(Vec<(BundlePath, Spot)>);

#[derive(Debug)]
enum Spot {
    Free(Target),
    /// A link is in the way, as this sentence says: nothing can be put there, and perhaps nothing has to be.
    InTheWay(String),
}

impl Targets {
    /// Judges all of them. Makes nothing. Class `Refused` for what is never replaced or added to, as long as no link makes
    /// a path that: the command, or the checkout, may have one in the way for a while.
    pub fn new(paths: &[BundlePath], guards: &Guards) -> Result<Self> {
        let judged = |path: &BundlePath| {
            let shown = Shown(path.written.as_bytes());
            if path.is_link() {
                return Ok((path.clone(), Spot::InTheWay(format!("`{shown}` is a link"))));
            }
            let judge = if path.of_home { Target::judged } else { Target::new };
            let target = judge(&path.place, guards);
            let inside = |target: &Target| {
                path.of_home || guards.workspace.canonicalize().is_ok_and(|root| target.real().starts_with(root))
            };
            let spot = match target {
                Ok(target) if inside(&target) => Spot::Free(target),
                Ok(_) => Spot::InTheWay(format!("a link leads `{shown}` out of the working folder")),
                Err(error) if error.class() == Class::Refused && path.is_behind_link(guards) => {
                    Spot::InTheWay(format!("`{shown}` is behind a link: {error}"))
                }
                Err(error) => {
                    return Err(error.with_hint(format!("`{shown}` cannot be one of the paths: name others")));
                }
            };
            Ok((path.clone(), spot))
        };
        paths.iter().map(judged).collect::<Result<_>>().map(Targets)
    }
}

/// One path, made ready.
struct Ready<'a> {
    target: &'a Target,
    of_home: bool,
    beside: Beside,
    /// Where it is until it is put in place; nothing when the entry has nothing there.
    tree: PathBuf,
    kind: RootKind,
}

/// Restores an entry. `newer` is what becomes of newer files below `~`; `whole` is asked once all is ready; see
/// [`Restore`](super::restore::Restore).
pub fn restore(
    payload: Box<dyn Read + Send>,
    output: &Output,
    targets: &Targets,
    home: &Home,
    newer: Newer,
    whole: &mut dyn FnMut() -> Result<()>,
    context: &Context,
) -> Result<Vec<String>> {
    context.progress.expect(output.bytes);
    let (mut roots, mut blocked) = (Vec::new(), Vec::new());
    for (path, spot) in &targets.0 {
        let target = match spot {
            Spot::Free(target) => target,
            Spot::InTheWay(why) => {
                blocked.push((path, why, Staging::new(home)?));
                continue;
            }
        };
        let beside = target.near(path.of_home)?.beside(home)?;
        let root = beside.path.join("tree");
        fs::create_dir(&root).or_fail(|| "cannot make a folder beside the target")?;
        roots.push((path, target, beside, root));
    }
    let free = roots.iter().map(|(path, _, _, root)| Place { prefix: path.name.as_bytes(), root });
    let aside = blocked.iter().map(|(path, _, staging)| Place { prefix: path.name.as_bytes(), root: staging.path() });
    let places: Vec<_> = free.chain(aside).collect();
    let content = codec::decode(payload, context)?;
    let given = if output.mtimes { Given::Stored } else { return Err(Error::damaged("it has no times of its own")) };
    let (listing, digest) = restore_apart(content, &places, ListingKind::Dir, given, output.bytes, context)?;
    check(&listing, &digest, output)?;
    drop(places);
    if let Some((_, why, _)) = blocked.iter().find(|(path, _, staging)| is_there(&staging.join(&path.name))) {
        return Err(Error::refused(format_args!("{why}, and the entry has something for it"))
            .hint("remove the link, or name what it leads to; then the next job restores it"));
    }
    let mut ready = Vec::new();
    for (path, target, beside, root) in roots {
        let tree = root.join(&path.name);
        // What was not there when it was stored is left as it is.
        let Ok(status) = fs::symlink_metadata(&tree) else { continue };
        let kind = if status.is_dir() { RootKind::Dir } else { RootKind::File };
        if !path.of_home {
            target.check_kind(kind).map_err(|_| {
                let (here, in_entry) = match kind {
                    RootKind::Dir => ("a file", "a folder"),
                    RootKind::File => ("a folder with something in it", "a file"),
                };
                let shown = Shown(path.written.as_bytes());
                Error::refused(format_args!("`{shown}` is {here} here, and {in_entry} in the entry"))
                    .hint("remove it if nobody needs it, or name other paths")
            })?;
        }
        ready.push(Ready { target, of_home: path.of_home, beside, tree, kind });
    }
    whole()?;
    context.cancel.check()?;
    // What cannot be taken back is judged before anything changes.
    for one in ready.iter().filter(|one| one.of_home) {
        check_kinds(&one.tree, one.target.real())?;
    }
    // What can be taken back comes first.
    ready.sort_by_key(|one| (one.of_home, one.kind == RootKind::File));
    place(ready, newer)
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn place(ready: Vec<Ready<'_>>, newer: Newer) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let mut failed = None;
    let (mut done, mut moved) = (0, 0);
    for one in &ready {
        match one.place(newer, &mut moved) {
            Ok(warning) => warnings.extend(warning),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
        done += 1;
    }
    let Some(error) = failed else {
        warnings.extend(ready.into_iter().filter_map(|one| one.beside.finish()));
        return Ok(warnings);
    };
    for one in ready[..done].iter().rev() {
        one.take_back();
    }
    if moved == 0 {
        return Err(error);
    }
    Err(error.context(format_args!(
        "the entry is not restored wholly, and {} below `~` that it put in place before stay",
        Count(moved, "path")
    )))
}

impl Ready<'_> {
    fn place(&self, newer: Newer, moved: &mut u64) -> Result<Option<String>> {
        if self.of_home {
            return merge(&self.tree, self.target.real(), newer, moved).map(|()| None);
        }
        if self.kind == RootKind::File {
            return self.target.swap(&self.tree, self.kind, &self.beside);
        }
        self.target.check_repositories(&self.tree)?;
        // A folder that its owner may not write to cannot be moved by them.
        let mode = owner_may_write(&self.tree)?;
        let is_dir = fs::symlink_metadata(self.target.real()).is_ok_and(|there| there.is_dir());
        let old = if is_dir { owner_may_write(self.target.real())? } else { None };
        let swapped = self.target.swap(&self.tree, self.kind, &self.beside);
        // Of the new one, or of the old one that stays.
        if let Some(mode) = if swapped.is_ok() { mode } else { old } {
            fs::set_permissions(self.target.real(), fs::Permissions::from_mode(mode))
                .or_fail(|| format!("cannot set the mode of `{}`", Shown::path(self.target.path())))?;
        }
        swapped
    }

    /// Brings back what was there, where that is still to be had. A file that was replaced is gone, and so is nothing else.
    fn take_back(&self) {
        if self.of_home || self.kind == RootKind::File {
            return;
        }
        let undone = if is_there(&self.tree) {
            self.target.swap(&self.tree, self.kind, &self.beside).map(drop)
        } else {
            fs::rename(self.target.real(), &self.tree).or_fail(|| "cannot take a folder back")
        };
        if let Err(error) = undone {
            tracing::warn!("`{}` stays replaced: {}", Shown::path(self.target.path()), error.chain());
        }
    }
}

impl Target {
    /// A target beside which things for this one are made ready. A folder that is added to may be a mount: then that is in
    /// it, since nothing can be moved there from outside.
    fn near(&self, added_to: bool) -> Result<Target> {
        let device = |path: &Path| fs::metadata(path).map(|status| status.dev()).ok();
        let real = self.real();
        let is_mount = added_to && device(real).is_some() && device(real) != real.parent().and_then(device);
        if is_mount { Target::judged(&real.join("ready"), &Guards::default()) } else { self.again() }
    }
}
