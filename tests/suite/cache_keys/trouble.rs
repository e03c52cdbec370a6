//! Sources that cannot be read, vanish, or change while they are read: an error each time, never a key.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::entries::{Change, document, json, key, manifest};
use crate::harness::{Sandbox, is_root, set};

fn workspace() -> Sandbox {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {}\n");
    sandbox.write("components/a/x.c", "x");
    sandbox
}

#[test]
fn an_unreadable_source_is_an_error_and_never_a_key() {
    let cases: [(&str, Change); 3] = [
        ("a file", |s| set(&s.work("components/a/x.c"), Some(0), 1)),
        ("a folder", |s| {
            s.write("components/a/sub/y", "y");
            set(&s.work("components/a/sub"), Some(0), 1);
        }),
        ("an ignore file", |s| {
            s.write("components/a/.gitignore", "x.c\n");
            set(&s.work("components/a/.gitignore"), Some(0), 1);
        }),
    ];
    for (what, spoil) in cases {
        let sandbox = workspace();
        spoil(&sandbox);
        let mut command = as_nobody(&sandbox);
        let Some(command) = command.as_mut() else {
            eprintln!("SKIPPED: {what}: this is root, and there is no setpriv to be somebody else");
            return;
        };
        let output = command.args(["cache", "key", "a"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.contains("cannot read"), "{what}: {stderr}");
    }
}

/// The binary, as a user whom permissions bind.
fn as_nobody(sandbox: &Sandbox) -> Option<Command> {
    let monofo = env!("CARGO_BIN_EXE_monofo");
    let mut command = if is_root() {
        let copied = sandbox.path("monofo");
        fs::copy(monofo, &copied).unwrap();
        for path in [sandbox.path(""), sandbox.path("work")] {
            set(&path, Some(0o777), 1);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copied);
        command
    } else {
        Command::new(monofo)
    };
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", sandbox.path("home")).current_dir(sandbox.work(""));
    let there = Command::new("setpriv").arg("--version").output().is_ok();
    (there || !is_root()).then_some(command)
}

#[test]
fn sockets_and_fifos_are_left_out_with_a_warning_and_never_waited_for() {
    let sandbox = workspace();
    let before = key(&sandbox, "a");
    let fifo = |path: PathBuf| {
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    };
    fifo(sandbox.work("components/a/pipe"));
    let _socket = std::os::unix::net::UnixListener::bind(sandbox.work("components/a/socket")).unwrap();
    let ran = sandbox.monofo(["cache", "key", "a"]).at_most(10).exits(0).says("warning:");
    assert_eq!(ran.stdout.trim(), before);
    fifo(sandbox.work("components/beside"));
    symlink("../beside", sandbox.work("components/a/out")).unwrap();
    sandbox.monofo(["cache", "key", "a"]).at_most(10).exits(0);
    fs::remove_file(sandbox.work("components/a/x.c")).unwrap();
    fifo(sandbox.work("components/a/.gitignore"));
    sandbox.monofo(["cache", "key", "a"]).at_most(10).exits(0);
}

#[test]
fn links_that_leave_count_with_what_they_reach_and_folders_outside_with_a_warning() {
    let sandbox = workspace();
    fs::create_dir(sandbox.work("components/shared")).unwrap();
    symlink("../shared", sandbox.work("components/a/shared")).unwrap();
    let ran = sandbox.monofo(["cache", "key", "a"]).exits(0).says("a link to a folder outside");
    let before = ran.stdout;
    sandbox.write("components/shared/x", "not covered, and said so");
    assert_eq!(sandbox.monofo(["cache", "key", "a"]).exits(0).stdout, before);
    let mut keys = vec![before];
    let target = sandbox.work("components/a/shared");
    for to in ["../nothing", "/nothing", "../b", "x.c"] {
        fs::remove_file(&target).unwrap();
        symlink(to, &target).unwrap();
        keys.push(sandbox.monofo(["cache", "key", "a"]).exits(0).stdout);
    }
    sandbox.write("components/b", "reached");
    fs::remove_file(&target).unwrap();
    symlink("../b", &target).unwrap();
    keys.push(sandbox.monofo(["cache", "key", "a"]).exits(0).stdout);
    sandbox.write("components/b", "reached again");
    keys.push(sandbox.monofo(["cache", "key", "a"]).exits(0).stdout);
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all, "each is another key");
    // A loop reaches nothing.
    symlink("../a/loop", sandbox.work("components/a/loop")).unwrap();
    sandbox.monofo(["cache", "key", "a"]).at_most(10).exits(0);
}

