//! Indexes, stores, caches and seeds that are damaged, cut, gone or in the way: never a wrong file and exit 0.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use monofo::chunk::{Digest, Packer};
use monofo::error::Class;

use crate::desk::{Desk, assert_chunks_are_whole, chunk_in, files, noise};
use crate::harness::{Node, assert_same, is_root, walk};

/// A desk with an artifact of some chunks in the store, and nothing on this machine.
fn uploaded(desk: Desk, files: usize, size: usize) -> (Desk, BTreeMap<Vec<u8>, Node>) {
    noise(&desk.path("tree"), files, size);
    desk.upload("tree").unwrap();
    desk.forget();
    let tree = walk(&desk.path("tree"));
    (desk, tree)
}

/// A file with a byte changed, here at so many thousandths of its length.
fn flip(path: &Path, thousandth: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = (bytes.len() - 1) * thousandth / 1000;
    bytes[at] ^= 0x10;
    // Chunks of others are read-only.
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Files found right, or an error of this class; whatever it is, nothing is wrong in the store afterwards that was right.
#[track_caller]
fn assert_right_or_damaged(desk: &Desk, tree: &BTreeMap<Vec<u8>, Node>, what: &str) -> bool {
    let result = desk.download("out");
    let now = walk(&desk.path("out"));
    let _ = fs::remove_dir_all(desk.path("out"));
    match result {
        Ok(_) => {
            assert_same(tree, &now, what);
            true
        }
        Err(error) => {
            assert_eq!(error.class(), Class::Damaged, "{what}: {}", error.chain());
            for (path, node) in now {
                assert!(node.kind != 'f' || node.digest == tree[&path].digest, "{what}: {}", path.escape_ascii());
            }
            false
        }
    }
}

#[test]
fn an_index_with_any_byte_changed_gives_no_wrong_file_and_harms_no_chunk() {
    for (files_, size, step) in [(1, 3_000, 1), (8, 30_000, 29)] {
        let (desk, tree) = uploaded(Desk::small(), files_, size);
        let whole = desk.artifact.0.lock().unwrap().clone();
        let chunks = files(&desk.path("store"), "");
        let mut right = 0;
        for at in (0..whole.len()).step_by(step) {
            for flip in [1u8, 0x80] {
                let mut changed = whole.clone();
                changed[at] ^= flip;
                *desk.artifact.0.lock().unwrap() = changed;
                right += usize::from(assert_right_or_damaged(&desk, &tree, &format!("byte {at} changed by {flip}")));
                assert_eq!(files(&desk.path("store"), ""), chunks, "byte {at} changed by {flip}");
            }
        }
        // What does not matter for getting the files back: sizes, flags.
        assert!(right < 2 * whole.len() / step / 4, "{right} of {}", 2 * whole.len() / step);
        for keep in (0..whole.len()).step_by(step) {
            *desk.artifact.0.lock().unwrap() = whole[..keep].to_vec();
            assert!(!assert_right_or_damaged(&desk, &tree, &format!("cut at {keep}")));
        }
        *desk.artifact.0.lock().unwrap() = whole;
        desk.assert_heals(&tree, "the whole index");
    }
}

/// What is done to the file of a chunk, and what is said then.
type Harm = fn(&Path);

const HARMS: [(&str, Harm, &str); 10] = [
    ("a changed magic", |path| flip(path, 0), "begins like no known"),
    ("a changed middle", |path| flip(path, 500), ""),
    ("a changed end", |path| flip(path, 1000), ""),
    ("truncated", |path| fs::write(path, &fs::read(path).unwrap()[..100]).unwrap(), "cut or changed"),
    ("only a header", |path| fs::write(path, &fs::read(path).unwrap()[..6]).unwrap(), "cut or changed"),
    ("empty", |path| fs::write(path, "").unwrap(), "empty"),
    (
        "a bomb",
        |path| {
            let mut packed = Vec::new();
            Packer::new().unwrap().pack(&vec![0; 64 << 20], &mut packed).unwrap();
            fs::write(path, packed).unwrap();
        },
        "more than the index says",
    ),
    (
        "another chunk",
        |path| {
            let store = path.parent().unwrap().parent().unwrap();
            let other = files(store, ".cacnk").into_iter().find(|other| other != path).unwrap();
            fs::copy(other, path).unwrap();
        },
        "",
    ),
    (
        "another chunk of the same length",
        |path| {
            let mut chunk = zstd::stream::decode_all(&fs::read(path).unwrap()[..]).unwrap();
            chunk[0] ^= 1;
            let mut packed = Vec::new();
            Packer::new().unwrap().pack(&chunk, &mut packed).unwrap();
            fs::write(path, packed).unwrap();
        },
        "does not match its id",
    ),
    ("text", |path| fs::write(path, "<html>").unwrap(), "begins like no known"),
];

#[test]
fn a_damaged_chunk_is_named_and_an_upload_repairs_it() {
    let (desk, tree) = uploaded(Desk::small(), 5, 10_000);
    let all = desk.index().items.len();
    for (number, (what, harm, says)) in HARMS.into_iter().enumerate() {
        // The first, the last, and some between.
        let victim = [0, all - 1, all / 2][number % 3];
        let path = desk.chunk(victim);
        let id = path.file_stem().unwrap().to_str().unwrap().to_owned();
        harm(&path);
        let error = desk.download("out").expect_err(what);
        assert_eq!(error.class(), Class::Damaged, "{what}: {}", error.chain());
        assert!(error.chain().contains(&id) && error.chain().contains(says), "{what}: {}", error.chain());
        assert!(error.next_step().unwrap().contains("uploads the artifact again"), "{what}: {:?}", error.next_step());
        for (path, node) in walk(&desk.path("out")) {
            assert!(node.kind != 'f' || node.digest == tree[&path].digest, "{what}: {}", path.escape_ascii());
        }
        fs::remove_dir_all(desk.path("out")).unwrap();
        assert_eq!(desk.upload("tree").unwrap().chunks.unwrap().moved, 1, "{what}");
        desk.assert_heals(&tree, what);
    }
}

#[test]
fn a_missing_chunk_is_named_and_an_upload_repairs_it() {
    let (desk, tree) = uploaded(Desk::small(), 5, 10_000);
    for victim in [0, 3, desk.index().items.len() - 1] {
        let path = desk.chunk(victim);
        fs::remove_file(&path).unwrap();
        let error = desk.download("out").unwrap_err();
        assert_eq!(error.class(), Class::Damaged, "{}", error.chain());
        let id = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(error.chain().contains(&format!("chunk {id} is missing from")), "{}", error.chain());
        assert!(error.next_step().unwrap().contains("uploads the artifact again"));
        assert_eq!(desk.upload("tree").unwrap().chunks.unwrap().moved, 1);
        desk.assert_heals(&tree, "repaired");
    }
}

/// Chunks of zeros are what an empty buffer looks like.
#[test]
fn a_damaged_chunk_of_zeros_is_named_and_kept_nowhere() {
    let desk = Desk { cache: true, ..Desk::new() };
    fs::create_dir(desk.path("tree")).unwrap();
    fs::write(desk.path("tree/zeros"), vec![0; 3 << 20]).unwrap();
    desk.upload("tree").unwrap();
    let zeros = Digest::default().id(&vec![0; 256 << 10]).to_string();
    let path = chunk_in(&desk.path("store"), &zeros);
    fs::write(&path, "damaged").unwrap();
    let error = desk.download("out").unwrap_err();
    assert_eq!(error.class(), Class::Damaged, "{}", error.chain());
    assert!(error.chain().contains(&zeros), "{}", error.chain());
    assert_chunks_are_whole(&desk.path("cache"), Digest::default());
    desk.upload("tree").unwrap();
    desk.assert_heals(&walk(&desk.path("tree")), "repaired");
}

#[test]
fn chunks_in_other_forms_are_read() {
    let (desk, tree) = uploaded(Desk::small(), 3, 10_000);
    for (number, path) in files(&desk.path("store"), ".cacnk").into_iter().enumerate() {
        let chunk = zstd::stream::decode_all(&fs::read(&path).unwrap()[..]).unwrap();
        match number % 3 {
            0 => {
                fs::write(path.with_extension(""), chunk).unwrap();
                fs::remove_file(path).unwrap();
            }
            1 => {
                use std::io::Write;
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                gzip.write_all(&chunk).unwrap();
                fs::write(path, gzip.finish().unwrap()).unwrap();
            }
            _ => fs::write(path, zstd::stream::encode_all(&chunk[..], 19).unwrap()).unwrap(),
        }
    }
    assert_eq!(desk.upload("tree").unwrap().chunks.unwrap().moved, 0);
    desk.assert_heals(&tree, "other forms");
    let plain = files(&desk.path("store"), "").into_iter().find(|path| path.extension().is_none()).unwrap();
    flip(&plain, 500);
    let error = desk.download("out").unwrap_err();
    assert!(error.chain().contains(plain.file_name().unwrap().to_str().unwrap()), "{}", error.chain());
    assert_eq!(desk.upload("tree").unwrap().chunks.unwrap().moved, 1);
    desk.assert_heals(&tree, "repaired");
}

#[test]
fn a_damaged_cache_heals() {
    let (desk, tree) = uploaded(Desk { cache: true, ..Desk::small() }, 5, 10_000);
    desk.assert_heals(&tree, "fills the cache");
    let all = desk.index().items.len();
    for (number, (what, harm, _)) in HARMS.into_iter().enumerate() {
        let id = desk.index().items[number * all / HARMS.len()].id;
        harm(&chunk_in(&desk.path("cache"), &id.to_string()));
        let counts = desk.assert_heals(&tree, what).chunks.unwrap();
        assert_eq!((counts.moved, counts.from_cache), (1, all as u64 - 1), "{what}");
        assert_chunks_are_whole(&desk.path("cache"), Digest::default());
    }
    // Nothing of it is right.
    for path in files(&desk.path("cache"), ".cacnk") {
        flip(&path, 500);
    }
    assert_eq!(desk.assert_heals(&tree, "all wrong").chunks.unwrap().moved, all as u64);
    assert_eq!(desk.assert_heals(&tree, "filled again").chunks.unwrap().from_cache, all as u64);
}

fn seed_files(desk: &Desk) -> (PathBuf, PathBuf) {
    let (mut archives, mut indexes) = (files(&desk.path("seeds"), ".catar"), files(&desk.path("seeds"), ".caibx"));
    assert_eq!((archives.len(), indexes.len()), (1, 1));
    (archives.remove(0), indexes.remove(0))
}

#[test]
fn a_damaged_seed_heals() {
    let (desk, tree) = uploaded(Desk { seeds: 1 << 30, ..Desk::small() }, 5, 10_000);
    let all = desk.index().items.len() as u64;
    for thousandth in [0, 1, 250, 500, 999, 1000] {
        desk.assert_heals(&tree, "makes a seed");
        flip(&seed_files(&desk).0, thousandth);
        let counts = desk.assert_heals(&tree, "a changed archive").chunks.unwrap();
        assert_eq!((counts.moved, counts.from_seed), (1, all - 1), "{thousandth}");
        assert!(files(&desk.path("seeds"), "").is_empty(), "a damaged seed stays");
    }
    let harms: [(&str, Harm); 6] = [
        ("cut", |path| fs::write(path, &fs::read(path).unwrap()[..900]).unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("zeros", |path| fs::write(path, vec![0; fs::metadata(path).unwrap().len() as usize]).unwrap()),
        ("longer", |path| fs::write(path, [fs::read(path).unwrap(), vec![1; 9999]].concat()).unwrap()),
    ];
    for (what, harm) in harms {
        for archive in [true, false] {
            let _ = fs::remove_dir_all(desk.path("seeds"));
            desk.assert_heals(&tree, "makes a seed");
            let (data, index) = seed_files(&desk);
            harm(if archive { &data } else { &index });
            desk.assert_heals(&tree, what);
            desk.assert_heals(&tree, what);
        }
    }
    desk.forget();
    desk.assert_heals(&tree, "makes a seed");
    let index = seed_files(&desk).1;
    let whole = fs::read(&index).unwrap();
    let archive = fs::read(seed_files(&desk).0).unwrap();
    for at in (0..whole.len()).step_by(13) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(&index, changed).unwrap();
        desk.assert_heals(&tree, &format!("byte {at} of a seed's index"));
        // Whether it was replaced or not: the same again.
        desk.forget();
        fs::create_dir_all(index.parent().unwrap()).unwrap();
        fs::write(index.with_extension(""), &archive).unwrap();
    }
}

/// The same chunk several times in a row is loaded once; when that was wrong, each has to heal.
#[test]
fn a_damaged_seed_of_zeros_heals_from_the_cache() {
    let desk = Desk { cache: true, seeds: 1 << 30, ..Desk::new() };
    fs::create_dir(desk.path("tree")).unwrap();
    fs::write(desk.path("tree/zeros"), vec![0; 3 << 20]).unwrap();
    let tree = walk(&desk.path("tree"));
    desk.upload("tree").unwrap();
    desk.forget();
    desk.assert_heals(&tree, "fills the cache and makes a seed");
    fs::remove_dir_all(desk.path("store")).unwrap();
    // One of the chunks of zeros is what all of them are read from.
    for thousandth in (50..1000).step_by(75) {
        flip(&seed_files(&desk).0, thousandth);
    }
    desk.assert_heals(&tree, "from the cache");
    assert_chunks_are_whole(&desk.path("cache"), Digest::default());
}

#[test]
fn a_store_that_is_not_there_is_told_with_what_is_missing() {
    let (desk, tree) = uploaded(Desk { cache: true, ..Desk::small() }, 5, 10_000);
    let all = desk.index().items.len();
    desk.assert_heals(&tree, "fills the cache");
    for number in [0, 2, 4] {
        fs::remove_file(chunk_in(&desk.path("cache"), &desk.index().items[number].id.to_string())).unwrap();
    }
    fs::rename(desk.path("store"), desk.path("elsewhere")).unwrap();
    let error = desk.download("out").unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{}", error.chain());
    assert!(error.chain().contains(&format!("3 chunks of {all} are not on this machine")), "{}", error.chain());
    // A file is no folder either.
    fs::write(desk.path("store"), "").unwrap();
    assert_eq!(desk.download("out").unwrap_err().class(), Class::Unavailable);
    assert_eq!(desk.upload("tree").unwrap_err().class(), Class::Unavailable);
    fs::remove_file(desk.path("store")).unwrap();
    fs::rename(desk.path("elsewhere"), desk.path("store")).unwrap();
    desk.assert_heals(&tree, "it is back");
    if is_root() {
        println!("SKIPPED: a store that cannot be read, since root can read everything");
        return;
    }
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(desk.path("store"), fs::Permissions::from_mode(mode)).unwrap();
    };
    desk.forget();
    mode(0);
    let result = desk.download("out").map_err(|error| error.class());
    mode(0o755);
    assert_eq!(result.err(), Some(Class::Unavailable));
}

