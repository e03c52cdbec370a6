//! What is packed comes back: random trees, odd names, odd sizes, in every format.

mod changing;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use monofo::archive::codec::Codec;
use monofo::archive::pack::{pack, stream};
use monofo::artifact::Format;
use monofo::cancel::Cancel;
use monofo::collect::{FileSet, Globs, Source, select};
use monofo::context::Context;
use monofo::engine::{Chunks, inflate};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::harness::{Node, Sandbox, assert_same, is_root, join, set, walk};

const FORMATS: [Format; 4] = [Format::Tar, Format::TarGz, Format::TarLz4, Format::TarZst];

/// Random trees, the same in every run.
const CASES: u32 = 64;

fn chosen(root: &Path) -> FileSet {
    let globs = Globs::new(&[], &[]).unwrap();
    let source = Source { root, globs: &globs, list: Some((b".".to_vec(), "list".to_owned())), null_separated: true };
    select(source, &Cancel::new()).unwrap().files
}

fn packed(root: &Path, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    let codec = Codec::new(format, None).unwrap();
    let written = pack_files(root, &chosen(root), format, codec, &mut out).unwrap();
    assert_eq!(written, out.len() as u64);
    out
}

fn pack_files(
    root: &Path,
    files: &FileSet,
    format: Format,
    codec: Codec,
    out: &mut dyn std::io::Write,
) -> monofo::error::Result<u64> {
    let source = monofo::archive::source::Source::new(root, files)?;
    pack(&*stream(files, format)?, &source, codec, out, &Context::default())
}

fn unpacked(archive: Vec<u8>, into: &Path) {
    inflate(Box::new(Cursor::new(archive)), into, false, &Chunks::none(), &Context::default()).unwrap();
}

/// What unpacking is to give: set-id bits go, nanoseconds go.
fn expected(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut tree = walk(root);
    for node in tree.values_mut() {
        node.mode &= 0o1777;
        node.mtime_nanos = 0;
    }
    tree
}

/// Packs and unpacks in every format, and packs a copy made in another order.
fn assert_comes_back(root: &Path, work: &Path) {
    let before = expected(root);
    let copy = work.join("copy");
    copied(root, &copy, &walk(root));
    for format in FORMATS {
        let archive = packed(root, format);
        assert!(archive == packed(&copy, format), "{format:?}: a copy packs to other bytes");
        let into = work.join(format!("{format:?}"));
        unpacked(archive, &into);
        assert_same(&before, &walk(&into), &format!("{format:?}"));
    }
}

/// Copies a tree with the last name made first.
pub fn copied(from: &Path, to: &Path, tree: &BTreeMap<Vec<u8>, Node>) {
    fs::create_dir(to).unwrap();
    for (path, node) in tree.iter().rev() {
        let target = join(to, path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        match node.kind {
            'd' => fs::create_dir_all(&target).unwrap(),
            'l' => symlink(std::ffi::OsStr::from_bytes(&node.text), &target).unwrap(),
            _ => match &node.same_as {
                // The first name comes last here, so the file is made under the first name it is met by.
                Some(first) if join(to, first).exists() => fs::hard_link(join(to, first), &target).unwrap(),
                Some(first) => {
                    fs::create_dir_all(join(to, first).parent().unwrap()).unwrap();
                    fs::copy(join(from, path), join(to, first)).unwrap();
                    fs::hard_link(join(to, first), &target).unwrap();
                }
                None if target.exists() => {}
                None => drop(fs::copy(join(from, path), &target).unwrap()),
            },
        }
    }
    for (path, node) in tree.iter().rev() {
        set(&join(to, path), (node.kind != 'l').then_some(node.mode), node.mtime);
    }
}

/// One thing to make; numbers choose among what is there.
#[derive(Debug, Clone)]
pub struct Plan {
    parent: usize,
    name: Vec<u8>,
    what: What,
    mode: u32,
    mtime: i64,
}

#[derive(Debug, Clone)]
enum What {
    Dir,
    File { size: usize, seed: u8 },
    Symlink(Vec<u8>),
    HardLink(usize),
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if byte == 0 || byte == b'/' { b'_' } else { byte });
    prop_oneof![
        4 => "[a-c]{1,2}".prop_map(String::into_bytes),
        3 => proptest::collection::vec(byte, 1..20),
        1 => Just(b"-rf".to_vec()),
        1 => Just(b"new\nline \x1b[31m".to_vec()),
        1 => Just(b"..name".to_vec()),
        1 => Just(b"a b".to_vec()),
        1 => Just("e\u{301}\u{202e}".as_bytes().to_vec()),
        1 => (90usize..=255).prop_map(|len| vec![b'n'; len]),
        1 => (90usize..=255).prop_map(|len| vec![0xff; len]),
    ]
    .prop_filter("reserved", |name| !matches!(name.as_slice(), b"." | b".." | b".monofo"))
}

