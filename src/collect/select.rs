//! From globs and a list to the set of files.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use walkdir::{DirEntry, WalkDir};

use super::fileset::{FileSet, Kind, Name};
use super::globs::{Globs, is_reserved};
use super::list;
use super::stat::{self, Found};
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};
use crate::text::{Count, Shown};

/// What to select.
#[derive(Debug)]
pub struct Source<'a> {
    /// The folder that all paths start from and stay below.
    pub root: &'a Path,
    /// Patterns that select, and those that take out (of the list too).
    pub globs: &'a Globs,
    /// The bytes of a list of paths, and what to call it in errors.
    pub list: Option<(Vec<u8>, String)>,
    /// Whether the list is separated by NULs.
    pub null_separated: bool,
}

/// The selected files.
#[derive(Debug)]
pub struct Selected {
    /// In archive order.
    pub files: FileSet,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
    /// Globs that match nothing, as they were written; a warning tells of each.
    pub unmatched: Vec<String>,
}

/// Selects files. Reads folders and file status, never content. Blocks.
///
/// A bad or missing path, an unreadable folder or a path through a symbolic link is an error that names it; a glob
/// without a match is a warning.
pub fn select(mut source: Source<'_>, cancel: &Cancel) -> Result<Selected> {
    let list = source.list.take();
    let root = rustix::fs::open(source.root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| {
            let class = if matches!(errno, Errno::NOENT | Errno::NOTDIR) { Class::Usage } else { Class::Failed };
            let shown = Shown::path(source.root);
            Error::new(class, format_args!("cannot open the working directory `{shown}`"))
                .caused_by(std::io::Error::from(errno))
        })?;
    if rustix::fs::fstat(&root).is_ok_and(|stat| stat.st_nlink == 0) {
        return Err(Error::failed("the working directory was deleted")
            .hint("do not remove the folder that the step works in, or make it again"));
    }
    let mut selecting = Selecting {
        source: &source,
        root: root.as_fd(),
        cancel,
        set: FileSet::default(),
        found: Vec::new(),
        special: Vec::new(),
        specials: 0,
        warnings: Vec::new(),
        unmatched: Vec::new(),
    };
    if let Some((list, origin)) = list {
        selecting.listed(list, &origin)?;
    }
    selecting.globbed()?;
    selecting.stat_found()?;
    selecting.add_parents()?;
    selecting.set.finish();
    selecting.say_specials();
    Ok(Selected { files: selecting.set, warnings: selecting.warnings, unmatched: selecting.unmatched })
}

/// So many names are looked at together: enough for all cores, few enough for what is learned to be small.
const LOOKED_AT: usize = 1 << 16;

struct Selecting<'a> {
    source: &'a Source<'a>,
    root: rustix::fd::BorrowedFd<'a>,
    cancel: &'a Cancel,
    set: FileSet,
    /// Names met while walking, whose status is not known yet.
    found: Vec<Name>,
    /// The first few specials, for the warning.
    special: Vec<String>,
    specials: u64,
    warnings: Vec<String>,
    unmatched: Vec<String>,
}

