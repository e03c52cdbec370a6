//! Which files an upload takes, told through the real binary.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use crate::harness::{Ran, Sandbox, walk};

/// `dist/{a.js,a.map,sub/b.js}`, `src/main.rs`, `top.txt`, `.hidden`.
fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    for path in ["dist/a.js", "dist/a.map", "dist/sub/b.js", "src/main.rs", "top.txt", ".hidden"] {
        sandbox.write(path, path);
    }
    sandbox
}

/// Uploads with these arguments, downloads into `got`, and lists what came.
#[track_caller]
fn selected(sandbox: &Sandbox, args: &[&str], list: &[u8]) -> (Vec<String>, Ran) {
    let ran = sandbox.monofo([&["upload", "a.tar"], args].concat()).stdin(list).exits(0);
    let _ = fs::remove_dir_all(sandbox.path("got"));
    if sandbox.artifacts().is_empty() {
        return (vec![], ran);
    }
    sandbox.monofo(["download", "a.tar", "-C", "../got"]).exits(0);
    let paths = walk(&sandbox.path("got")).into_keys().map(|path| String::from_utf8_lossy(&path).into_owned());
    (paths.collect(), ran)
}

#[test]
fn globs_follow_the_agents_dialect() {
    let sandbox = project();
    for (globs, expected) in [
        (&["**/*.js"][..], &["dist", "dist/a.js", "dist/sub", "dist/sub/b.js"][..]),
        (&["dist/*"], &["dist", "dist/a.js", "dist/a.map", "dist/sub", "dist/sub/b.js"]),
        (&["*.txt"], &["top.txt"]),
        (
            &["*"],
            &[
                ".hidden",
                "dist",
                "dist/a.js",
                "dist/a.map",
                "dist/sub",
                "dist/sub/b.js",
                "src",
                "src/main.rs",
                "top.txt",
            ],
        ),
        (&["dist/**", "!**/*.map"], &["dist", "dist/a.js", "dist/sub", "dist/sub/b.js"]),
        (&["!dist/sub", "dist"], &["dist", "dist/a.js", "dist/a.map"]),
        (&["{src,dist/sub}/*.{rs,js}"], &["dist", "dist/sub", "dist/sub/b.js", "src", "src/main.rs"]),
        (&["./dist//a.*"], &["dist", "dist/a.js", "dist/a.map"]),
        (&["src", "src/main.rs"], &["src", "src/main.rs"]),
        (&["dist/?.js", "--exclude", "**/a.*", "top.*"], &["top.txt"]),
    ] {
        assert_eq!(selected(&sandbox, globs, b"").0, expected, "{globs:?}");
    }
}

#[test]
fn a_list_may_be_newlines_nuls_a_file_or_standard_input() {
    let sandbox = project();
    let expected = ["dist", "dist/a.js", "top.txt"];
    sandbox.write("list.txt", "./top.txt\n\ndist/a.js\ntop.txt\ndist/../top.txt\n");
    sandbox.write("list0", "top.txt\0dist/a.js\0");
    assert_eq!(selected(&sandbox, &["-F", "list.txt"], b"").0, expected);
    assert_eq!(selected(&sandbox, &["-F", "list0", "-z"], b"").0, expected);
    assert_eq!(selected(&sandbox, &["-F", "-"], b"top.txt\ndist/a.js").0, expected);
    assert_eq!(selected(&sandbox, &["-F", "-", "--null"], b"dist/a.js\0top.txt\0").0, expected);
    // List and globs add up.
    assert_eq!(selected(&sandbox, &["-F", "-", "src/*"], b"top.txt").0, ["src", "src/main.rs", "top.txt"]);
}

#[test]
fn a_listed_folder_means_everything_below() {
    let sandbox = project();
    let dist = ["dist", "dist/a.js", "dist/a.map", "dist/sub", "dist/sub/b.js"];
    assert_eq!(selected(&sandbox, &["-F", "-"], b"dist").0, dist);
    assert_eq!(selected(&sandbox, &["-F", "-"], b"dist/\n").0, dist);
    assert_eq!(selected(&sandbox, &["-F", "-"], b"dist/sub\ndist\ndist/a.js\n").0, dist);
    assert_eq!(
        selected(&sandbox, &["-F", "-", "--exclude", "dist/sub"], b"dist\ndist/sub/b.js").0,
        ["dist", "dist/a.js", "dist/a.map"]
    );
    let all = selected(&sandbox, &["-F", "-"], b".").0;
    assert_eq!(all.len(), 9, "{all:?}");
    fs::create_dir_all(sandbox.work("empty/er")).unwrap();
    assert_eq!(selected(&sandbox, &["-F", "-"], b"empty").0, ["empty", "empty/er"]);
}