#[test]
fn seeds_and_a_cache_that_cannot_be_written_are_said_and_stop_nothing() {
    let (desk, tree) = uploaded(Desk { cache: true, seeds: 1 << 30, ..Desk::small() }, 3, 10_000);
    fs::write(desk.path("cache"), "in the way").unwrap();
    fs::write(desk.path("seeds"), "in the way").unwrap();
    let said = desk.assert_heals(&tree, "both in the way").warnings.join("; ");
    assert!(said.contains("chunks are not kept in the local cache"), "{said}");
    desk.upload("tree").unwrap();

    let run = |args: &[&str]| {
        let mut run = desk.sandbox.monofo(args);
        for (variable, folder) in [("STORE", "store"), ("CACHE", "cache"), ("SEED_DIR", "seeds")] {
            run = run.env(&format!("MONOFO_DESYNC_{variable}"), desk.path(folder).to_str().unwrap());
        }
        run.exits(0)
    };
    run(&["upload", "a.catar.caibx", "**", "-C", "../tree"]).says("no seed is kept");
    run(&["download", "a.catar.caibx", "-C", "../out"]).says("no seed is kept").says("local cache");
    assert_same(&tree, &walk(&desk.path("out")), "the binary");
    assert_eq!(fs::read(desk.path("cache")).unwrap(), b"in the way");
}
