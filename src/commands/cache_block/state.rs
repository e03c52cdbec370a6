//! What travels from pre-command to post-command, and what the command learns.
//!
//! The pre-command hook's shell makes a private file and names it in `MONOFO_HOOK_EXPORTS`; `NAME=VALUE` of every variable is
//! written there, each ended by a NUL byte, and the shell exports those whose names begin with `MONOFO_CACHE_`.
//!
//! | variable | value |
//! |---|---|
//! | `MONOFO_CACHE_<ID>_HIT` | `exact`, `partial` or `miss` |
//! | `MONOFO_CACHE_HIT` | `exact` if all entries were hit exactly, `miss` if none was hit, else `partial`; of all listings of the plugin |
//! | `MONOFO_CACHE_STATE_<digits>` | JSON, for the post-command hook: hits, the records of keys that are to be stored, and where paths are |

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::cache_block::PluginCache;
use crate::entry::plain;
use crate::env::Env;
use crate::error::{Error, IoContext, Result};
use crate::hash::Hash;
use crate::key::KeyRecord;

/// What the names of state variables begin with.
const PREFIX: &str = "MONOFO_CACHE_STATE_";

/// The file that variables are written to.
const EXPORTS: &str = "MONOFO_HOOK_EXPORTS";

/// What the name of such a file begins with; the number of the shell's process follows.
const EXPORTS_FILE: &str = "monofo-exports.";

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// More does not fit in one variable on every system.
const LONGEST: usize = 96 << 10;

/// How an entry was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hit {
    Exact,
    Partial,
    Miss,
}

impl Hit {
    pub(super) fn word(self) -> &'static str {
        match self {
            Hit::Exact => "exact",
            Hit::Partial => "partial",
            Hit::Miss => "miss",
        }
    }

    fn parse(word: &str) -> Option<Hit> {
        [Hit::Exact, Hit::Partial, Hit::Miss].into_iter().find(|hit| hit.word() == word)
    }

    /// Two hits as one.
    fn and(self, other: Hit) -> Hit {
        if self == other { self } else { Hit::Partial }
    }
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) hit: Hit,
    /// What its key is the digest of; not kept of one that was hit exactly.
    pub(super) inputs: Option<KeyRecord>,
    /// The key of the entry that was restored: the exact one, or what was fallen back to.
    pub(super) used: Option<Hash>,
    /// Whether the remote's own entry of this key proved to be no good, and is to be replaced.
    pub(super) spoiled: bool,
}

/// What pre-command hands on to post-command of one listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// What became of all entries, by their ids.
    pub(super) seen: BTreeMap<String, Seen>,
    /// The working folder and what `~` was, absolute: a command's hook may leave another folder behind, or another HOME.
    pub(super) folder: String,
    /// Device and inode of the working folder: its name may lead elsewhere once the command ran.
    pub(super) folder_is: (u64, u64),
    pub(super) home: Option<String>,
    /// Whether the remote proved dead.
    pub(super) remote_is_dead: bool,
    /// Whether entries of the remote were kept on this machine.
    pub(super) fetched: bool,
    /// Where its paths are, absolute, by what is configured: another listing's must not overlap with them, and what is below
    /// `~` must still be there when it is stored.
    pub(super) paths: BTreeMap<String, String>,
}

impl State {
    /// The variable of a listing of the plugin with this block, as [`block_text`](super::block_text) has it.
    pub(super) fn variable(block: &str) -> String {
        let digits: String = Hash::of(block.as_bytes()).to_string().chars().take(16).collect();
        format!("{PREFIX}{}", digits.to_uppercase())
    }

    /// What pre-command left. `None` when it left nothing.
    pub(super) fn read(env: &Env, variable: &str) -> Result<Option<State>> {
        let Some(text) = env.text(variable) else { return Ok(None) };
        let read = serde_json::from_str(text).ok().and_then(|value| State::parse(&value));
        let wrong = || Error::failed(format_args!("{variable} is not what the pre-command hook left there"));
        read.map(Some).ok_or_else(|| wrong().hint("leave it alone: it says what to store"))
    }