#[test]
fn another_starting_folder_also_through_a_link() {
    let sandbox = project();
    symlink("dist", sandbox.work("via")).unwrap();
    for folder in ["dist", "./dist/", "via", "src/../dist", "via/"] {
        assert_eq!(selected(&sandbox, &["-C", folder, "**/*.js"], b"").0, ["a.js", "sub", "sub/b.js"], "{folder}");
        assert_eq!(selected(&sandbox, &["-C", folder, "-F", "-"], b".").0.len(), 4, "{folder}");
    }
    let absolute = sandbox.work("dist");
    assert_eq!(selected(&sandbox, &["-C", absolute.to_str().unwrap(), "sub"], b"").0, ["sub", "sub/b.js"]);
    sandbox.monofo(["upload", "a.tar", "-C", "nowhere", "*"]).exits(2).says("nowhere");
    sandbox.monofo(["upload", "a.tar", "-C", "top.txt", "*"]).exits(2).says("top.txt");
}

#[test]
fn reserved_folders_are_taken_only_by_a_list() {
    let sandbox = project();
    for folder in [".git", ".monofo", ".meta-cache", ".meta-store", "src/.git"] {
        sandbox.write(format!("{folder}/inner"), "");
    }
    let (got, _) = selected(&sandbox, &["**"], b"");
    assert!(
        !got.iter().any(|path| path.contains(".git") || path.contains(".monofo") || path.contains(".meta")),
        "{got:?}"
    );
    assert_eq!(selected(&sandbox, &[".git/**", "src/.git/inner", "top.txt"], b"").0, ["top.txt"]);
    assert_eq!(
        selected(&sandbox, &["-F", "-"], b".git\n.monofo/inner").0,
        [".git", ".git/inner", ".monofo", ".monofo/inner"]
    );
}

#[test]
fn a_glob_without_a_match_is_said() {
    let sandbox = project();
    let (got, ran) = selected(&sandbox, &["top.txt", "no/such/*", "src/nothing"], b"");
    assert_eq!(got, ["top.txt"]);
    ran.says("`no/such/*` matches nothing").says("`src/nothing` matches nothing").does_not_say("`top.txt` matches");
    // It matched; that all of it was taken out again says nothing about the glob.
    let (got, ran) = selected(&sandbox, &["top.txt", "*.txt", "!top.txt", "src/main.rs"], b"");
    assert_eq!(got, ["src", "src/main.rs"]);
    ran.does_not_say("matches nothing");
}

#[test]
fn nothing_selected_follows_if_empty() {
    let sandbox = project();
    let upload = |more: &[&str]| sandbox.monofo([&["upload", "a.tar", "none/*"], more].concat());
    upload(&[]).exits(0).says("nothing was selected");
    upload(&["--if-empty", "warn"]).exits(0).says("not uploaded");
    upload(&["--if-empty", "ignore"]).exits(0).does_not_say("nothing was selected");
    upload(&["--if-empty", "error"]).exits(3).says("nothing was selected").says("none/*");
    assert!(sandbox.artifacts().is_empty());
    sandbox.monofo(["upload", "a.tar", "-F", "-"]).exits(0).says("nothing was selected");
    sandbox.monofo(["upload", "a.tar", "-F", "-"]).stdin("\n\n").exits(0).says("nothing was selected");
    sandbox.monofo(["upload", "a.tar"]).exits(2).says("--files-from");
    sandbox.monofo(["upload", "a.tar", "!x"]).exits(2);
}

