//! Artifacts through the `buildkite-agent` program on `PATH`, the stable way to Buildkite's own storage.
//!
//! The agent knows files, not streams: an upload is written to a file that carries the artifact's name in a folder of its
//! own, a download lands in such a folder, is checked against the recorded SHA-256 and is removed as soon as it is open.
//! Facts about the agent that the code relies on, each tried with 3.58.0:
//!
//! - The stored path is the path relative to the working folder; patterns are cut at `;` and trimmed.
//! - An upload that matches nothing succeeds. So success counts only with a sign that the file went up.
//! - A search that finds nothing fails, like one that could not ask; `--allow-empty-results` (3.43) tells them apart.
//! - Failing requests are repeated for about 50 s, refused ones too.
//! - `%T`, the recorded SHA-256, is newer than 3.58; before, `artifact shasum --sha256` (3.35) tells it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::child::{self, Finished};
use super::layout::{self, Seen};
use super::secrets::Secrets;
use super::{Download, Pick, Transport, Upload};
use crate::artifact::ArtifactName;
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{Class, Error, IoContext, Result};
use crate::text::Shown;

const PROGRAM: &str = "buildkite-agent";

/// Time for a search: the agent's own ten attempts, five seconds apart, and a little.
const SEARCH_LIMIT: Duration = Duration::from_secs(60);

/// Lines of the agent's output that an error repeats.
const TAIL: usize = 10;

/// One line for each upload found: SHA-256, size, job, path. The path comes last, since it may contain anything.
const FORMAT: &str = "%T\t%s\t%j\t%p\n";

/// The transport over the agent.
#[derive(Clone)]
pub struct Agent {
    shared: Arc<Shared>,
}

struct Shared {
    program: PathBuf,
    env: Env,
    secrets: Secrets,
    cancel: Cancel,
    search_limit: Duration,
}

impl Agent {
    /// Finds the agent on the environment's `PATH`.
    pub fn new(env: &Env, cancel: Cancel) -> Result<Self> {
        Self::with_search_limit(env, cancel, SEARCH_LIMIT)
    }

    /// As [`Agent::new`], with another limit on the time of a search.
    pub fn with_search_limit(env: &Env, cancel: Cancel, search_limit: Duration) -> Result<Self> {
        let program = child::find(PROGRAM, env).ok_or_else(|| {
            Error::usage(format_args!("`{PROGRAM}` is not on PATH, and artifacts are to go through it"))
                .hint("run inside a Buildkite job, or set MONOFO_ARTIFACTS to a folder, s3:// or gs:// location")
        })?;
        let shared = Shared { program, env: env.clone(), secrets: Secrets::of(env), cancel, search_limit };
        Ok(Agent { shared: Arc::new(shared) })
    }
}

impl Transport for Agent {
    fn place(&self) -> String {
        "Buildkite artifacts".to_owned()
    }

    fn upload(&self, name: &ArtifactName) -> Result<Box<dyn Upload>> {
        check_name(name)?;
        self.shared.cancel.check()?;
        let folder = Scratch::new(&self.shared.env)?;
        let path = folder.path().join(name.as_str());
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        let file = made.and_then(|()| OpenOptions::new().write(true).create_new(true).open(&path));
        let file = file.map_err(|error| no_scratch(&path, error))?;
        Ok(Box::new(AgentUpload { shared: Arc::clone(&self.shared), name: name.clone(), file, path, folder }))
    }

    fn download(&self, name: &ArtifactName, pick: &Pick) -> Result<Download> {
        check_name(name)?;
        let rows = self.shared.search(name, pick)?;
        if rows.is_empty() {
            return Err(layout::not_there(name, pick, &self.place(), &Seen::default()));
        }
        let folder = Scratch::new(&self.shared.env)?;
        let mut arguments = vec!["artifact".into(), "download".into()];
        arguments.extend(scope(pick));
        arguments.extend([name.as_str().into(), folder.path().into()]);
        let done = self.shared.run(&arguments, folder.path(), None)?;
        let path = folder.path().join(name.as_str());
        let opened = if done.success() { File::open(&path) } else { Err(ErrorKind::Other.into()) };
        let Ok(mut file) = opened else {
            return Err(self.shared.failed("downloading", name, &done));
        };
        let size = file.metadata().or_fail(|| format!("cannot read `{}`", Shown::path(&path)))?.len();
        let row = self.shared.verify(name, pick, &rows, &mut file, size)?;
        let from = if row.job.is_empty() { "Buildkite".to_owned() } else { format!("job {}", row.job) };
        Ok(Download { reader: Box::new(file), size: Some(size), from })
    }
}

