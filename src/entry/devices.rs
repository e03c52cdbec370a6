//! Whose times can be trusted: which devices hold a file system that notes every change of a file in its times.

use std::sync::{PoisonError, RwLock};

use rustix::fs::Stat;

use crate::collect::walk::Visited;

/// Devices that were met, each judged once.
#[derive(Debug, Default)]
pub(super) struct Devices(RwLock<Vec<(u64, Option<u64>)>>);

impl Devices {
    /// The id of the file system that a file lies on; `None` where its times say too little.
    pub(super) fn trusted(&self, file: &Visited<'_>) -> Option<u64> {
        let device = number(file.stat);
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, id)) = known.iter().find(|(known, _)| *known == device) {
            return *id;
        }
        drop(known);
        let judged = judge(file)?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.iter().all(|(known, _)| *known != device) {
            known.push((device, judged));
        }
        judged
    }
}

/// The device that a file lies on.
pub(super) fn number(stat: &Stat) -> u64 {
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "compared, not counted with; its type differs")]
    let device = stat.st_dev as u64;
    device
}

/// The outer `None` when the file that was met is not there any more: then nothing is known of its device.
#[cfg(target_os = "linux")]
fn judge(file: &Visited<'_>) -> Option<Option<u64>> {
    use rustix::fs::{Mode, OFlags};
    // The file itself and not its folder: a file can be a mount of its own.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(file.folder, file.name, flags, Mode::empty()).ok()?;
    if rustix::fs::fstat(&opened).ok()?.st_dev != file.stat.st_dev {
        return None;
    }
    Some(judge_opened(&opened))
}

#[cfg(target_os = "linux")]
fn judge_opened(file: &std::os::fd::OwnedFd) -> Option<u64> {
    /// Those that note a write through a mapping when it happens, and have inodes and times of their own.
    /// On tmpfs and ramfs such a write changes no time at all, on zfs only once it is written back; an overlay does what
    /// the layer below it does, which does not show from inside a container; and what others do over a network, or
    /// with images that cannot be written, is not known here. The numbers are those of statfs(2).
    const TRUSTED: [u64; 5] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0xf2f5_2010, // f2fs
        0xca45_1a4e, // bcachefs
    ];
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "a number that names a kind; its type differs")]
    let kind = rustix::fs::fstatfs(file).ok()?.f_type as u64;
    if !TRUSTED.contains(&kind) {
        return None;
    }
    Some(rustix::fs::fstatvfs(file).ok()?.f_fsid)
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps, reason = "as elsewhere")]
fn judge(file: &Visited<'_>) -> Option<Option<u64>> {
    Some(rustix::fs::fstatvfs(file.folder).ok().map(|status| status.f_fsid))
}
