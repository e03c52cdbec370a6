//! `monofo deflate` and `monofo inflate`: archives made and unpacked here, without a transport.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Commands;
use super::input::open;
use crate::artifact::Format;
use crate::cli::{Deflate, Inflate};
use crate::config::chunks::chunks;
use crate::engine::{self, Chunks, Context, Counting, Outcome};
use crate::error::{Error, IoContext, Result};
use crate::report::{Severity, Verb};
use crate::text::Shown;

const ARCHIVE: &str = "an archive";
const FOLDER: &str = "name an archive; `monofo upload` is what packs folders";

impl Commands<'_> {
    pub(super) fn deflate(&self, deflate: &Deflate) -> u8 {
        self.one(Verb::Deflate, &deflate.output, |context| {
            let name = deflate.output.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let format = Format::of(&name)?;
            if !format.is_archive() {
                return Err(Error::usage(format_args!("`{}` names no archive format", Shown::path(&deflate.output)))
                    .hint("end it in .tar.zst, .tar.lz4, .tar.gz, .tgz, .tar, .catar or .catar.caibx"));
            }
            let input = open(&deflate.tarfile, ARCHIVE, FOLDER, context)?;
            let making = || format!("cannot make `{}`", Shown::path(&deflate.output));
            let folder =
                deflate.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut staged = tempfile::Builder::new()
                .prefix(".monofo-")
                .permissions(Permissions::from_mode(0o666))
                .tempfile_in(folder)
                .or_fail(making)?;
            let (content_bytes, artifact_bytes) =
                engine::deflate(input, format, deflate.level, staged.as_file_mut(), &self.chunks(), context)
                    .map_err(|e| e.context(format_args!("compressing `{}`", Shown::path(&deflate.tarfile))))?;
            staged.persist(&deflate.output).or_fail(making)?;
            Ok(Outcome { content_bytes, artifact_bytes, files: 1, moved: true, ..Outcome::default() })
        })
    }

    pub(super) fn inflate(&self, inflate: &Inflate) -> u8 {
        self.one(Verb::Inflate, &inflate.archive, |context| {
            let input = open(&inflate.archive, ARCHIVE, FOLDER, context)?;
            let (input, travelled) = Counting::new(input);
            let (unpacked, chunks) =
                engine::inflate(Box::new(input), &inflate.chdir, inflate.same_owner, &self.chunks(), context)
                    .map_err(|e| e.context(format_args!("unpacking `{}`", Shown::path(&inflate.archive))))?;
            Ok(Outcome {
                files: unpacked.files,
                content_bytes: unpacked.bytes,
                artifact_bytes: travelled.load(Ordering::Relaxed) + chunks.map_or(0, |chunks| chunks.moved_bytes),
                chunks,
                warnings: unpacked.warnings,
                moved: true,
                ..Outcome::default()
            })
        })
    }

    fn chunks(&self) -> Chunks {
        chunks(self.env, self.cancel)
    }

    fn one(&self, verb: Verb, path: &Path, work: impl FnOnce(&Context) -> Result<Outcome>) -> u8 {
        let started = Instant::now();
        let context = Context { cancel: self.cancel.clone(), ..Context::default() };
        self.report.begin_block(verb, 1);
        let watch = self.report.watch(vec![context.progress.clone()]);
        let result = work(&context);
        drop(watch);
        let name = Shown::path(path).to_string();
        let status = match result {
            Ok(outcome) => {
                self.report.outcome(&name, &Outcome { took: started.elapsed(), ..outcome });
                0
            }
            Err(error) => {
                self.report.failure(&name, &error, Severity::Error);
                error.class().exit_status()
            }
        };
        self.report.finish(status)
    }
}