/// An upload of the agent as its search reports it.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// Recorded SHA-256 in hexadecimal; empty when none was recorded or the agent cannot tell.
    sha256: String,
    size: Option<u64>,
    job: String,
}

impl Shared {
    fn run(&self, arguments: &[OsString], folder: &Path, limit: Option<Duration>) -> Result<Finished> {
        // Settings that change what is printed; the log of HTTP requests would show the token.
        let quiet = [
            ("BUILDKITE_AGENT_LOG_LEVEL", "notice"),
            ("BUILDKITE_AGENT_DEBUG", "false"),
            ("BUILDKITE_AGENT_DEBUG_HTTP", "false"),
            ("BUILDKITE_AGENT_NO_COLOR", "true"),
        ];
        let env = Env::of(self.env.iter().chain(quiet));
        let mut done = child::run(&self.program, arguments, folder, &env, limit, &self.cancel)?;
        done.stderr = self.secrets.redact(&plain(&done.stderr));
        Ok(done)
    }

    /// Finished uploads of just this name.
    fn search(&self, name: &ArtifactName, pick: &Pick) -> Result<Vec<Row>> {
        let ask = |flag: &[&str]| {
            let mut arguments: Vec<OsString> = vec!["artifact".into(), "search".into()];
            arguments.extend(flag.iter().map(Into::into));
            arguments.extend(["--format".into(), FORMAT.into()]);
            arguments.extend(scope(pick));
            arguments.push(name.as_str().into());
            self.run(&arguments, Path::new("/"), Some(self.search_limit))
        };
        let mut done = ask(&["--allow-empty-results"])?;
        if !done.success() && done.stderr.contains("flag provided but not defined") {
            done = ask(&[])?;
            if done.stderr.to_lowercase().contains("no matches found") {
                return Ok(Vec::new());
            }
        }
        if !done.success() {
            return Err(self.failed("searching for", name, &done));
        }
        let rows: Vec<_> = done.stdout.lines().filter_map(|line| row(line, name)).collect();
        tracing::debug!(%name, found = rows.len(), "searched for an artifact");
        Ok(rows)
    }

    /// Checks a downloaded file against what was recorded when it was uploaded, and returns which upload it is.
    ///
    /// Several jobs may have stored the name, and the server chooses between them: any of the recorded digests will do.
    fn verify<'r>(
        &self,
        name: &ArtifactName,
        pick: &Pick,
        rows: &'r [Row],
        file: &mut File,
        size: u64,
    ) -> Result<&'r Row> {
        let damaged = |why: String| {
            Error::damaged(format_args!("artifact `{name}` arrived damaged: {why}"))
                .hint("download it again; if it stays damaged, run the step that uploads it again")
        };
        let mut known: Vec<(&Row, String)> =
            rows.iter().filter(|row| !row.sha256.is_empty()).map(|row| (row, row.sha256.clone())).collect();
        if known.is_empty()
            && let (Some(row), Some(digest)) =
                (rows.iter().find(|row| row.size == Some(size)), self.shasum(name, pick)?)
        {
            known.push((row, digest));
        }
        if !known.is_empty() {
            let digest = self.digest(file).map_err(|error| error.context(format_args!("checking `{name}`")))?;
            if let Some((row, _)) = known.iter().find(|(_, recorded)| recorded.eq_ignore_ascii_case(&digest)) {
                return Ok(row);
            }
            if known.len() == rows.len() {
                return Err(damaged(format!("its SHA-256 {digest} is not the recorded one")));
            }
        }
        let unrecorded = rows.iter().find(|row| row.sha256.is_empty() && row.size.is_none_or(|known| known == size));
        tracing::debug!(%name, "no SHA-256 was recorded for this artifact, only its size was compared");
        unrecorded.ok_or_else(|| damaged(format!("it has {size} bytes, which no upload of it had")))
    }

    /// The recorded SHA-256 by the agent's other command, when search cannot tell it.
    fn shasum(&self, name: &ArtifactName, pick: &Pick) -> Result<Option<String>> {
        let mut arguments: Vec<OsString> = vec!["artifact".into(), "shasum".into(), "--sha256".into()];
        arguments.extend(scope(pick));
        arguments.push(name.as_str().into());
        let done = self.run(&arguments, Path::new("/"), Some(self.search_limit))?;
        Ok(Some(done.stdout.trim()).filter(|text| done.success() && is_sha256(text)).map(Into::into))
    }

    fn digest(&self, file: &mut File) -> Result<String> {
        let mut hash = Sha256::new();
        let mut block = vec![0; 1 << 20];
        loop {
            self.cancel.check()?;
            match file.read(&mut block).or_fail(|| "cannot read the downloaded file")? {
                0 => break,
                count => hash.update(&block[..count]),
            }
        }
        file.rewind().or_fail(|| "cannot read the downloaded file")?;
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The error for an agent that is content although nothing was stored.
    fn nothing_uploaded(&self, name: &ArtifactName, done: &Finished) -> Error {
        let said = self.said(done);
        Error::new(
            Class::Unavailable,
            format_args!("uploading `{name}`: `{PROGRAM}` reported success but uploaded nothing; {said}"),
        )
        .hint("the agent did not find the file as an artifact: check its version and its settings for artifact paths")
    }

    /// The end of what the agent said.
    fn said(&self, done: &Finished) -> String {
        let said = self.secrets.redact(&done.tail(TAIL));
        if said.is_empty() { "it said nothing".to_owned() } else { format!("it said:\n{said}") }
    }

    /// The error for an agent that could not do it, with the end of what it said.
    fn failed(&self, doing: &str, name: &ArtifactName, done: &Finished) -> Error {
        let said = self.said(done);
        Error::new(Class::Unavailable, format_args!("{doing} `{name}`: `{PROGRAM}` {}; {said}", done.ending())).hint(
            "check BUILDKITE_AGENT_ACCESS_TOKEN, BUILDKITE_AGENT_ENDPOINT and the network, or that the job still runs",
        )
    }
}

