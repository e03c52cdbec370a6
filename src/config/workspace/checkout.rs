//! Which commit a checkout is at, told from git's own files: no `git` is needed where keys are computed.
//!
//! A folder is a checkout when it holds `.git`: a folder, or a file that names one (worktrees, submodules). `HEAD` in there is
//! a commit, or the name of a branch, whose commit lies in a file of that name or in `packed-refs`. Of a worktree these lie in
//! the folder that its `commondir` names. Branches kept in a reftable are not read.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Class, Error, Result};
use crate::text::Shown;

/// Longer than any file of this kind but `packed-refs`.
const LONGEST: u64 = 64 << 10;

/// A `packed-refs` of a million branches fits.
const LONGEST_PACKED: u64 = 256 << 20;

/// Names of names that are followed, as git does.
const DEEPEST: usize = 5;

/// The commit that a folder is at; `None` for a folder that is no checkout itself. What is one and cannot be read is an error of
/// class `Workspace`.
pub fn head(folder: &Path) -> Result<Option<String>> {
    let about = |error: Error| {
        error
            .with_class(Class::Workspace)
            .context(format_args!("cannot tell which commit `{}` is at", Shown::path(folder)))
            .hint("see what `git rev-parse HEAD` says there")
    };
    let dot_git = folder.join(".git");
    match std::fs::metadata(&dot_git) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(about(Error::failed("`.git` cannot be read").caused_by(error))),
        Ok(there) if there.is_dir() => commit(&dot_git).map(Some).map_err(about),
        Ok(_) => named_by(&dot_git).and_then(|folder| commit(&folder)).map(Some).map_err(about),
    }
}

/// The folder that a `.git` file names.
fn named_by(file: &Path) -> Result<PathBuf> {
    let text = read(file, LONGEST)?.ok_or_else(|| Error::failed("`.git` is gone"))?;
    let Some(named) = text.strip_prefix(b"gitdir: ") else {
        return Err(Error::failed("the file `.git` names no folder"));
    };
    Ok(beside(file, named))
}

/// A path in a file, relative to where the file lies.
fn beside(file: &Path, text: &[u8]) -> PathBuf {
    let named = Path::new(std::ffi::OsStr::from_bytes(text.trim_ascii_end()));
    file.parent().unwrap_or(Path::new("/")).join(named)
}

/// The commit that `HEAD` leads to.
fn commit(git: &Path) -> Result<String> {
    let common = match read(&git.join("commondir"), LONGEST)? {
        Some(named) => beside(&git.join("commondir"), &named),
        None => git.to_owned(),
    };
    let mut text = read(&git.join("HEAD"), LONGEST)?.ok_or_else(|| Error::failed("there is no `HEAD`"))?;
    for _ in 0..DEEPEST {
        if let Some(commit) = is_commit(&text) {
            return Ok(commit);
        }
        let name = text.strip_prefix(b"ref:").map(<[u8]>::trim_ascii).unwrap_or_default().to_owned();
        if name == b"refs/heads/.invalid" {
            return Err(Error::failed("its branches are kept in a reftable, which is not read here"));
        }
        if !is_ref(&name) {
            return Err(Error::failed("`HEAD` names neither a commit nor a branch"));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(&name));
        let found = match read(&git.join(path), LONGEST)? {
            None => read(&common.join(path), LONGEST)?,
            found => found,
        };
        text = match found {
            Some(text) => text,
            None => packed(&common, &name)?
                .ok_or_else(|| Error::failed(format_args!("`{}` has no commit yet", Shown(&name))))?,
        };
    }
    Err(Error::failed("`HEAD` leads from name to name"))
}