impl Selecting<'_> {
    fn listed(&mut self, list: Vec<u8>, origin: &str) -> Result<()> {
        let null = self.source.null_separated;
        let len = list.len();
        self.set = FileSet::over(list);
        let mut items = list::Items::new(null);
        let mut folders = Vec::new();
        let mut whole_root = false;
        let mut names = Vec::new();
        loop {
            let item = items.next(self.set.arena(len));
            if item.is_none() || names.len() == LOOKED_AT {
                self.cancel.check()?;
                self.add_listed(&mut names, &mut folders, origin, len)?;
            }
            let Some((range, number)) = item else { break };
            let written = &self.set.arena(len)[range.clone()];
            let resolved = list::resolve(written, null, origin, number)?;
            let path = resolved.as_deref().unwrap_or(written);
            if path.is_empty() {
                whole_root = true;
            } else if !self.source.globs.is_excluded_below(path) {
                let name = match &resolved {
                    Some(path) => self.set.add_name(path)?,
                    None => FileSet::name_at(range)?,
                };
                names.push((name, number));
            }
        }
        if whole_root {
            self.walk_all(b"")?;
        }
        // A folder may be listed beside thousands of files below it: walk it once, and nothing inside it again.
        let folders: BTreeSet<Vec<u8>> = folders.into_iter().map(|name| self.set.name_of(name).to_vec()).collect();
        let mut last: Option<&[u8]> = None;
        for folder in &folders {
            let inside = last.is_some_and(|outer| folder.starts_with(outer) && folder.get(outer.len()) == Some(&b'/'));
            if !inside && !whole_root {
                self.walk_all(folder)?;
                last = Some(folder);
            }
        }
        Ok(())
    }

    /// Looks at listed names and takes them; folders among them are noted too.
    fn add_listed(
        &mut self,
        listed: &mut Vec<(Name, usize)>,
        folders: &mut Vec<Name>,
        origin: &str,
        list_len: usize,
    ) -> Result<()> {
        let names: Vec<Name> = listed.iter().map(|(name, _)| *name).collect();
        for ((name, number), found) in listed.drain(..).zip(stat::look_at(self.root, &self.set, &names)) {
            match found {
                Found::Entry(status) => {
                    if status.kind == Kind::Dir {
                        folders.push(name);
                    }
                    self.set.add(name, status);
                }
                Found::Special => self.note_special(name),
                Found::Unreadable(errno) => {
                    let place = list::at(origin, self.source.null_separated, number);
                    return Err(self.unreadable_line(name, errno, &place, self.set.arena(list_len)));
                }
            }
        }
        Ok(())
    }

    /// Takes everything below a listed folder, less what globs take out.
    fn walk_all(&mut self, folder: &[u8]) -> Result<()> {
        let at_root = folder.is_empty();
        let mut walk = self.walker(folder).into_iter();
        loop {
            let globs = self.source.globs;
            let prefix = self.source.root.as_os_str().len();
            let Some(entry) = walk.next() else { return Ok(()) };
            let entry = entry.map_err(|error| self.walk_error(&error))?;
            let path = below(&entry, prefix);
            // Our own folder of artifacts and stores: a listed root must not pack what it is writing.
            let own = at_root && entry.depth() == 1 && path == b".monofo";
            if own || globs.is_excluded(path) {
                if entry.file_type().is_dir() {
                    walk.skip_current_dir();
                }
                continue;
            }
            self.take(&entry, prefix)?;
        }
    }

    fn globbed(&mut self) -> Result<()> {
        let globs = self.source.globs;
        if !globs.selects() {
            return Ok(());
        }
        let mut unmatched = globs.all();
        for (base, depth) in globs.walks() {
            self.walk_matching(base.as_bytes(), depth, &mut unmatched)?;
        }
        for index in unmatched {
            // What lies below an excluded folder is not looked at, and might have matched.
            let besides = if globs.excludes() { " that is not excluded" } else { "" };
            self.unmatched.push(globs.written(index).to_owned());
            self.warnings.push(format!("glob `{}` matches nothing{besides}", Shown(globs.written(index).as_bytes())));
        }
        Ok(())
    }

    fn walk_matching(&mut self, base: &[u8], depth: Option<usize>, unmatched: &mut Vec<usize>) -> Result<()> {
        let globs = self.source.globs;
        if base.split(|byte| *byte == b'/').any(is_reserved) || globs.is_excluded_below(base) && !base.is_empty() {
            return Ok(());
        }
        // A glob below something that is no folder (a link to one included), or does not exist, matches nothing.
        let above = base.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &base[..at]);
        for folder in above.chain([base]).filter(|folder| !folder.is_empty()) {
            match rustix::fs::statat(self.root, folder, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {}
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                Err(errno) => return Err(self.unreadable(folder, errno)),
            }
        }
        let prefix = self.source.root.as_os_str().len();
        let mut walk = self.walker(base).into_iter();
        // Inside a folder that matched as a whole, at this depth.
        let mut whole: Option<usize> = None;
        while let Some(entry) = walk.next() {
            let entry = entry.map_err(|error| self.walk_error(&error))?;
            let path = below(&entry, prefix);
            let is_dir = entry.file_type().is_dir();
            if is_reserved(entry.file_name().as_bytes()) || globs.is_excluded(path) {
                if is_dir {
                    walk.skip_current_dir();
                }
                // A pattern that found something was not mistyped, also when all of it is taken out again.
                if !unmatched.is_empty() {
                    globs.is_included(path, unmatched);
                }
                continue;
            }
            whole = whole.filter(|depth| entry.depth() > *depth);
            let matches = globs.is_included(path, unmatched);
            if matches && is_dir && whole.is_none() {
                whole = Some(entry.depth());
            }
            if matches || whole.is_some() {
                self.take(&entry, prefix)?;
            } else if is_dir && depth.is_some_and(|depth| entry.depth() >= depth) {
                walk.skip_current_dir();
            }
        }
        Ok(())
    }

    fn walker(&self, folder: &[u8]) -> WalkDir {
        let mut path = PathBuf::from(self.source.root);
        if !folder.is_empty() {
            path.push(OsStr::from_bytes(folder));
        }
        // The working directory itself may be reached through a link; nothing below it is.
        WalkDir::new(path).min_depth(1).follow_links(false).follow_root_links(folder.is_empty())
    }

    fn take(&mut self, entry: &DirEntry, prefix: usize) -> Result<()> {
        let name = self.set.add_name(below(entry, prefix))?;
        self.found.push(name);
        if self.found.len().is_multiple_of(4096) {
            self.cancel.check()?;
        }
        Ok(())
    }

    fn stat_found(&mut self) -> Result<()> {
        let names = std::mem::take(&mut self.found);
        self.add_all(&names)
    }

    fn add_all(&mut self, names: &[Name]) -> Result<()> {
        for part in names.chunks(LOOKED_AT) {
            self.cancel.check()?;
            for (name, found) in part.iter().zip(stat::look_at(self.root, &self.set, part)) {
                match found {
                    Found::Entry(status) => self.set.add(*name, status),
                    Found::Special => self.note_special(*name),
                    Found::Unreadable(Errno::NOENT) => {
                        let shown = Shown(self.set.name_of(*name)).to_string();
                        return Err(Error::new(
                            Class::Changed,
                            format_args!("`{shown}` vanished while files were selected"),
                        )
                        .hint("make sure that nothing writes to these folders while they are packed"));
                    }
                    Found::Unreadable(errno) => return Err(self.unreadable(self.set.name_of(*name), errno)),
                }
            }
        }
        Ok(())
    }

    /// Adds the folders between the root and each entry, and refuses paths that go through anything but a folder.
    fn add_parents(&mut self) -> Result<()> {
        let mut parents: BTreeSet<&[u8]> = BTreeSet::new();
        let mut previous: &[u8] = b"";
        for entry in self.set.entries() {
            let Some(parent) = parent(self.set.name(entry)) else { continue };
            if parent == previous {
                continue;
            }
            previous = parent;
            let mut next = Some(parent);
            while let Some(folder) = next {
                if !parents.insert(folder) {
                    break;
                }
                next = self::parent(folder);
            }
        }
        let parents: Vec<Vec<u8>> = parents.into_iter().map(<[u8]>::to_vec).collect();
        let names = parents.iter().map(|parent| self.set.add_name(parent)).collect::<Result<Vec<_>>>()?;
        for (name, found) in names.iter().zip(stat::look_at(self.root, &self.set, &names)) {
            match found {
                Found::Entry(status) if status.kind == Kind::Dir => self.set.add(*name, status),
                Found::Entry(_) | Found::Special => {
                    let shown = Shown(self.set.name_of(*name)).to_string();
                    return Err(Error::refused(format_args!(
                        "`{shown}` is a symbolic link, and a listed path goes through it"
                    ))
                    .hint("list the link itself, or the real path of the files"));
                }
                Found::Unreadable(errno) => return Err(self.unreadable(self.set.name_of(*name), errno)),
            }
        }
        Ok(())
    }

    fn note_special(&mut self, name: Name) {
        self.specials += 1;
        if self.special.len() < 3 {
            self.special.push(format!("`{}`", Shown(self.set.name_of(name))));
        }
    }

    fn say_specials(&mut self) {
        if self.specials > 0 {
            let more = if self.specials > self.special.len() as u64 { ", …" } else { "" };
            self.warnings.push(format!(
                "left out {} (sockets, FIFOs and devices are not packed): {}{more}",
                Count(self.specials, "special file"),
                self.special.join(", ")
            ));
        }
    }

    fn unreadable(&self, name: &[u8], errno: Errno) -> Error {
        Error::failed(format_args!("cannot read `{}`", Shown(name))).caused_by(std::io::Error::from(errno))
    }

    fn unreadable_line(&self, listed: Name, errno: Errno, place: &str, list: &[u8]) -> Error {
        let name = Shown(self.set.name_of(listed)).to_string();
        match errno {
            Errno::NOENT | Errno::NOTDIR => {
                let error = Error::new(Class::NotThere, format_args!("{place}: `{name}` does not exist"));
                if !self.source.null_separated && self.set.name_of(listed).ends_with(b"\r") {
                    error.hint("the line ends in a carriage return: write the list with Unix line ends")
                } else if self.source.null_separated && !list.contains(&0) {
                    error.hint("the list holds no NUL byte: leave out --null (in a pipeline, `null: true`)")
                } else if !self.source.null_separated && list.contains(&0) {
                    error.hint("the list is separated by NUL bytes: add --null (in a pipeline, `null: true`)")
                } else {
                    error.hint("list only files that exist when the list is read, or use globs")
                }
            }
            errno => {
                Error::failed(format_args!("{place}: cannot read `{name}`")).caused_by(std::io::Error::from(errno))
            }
        }
    }

    fn walk_error(&self, error: &walkdir::Error) -> Error {
        let path = error.path().map(|path| Shown::path(path).to_string()).unwrap_or_default();
        let kind = error.io_error().map(std::io::Error::kind);
        let cause = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
        if kind == Some(std::io::ErrorKind::NotFound) {
            return Error::new(Class::Changed, format_args!("`{path}` vanished while files were selected"))
                .hint("make sure that nothing writes to these folders while they are packed");
        }
        Error::failed(format_args!("cannot read the folder `{path}`")).caused_by(cause)
    }
}

/// The path of a walked entry, relative to the root.
fn below(entry: &DirEntry, prefix: usize) -> &[u8] {
    let path = &entry.path().as_os_str().as_bytes()[prefix..];
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    &path[slashes..]
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at])
}
