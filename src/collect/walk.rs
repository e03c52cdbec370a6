//! Everything below a folder, visited by several threads: one folder at a time each, its files where they are found.
//!
//! Nothing is followed. `.gitignore` files can be honoured as git does it, but only those inside the folder: rules from
//! above, of the user or of the repository differ between machines.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::gitignore;
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result, from_io};
use crate::text::Shown;

/// Whether `.gitignore` files count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoreFiles {
    /// What they exclude is left out.
    Honour,
    /// They are files like any other.
    Keep,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A folder, and whether there is nothing in it at all.
    Dir {
        /// Whether it is empty.
        empty: bool,
    },
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A socket, FIFO or device.
    Special,
}

/// A node that was met. A folder is met after it was read.
pub struct Visited<'a> {
    /// Its path, relative to where the walk began.
    pub path: &'a [u8],
    /// The open folder it lies in.
    pub folder: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a [u8],
    /// What it is.
    pub kind: NodeKind,
    /// What `lstat` says.
    pub stat: &'a Stat,
}

/// What is called on entering a folder.
pub type Enter<'a> = dyn Fn(&[u8]) -> Result<()> + Sync + 'a;

/// What to walk.
pub struct Walk<'a> {
    /// Where it begins; a link here is followed.
    pub root: &'a Path,
    /// Whether `.gitignore` files count.
    pub ignore_files: IgnoreFiles,
    /// Paths to leave out, with all below them.
    pub leave_out: &'a (dyn Fn(&[u8]) -> bool + Sync),
    /// Called on entering a folder, before anything in it is visited; folders above it were entered before, perhaps by
    /// another thread.
    pub enter: Option<&'a Enter<'a>>,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

/// Visits everything below a folder; returns what the visits gave, in no order. The first error ends it. Blocks.
///
/// A folder that cannot be read is an error, one that vanished is of class `Changed`.
pub fn walk<T: Send>(walk: &Walk<'_>, visit: impl Fn(&Visited<'_>) -> Result<Option<T>> + Sync) -> Result<Vec<T>> {
    let root = rustix::fs::open(walk.root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| {
            let class = if errno == Errno::NOENT { Class::NotThere } else { Class::Failed };
            Error::new(class, format_args!("cannot open the folder `{}`", Shown::path(walk.root)))
                .caused_by(std::io::Error::from(errno))
        })?;
    walk_in(root.as_fd(), walk, visit)
}

/// As [`walk`], from a folder that is open: `root` only says which one that is.
pub(super) fn walk_in<T: Send>(
    root: BorrowedFd<'_>,
    walk: &Walk<'_>,
    visit: impl Fn(&Visited<'_>) -> Result<Option<T>> + Sync,
) -> Result<Vec<T>> {
    let first = Job { path: Vec::new(), stat: None, rules: None };
    let queue = Queue { state: Mutex::new(State { jobs: vec![first], working: 0, error: None }), more: Condvar::new() };
    let walker = Walker { walk, root, queue: &queue, visit: &visit };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let found = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| walker.run())).collect();
        let mut found = walker.run();
        for other in others {
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    });
    match queue.state.into_inner().unwrap_or_else(PoisonError::into_inner).error {
        Some(error) => Err(error),
        None => Ok(found),
    }
}

/// Opens a folder by a path that leads through no link, component by component: one that appears on the way meanwhile is an
/// error, and leads nowhere.
pub(crate) fn open_through_no_link(path: &Path) -> std::io::Result<OwnedFd> {
    const LAST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
    // A folder on the way need not be readable.
    #[cfg(target_os = "linux")]
    const ON_THE_WAY: OFlags = OFlags::PATH.union(LAST);
    #[cfg(not(target_os = "linux"))]
    const ON_THE_WAY: OFlags = LAST;
    let mut open = rustix::fs::open(c"/", ON_THE_WAY, Mode::empty())?;
    let mut parts = path.strip_prefix("/").map_err(std::io::Error::other)?.iter().peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { ON_THE_WAY } else { LAST };
        open = rustix::fs::openat(&open, part, flags, Mode::empty())?;
    }
    Ok(open)
}

/// A folder to be read.
struct Job {
    path: Vec<u8>,
    /// What `lstat` said of it; the root is nobody's node.
    stat: Option<Stat>,
    rules: Option<Arc<Rules>>,
}

struct Queue {
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    jobs: Vec<Job>,
    working: usize,
    error: Option<Error>,
}

impl Queue {
    /// The next folder; `None` when all are read, or one could not be.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.error.is_some() {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                state.working += 1;
                return Some(job);
            }
            if state.working == 0 {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, result: Result<Vec<Job>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.working -= 1;
        match result {
            Ok(jobs) => state.jobs.extend(jobs),
            Err(error) => drop(state.error.get_or_insert(error)),
        }
        self.more.notify_all();
    }
}

struct Walker<'a, V> {
    walk: &'a Walk<'a>,
    root: BorrowedFd<'a>,
    queue: &'a Queue,
    visit: &'a V,
}