#[test]
fn a_bad_path_is_named_with_its_line() {
    let sandbox = project();
    for (list, status, says) in [
        (&b"top.txt\nmissing.txt\n"[..], 3, "standard input, line 2: `missing.txt` does not exist"),
        (b"top.txt\n\n\n../secret\n", 6, "line 4: `../secret` leads out"),
        (b"dist/../../x", 6, "line 1"),
        (b"/etc/hostname\n", 6, "line 1: `/etc/hostname` is absolute"),
        (b"top.txt/below\n", 3, "line 1: `top.txt/below` does not exist"),
        (b"a\0b\0", 6, "--null"),
        (b"mis\x1bsing\n", 3, r"`mis\x1bsing`"),
    ] {
        let ran = sandbox.monofo(["upload", "a.tar", "-F", "-"]).stdin(list).exits(status);
        ran.says(says);
    }
    // Separators mixed up are guessed in the hint.
    let ran = sandbox.monofo(["upload", "a.tar", "-F", "-", "--null"]).stdin("top.txt\ndist/a.js\n").exits(3);
    ran.says("item 1").says("leave out --null");
    sandbox.monofo(["upload", "a.tar", "-F", "-"]).stdin("top.txt\0").exits(6).says("add --null");
    sandbox.monofo(["upload", "a.tar", "-F", "no-list"]).exits(2).says("no-list");
    for glob in ["/etc/*", "../*", "dist/../../*"] {
        sandbox.monofo(["upload", "a.tar", glob]).exits(6).says("glob");
    }
    assert!(sandbox.artifacts().is_empty());
}

#[test]
fn a_path_through_a_link_is_refused_and_the_link_itself_is_not() {
    let sandbox = project();
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    fs::write(sandbox.path("elsewhere/secret"), "").unwrap();
    symlink("../elsewhere", sandbox.work("away")).unwrap();
    symlink("dist", sandbox.work("near")).unwrap();
    for path in ["away/secret", "near/a.js", "near/sub/b.js"] {
        sandbox.monofo(["upload", "a.tar", "-F", "-"]).stdin(path).exits(6).says("symbolic link");
    }
    assert!(sandbox.artifacts().is_empty());
    let (got, ran) = selected(&sandbox, &["-F", "-"], b"away\nnear\n");
    assert_eq!(got, ["away", "near"]);
    ran.says("1 symbolic link leads out");
    // A glob follows nothing either.
    assert_eq!(selected(&sandbox, &["near/*", "**/b.js"], b"").0, ["dist", "dist/sub", "dist/sub/b.js"]);
}

#[test]
fn sockets_and_fifos_are_left_out_with_one_warning() {
    let sandbox = project();
    let fifo = |name: &str| {
        let path = sandbox.work(name);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    };
    fifo("dist/pipe");
    fifo("pipe");
    let _socket = UnixListener::bind(sandbox.work("dist/socket")).unwrap();
    let (got, ran) = selected(&sandbox, &["-F", "-"], b"dist\npipe\n");
    assert_eq!(got, ["dist", "dist/a.js", "dist/a.map", "dist/sub", "dist/sub/b.js"]);
    assert_eq!(ran.stderr.matches("left out").count(), 1, "{}", ran.stderr);
    ran.says("3 special files").says("`dist/pipe`");
}

#[test]
fn names_of_every_kind_can_be_listed() {
    let sandbox = Sandbox::new();
    let long = "n".repeat(255);
    let names = ["-rf", " ", "new\nline", "tab\t", "*", "[a]", "{b}", "!x", "\\", "e\u{301}", "..x", ".", &long];
    let mut list = Vec::new();
    for name in names.iter().filter(|name| **name != ".") {
        sandbox.write(format!("d/{name}"), name);
        list.extend_from_slice(format!("d/{name}\0").as_bytes());
    }
    let (got, _) = selected(&sandbox, &["-F", "-", "-z"], &list);
    assert_eq!(got.len(), names.len(), "{got:?}");
    assert_eq!(selected(&sandbox, &["--", r"d/\*", r"d/\[a\]", "d/-*"], b"").0, ["d", "d/*", "d/-rf", "d/[a]"]);
}

#[test]
fn a_plain_name_takes_exactly_one_file() {
    let sandbox = project();
    sandbox.monofo(["upload", "report", "dist/*.js"]).exits(0);
    sandbox.monofo(["download", "report", "-C", "../got"]).exits(0);
    assert_eq!(fs::read(sandbox.path("got/report")).unwrap(), b"dist/a.js");
    sandbox.monofo(["upload", "other", "dist/*"]).exits(2).says("3 files");
    symlink("top.txt", sandbox.work("link")).unwrap();
    sandbox.monofo(["upload", "other", "link"]).exits(2).says("symbolic link");
}
