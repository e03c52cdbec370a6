//! Ignore files, compared with git's own answer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use monofo::cancel::Cancel;
use monofo::collect::walk::{IgnoreFiles, NodeKind, Walk, walk};

use crate::entries::{key, manifest, sha256};
use crate::harness::Sandbox;

const SETS: usize = 1_000;
const SEED: u64 = 0x1397_5bd1;

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap() % most
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Names that rules below have something to say about.
const NAMES: [&[u8]; 26] = [
    b"a",
    b"b",
    b"ab",
    b"abc",
    b"a.o",
    b"b.o",
    b".hidden",
    b"build",
    b"Build",
    b"a b",
    b"a ",
    b"#x",
    b"!x",
    b"[a]",
    b"a*b",
    b"a?b",
    b"a\\b",
    b"{a,b}",
    b"x.tar.gz",
    b"\xc3\xa9",
    b"\xff",
    b"-",
    b"a-b",
    b"**",
    b"z\xc3\xa4.o",
    b"^",
];

const PARTS: [&[u8]; 53] = [
    b"a",
    b"b",
    b"ab",
    b"*",
    b"**",
    b"*.o",
    b"a*",
    b"*b",
    b"?",
    b"??",
    b"[ab]",
    b"[!a]",
    b"[^a]",
    b"[a-c]",
    b"a.o",
    b".*",
    b".hidden",
    b"build",
    b"[Bb]uild",
    b"a\\ b",
    b"a b",
    b"a\\ ",
    b"\\#x",
    b"\\!x",
    b"[[]a]",
    b"\\[a\\]",
    b"a\\*b",
    b"a\\?b",
    b"a\\\\b",
    b"{a,b}",
    b"*.tar.*",
    b"\xc3\xa9",
    b"\xff",
    b"[\xc3\xa9]",
    b"*\xff*",
    b"-",
    b"a-b",
    b"[a-",
    b"[]",
    b"[]a]",
    b"[!]a]",
    b"[[:alpha:]]",
    b"[[:alpha:]]*",
    b"a**",
    b"**a",
    b"***",
    b"*?*",
    b"z*.o",
    b"[a\\]]",
    b"[\\^]",
    b"\\a",
    b"[z-a]",
    b"[a-c-e]",
];

fn rule(random: &mut Random) -> Vec<u8> {
    let mut rule = Vec::new();
    match random.below(20) {
        0 => return b"#a".to_vec(),
        1 => return b"".to_vec(),
        2..=5 => rule.push(b'!'),
        6 => rule.extend(b"!!"),
        _ => {}
    }
    if random.below(4) == 0 {
        rule.push(b'/');
    }
    for part in 0..random.pick(&[1, 1, 1, 1, 2, 2, 3]) {
        if part > 0 {
            rule.push(b'/');
        }
        rule.extend(random.pick(&PARTS));
    }
    match random.below(12) {
        0..=2 => rule.push(b'/'),
        3 => rule.extend(b"/**"),
        4 => rule.extend(b"  "),
        5 => rule.extend(b"\\"),
        6 => rule.push(b'\r'),
        7 => rule.push(b'\t'),
        8 => rule.extend(b"//"),
        _ => {}
    }
    rule
}

fn rules(random: &mut Random) -> Vec<u8> {
    let mut text = if random.below(20) == 0 { b"\xef\xbb\xbf".to_vec() } else { Vec::new() };
    for _ in 0..=random.below(6) {
        text.extend(rule(random));
        text.push(b'\n');
    }
    if random.below(6) == 0 {
        text.pop();
    }
    text
}

/// A tree of some depth; some folders have rules of their own.
fn fill(folder: &Path, depth: usize, random: &mut Random) {
    fs::create_dir_all(folder).unwrap();
    if depth == 0 || random.below(3) == 0 {
        fs::write(folder.join(".gitignore"), rules(random)).unwrap();
    }
    for _ in 0..4 + random.below(8) {
        let path = folder.join(OsStr::from_bytes(random.pick(&NAMES)));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match random.below(10) {
            0..=2 if depth < 2 => fill(&path, depth + 1, random),
            3 => std::os::unix::fs::symlink("a", &path).unwrap(),
            _ => fs::write(&path, "x").unwrap(),
        }
    }
}

fn git(folder: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("git")
        .args(["-c", "core.excludesFile=", "-c", "core.precomposeUnicode=false"])
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("these tests need git");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn kept_by_git(root: &Path) -> BTreeSet<Vec<u8>> {
    git(root, &["init", "-q", "."]);
    // git's own list of the tool's user is none of the rules in the folder.
    let _ = fs::remove_file(root.join(".git/info/exclude"));
    let listed = git(root, &["ls-files", "-o", "-z", "--exclude-standard"]);
    listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect()
}

fn kept_by_us(root: &Path) -> BTreeSet<Vec<u8>> {
    let nothing = |_: &[u8]| false;
    let plan =
        Walk { root, ignore_files: IgnoreFiles::Honour, leave_out: &nothing, enter: None, cancel: &Cancel::new() };
    let visit = |visited: &monofo::collect::walk::Visited<'_>| {
        Ok((!matches!(visited.kind, NodeKind::Dir { .. })).then(|| visited.path.to_vec()))
    };
    walk(&plan, visit).unwrap().into_iter().collect()
}