impl<V> Walker<'_, V> {
    fn run<T>(&self) -> Vec<T>
    where
        V: Fn(&Visited<'_>) -> Result<Option<T>>,
    {
        let mut found = Vec::new();
        while let Some(job) = self.queue.next() {
            // Were a visit to panic, the others would wait for this job for ever.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.folder(&job, &mut found)));
            match result {
                Ok(result) => self.queue.done(result),
                Err(panic) => {
                    self.queue.done(Err(Error::failed("a walk over files ended unexpectedly")));
                    std::panic::resume_unwind(panic);
                }
            }
        }
        found
    }

    /// Reads one folder, visits what is in it and then itself, and returns the folders in it.
    fn folder<T>(&self, job: &Job, found: &mut Vec<T>) -> Result<Vec<Job>>
    where
        V: Fn(&Visited<'_>) -> Result<Option<T>>,
    {
        self.walk.cancel.check()?;
        if let Some(enter) = self.walk.enter {
            enter(&job.path)?;
        }
        let mut dir = Dir::new(self.open(&job.path)?).map_err(|errno| unreadable(&job.path, errno))?;
        let mut names = Vec::new();
        while let Some(entry) = dir.read() {
            let entry = entry.map_err(|errno| unreadable(&job.path, errno))?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        let folder = dir.fd().map_err(|errno| unreadable(&job.path, errno))?;
        let rules = self.rules(job, folder, &names)?;
        let mut folders = Vec::new();
        let mut path = job.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        let base = path.len();
        for name in &names {
            path.truncate(base);
            path.extend_from_slice(name);
            if (self.walk.leave_out)(&path) {
                continue;
            }
            let stat = rustix::fs::statat(folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| unreadable(&path, errno))?;
            let file_type = FileType::from_raw_mode(stat.st_mode);
            let is_dir = file_type == FileType::Directory;
            if rules.as_ref().is_some_and(|rules| rules.excludes(&path, is_dir)) {
                continue;
            }
            let kind = match file_type {
                FileType::Directory => {
                    folders.push(Job { path: path.clone(), stat: Some(stat), rules: rules.clone() });
                    continue;
                }
                FileType::RegularFile => NodeKind::File,
                FileType::Symlink => NodeKind::Symlink,
                _ => NodeKind::Special,
            };
            found.extend((self.visit)(&Visited { path: &path, folder, name, kind, stat: &stat })?);
        }
        if let Some(stat) = &job.stat {
            let kind = NodeKind::Dir { empty: names.is_empty() };
            let name = job.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            found.extend((self.visit)(&Visited { path: &job.path, folder, name, kind, stat })?);
        }
        Ok(folders)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        let path_or_dot = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.root, path_or_dot, flags, Mode::empty()).map_err(|errno| unreadable(path, errno))
    }

    /// The rules that hold in a folder: those from above and its own.
    fn rules(&self, job: &Job, folder: BorrowedFd<'_>, names: &[Vec<u8>]) -> Result<Option<Arc<Rules>>> {
        if self.walk.ignore_files == IgnoreFiles::Keep || !names.iter().any(|name| name == b".gitignore") {
            return Ok(job.rules.clone());
        }
        // Like git: a link is not followed.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let shown = || [job.path.as_slice(), b"/.gitignore"].concat();
        let file = match rustix::fs::openat(folder, ".gitignore", flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(job.rules.clone()),
            Err(errno) => return Err(unreadable(&shown(), errno)),
        };
        if !file.metadata().is_ok_and(|status| status.is_file()) {
            return Ok(job.rules.clone());
        }
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut { file }, &mut text)
            .map_err(|error| Error::failed(format_args!("cannot read `{}`", Shown(&shown()))).caused_by(error))?;
        let own = gitignore::Rules::read(&text);
        let base = if job.path.is_empty() { 0 } else { job.path.len() + 1 };
        Ok(Some(Arc::new(Rules { own, base, above: job.rules.clone() })))
    }
}

/// Whether `.gitignore` files inside a folder will leave out what is made at a path below it. What cannot be read rules nothing
/// out: whoever walks there tells.
pub fn will_be_ignored(root: &Path, path: &[u8]) -> bool {
    let (mut rules, mut base): (Option<Arc<Rules>>, _) = (None, 0);
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for end in slashes.chain([path.len()]) {
        let folder = root.join(OsStr::from_bytes(&path[..base]));
        let file = folder.join(".gitignore");
        let is_file = std::fs::symlink_metadata(&file).is_ok_and(|status| status.is_file());
        if is_file && let Ok(text) = std::fs::read(&file) {
            rules = Some(Arc::new(Rules { own: gitignore::Rules::read(&text), base, above: rules.take() }));
        }
        if rules.as_ref().is_some_and(|rules| rules.excludes(&path[..end], end < path.len())) {
            return true;
        }
        base = end + 1;
    }
    false
}

/// The rules of one `.gitignore`, and those of the folders above.
struct Rules {
    own: gitignore::Rules,
    /// Length of the path of the folder that they stand in, with its slash.
    base: usize,
    above: Option<Arc<Rules>>,
}

impl Rules {
    /// The nearest rule that says anything decides.
    fn excludes(&self, path: &[u8], is_dir: bool) -> bool {
        let mut next = Some(self);
        while let Some(rules) = next {
            if let Some(decided) = rules.own.decide(&path[rules.base..], is_dir) {
                return decided;
            }
            next = rules.above.as_deref();
        }
        false
    }
}

fn unreadable(path: &[u8], errno: Errno) -> Error {
    let shown = if path.is_empty() { &b"."[..] } else { path };
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
            Error::new(Class::Changed, format_args!("`{}` changed while files were read", Shown(shown)))
                .hint("make sure that nothing writes to these folders meanwhile, and try again")
        }
        errno => from_io(format_args!("cannot read `{}`", Shown(shown)), errno.into()),
    }
}