pub fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let texts = prop_oneof![
        names(),
        Just(b"/absolute".to_vec()),
        Just(b"../../up".to_vec()),
        (101usize..3000).prop_map(|len| vec![b't'; len]),
        proptest::collection::vec(1u8.., 1..150),
    ];
    let sizes = prop_oneof![
        6 => proptest::sample::select(vec![0usize, 1, 511, 512, 513, 1023, 1024, 4096]),
        2 => 0usize..5000,
        1 => Just(600 << 10),
    ];
    let what = prop_oneof![
        3 => Just(What::Dir),
        5 => (sizes, any::<u8>()).prop_map(|(size, seed)| What::File { size, seed }),
        1 => texts.prop_map(What::Symlink),
        1 => any::<usize>().prop_map(What::HardLink),
    ];
    let modes = prop_oneof![Just(0o644u32), Just(0o755), 0o000..=0o1777u32];
    let times =
        prop_oneof![proptest::sample::select(vec![0i64, 1, -1, -1_500_000_000, 10_413_792_000]), 0..2_000_000_000i64];
    let plan = (any::<usize>(), names(), what, modes, times).prop_map(|(parent, name, what, mode, mtime)| Plan {
        parent,
        name,
        what,
        mode,
        mtime,
    });
    proptest::collection::vec(plan, 0..40)
}

/// Makes a tree; what does not fit (a name that is taken, a path that is too long) is left out.
pub fn made(root: &Path, plans: &[Plan]) {
    fs::create_dir(root).unwrap();
    let mut dirs = vec![root.to_owned()];
    let mut files = Vec::new();
    let mut all = Vec::new();
    for plan in plans {
        let path = join(&dirs[plan.parent % dirs.len()], &plan.name);
        if path.as_os_str().len() > 3500 || path.symlink_metadata().is_ok() {
            continue;
        }
        match &plan.what {
            What::Dir => {
                fs::create_dir(&path).unwrap();
                dirs.push(path.clone());
            }
            What::File { size, seed } => {
                let content: Vec<u8> = (0..*size).map(|at| (at / 7) as u8 ^ seed).collect();
                fs::write(&path, content).unwrap();
                files.push(path.clone());
            }
            What::Symlink(text) => symlink(std::ffi::OsStr::from_bytes(text), &path).unwrap(),
            What::HardLink(_) if files.is_empty() => continue,
            What::HardLink(index) => fs::hard_link(&files[index % files.len()], &path).unwrap(),
        }
        all.push((path, plan));
    }
    for (path, plan) in all.into_iter().rev() {
        // Not everybody reads what has no mode.
        let readable = if is_root() { 0 } else { 0o500 };
        let mode = (!matches!(plan.what, What::Symlink(_))).then_some(plan.mode | readable);
        set(&path, mode, plan.mtime);
    }
}

#[test]
fn packing_and_unpacking_is_the_identity() {
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&plans(), |plans| {
            let sandbox = Sandbox::new();
            made(&sandbox.path("tree"), &plans);
            assert_comes_back(&sandbox.path("tree"), &sandbox.path(""));
            Ok(())
        })
        .unwrap();
}

#[test]
fn sizes_around_blocks_come_back() {
    let sandbox = Sandbox::new();
    let root = sandbox.path("tree");
    fs::create_dir(&root).unwrap();
    for block in [512usize, 512 << 10, 1 << 20, 4 << 20] {
        for size in [block - 1, block, block + 1] {
            let mut seed = size as u32;
            let content: Vec<u8> = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 28) as u8
            })
            .take(size)
            .collect();
            fs::write(root.join(format!("{size:08}")), content).unwrap();
        }
    }
    fs::write(root.join("zeros"), vec![0; 9 << 20]).unwrap();
    for (path, _) in walk(&root) {
        set(&join(&root, &path), None, 1_700_000_000);
    }
    assert_comes_back(&root, &sandbox.path(""));
}

/// Files that end exactly where a block of the stream ends, or a header does.
#[test]
fn streams_of_every_length_around_a_block_come_back() {
    let sandbox = Sandbox::new();
    let root = sandbox.path("tree");
    fs::create_dir(&root).unwrap();
    let block = 1usize << 20;
    for size in [block - 3 * 512, block - 1024, block - 513, block - 512, block - 511, block, 2 * block - 1536] {
        fs::write(root.join("f"), vec![b'x'; size]).unwrap();
        set(&root.join("f"), None, 5);
        let archive = packed(&root, Format::Tar);
        assert_eq!(archive.len(), 512 + size.next_multiple_of(512) + 1024);
        let into = sandbox.path(format!("out{size}"));
        unpacked(archive, &into);
        assert_same(&expected(&root), &walk(&into), &size.to_string());
    }
}