/// The commit of a branch in `packed-refs`.
fn packed(common: &Path, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(text) = read(&common.join("packed-refs"), LONGEST_PACKED)? else { return Ok(None) };
    let of_name = |line: &[u8]| {
        let (commit, rest) = line.split_at_checked(line.iter().position(|byte| *byte == b' ')?)?;
        (rest.trim_ascii() == name).then(|| commit.to_vec())
    };
    Ok(text.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#")).find_map(of_name))
}

/// A commit: all its digits, of SHA-1 or SHA-256.
fn is_commit(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text.trim_ascii_end()).ok()?;
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits && matches!(text.len(), 40 | 64)).then(|| text.to_owned())
}

/// Whether a name is that of a branch or the like, which leads nowhere else.
fn is_ref(name: &[u8]) -> bool {
    let odd = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
    name.starts_with(b"refs/") && !name.split(|byte| *byte == b'/').any(odd)
}

/// A file, if it is there. A folder of its name is none.
fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let shown = || Shown(path.file_name().unwrap_or_default().as_bytes()).to_string();
    match std::fs::metadata(path) {
        Ok(there) if there.is_file() && there.len() <= most => {}
        Ok(there) if there.is_dir() => return Ok(None),
        Ok(_) => return Err(Error::failed(format_args!("`{}` is not what git writes", shown()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(Error::failed(format_args!("`{}` cannot be read", shown())).caused_by(error)),
    }
    let read = std::fs::read(path);
    read.map(Some).map_err(|error| Error::failed(format_args!("`{}` cannot be read", shown())).caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::super::tests::folder as checkout;
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    #[test]
    fn a_commit_is_found_wherever_git_keeps_it() {
        let head = ("c/.git/HEAD", "ref: refs/heads/main\n");
        let (one, two) = (format!("{ONE}\n"), format!("# pack-refs with: peeled\n{TWO} refs/heads/main\n^{ONE}\n"));
        for (files, commit) in [
            (&[("c/x", "")][..], None),
            (&[("c/.git/HEAD", one.as_str())], Some(ONE)),
            (&[head, ("c/.git/refs/heads/main", &one)], Some(ONE)),
            (&[head, ("c/.git/packed-refs", &two)], Some(TWO)),
            (&[head, ("c/.git/refs/heads/main", &one), ("c/.git/packed-refs", &two)], Some(ONE)),
            // A branch `main/x` keeps a folder of the name `main` only in another repository; an empty one may stay.
            (&[head, ("c/.git/refs/heads/main/.keep", ""), ("c/.git/packed-refs", &two)], Some(TWO)),
            (&[("c/.git", "gitdir: ../store\n"), ("store/HEAD", &one)], Some(ONE)),
            (
                &[
                    ("c/.git", "gitdir: ../store/worktrees/c\n"),
                    ("store/worktrees/c/HEAD", "ref: refs/heads/main\n"),
                    ("store/worktrees/c/commondir", "../..\n"),
                    ("store/refs/heads/main", &one),
                ],
                Some(ONE),
            ),
        ] {
            let folder = checkout(files);
            assert_eq!(super::head(&folder.path().join("c")).unwrap().as_deref(), commit, "{files:?}");
        }
    }

    #[test]
    fn what_is_a_checkout_and_cannot_be_read_is_an_error() {
        for (files, words) in [
            (&[("c/.git/config", "")][..], "there is no `HEAD`"),
            (&[("c/.git", "nonsense")], "names no folder"),
            (&[("c/.git/HEAD", "nonsense")], "neither a commit nor a branch"),
            (&[("c/.git/HEAD", "ref: refs/../../secret")], "neither a commit nor a branch"),
            (&[("c/.git/HEAD", "ref: refs/heads/main")], "no commit yet"),
            (&[("c/.git/HEAD", "ref: refs/heads/.invalid")], "reftable"),
            (&[("c/.git/HEAD", "ref: refs/heads/a"), ("c/.git/refs/heads/a", "ref: refs/heads/a")], "name to name"),
        ] {
            let folder = checkout(files);
            let error = head(&folder.path().join("c")).unwrap_err();
            assert_eq!(error.class(), Class::Workspace);
            assert!(error.chain().contains(words), "{}", error.chain());
            assert!(error.next_step().is_some());
        }
    }
}
