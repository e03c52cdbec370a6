//! Artifacts of chunks over folders: what comes back, what travels, and what a machine keeps.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use monofo::cancel::Cancel;
use monofo::chunk::ChunkId;
use monofo::chunk::{Digest, Index, Sizes};
use monofo::chunk_store::{About, ChunkStore, FolderStore, Listed, Stored};
use monofo::error::{Class, Result};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::desk::{Desk, assert_chunks_are_whole, files, noise};
use crate::harness::{Node, Sandbox, assert_same, join, walk};
use crate::roundtrip::{copied, made, plans};

/// Random trees, the same in every run.
const CASES: u32 = 24;

/// Gives everything a time with nanoseconds that a catar can hold.
fn settle(root: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    for (path, node) in walk(root).iter().rev() {
        let nanos = path.iter().fold(1u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
        let time = Timespec { tv_sec: node.mtime.min(9_000_000_000), tv_nsec: i64::from(nanos % 999_999_999) };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, join(root, path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// What a download is to give: set-id bits go, hard links become files of their own.
fn expected(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut tree = walk(root);
    for node in tree.values_mut() {
        node.mode &= 0o1777;
        node.same_as = None;
    }
    tree
}

#[test]
fn trees_come_back_with_nanoseconds_and_without_hard_links() {
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let several = plans().prop_filter("nothing to upload", |plans| !plans.is_empty());
    runner
        .run(&several, |plans| {
            let desk = Desk::small();
            made(&desk.path("tree"), &plans);
            settle(&desk.path("tree"));
            let before = expected(&desk.path("tree"));
            desk.upload("tree").unwrap();
            let index = desk.artifact.0.lock().unwrap().clone();
            desk.download("out").unwrap();
            assert_same(&before, &walk(&desk.path("out")), "downloaded");
            // In another folder, made in another order: the same bytes, and nothing travels.
            copied(&desk.path("tree"), &desk.path("copy"), &walk(&desk.path("tree")));
            settle(&desk.path("copy"));
            let again = desk.upload("copy").unwrap();
            assert_eq!(again.chunks.unwrap().moved, 0);
            assert!(index == *desk.artifact.0.lock().unwrap(), "a copy has another index");
            assert_chunks_are_whole(&desk.path("store"), Digest::default());
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_binary_does_the_same() {
    let sandbox = Sandbox::new();
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let plans = proptest::collection::vec(plans(), 5).new_tree(&mut runner).unwrap().current().concat();
    made(&sandbox.path("tree"), &plans);
    settle(&sandbox.path("tree"));
    let before = expected(&sandbox.path("tree"));
    assert!(before.len() > 30);
    for (name, sizes, digest) in
        [("a", "16:64:256", "sha512-256"), ("b", "1:2:4", "sha256"), ("c", "4:16:64", "sha256")]
    {
        let artifact = format!("{name}.catar.caibx");
        let store = sandbox.path(format!("store-{name}"));
        let run = |args: &[&str], seeds: &str| {
            sandbox
                .monofo(args)
                .stdin(".")
                .env("MONOFO_DESYNC_STORE", store.to_str().unwrap())
                .env("MONOFO_DESYNC_CHUNK_SIZE", sizes)
                .env("MONOFO_DESYNC_DIGEST", digest)
                .env("MONOFO_DESYNC_SEED_DIR", seeds)
                .exits(0)
        };
        run(&["upload", &artifact, "-C", "../tree", "-F", "-"], "none").does_not_say(" 0 of ");
        run(&["upload", &artifact, "-C", "../tree", "-F", "-"], "none").says(", 0 of ").says(" new");
        let into = sandbox.path(format!("from-{name}"));
        let seeds = sandbox.path("seeds");
        for says in ["fetched", "from the seed"] {
            run(&["download", &artifact, "-C", into.to_str().unwrap()], seeds.to_str().unwrap()).says(says);
            assert_same(&before, &walk(&into), name);
        }
        let read = sandbox.artifacts().into_iter().find(|path| path.to_str().unwrap().contains(&artifact)).unwrap();
        let index = Index::read(&fs::read(read).unwrap()).unwrap();
        assert_eq!(index.sizes, Sizes::parse(sizes).unwrap());
        assert_eq!(index.digest, Digest::parse(digest).unwrap());
        assert_eq!(index.flags >> 61 & 1, u64::from(digest == "sha512-256"));
        assert!(assert_chunks_are_whole(&store, index.digest) > 0);
    }
}

#[test]
fn chunks_keep_to_their_sizes() {
    let desk = Desk::small();
    noise(&desk.path("tree"), 9, 30_000);
    desk.upload("tree").unwrap();
    let index = desk.index();
    let lens: Vec<usize> = (0..index.items.len()).map(|number| index.chunk_len(number)).collect();
    assert!(lens.iter().all(|len| *len <= 4096) && lens[..lens.len() - 1].iter().all(|len| *len >= 1024));
    assert!(lens.len() > 9 * 30_000 / 4096);
    desk.assert_heals(&walk(&desk.path("tree")), "small chunks");
}

#[test]
fn only_what_changed_travels() {
    let desk = Desk::new();
    noise(&desk.path("tree"), 60, 50_000);
    let first = desk.upload("tree").unwrap().chunks.unwrap();
    assert!(first.total > 25 && first.moved == first.total, "{first:?}");
    let second = desk.upload("tree").unwrap().chunks.unwrap();
    assert_eq!((second.moved, second.moved_bytes, second.total), (0, 0, first.total));

    let victim = fs::File::options().write(true).open(desk.path("tree/folder 1/file 31")).unwrap();
    victim.write_all_at(b"!", 25_000).unwrap();
    let third = desk.upload("tree").unwrap().chunks.unwrap();
    // The chunk with the byte, one that may begin there, and those with the file's time and what lists it.
    assert!((1..=4).contains(&third.moved), "{third:?}");
    desk.assert_heals(&walk(&desk.path("tree")), "after a change");

    fs::write(desk.path("tree/a new one, in front"), "x").unwrap();
    let fourth = desk.upload("tree").unwrap().chunks.unwrap();
    assert!((1..=6).contains(&fourth.moved), "{fourth:?}");
    // A chunk that is not there any more is stored again, whatever earlier runs knew.
    fs::remove_file(desk.chunk(3)).unwrap();
    assert_eq!(desk.upload("tree").unwrap().chunks.unwrap().moved, 1);
    assert_chunks_are_whole(&desk.path("store"), Digest::default());
}

#[test]
fn a_time_that_no_catar_holds_is_named() {
    let desk = Desk::new();
    fs::create_dir(desk.path("tree")).unwrap();
    fs::write(desk.path("tree/f"), "").unwrap();
    for (seconds, nanos) in [(10_413_792_000, 0), (-9_300_000_000, 0), (-1, 999_999_999)] {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let path = desk.path("tree/f");
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if fs::metadata(&path).unwrap().mtime() != seconds {
            println!("SKIPPED: this file system holds no time of {seconds} s");
            continue;
        }
        let error = desk.upload("tree").unwrap_err();
        assert!(error.chain().contains("`f` has a modification time"), "{}", error.chain());
    }
}

#[test]
fn seeds_and_the_cache_stand_in_for_the_store() {
    for (cache, seeds) in [(true, 0), (false, 1 << 30), (true, 1 << 30)] {
        let desk = Desk { cache, seeds, ..Desk::small() };
        noise(&desk.path("tree"), 5, 20_000);
        let tree = walk(&desk.path("tree"));
        desk.upload("tree").unwrap();
        desk.forget();
        let first = desk.assert_heals(&tree, "from the store").chunks.unwrap();
        assert_eq!((first.moved, first.from_seed, first.from_cache), (first.total, 0, 0));
        fs::remove_dir_all(desk.path("store")).unwrap();
        let second = desk.assert_heals(&tree, "from this machine").chunks.unwrap();
        let here = if seeds > 0 { second.from_seed } else { second.from_cache };
        assert_eq!((second.moved, here), (0, second.total));
    }
    // What was uploaded from here is a seed, too.
    let desk = Desk { seeds: 1 << 30, ..Desk::small() };
    noise(&desk.path("tree"), 5, 20_000);
    desk.upload("tree").unwrap();
    fs::remove_dir_all(desk.path("store")).unwrap();
    desk.assert_heals(&walk(&desk.path("tree")), "from the upload's seed");
}

#[test]
fn seeds_stay_below_their_size_and_those_used_last_stay() {
    let desk = Desk { seeds: 300_000, ..Desk::small() };
    noise(&desk.path("tree"), 1, 100_000);
    let name = |number: usize| format!("{number}.catar.caibx");
    let kept = || -> Vec<usize> {
        (0..5).filter(|number| !files(&desk.path("seeds/scope").join(name(*number)), ".catar").is_empty()).collect()
    };
    // File times tell which was used last, and are too coarse for uploads in a row.
    let age = |number: usize, seconds: u64| {
        let index = files(&desk.path("seeds/scope").join(name(number)), ".caibx").remove(0);
        let time = std::time::SystemTime::now() - Duration::from_secs(seconds);
        fs::File::open(index).unwrap().set_modified(time).unwrap();
    };
    for number in 0..2 {
        desk.upload_as(&name(number), "tree").unwrap();
        age(number, 3000 - 1000 * number as u64);
    }
    assert_eq!(kept(), [0, 1]);
    desk.download_as(&name(0), "out").unwrap();
    desk.upload_as(&name(2), "tree").unwrap();
    assert_eq!(kept(), [0, 2], "the one used longest ago goes");
    // One for each artifact: another upload of the same takes its place.
    fs::write(desk.path("tree/more"), "x").unwrap();
    desk.upload_as(&name(2), "tree").unwrap();
    assert_eq!(kept(), [0, 2]);
    assert_eq!(files(&desk.path("seeds"), ".catar").len(), 2);
    // One that is larger than all of them may be is not kept, and takes nobody's place.
    noise(&desk.path("large"), 4, 100_000);
    desk.upload_as(&name(3), "large").unwrap();
    assert_eq!(kept(), [0, 2]);
    assert_eq!(files(&desk.path("seeds"), "").len(), 4, "nothing else is left");
    // What others keep there is theirs, however old and large.
    for name in ["other.catar", "theirs.catar", "theirs.catar.caibx"] {
        let file = fs::File::create(desk.path("seeds").join(name)).unwrap();
        file.set_len(1 << 20).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    desk.upload_as(&name(4), "tree").unwrap();
    assert_eq!(files(&desk.path("seeds"), "").len(), 4 + 3);
}

#[test]
fn downloads_at_once_share_seeds_and_cache() {
    let desk = Desk { cache: true, seeds: 1 << 30, ..Desk::small() };
    noise(&desk.path("tree"), 6, 20_000);
    desk.upload("tree").unwrap();
    for round in 0..6 {
        // The seed of another tree, so that each writes one.
        fs::write(desk.path("tree/changed"), round.to_string()).unwrap();
        let _ = fs::remove_dir_all(desk.path("cache"));
        let (index, seeds) = (&desk.artifact, desk.seeds);
        let before = index.0.lock().unwrap().clone();
        desk.upload_as("other.catar.caibx", "tree").unwrap();
        let tree = walk(&desk.path("tree"));
        assert!(before != *index.0.lock().unwrap() && seeds > 0);
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (desk, tree) = (&desk, &tree);
                scope.spawn(move || {
                    let into = format!("out {round} {number}");
                    desk.download(&into).unwrap();
                    assert_same(tree, &walk(&desk.path(&into)), &into);
                });
            }
        });
        assert_chunks_are_whole(&desk.path("cache"), Digest::default());
        assert!(files(&desk.path("seeds"), "").iter().all(|path| !path.to_str().unwrap().contains(".monofo-seed-")));
        desk.assert_heals(&tree, "after downloads at once");
    }
}

/// A store that is interrupted after some chunks, and is none of this machine.
struct Interrupted {
    store: FolderStore,
    cancel: Cancel,
    left: std::sync::atomic::AtomicI32,
}

impl Interrupted {
    fn one(&self) {
        if self.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            self.cancel.stop(2);
        }
    }
}

impl ChunkStore for Interrupted {
    fn place(&self) -> String {
        self.store.place()
    }
    fn get(&self, id: &ChunkId) -> Result<Option<Stored>> {
        self.one();
        self.store.get(id)
    }
    fn about(&self, id: &ChunkId) -> Result<Option<About>> {
        self.store.about(id)
    }
    fn put(&self, id: &ChunkId, packed: &[u8]) -> Result<()> {
        self.one();
        self.store.put(id, packed)
    }
    fn keep_alive(&self, id: &ChunkId) -> Result<bool> {
        self.store.keep_alive(id)
    }
    fn discard(&self, id: &ChunkId) -> Result<&'static str> {
        self.store.discard(id)
    }
    fn survey(&self, chunks: usize) -> Result<Option<std::collections::HashMap<ChunkId, About>>> {
        self.store.survey(chunks)
    }
    fn list(&self, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.store.list(each)
    }
    fn remove(&self, listed: &[Listed], older_than: Duration) -> Result<u64> {
        self.store.remove(listed, older_than)
    }
    fn at_once(&self) -> usize {
        4
    }
}

#[test]
fn what_is_interrupted_leaves_nothing_torn_and_the_next_run_succeeds() {
    let mut desk = Desk { cache: true, seeds: 1 << 30, ..Desk::small() };
    noise(&desk.path("tree"), 6, 20_000);
    let tree = walk(&desk.path("tree"));
    let interrupted = |store: FolderStore, cancel: &Cancel| -> Arc<dyn ChunkStore> {
        Arc::new(Interrupted { store, cancel: cancel.clone(), left: 7.into() })
    };
    let plain = desk.wrap;
    let assert_clean = |desk: &Desk| {
        let chunks = files(&desk.path("store"), "");
        assert_eq!(chunks.len(), assert_chunks_are_whole(&desk.path("store"), Digest::default()), "{chunks:?}");
        assert_chunks_are_whole(&desk.path("cache"), Digest::default());
    };
    desk.wrap = interrupted;
    let error = desk.upload("tree").unwrap_err();
    assert_eq!(error.class(), Class::Interrupted { signal: 2 }, "{}", error.chain());
    assert!(desk.artifact.0.lock().unwrap().is_empty(), "an index was published");
    assert!(files(&desk.path("seeds"), "").is_empty(), "{:?}", files(&desk.path("seeds"), ""));
    assert_clean(&desk);

    (desk.wrap, desk.cancel) = (plain, Cancel::new());
    desk.upload("tree").unwrap();
    desk.forget();
    desk.wrap = interrupted;
    let error = desk.download("out").unwrap_err();
    assert_eq!(error.class(), Class::Interrupted { signal: 2 }, "{}", error.chain());
    for (path, node) in walk(&desk.path("out")) {
        assert!(node.kind != 'f' || node.digest == tree[&path].digest, "{}", path.escape_ascii());
    }
    assert!(files(&desk.path("seeds"), "").is_empty(), "{:?}", files(&desk.path("seeds"), ""));
    assert_clean(&desk);
    (desk.wrap, desk.cancel) = (plain, Cancel::new());
    desk.download("out").unwrap();
    assert_same(&tree, &walk(&desk.path("out")), "after the interruption");
}

/// The quick version of `scripts/kill-loop`.
#[test]
fn what_is_killed_leaves_nothing_torn_and_the_next_run_succeeds() {
    const KILLS: u32 = 8;
    let sandbox = Sandbox::new();
    noise(&sandbox.path("tree"), 120, 20_000);
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_monofo"));
        command.args(args).current_dir(sandbox.work("")).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
        for (name, folder) in [("ARTIFACTS", "artifacts"), ("DESYNC_STORE", "store"), ("DESYNC_CACHE", "cache")] {
            command.env(format!("MONOFO_{name}"), sandbox.path(folder));
        }
        command.env("MONOFO_DESYNC_SEED_DIR", sandbox.path("seeds"));
        command
    };
    let into = sandbox.path("out").to_str().unwrap().to_owned();
    let upload = ["upload", "a.catar.caibx", "**", "-C", "../tree"];
    let download = ["download", "a.catar.caibx", "-C", &into];
    let mut killed = 0;
    for args in [&upload[..], &download] {
        // The length of a whole run, over which the kills are spread.
        let started = Instant::now();
        assert!(run(args).status().unwrap().success());
        let whole = started.elapsed();
        for kill in 0..KILLS {
            for folder in if args == upload { &["store", "seeds"][..] } else { &["cache", "seeds", "out"] } {
                let _ = fs::remove_dir_all(sandbox.path(folder));
            }
            let mut child = run(args).spawn().unwrap();
            std::thread::sleep(whole * kill / KILLS);
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
            for folder in ["store", "cache"] {
                assert_chunks_are_whole(&sandbox.path(folder), Digest::default());
            }
            if kill % 4 == 3 {
                assert!(run(args).status().unwrap().success(), "after a kill");
            }
        }
    }
    assert!(killed > 0, "no run was killed");
    let _ = fs::remove_dir_all(sandbox.path("out"));
    assert!(run(&download).status().unwrap().success());
    assert_same(&walk(&sandbox.path("tree")), &walk(&sandbox.path("out")), "in the end");
}
