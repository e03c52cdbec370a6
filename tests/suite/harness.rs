//! A sandbox for the real binary, and a walker that shares no code with it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// A folder of its own for one test: `work` is where commands run, `artifacts` where they upload to.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("monofo-test-").tempdir().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        Sandbox { folder }
    }

    /// A path in the sandbox.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// A path in the folder where commands run.
    pub fn work(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path("work").join(relative)
    }

    /// Writes a file below `work`, making the folders above it.
    pub fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.work(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A command line; it runs when it is asked for its result.
    pub fn monofo<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Run<'_> {
        Run {
            sandbox: self,
            args: args.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
            stdin: Vec::new(),
            envs: Vec::new(),
            folder: None,
            most: Duration::from_secs(120),
        }
    }

    /// Every artifact that has been published, by its path below the artifact folder.
    pub fn artifacts(&self) -> Vec<PathBuf> {
        let root = self.path("artifacts");
        let mut found = Vec::new();
        let mut folders = vec![root];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    /// Asserts that a tree below the sandbox holds exactly these paths.
    pub fn assert_paths(&self, folder: &str, expected: &[&str]) {
        let paths: Vec<String> =
            walk(&self.path(folder)).into_keys().map(|path| String::from_utf8_lossy(&path).into_owned()).collect();
        assert_eq!(paths, expected, "what lies below `{folder}`");
    }
}

/// A command to be run.
pub struct Run<'a> {
    sandbox: &'a Sandbox,
    args: Vec<OsString>,
    stdin: Vec<u8>,
    envs: Vec<(String, String)>,
    folder: Option<PathBuf>,
    most: Duration,
}

impl Run<'_> {
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets a variable for the command.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs in this folder of the sandbox instead of `work`.
    pub fn within(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(self.sandbox.path(folder));
        self
    }

    /// Kills the command, and fails, when it takes longer.
    pub fn at_most(mut self, seconds: u64) -> Self {
        self.most = Duration::from_secs(seconds);
        self
    }

    /// Runs, in a clean environment, and insists on this exit status.
    #[track_caller]
    pub fn exits(self, status: i32) -> Ran {
        let sandbox = self.sandbox;
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_monofo"))
            .args(&self.args)
            .current_dir(self.folder.clone().unwrap_or_else(|| sandbox.path("work")))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", sandbox.path("home"))
            .env("MONOFO_ARTIFACTS", format!("file://{}", sandbox.path("artifacts").display()))
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .write_stdin(self.stdin.clone())
            .timeout(self.most)
            .output()
            .unwrap();
        let ran = Ran {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(
            output.status.code() == Some(status),
            "expected exit status {status}, got {}\n{}",
            output.status,
            self.told(&ran)
        );
        assert!(!ran.stderr.contains("panicked"), "{}", self.told(&ran));
        ran
    }

    /// The command, the tree and both streams.
    fn told(&self, ran: &Ran) -> String {
        let args: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        let mut told = format!("$ monofo {}\n--- tree\n", args.join(" "));
        for (path, node) in walk(&self.sandbox.path("")).iter().take(200) {
            told.push_str(&format!("{:?} {node:?}\n", String::from_utf8_lossy(path)));
        }
        told.push_str(&format!("--- stdout\n{}\n--- stderr\n{}", ran.stdout, ran.stderr));
        told
    }
}

/// What a command said.
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Asserts that standard error holds this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "expected `{text}` in:\n{}", self.stderr);
        self
    }

    /// Asserts that standard output holds this.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "expected `{text}` in:\n{}", self.stdout);
        self
    }

    /// Asserts that standard error does not hold this.
    #[track_caller]
    pub fn does_not_say(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "did not expect `{text}` in:\n{}", self.stderr);
        self
    }
}

