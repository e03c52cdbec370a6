//! `monofo upload` and `monofo download`.

use std::path::PathBuf;

use super::Commands;
use super::block::{Block, Task, Work, open_mover};
use crate::artifact::ArtifactName;
use crate::cli::{self, Download, Upload};
use crate::config::switches::Switches;
use crate::engine::{DownloadRequest, IfEmpty, ListSource, Selection, UploadRequest};
use crate::error::{Error, Result};
use crate::report::Verb;
use crate::transport::{self, Pick};

impl Commands<'_> {
    pub(super) fn upload(&self, upload: Upload) -> u8 {
        let tasks = upload_request(upload).map(|request| vec![self.task(request.name.clone(), Work::Upload(request))]);
        self.move_all(Verb::Upload, tasks)
    }

    pub(super) fn download(&self, download: Download) -> u8 {
        let tasks = self.downloads(&download);
        self.move_all(Verb::Download, tasks)
    }

    fn downloads(&self, download: &Download) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        for name in &download.names {
            let name = ArtifactName::new(name)?;
            if tasks.iter().any(|task: &Task| *task.name() == name) {
                continue;
            }
            let told = Switches::of(&name, self.env).build.map(|(_, build)| build);
            let build = download.build.clone().or(told).unwrap_or_else(|| transport::build(self.env));
            let request = DownloadRequest {
                name: name.clone(),
                pick: Pick { build, step: download.step.clone() },
                root: download.chdir.clone(),
                into: PathBuf::new(),
                same_owner: download.same_owner,
            };
            tasks.push(self.task(name, Work::Download(request)));
        }
        Ok(tasks)
    }

    fn task(&self, name: ArtifactName, work: Work) -> Task {
        let switches = Switches::of(&name, self.env);
        Task { work, soft_fail: switches.soft_fail.unwrap_or(false), skip: switches.skip }
    }

    fn move_all(&self, verb: Verb, tasks: Result<Vec<Task>>) -> u8 {
        self.report.begin(verb);
        let status = match tasks {
            Ok(tasks) => {
                let block = Block { cancel: self.cancel, report: self.report, forgiving: false };
                block.run(verb, tasks, || open_mover(self.env, self.cancel))
            }
            Err(error) => self.status(Err(error)),
        };
        self.report.finish(status)
    }
}

fn upload_request(upload: Upload) -> Result<UploadRequest> {
    let list = match upload.files_from {
        Some(path) if path.as_os_str() == "-" => Some(ListSource::Stdin),
        // The list lies where the command was started, whatever --chdir says.
        Some(path) => Some(ListSource::File(absolute(path)?)),
        None => None,
    };
    Ok(UploadRequest {
        name: ArtifactName::new(&upload.name)?,
        selection: Selection {
            root: upload.chdir,
            globs: upload.globs,
            list,
            null_separated: upload.null,
            exclude: upload.exclude,
        },
        level: upload.level,
        if_empty: match upload.if_empty {
            cli::IfEmpty::Warn => IfEmpty::Warn,
            cli::IfEmpty::Error => IfEmpty::Error,
            cli::IfEmpty::Ignore => IfEmpty::Ignore,
        },
    })
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path)
        .map_err(|e| Error::failed(format_args!("cannot tell where `{}` lies", path.display())).caused_by(e))
}