/// An upload being written to a file. Dropping it removes the file.
struct AgentUpload {
    shared: Arc<Shared>,
    name: ArtifactName,
    file: File,
    path: PathBuf,
    folder: Scratch,
}

impl Write for AgentUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.cancel.check()?;
        match self.file.write(bytes) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(no_scratch(&self.path, error).into()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for AgentUpload {
    fn finish(self: Box<Self>) -> Result<()> {
        let arguments = ["artifact".into(), "upload".into(), self.name.as_str().into()];
        let done = self.shared.run(&arguments, self.folder.path(), None)?;
        if !done.success() {
            return Err(self.shared.failed("uploading", &self.name, &done));
        }
        let signs = ["Artifact uploads completed successfully", "Successfully uploaded artifact"];
        if signs.iter().any(|sign| done.stderr.contains(sign)) && !done.stderr.contains("No files matched") {
            return Ok(());
        }
        tracing::debug!(name = %self.name, "the agent did not say that it uploaded the artifact, asking for it");
        let (build, job) =
            (super::build(&self.shared.env), self.shared.env.text("BUILDKITE_JOB_ID").unwrap_or_default());
        let rows = self.shared.search(&self.name, &Pick { build, step: None })?;
        if rows.iter().any(|row| row.job == job) {
            return Ok(());
        }
        Err(self.shared.nothing_uploaded(&self.name, &done))
    }
}

/// `--build` and `--step`.
fn scope(pick: &Pick) -> Vec<OsString> {
    let mut arguments = vec!["--build".into(), pick.build.as_str().into()];
    if let Some(step) = &pick.step {
        arguments.extend(["--step".into(), step.as_str().into()]);
    }
    arguments
}

/// Names that are fine elsewhere but that the agent would read as something else.
fn check_name(name: &ArtifactName) -> Result<()> {
    let text = name.as_str();
    if text.trim() != text || text.starts_with('~') {
        return Err(Error::usage(format_args!(
            "artifact name `{name}` does not survive the agent's reading of patterns"
        ))
        .hint("use a name that neither begins or ends with a blank nor begins with `~`"));
    }
    Ok(())
}

/// One line of a search, if it is about just this name: a server may match more.
fn row(line: &str, name: &ArtifactName) -> Option<Row> {
    let mut fields = line.splitn(4, '\t');
    let (sha256, size, job, path) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let sha256 = if is_sha256(sha256) { sha256.to_owned() } else { String::new() };
    (path == name.as_str()).then(|| Row { sha256, size: size.parse().ok(), job: job.to_owned() })
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Text without colours and other escape sequences.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        if rest.next() == Some('[') {
            let _ = rest.by_ref().find(char::is_ascii_alphabetic);
        }
    }
    out
}