    /// What the pre-command hooks of other listings left in this job.
    pub(super) fn of_others(env: &Env, variable: &str) -> Vec<State> {
        let others = env.iter().filter(|(name, _)| name.starts_with(PREFIX) && *name != variable);
        others.filter_map(|(_, text)| State::parse(&serde_json::from_str(text).ok()?)).collect()
    }

    fn parse(value: &Value) -> Option<State> {
        let seen = |(id, seen): (&String, &Value)| {
            let inputs = seen.get("inputs").map(KeyRecord::parse).transpose().ok()?;
            let spoiled = seen.get("spoiled").is_some_and(|spoiled| spoiled == true);
            let used = match seen.get("used") {
                None => None,
                Some(key) => Some(Hash::parse(key.as_str()?)?),
            };
            Some((id.clone(), Seen { hit: Hit::parse(seen.get("hit")?.as_str()?)?, inputs, used, spoiled }))
        };
        let path = |(written, place): (&String, &Value)| Some((written.clone(), absolute(place)?));
        let home = match value.get("home") {
            None | Some(Value::Null) => None,
            Some(home) => Some(absolute(home)?),
        };
        Some(State {
            seen: value.get("entries")?.as_object()?.iter().map(seen).collect::<Option<_>>()?,
            folder: absolute(value.get("folder")?)?,
            folder_is: (value.get("device")?.as_u64()?, value.get("inode")?.as_u64()?),
            home,
            remote_is_dead: value.get("remote_is_dead")?.as_bool()?,
            fetched: value.get("fetched").is_some_and(|fetched| fetched == true),
            paths: value.get("paths")?.as_object()?.iter().map(path).collect::<Option<_>>()?,
        })
    }

    fn value(&self) -> Value {
        let seen = |(id, seen): (&String, &Seen)| {
            let mut value = json!({ "hit": seen.hit.word() });
            if let Some(inputs) = &seen.inputs {
                value["inputs"] = inputs.value();
            }
            if let Some(used) = &seen.used {
                value["used"] = json!(used.to_string());
            }
            if seen.spoiled {
                value["spoiled"] = json!(true);
            }
            (id.clone(), value)
        };
        let entries = Value::Object(self.seen.iter().map(seen).collect::<Map<_, _>>());
        let (folder, home) = (&self.folder, &self.home);
        let (dead, fetched, paths) = (self.remote_is_dead, self.fetched, &self.paths);
        let (device, inode) = self.folder_is;
        json!({
            "entries": entries, "folder": folder, "device": device, "inode": inode, "home": home, "remote_is_dead": dead,
            "fetched": fetched, "paths": paths,
        })
    }

    /// Whether all of it fits in one variable. Class `Usage` where it does not.
    pub(super) fn check_length(&self) -> Result<()> {
        if self.value().to_string().len() <= LONGEST {
            return Ok(());
        }
        Err(Error::usage("the keys of the `cache` block are too long to be kept until the command has ended")
            .hint("put less into them: a checksum of a file instead of a variable's long value"))
    }

    /// Hands all variables to the hook's shell. False when that gave no file for them.
    pub(super) fn export(&self, variable: &str, entries: &[PluginCache], env: &Env) -> Result<bool> {
        self.check_length()?;
        let text = self.value().to_string();
        let hits = || self.seen.values().map(|seen| seen.hit);
        let Some(mut hit) = hits().next() else { return Ok(true) };
        hit = hits().fold(hit, Hit::and);
        let others = env.iter().any(|(name, _)| name.starts_with(PREFIX) && name != variable);
        if let Some(before) = env.text("MONOFO_CACHE_HIT").filter(|_| others).and_then(Hit::parse) {
            hit = hit.and(before);
        }
        let mut variables = vec![("MONOFO_CACHE_HIT".to_owned(), hit.word().to_owned()), (variable.to_owned(), text)];
        for entry in entries {
            if let Some(seen) = self.seen.get(entry.id.as_str()) {
                variables.push((format!("MONOFO_CACHE_{}_HIT", entry.variable()), seen.hit.word().to_owned()));
            }
        }
        let Some(file) = env.path(EXPORTS) else { return Ok(false) };
        let doing = || format!("cannot write the file that {EXPORTS} names");
        let mut text = Vec::new();
        for (name, value) in variables {
            text.extend_from_slice(format!("{name}={value}\0").as_bytes());
        }
        // It is the shell's, and there already.
        let mut file = plain::options().write(true).open(file).or_fail(doing)?;
        file.write_all(&text).or_fail(doing)?;
        Ok(true)
    }
}