#[test]
fn a_thousand_random_sets_of_rules_keep_what_git_keeps() {
    let sandbox = Sandbox::new();
    let mut random = Random(SEED);
    for set in 0..SETS {
        fill(&sandbox.work(format!("{set}")), 0, &mut random);
    }
    let git = kept_by_git(&sandbox.work(""));
    let (mut kept, mut wrong) = (0, Vec::new());
    for set in 0..SETS {
        let prefix = format!("{set}/").into_bytes();
        let expected: BTreeSet<Vec<u8>> = git
            .range(prefix.clone()..)
            .take_while(|path| path.starts_with(&prefix))
            .map(|path| path[prefix.len()..].to_vec())
            .collect();
        let got = kept_by_us(&sandbox.work(format!("{set}")));
        kept += expected.len();
        for path in expected.symmetric_difference(&got) {
            wrong.push(told(&sandbox.work(format!("{set}")), path, expected.contains(path)));
        }
    }
    assert!(kept > 5 * SETS, "rules that keep nothing test nothing: {kept}");
    assert!(wrong.is_empty(), "{} paths, seed {SEED:#x}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

/// A path that is kept by one and not by the other, with the rules that are about it.
fn told(root: &Path, path: &[u8], by_git: bool) -> String {
    let mut told = format!("`{}` is kept by {}", path.escape_ascii(), if by_git { "git alone" } else { "us alone" });
    let mut folder = root.join(OsStr::from_bytes(path));
    while folder.pop() && folder.starts_with(root) {
        if let Ok(rules) = fs::read(folder.join(".gitignore")) {
            let place = folder.strip_prefix(root).unwrap().display().to_string();
            told.push_str(&format!("\n    rules in `{place}`: {}", rules.escape_ascii()));
        }
    }
    told
}

#[test]
fn the_command_hashes_exactly_the_files_that_git_would_take() {
    let sandbox = Sandbox::new();
    let mut random = Random(SEED ^ 0xff);
    for _ in 0..30 {
        let _ = fs::remove_dir_all(sandbox.work(""));
        fill(&sandbox.work("components/a"), 0, &mut random);
        let kept = kept_by_git(&sandbox.work("components/a"));
        fs::remove_dir_all(sandbox.work("components/a/.git")).unwrap();
        manifest(&sandbox, "  a: {}\n");
        let plain = Sandbox::new();
        manifest(&plain, "  a: {path: x}\n");
        fs::create_dir_all(plain.work("x")).unwrap();
        let mut text = b"meta-source/1\n".to_vec();
        for path in &kept {
            let full = sandbox.work("components/a").join(OsStr::from_bytes(path));
            let (kind, content) = match fs::read_link(&full) {
                Ok(to) => ("l", to.as_os_str().as_bytes().to_vec()),
                Err(_) => ("f", fs::read(&full).unwrap()),
            };
            text.extend(format!("{kind} {} {} ", sha256(&content), content.len()).into_bytes());
            text.extend(escaped(path));
            text.push(b'\n');
        }
        let record = crate::entries::json(&sandbox, &["cache", "key", "a"], 0)["record"].clone();
        assert_eq!(record["source"]["listing"], sha256(&text), "seed {SEED:#x}");
    }
}

/// The specification's escapes, written again.
fn escaped(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in path.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'%' | 0..=0x1f | 0x7f => text.extend(format!("%{byte:02X}").into_bytes()),
                other => text.push(other),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.extend(format!("%{byte:02X}").into_bytes()));
    }
    text
}

#[test]
fn rules_from_above_of_the_user_and_of_the_repository_count_for_nothing() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {}\n");
    sandbox.write("components/a/x.c", "x");
    let before = key(&sandbox, "a");
    git(&sandbox.work(""), &["init", "-q", "."]);
    sandbox.write(".gitignore", "components/\n");
    sandbox.write("components/.gitignore", "*\n");
    sandbox.write(".git/info/exclude", "*.c\n");
    fs::create_dir_all(sandbox.path("home/.config/git")).unwrap();
    fs::write(sandbox.path("home/.config/git/ignore"), "*\n").unwrap();
    fs::write(sandbox.path("home/.gitconfig"), "[core]\n\texcludesFile = ~/.config/git/ignore\n").unwrap();
    assert_eq!(key(&sandbox, "a"), before);
}