#[test]
fn sources_that_grow_or_vanish_while_they_are_read_give_an_error_or_the_key_of_a_moment() {
    let sandbox = workspace();
    for file in 0..40 {
        sandbox.write(format!("components/a/{file}"), vec![b'x'; 200_000]);
    }
    // Large, so that reading it takes longer than a write.
    sandbox.write("components/a/20", vec![b'x'; 20_000_000]);
    let (grown, gone) = (sandbox.work("components/a/20"), sandbox.work("components/a/x.c"));
    let stop = AtomicBool::new(false);
    let mut counts = [0; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                use std::io::Write;
                let _ = fs::File::options().append(true).open(&grown).unwrap().write_all(b"more");
                let _ = fs::remove_file(&gone);
                let _ = fs::write(&gone, "x");
            }
        });
        let started = Instant::now();
        // Until it came to that a few times; on a busy machine that takes a while.
        while counts[1] < 3 && started.elapsed() < Duration::from_secs(60) {
            let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_monofo"))
                .args(["cache", "key", "a"])
                .current_dir(sandbox.work(""))
                .env_clear()
                .output()
                .unwrap();
            match output.status.code() {
                Some(0) => {
                    counts[0] += 1;
                    assert_eq!(output.stdout.len(), 65);
                }
                Some(5) => {
                    counts[1] += 1;
                    assert!(output.stdout.is_empty());
                }
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(counts[1] > 0, "nothing changed while it was read, so nothing was tested: {counts:?}");
    key(&sandbox, "a");
}

/// Writes over a file of 256 MiB in place, again and again, and sets its time back each time, while `run` is run.
pub(crate) fn rewriting_in_place<T>(path: &Path, run: impl FnOnce() -> T) -> T {
    use std::os::unix::fs::FileExt;
    let large = fs::File::create(path).unwrap();
    // A hole costs nothing to make and much to read.
    large.set_len(256 << 20).unwrap();
    set(path, None, 1_600_000_000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                large.write_all_at(b"x", 200 << 20).unwrap();
                set(path, None, 1_600_000_000);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn sources_that_are_written_over_have_no_key_although_their_time_is_set_back() {
    let sandbox = workspace();
    let ran =
        rewriting_in_place(&sandbox.work("components/a/large"), || sandbox.monofo(["cache", "key", "a"]).exits(5));
    ran.says("`large` changed while it was hashed");
}

/// A mapping of a file, written to by another program. False when that cannot be done here, or when times show it.
fn write_through_a_mapping(path: &Path) -> bool {
    let program = "import mmap, os, sys
f = open(sys.argv[1], 'r+b')
m = mmap.mmap(f.fileno(), 0)
before = os.stat(sys.argv[1])
# What was read is mapped, and no fault tells of a write to it.
m[0]
m[0:1] = b'C'
m.flush()
m.close()
f.close()
after = os.stat(sys.argv[1])
sys.exit(before.st_ctime_ns != after.st_ctime_ns)";
    let written = Command::new("python3").args(["-c", program]).arg(path).status();
    let silently = written.is_ok_and(|status| status.success());
    if !silently {
        println!("SKIPPED: no python3, or a write through a mapping shows here");
    }
    silently
}

/// A file system below the workspace, unmounted in the end. `None` where none can be mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn new(place: &Path, kind: &str, options: &str) -> Option<Mounted> {
        fs::create_dir_all(place).unwrap();
        let mounted = Command::new("mount").args(["-t", kind, "-o", options, kind]).arg(place).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Mounted(place.to_owned()));
        }
        println!("SKIPPED: no {kind} can be mounted here");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_is_written_through_a_mapping_counts_where_no_time_shows_it() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {path: memory/a}\n  b: {path: layered/b}\n");
    let Some(memory) = Mounted::new(&sandbox.work("memory"), "tmpfs", "size=4m") else { return };
    for folder in ["a", "below/b", "upper/b", "work"] {
        fs::create_dir_all(memory.0.join(folder)).unwrap();
    }
    let layers = ["lowerdir=below", "upperdir=upper", "workdir=work"].map(|layer| {
        let (kind, folder) = layer.split_once('=').unwrap();
        format!("{kind}={}", memory.0.join(folder).display())
    });
    let layered = Mounted::new(&sandbox.work("layered"), "overlay", &layers.join(","));
    let files: Vec<_> =
        [("a", Some(memory.0.join("a/file"))), ("b", layered.as_ref().map(|there| there.0.join("b/file")))]
            .into_iter()
            .filter_map(|(component, file)| Some((component, file?)))
            .collect();
    for (component, file) in &files {
        fs::write(file, "AAAA").unwrap();
        sandbox.write(format!("out-{component}"), "x");
    }
    // What changed within the last two seconds is not remembered.
    std::thread::sleep(Duration::from_millis(2100));
    for (component, file) in &files {
        sandbox.monofo(["cache", "build", component, "--source", &format!("out-{component}")]).exits(0);
        sandbox.monofo(["store", "add", component, "--source", file.to_str().unwrap()]).exits(0);
        let before = key(&sandbox, component);
        if !write_through_a_mapping(file) {
            continue;
        }
        assert_ne!(key(&sandbox, component), before, "{component}");
        let hash = sandbox.monofo(["store", "add", component, "--source", file.to_str().unwrap()]).exits(0).stdout;
        sandbox.monofo(["store", "get", hash.trim(), "--target", "got"]).exits(0);
        assert_eq!(fs::read_to_string(sandbox.work("got")).unwrap(), "CAAA", "{component}");
    }
}

#[test]
fn unknown_components_are_named_with_the_one_that_was_meant() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  scraper: {}\n  agent: {}\n");
    for command in
        [&["cache", "key"][..], &["cache", "explain"], &["cache", "get"], &["cache", "build"], &["store", "add"]]
    {
        let ran = sandbox.monofo([command, &["scrapper"]].concat()).exits(4);
        ran.says("`scrapper`").says("did you mean `scraper`?");
        sandbox.monofo([command, &["something-else"]].concat()).exits(4).says("manifests/components.yaml");
        assert_eq!(json(&sandbox, &[command, &["scrapper"]].concat(), 4)["error"]["kind"], "workspace");
    }
    for name in ["../a", "a/b", "", ".", "..", "-", "a b", "a\n", &"a".repeat(129), "current/../x"] {
        let run = sandbox.monofo(["--json", "cache", "key", "--", name]);
        assert_ne!(document(run, 2)["error"], serde_json::Value::Null, "{name:?}");
    }
}