/// Removes files of shells that were killed before they could do so. A day is more than any hook takes, and whoever has the
/// number of a process now need not be the one that made the file. What cannot be removed is for another time.
pub(in crate::commands) fn remove_old_exports(env: &Env) {
    let user = rustix::process::geteuid().as_raw();
    // Where shells make them, but for the plugin's own folder.
    let folders = [env.path("TMPDIR"), Some("/tmp".into()), Some(".git".into())];
    for entry in folders.iter().flatten().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix(EXPORTS_FILE)?.split('.').next()) else {
            continue;
        };
        let process = process.parse().ok().and_then(rustix::process::Pid::from_raw);
        let is_gone = |process| rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH);
        let is_old = |about: &Metadata| about.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > A_DAY));
        let is_ours = |about: &Metadata| about.is_file() && about.uid() == user;
        if process.is_some_and(is_gone)
            && fs::symlink_metadata(entry.path()).is_ok_and(|about| is_ours(&about) && is_old(&about))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A path that means the same in every folder.
fn absolute(value: &Value) -> Option<String> {
    value.as_str().filter(|path| path.starts_with('/')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{ComponentName, KeyPart, TemplateKey};

    fn state() -> State {
        let inputs = KeyRecord::Template(TemplateKey {
            component: ComponentName::new("b").unwrap(),
            pipeline: "p".into(),
            parts: vec![KeyPart::Text("x=\"\n'".into())],
            paths: vec!["b".into()],
            salt: String::new(),
        });
        let seen = BTreeMap::from([
            ("a".to_owned(), Seen { hit: Hit::Exact, inputs: None, used: Some(Hash::of(b"a")), spoiled: false }),
            ("b".to_owned(), Seen { hit: Hit::Miss, inputs: Some(inputs), used: None, spoiled: true }),
        ]);
        State {
            seen,
            folder: "/w".into(),
            folder_is: (1 << 63, 7),
            home: Some("/h".into()),
            remote_is_dead: true,
            fetched: true,
            paths: BTreeMap::from([("b".into(), "/w/b".into())]),
        }
    }

    #[test]
    fn what_is_left_is_read_again_and_nothing_else() {
        let text = state().value().to_string();
        let read = |text: &str| State::read(&Env::of([("V", text)]), "V");
        assert_eq!(read(&text).unwrap(), Some(state()));
        assert_eq!(State::read(&Env::default(), "V").unwrap(), None);
        for (from, to) in
            [("miss", "maybe"), ("\"/w\"", "\"w\""), ("\"/h\"", "\"h\""), ("true", "1"), ("\"pipeline\"", "\"x\"")]
        {
            let wrong = text.replace(from, to);
            assert!(wrong != text && read(&wrong).is_err(), "{wrong}");
        }
        assert!(read("{").is_err() && read("[]").is_err());
    }

    #[test]
    fn listings_have_variables_of_their_own_and_one_hit_together() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("exports");
        let (one, other) = (State::variable("a"), State::variable("b"));
        assert_ne!(one, other);
        let hit = |before: &str| {
            std::fs::write(&file, "").unwrap();
            let env = Env::of([(EXPORTS, file.to_str().unwrap()), (&other, "{}"), ("MONOFO_CACHE_HIT", before)]);
            let miss = Seen { hit: Hit::Miss, inputs: None, used: None, spoiled: false };
            let seen = BTreeMap::from([("a".to_owned(), miss)]);
            State { seen, ..State::default() }.export(&one, &[], &env).unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            text.split('\0').find_map(|line| line.strip_prefix("MONOFO_CACHE_HIT=").map(str::to_owned)).unwrap()
        };
        assert_eq!([hit("exact"), hit("partial"), hit("miss"), hit("")], ["partial", "partial", "miss", "miss"]);
    }
}
