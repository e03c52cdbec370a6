//! Folders below a transport's root, opened one part after the other: no link inside the root is ever followed.
//!
//! The root itself may be reached through links; it is what the user named.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Class, Error, Result, Why};
use crate::location::create_folder;
use crate::text::Shown;

/// An open folder, and the path that messages call it.
#[derive(Debug)]
pub(super) struct Held {
    folder: OwnedFd,
    path: PathBuf,
    setting: Setting,
}

/// What names the root, for hints: a variable, or words.
pub(super) type Setting = &'static str;

/// The setting of a transport.
pub(super) const ARTIFACTS: Setting = "MONOFO_ARTIFACTS";

/// A regular file in a folder.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) modified: SystemTime,
}

impl Held {
    /// Opens a root. One that is not there is `None`.
    pub(super) fn root(path: &Path, setting: Setting) -> Result<Option<Self>> {
        match rustix::fs::open(path, folder_flags(), Mode::empty()) {
            Ok(folder) => Ok(Some(Held { folder, path: path.to_owned(), setting })),
            // A link to nowhere is there all the same, and so is a file.
            Err(Errno::NOENT) if path.symlink_metadata().is_err() => Ok(None),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(unusable(setting, "read", path, ErrorKind::NotADirectory.into())),
            Err(error) => Err(unusable(setting, "read", path, error.into())),
        }
    }

    /// Creates a root where it is missing, and opens it.
    pub(super) fn make_root(path: &Path, setting: Setting) -> Result<Self> {
        create_folder(path).map_err(|error| match error.kind() {
            // Something is there, and it is no folder, nor a link to one.
            ErrorKind::AlreadyExists => unusable(setting, "write to", path, ErrorKind::NotADirectory.into()),
            _ => unusable(setting, "write to", path, error),
        })?;
        Self::root(path, setting)?.ok_or_else(|| unusable(setting, "write to", path, ErrorKind::NotFound.into()))
    }

    /// The path of something in this folder, for messages.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a folder in this one. One that is not there is `None`, a link is refused.
    pub(super) fn enter(&self, name: &str) -> Result<Option<Self>> {
        let path = self.path_of(name);
        match rustix::fs::openat(&self.folder, name, folder_flags() | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(folder) => Ok(Some(Held { folder, path, setting: self.setting })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) if self.is_link(name) => Err(no_folder(self.setting, &path)),
            Err(Errno::NOTDIR) => Ok(None),
            Err(error) => Err(self.unusable("read", name, error.into())),
        }
    }

    /// Opens a folder in this one, creating it where it is missing. A link or anything else in its place is refused.
    pub(super) fn make(&self, name: &str) -> Result<Self> {
        match rustix::fs::mkdirat(&self.folder, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.unusable("write to", name, error.into())),
        }
        self.enter(name)?.ok_or_else(|| no_folder(self.setting, &self.path_of(name)))
    }

    /// Creates a file that must not be there yet.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // As wide as the umask allows: steps on other machines may run as other users.
        Ok(rustix::fs::openat(&self.folder, name, flags, Mode::from_raw_mode(0o666))?.into())
    }

    /// Opens a file with its size; a link in its place is an error, and so is a pipe, which is not waited for.
    pub(super) fn open(&self, name: &str) -> io::Result<(File, u64)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file: File = rustix::fs::openat(&self.folder, name, flags, Mode::empty())?.into();
        let about = file.metadata()?;
        match about.is_file() {
            true => Ok((file, about.len())),
            false => Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file")),
        }
    }

    /// Moves a file of this folder into another one, over what has that name there.
    pub(super) fn rename(&self, name: &str, target: &Held, leaf: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, name, &target.folder, leaf)?)
    }

    /// Gives a file of this folder a second name in another one, if nobody has it there.
    pub(super) fn link(&self, name: &str, target: &Held, leaf: &str) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.folder, name, &target.folder, leaf, AtFlags::empty())?)
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    /// Removes a folder that is empty.
    pub(super) fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::REMOVEDIR)?)
    }

    /// Everything in this folder whose name is text.
    pub(super) fn names(&self) -> io::Result<impl Iterator<Item = String> + use<>> {
        let names =
            Dir::read_from(&self.folder)?.filter_map(|entry| entry.ok()?.file_name().to_str().ok().map(Into::into));
        Ok(names.filter(|name: &String| name != "." && name != ".."))
    }

    /// The regular files in this folder, and when each was written.
    pub(super) fn files(&self) -> io::Result<Vec<Entry>> {
        let mut files = Vec::new();
        for name in self.names()? {
            let about = match rustix::fs::statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(about) => about,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            if FileType::from_raw_mode(about.st_mode) == FileType::RegularFile {
                let seconds = Duration::from_secs(u64::try_from(about.st_mtime).unwrap_or_default());
                #[allow(
                    clippy::useless_conversion,
                    clippy::unnecessary_fallible_conversions,
                    reason = "the type differs by system"
                )]
                let nanos = u64::try_from(about.st_mtime_nsec).unwrap_or_default();
                files.push(Entry { name, modified: SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(nanos) });
            }
        }
        Ok(files)
    }

    /// The error for something in this folder that cannot be used.
    pub(super) fn unusable(&self, verb: &str, name: &str, error: io::Error) -> Error {
        unusable(self.setting, verb, &self.path_of(name), error)
    }

    fn is_link(&self, name: &str) -> bool {
        self.kind(name) == Some(FileType::Symlink)
    }

    /// What has a name in this folder, if anything has.
    pub(super) fn kind(&self, name: &str) -> Option<FileType> {
        let about = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(FileType::from_raw_mode(about.st_mode))
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// The error for a link, or something else that is no folder, where one of our folders belongs.
pub(super) fn no_folder(setting: Setting, path: &Path) -> Error {
    Error::refused(format_args!("`{}` is a link or no folder, and links in there are not followed", Shown::path(path)))
        .hint(format_args!("remove it, or choose another folder with {setting}, which may itself be a link"))
        .because(Why::Strange)
}

/// A folder that cannot be used: [`Class::Unavailable`], with what to check.
pub(super) fn unusable(setting: Setting, verb: &str, path: &Path, error: io::Error) -> Error {
    let (why, hint) = match error.kind() {
        ErrorKind::PermissionDenied => (Why::Denied, "check who owns the folder and its mode".to_owned()),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (Why::Busy, "make room on that file system".to_owned()),
        ErrorKind::ReadOnlyFilesystem => {
            (Why::Denied, format!("mount it writable or choose another folder with {setting}"))
        }
        _ => (Why::Busy, format!("check that the folder exists, is mounted and can be used; {setting} names it")),
    };
    Error::new(Class::Unavailable, format_args!("cannot {verb} `{}`", Shown::path(path)))
        .caused_by(error)
        .hint(hint)
        .because(why)
}