/// What lies at a path.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// `d`, `f`, `l` or `?`.
    pub kind: char,
    pub mode: u32,
    pub mtime: i64,
    pub mtime_nanos: i64,
    /// Text of a link.
    pub text: Vec<u8>,
    pub size: u64,
    pub digest: [u8; 32],
    /// The first path of the same file, when it has several below the root.
    pub same_as: Option<Vec<u8>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node { kind, mode, mtime, size, .. } = self;
        write!(
            f,
            "{kind} {mode:04o} {mtime}.{:09} {size} {:02x}{:02x}",
            self.mtime_nanos, self.digest[0], self.digest[1]
        )?;
        if self.kind == 'l' {
            write!(f, " -> {:?}", String::from_utf8_lossy(&self.text))?;
        }
        if let Some(first) = &self.same_as {
            write!(f, " = {:?}", String::from_utf8_lossy(first))?;
        }
        Ok(())
    }
}

/// Everything below a folder, by path. Follows nothing.
pub fn walk(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut nodes = BTreeMap::new();
    let mut first_names: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut folders = vec![Vec::new()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(join(root, &folder)) else { continue };
        for entry in entries {
            let name = entry.unwrap().file_name().into_vec();
            let path = if folder.is_empty() { name } else { [folder.as_slice(), b"/", &name].concat() };
            let full = join(root, &path);
            // It may have gone: some tests look while others write.
            let Ok(meta) = fs::symlink_metadata(&full) else { continue };
            let kind = match meta.file_type() {
                t if t.is_dir() => 'd',
                t if t.is_file() => 'f',
                t if t.is_symlink() => 'l',
                _ => '?',
            };
            if kind == 'd' {
                folders.push(path.clone());
            }
            let content =
                if kind == 'f' && meta.len() < 1 << 30 { fs::read(&full).unwrap_or_default() } else { vec![] };
            nodes.insert(
                path,
                Node {
                    kind,
                    // A link's mode is whatever the system says.
                    mode: if kind == 'l' { 0o777 } else { meta.mode() & 0o7777 },
                    mtime: meta.mtime(),
                    mtime_nanos: meta.mtime_nsec(),
                    text: if kind == 'l' { fs::read_link(&full).unwrap().into_os_string().into_vec() } else { vec![] },
                    size: if kind == 'f' { meta.len() } else { 0 },
                    digest: Sha256::digest(&content).into(),
                    same_as: None,
                },
            );
        }
    }
    // A second pass in the order of names, so that groups do not depend on the order of reading folders.
    for (path, node) in &mut nodes {
        let meta = match fs::symlink_metadata(join(root, path)) {
            Ok(meta) if node.kind == 'f' && meta.nlink() > 1 => meta,
            _ => continue,
        };
        match first_names.get(&(meta.dev(), meta.ino())) {
            Some(first) => node.same_as = Some(first.clone()),
            None => {
                first_names.insert((meta.dev(), meta.ino()), path.clone());
            }
        }
    }
    nodes
}

/// Asserts that two trees are the same, and names the first differences.
#[track_caller]
pub fn assert_same(expected: &BTreeMap<Vec<u8>, Node>, got: &BTreeMap<Vec<u8>, Node>, what: &str) {
    if expected == got {
        return;
    }
    let mut told = format!("{what}: trees differ\n");
    let paths: std::collections::BTreeSet<_> = expected.keys().chain(got.keys()).collect();
    for path in paths.into_iter().filter(|path| expected.get(*path) != got.get(*path)).take(10) {
        told.push_str(&format!(
            "{}\n  expected {:?}\n  got      {:?}\n",
            shown(path),
            expected.get(path),
            got.get(path)
        ));
    }
    panic!("{told}");
}

/// A path joined to a folder, as bytes.
pub fn join(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path))
}

/// Sets mode (not of links) and modification time of something, without following it.
pub fn set(path: &Path, mode: Option<u32>, mtime: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    if let Some(mode) = mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    rustix::fs::utimensat(
        CWD,
        path,
        &Timestamps { last_access: time, last_modification: time },
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

/// An address where nobody listens: no test's server is ever given this port.
pub fn nobody_listens() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

/// Whether permissions do not bind this process, so that unreadable files can be read.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