#[test]
fn long_and_deep_paths_come_back() {
    let sandbox = Sandbox::new();
    let root = sandbox.path("tree");
    fs::create_dir(&root).unwrap();
    let mut made = Vec::new();
    // Every length around the limits of the name field, with and without a place to cut.
    for len in [99, 100, 101, 102, 154, 155, 156, 157, 200, 254, 255] {
        made.push("n".repeat(len));
        made.push(format!("{}/{}", "p".repeat(len.min(255)), "q".repeat(100)));
        made.push(format!("{}/{}", "r".repeat(154), "s".repeat(len)));
    }
    made.push(vec!["deep"; 256].join("/"));
    made.push(vec!["w".repeat(255); 14].join("/"));
    for path in &made {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), path).unwrap();
        let folder =
            root.join(format!("{path}-dir").replace("n-dir", "-dir").replace("s-dir", "-dir").replace("w-dir", "-dir"));
        let _ = fs::create_dir_all(folder);
    }
    for (path, _) in walk(&root).iter().rev() {
        set(&join(&root, path), None, 1_700_000_000);
    }
    assert_comes_back(&root, &sandbox.path(""));
}

#[test]
fn the_binary_does_the_same() {
    let sandbox = Sandbox::new();
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let plans = proptest::collection::vec(plans(), 5).new_tree(&mut runner).unwrap().current().concat();
    made(&sandbox.path("tree"), &plans);
    let before = expected(&sandbox.path("tree"));
    assert!(before.len() > 30);
    for name in ["a.tar", "a.tar.gz", "b.tgz", "a.tar.lz4", "a.tar.zst"] {
        sandbox.monofo(["upload", name, "-C", "../tree", "-F", "-"]).stdin(".").exits(0);
        let into = sandbox.path(format!("from-{name}"));
        sandbox.monofo(["download", name, "-C", into.to_str().unwrap()]).exits(0);
        assert_same(&before, &walk(&into), name);
    }
}

#[test]
fn set_id_bits_are_packed_and_not_unpacked() {
    let sandbox = Sandbox::new();
    sandbox.write("f", "");
    set(&sandbox.work("f"), Some(0o4755), 1);
    let archive = packed(&sandbox.work(""), Format::Tar);
    assert_eq!(&archive[100..108], b"0004755\0");
    unpacked(archive, &sandbox.path("out"));
    assert_eq!(walk(&sandbox.path("out"))[&b"f"[..]].mode, 0o755);
}

#[test]
fn a_sparse_file_beyond_8_gib_has_its_size_in_a_pax_header() {
    let sandbox = Sandbox::new();
    let huge = File::create(sandbox.work("huge")).unwrap();
    let size = (8u64 << 30) + 1;
    huge.set_len(size).unwrap();
    let files = chosen(&sandbox.work(""));
    // Only the head of the stream: the whole takes minutes in a debug build, and scripts/peers/large-trees does it.
    struct Head(Vec<u8>);
    impl Write for Head {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.extend_from_slice(bytes);
            if self.0.len() < 1 << 20 { Ok(bytes.len()) } else { Err(std::io::Error::other("enough")) }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut head = Head(Vec::new());
    let error = pack_files(&sandbox.work(""), &files, Format::Tar, Codec::None, &mut head).unwrap_err();
    assert!(error.chain().contains("enough"), "{}", error.chain());
    let mut members = tar::Archive::new(Cursor::new(head.0));
    let member = members.entries().unwrap().next().unwrap().unwrap();
    assert_eq!((member.size(), &*member.path_bytes()), (size, &b"huge"[..]));
}

/// Nothing can be compressed that is no tar stream, and nothing is left behind.
#[test]
fn deflate_wants_a_tar_stream() {
    let sandbox = Sandbox::new();
    sandbox.write("text", "abc");
    for output in ["out.tar", "out.tar.gz", "out.tar.lz4", "out.tar.zst"] {
        sandbox.monofo(["deflate", "text", output]).exits(7).says("not a tar archive");
        sandbox.monofo(["deflate", "-", output]).exits(7).says("not a tar archive");
        assert!(!sandbox.work(output).exists());
    }
    assert_eq!(std::fs::read_dir(sandbox.work("")).unwrap().count(), 1);
}

/// What no glob takes is in the archive all the same.
#[test]
fn deflate_leaves_nothing_out() {
    let sandbox = Sandbox::new();
    for name in ["in/.git/config", "in/.meta-cache/x", "in/d/a"] {
        sandbox.write(name, name);
    }
    std::fs::write(sandbox.work("in.tar"), packed(&sandbox.work("in"), Format::Tar)).unwrap();
    for output in ["out.catar", "out.catar.caibx", "out.tar.gz"] {
        sandbox.monofo(["deflate", "in.tar", output]).exits(0);
        sandbox.monofo(["inflate", output, "-C", "back"]).exits(0);
        assert_same(&expected(&sandbox.work("in")), &walk(&sandbox.work("back")), output);
        std::fs::remove_dir_all(sandbox.work("back")).unwrap();
    }
}

/// An interrupted command does not wait for a pipe that says nothing.
#[test]
fn a_silent_standard_input_can_be_interrupted() {
    let sandbox = Sandbox::new();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_monofo"))
        .args(["deflate", "-", "out.tar.gz"])
        .current_dir(sandbox.work(""))
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The command has begun once its staged file is there.
    while std::fs::read_dir(sandbox.work("")).unwrap().count() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted") && !said.contains("took too long"), "{said}");
    assert_eq!(std::fs::read_dir(sandbox.work("")).unwrap().count(), 0, "nothing is left");
}