/// The folder for files that this job's processes hand to the agent. A `pre-exit` hook removes what a killed one left.
pub fn job_scratch(env: &Env) -> PathBuf {
    let temporary = env.path("TMPDIR").unwrap_or_else(|| "/tmp".into());
    let job = env.text("BUILDKITE_JOB_ID").map_or_else(|| "local".to_owned(), layout::part);
    temporary.join(format!("monofo-job-{job}"))
}

/// Removes [`job_scratch`] with everything in it; a folder that is not there or not ours is left alone.
pub fn remove_job_scratch(env: &Env) -> Result<()> {
    let folder = job_scratch(env);
    if !is_ours(&folder) {
        return Ok(());
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.or_fail(|| format!("cannot remove `{}`", Shown::path(&folder))),
    }
}

/// Whether this is a folder (no link to one) of this user: others may write to the same temporary folder.
fn is_ours(folder: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(folder).is_ok_and(|about| about.is_dir() && about.uid() == user)
}

/// A fresh folder inside [`job_scratch`], removed with what is in it when dropped.
struct Scratch {
    folder: Option<TempDir>,
    parent: PathBuf,
}

impl Scratch {
    fn new(env: &Env) -> Result<Self> {
        let parent = job_scratch(env);
        // Another process that drops the last folder inside removes the parent too: then make it again.
        for _ in 0..5 {
            match DirBuilder::new().recursive(false).mode(0o700).create(&parent) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(no_scratch(&parent, error)),
                _ => {}
            }
            if fs::symlink_metadata(&parent).is_ok() && !is_ours(&parent) {
                return Err(Error::refused(format_args!("`{}` belongs to somebody else", Shown::path(&parent)))
                    .hint("remove it, or point TMPDIR at a folder of this user"));
            }
            // The agent merges the last part of a destination with an equal first part of the artifact's path: this
            // prefix is one that no artifact has.
            match tempfile::Builder::new().prefix("monofo-transfer-").tempdir_in(&parent) {
                Ok(folder) => return Ok(Scratch { folder: Some(folder), parent }),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(no_scratch(&parent, error)),
            }
        }
        Err(no_scratch(&parent, ErrorKind::NotFound.into()))
    }

    fn path(&self) -> &Path {
        self.folder.as_ref().map_or(&self.parent, TempDir::path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.folder.take());
        // Succeeds for the last one only.
        let _ = fs::remove_dir(&self.parent);
    }
}

fn no_scratch(path: &Path, error: io::Error) -> Error {
    Error::failed(format_args!("cannot write `{}`", Shown::path(path)))
        .caused_by(error)
        .hint("artifacts pass through a temporary file: check TMPDIR and the space there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_search_are_those_of_the_very_name() {
        let name = ArtifactName::new("out/a b.tar").unwrap();
        let digest = "a".repeat(64);
        let good = format!("{digest}\t12\tjob-1\tout/a b.tar");
        let expected = Row { sha256: digest, size: Some(12), job: "job-1".into() };
        assert_eq!(row(&good, &name), Some(expected));
        assert_eq!(row("%T\t12\tj\tout/a b.tar", &name).unwrap().sha256, "");
        assert_eq!(row("\t12\tj\tother/out/a b.tar", &name), None);
        assert_eq!(row("log line", &name), None);
    }

    #[test]
    fn colours_are_taken_out() {
        assert_eq!(plain("\u{1b}[38;5;48mINFO\u{1b}[0m a\n"), "INFO a\n");
    }

    #[test]
    fn scratch_folders_go_and_leave_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let env = Env::of([("TMPDIR", temp.path().to_str().unwrap()), ("BUILDKITE_JOB_ID", "../j")]);
        assert_eq!(job_scratch(&env), temp.path().join("monofo-job-%2E.%2Fj"));
        let (one, two) = (Scratch::new(&env).unwrap(), Scratch::new(&env).unwrap());
        fs::write(one.path().join("x"), "x").unwrap();
        drop(one);
        assert!(two.path().exists());
        std::mem::forget(two);
        remove_job_scratch(&env).unwrap();
        remove_job_scratch(&env).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_scratch_folder_that_is_a_link_is_refused_and_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let env = Env::of([("TMPDIR", temp.path().to_str().unwrap())]);
        fs::create_dir(temp.path().join("target")).unwrap();
        std::os::unix::fs::symlink("target", job_scratch(&env)).unwrap();
        assert_eq!(Scratch::new(&env).err().unwrap().class(), Class::Refused);
        remove_job_scratch(&env).unwrap();
        assert!(temp.path().join("target").exists());
    }
}
