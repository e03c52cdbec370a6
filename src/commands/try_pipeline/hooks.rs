//! The plugin's own hooks, written out and run the way an agent runs shell hooks.
//!
//! A hook is sourced by a small wrapper in a bash of its own, so `${BASH_SOURCE[0]}` is the hook file. What it exports or
//! unsets and the folder it ends in carry over to the rest of the job, unless it leaves by `exit`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::child::{self, Ended, Output};
use crate::cancel::Cancel;
use crate::error::{IoContext, Result};

/// The files of the plugin's `hooks` folder, as released with this binary.
const FILES: [(&str, &str); 4] = [
    ("monofo.bash", include_str!("../../../hooks/monofo.bash")),
    ("pre-command", include_str!("../../../hooks/pre-command")),
    ("post-command", include_str!("../../../hooks/post-command")),
    ("pre-exit", include_str!("../../../hooks/pre-exit")),
];

/// Sources the hook `$1`; exported variables go to `$2.before` and `$2.after`, the folder to `$2.folder`.
const WRAPPER: &str = r#"#!/usr/bin/env bash
monofo_try_hook=$1
monofo_try_state=$2
shift 2
monofo_try_exported() {
  local name
  for name in $(compgen -e); do
    printf '%s=%s\0' "$name" "${!name-}"
  done
}
monofo_try_exported >"$monofo_try_state.before"
. "$monofo_try_hook"
monofo_try_status=$?
monofo_try_exported >"$monofo_try_state.after"
pwd >"$monofo_try_state.folder"
exit "$monofo_try_status"
"#;

/// A hook of the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Before the command.
    PreCommand,
    /// After the command, unless a pre-command hook failed.
    PostCommand,
    /// At the end of the job, always.
    PreExit,
}

impl Hook {
    /// Its file name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Hook::PreCommand => "pre-command",
            Hook::PostCommand => "post-command",
            Hook::PreExit => "pre-exit",
        }
    }
}

/// The plugin, as an agent would have checked it out.
#[derive(Debug)]
pub(super) struct Plugin {
    bash: PathBuf,
    wrapper: PathBuf,
    hooks: PathBuf,
    state: PathBuf,
}

/// What a hook may change for the rest of the job.
#[derive(Debug)]
pub(super) struct Shell<'a> {
    /// The job's variables.
    pub(super) variables: &'a mut BTreeMap<String, String>,
    /// The job's current folder.
    pub(super) folder: &'a mut PathBuf,
}

impl Plugin {
    /// Writes the plugin below the build's own folder.
    pub(super) fn write(scratch: &Path, bash: &Path) -> Result<Self> {
        let folder = scratch.join("plugins/monofo");
        let hooks = folder.join("hooks");
        fs::create_dir_all(&hooks).or_fail(|| format!("creating `{}`", hooks.display()))?;
        let put = |path: &Path, text: &str| fs::write(path, text).or_fail(|| format!("writing `{}`", path.display()));
        for (name, text) in FILES {
            put(&hooks.join(name), text)?;
        }
        let wrapper = scratch.join("run-hook.bash");
        put(&wrapper, WRAPPER)?;
        Ok(Plugin { bash: bash.to_path_buf(), wrapper, hooks, state: scratch.join("hook") })
    }

    /// Runs a hook with these variables added for it alone.
    pub(super) fn run(
        &self,
        hook: Hook,
        listing: &[(String, String)],
        shell: Shell<'_>,
        output: Output,
        cancel: &Cancel,
    ) -> Result<Ended> {
        let state = |part: &str| self.state.with_extension(part);
        for part in ["before", "after", "folder"] {
            let _ = fs::remove_file(state(part));
        }
        let mut environment = shell.variables.clone();
        environment.extend(listing.iter().cloned());
        let file = self.hooks.join(hook.name());
        let arguments = [self.wrapper.as_os_str(), file.as_os_str(), OsStr::new(&self.state)];
        let ended = child::run(&self.bash, &arguments, shell.folder, &environment, output, cancel)?;
        if let (Ok(before), Ok(after)) = (fs::read(state("before")), fs::read(state("after"))) {
            carry_over(&variables(&before), &variables(&after), shell.variables);
        }
        if let Ok(folder) = fs::read_to_string(state("folder")) {
            let folder = PathBuf::from(folder.trim_end_matches('\n'));
            if folder.is_dir() {
                *shell.folder = folder;
            }
        }
        Ok(ended)
    }
}

fn variables(dump: &[u8]) -> BTreeMap<String, String> {
    dump.split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.split_once('='))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// Applies what changed between the dumps, less what bash keeps for itself.
fn carry_over(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>, job: &mut BTreeMap<String, String>) {
    const OF_BASH: [&str; 6] = ["_", "SHLVL", "PWD", "OLDPWD", "BASHOPTS", "SHELLOPTS"];
    for (name, value) in after {
        if !OF_BASH.contains(&name.as_str()) && before.get(name) != Some(value) {
            job.insert(name.clone(), value.clone());
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        job.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plugin whose pre-command is this script, run once.
    fn run(script: &str) -> (Ended, BTreeMap<String, String>, PathBuf, tempfile::TempDir) {
        let scratch = tempfile::tempdir().unwrap();
        let plugin = Plugin::write(scratch.path(), Path::new("/bin/bash")).unwrap();
        fs::write(plugin.hooks.join("pre-command"), script).unwrap();
        let mut variables: BTreeMap<String, String> =
            [("PATH", "/usr/bin:/bin"), ("KEPT", "1"), ("GONE", "1"), ("ODD.NAME", "x")]
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .into();
        let mut folder = scratch.path().to_path_buf();
        let listing = [("BUILDKITE_PLUGIN_NAME".to_string(), "MONOFO".to_string())];
        let shell = Shell { variables: &mut variables, folder: &mut folder };
        let ended = plugin.run(Hook::PreCommand, &listing, shell, Output::ToStderr, &Cancel::new()).unwrap();
        (ended, variables, folder, scratch)
    }

    #[test]
    fn exports_and_the_folder_carry_over_but_plugin_variables_do_not() {
        let script = "set -euo pipefail\nexport NEW=$'two\\nlines' PRIVATE_NAME=$BUILDKITE_PLUGIN_NAME\nunset GONE\nKEPT=2\nmkdir below\ncd below\n";
        let (ended, variables, folder, scratch) = run(script);
        assert_eq!(ended, Ended::Status(0));
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        assert_eq!(names, ["KEPT", "NEW", "ODD.NAME", "PATH", "PRIVATE_NAME"]);
        assert_eq!((variables["NEW"].as_str(), variables["KEPT"].as_str()), ("two\nlines", "2"));
        assert_eq!(variables["PRIVATE_NAME"], "MONOFO");
        assert_eq!(folder.canonicalize().unwrap(), scratch.path().join("below").canonicalize().unwrap());
    }

    #[test]
    fn leaving_by_exit_drops_the_exports_and_keeps_the_status() {
        let (ended, variables, ..) = run("export NEW=1\nexit 4\n");
        assert_eq!(ended, Ended::Status(4));
        assert!(!variables.contains_key("NEW"));
    }

    #[test]
    fn the_hook_knows_its_own_file_and_has_nothing_to_read() {
        let (ended, variables, _, scratch) = run("export SELF=${BASH_SOURCE[0]}\n! read -r line\n");
        assert_eq!(ended, Ended::Status(0));
        assert_eq!(Path::new(&variables["SELF"]), scratch.path().join("plugins/monofo/hooks/pre-command"));
    }
}
