//! Lock files: what they say, which one is used, and how they differ from the manifest.

use std::fs;

use super::*;
use crate::config::workspace::find;
use crate::key::Mode;

const HASH: &str = "986f17193907943a61d86c9de994e6ef2789645b5b55705bdc7764ee3a35cb26";

fn workspace(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    for (name, text) in files {
        fs::write(manifests.join(name), text).unwrap();
    }
    folder
}

fn read(text: &str) -> Result<Lock> {
    let folder = workspace(&[("components.lock.yaml", text)]);
    read_lock(&folder.path().join("manifests/components.lock.yaml"))
}

#[test]
fn every_field_is_read_and_unknown_ones_are_passed_over() {
    let lock = read(&format!(
        "lock_version: 1\ngenerated_at: 2025-11-03T12:00:00Z\nmode: vendored\nenvironment: prod\n\
         promoted_from: staging\npromoted_at: '2025-11-04'\ntool: 1.10\ncomponents:\n  b:\n  a:\n    version: v1\n    \
         commit: 12e4567\n    vendored_at: 2025-11-03 12:00:00\n    repo: r\n    type: bazel\n    build_target: //a\n    \
         depends_on: [b, 'c:^1', b]\n    environment: prod\n    source: {HASH}\n    checksum: 1.10\n    \
         artifact:\n    - {{ platform: linux-x86_64, hash: {HASH}, size: 1 }}\n    - platform: any\n      hash: {}\n",
        "1".repeat(64)
    ))
    .unwrap();
    let name = |name: &str| ComponentName::new(name).unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!((lock.generated_at, lock.environment), (text("2025-11-03T12:00:00Z"), text("prod")));
    assert_eq!((lock.promoted_from, lock.promoted_at), (text("staging"), text("2025-11-04")));
    assert_eq!(lock.mode, Mode::Vendored);
    let address = Hash::parse(HASH).unwrap();
    let a = LockedComponent {
        version: "v1".into(),
        kind: "bazel".into(),
        build_target: "//a".into(),
        repo: "r".into(),
        depends_on: vec![name("b"), name("c")],
        commit: text("12e4567"),
        vendored_at: text("2025-11-03 12:00:00"),
        environment: text("prod"),
        source: Some(address),
        artifacts: vec![("linux-x86_64".into(), address), ("any".into(), Hash([0x11; 32]))],
    };
    assert_eq!(lock.components["a"], a);
    assert_eq!(lock.components["b"], LockedComponent { version: "latest".into(), ..LockedComponent::default() });
}

#[test]
fn each_mistake_is_told_with_file_and_line() {
    for (text, line, message) in [
        ("", 1, "there is no `components`"),
        ("generated_at: x\n", 1, "there is no `components`"),
        ("- a\n", 1, "there is no `components`"),
        ("components: [a]\n", 1, "expected a map"),
        ("components: {}\nlock_version: 2\n", 2, "found `2`, expected `1`"),
        ("components: {}\nmode: x\n", 2, "`reference` or `vendored`"),
        ("components:\n  a: {}\n  a: {}\n", 3, "duplicate key `a`"),
        ("components:\n  ../a: {}\n", 2, "not a possible name"),
        ("components:\n  a: x\n", 2, "expected a map"),
        ("components:\n  a:\n    version: 1.10\n", 3, "takes for a number"),
        ("components:\n  a:\n    version:\n", 3, "expected a version"),
        ("components:\n  a:\n    commit: [x]\n", 3, "expected text"),
        ("components:\n  a:\n    depends_on: b\n", 3, "expected a list"),
        ("components:\n  a:\n    depends_on: [../b]\n", 3, "not a possible name"),
        ("components:\n  a:\n    source: abc\n", 3, "expected a hash"),
        ("components:\n  a:\n    artifact: abc\n", 3, "expected a list"),
        ("components:\n  a:\n    artifact: [abc]\n", 3, "expected `platform` and `hash`"),
        ("components:\n  a:\n    artifact: [{platform: any}]\n", 3, "expected `platform` and `hash`"),
        ("components:\n  a:\n    artifact: [{platform: any, hash: }]\n", 3, "expected a hash"),
        ("components:\n  a:\n    artifact: [{platform: any, hash: ../x}]\n", 3, "expected a hash"),
        ("components:\n  a: [\n", 2, "not valid YAML"),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!(error.class(), Class::Workspace, "{text}");
        let found = error.chain();
        assert!(found.starts_with(&format!("manifests/components.lock.yaml:{line}: ")), "{text}: {found}");
        assert!(found.contains(message), "{text}: {found}");
        assert!(error.next_step().is_some(), "{text}: {found}");
    }
    let wrong = format!("components:\n  a:\n    artifact: [{{platform: ../x, hash: {HASH}}}]\n");
    assert!(read(&wrong).unwrap_err().chain().contains("expected a platform"));
}

#[test]
fn all_lock_files_of_a_folder_are_found_and_none_that_is_broken_is_passed_over() {
    let folder = workspace(&[
        ("components.yaml", "components: {a: }"),
        ("components.lock.yaml", "components: {a: }"),
        ("components.lock.prod.yaml", "components: {b: }"),
        ("components.lock.eu.west.yaml", "components: {c: }"),
        ("components.lock.yaml.old", "["),
        ("xcomponents.lock.yaml", "["),
        ("components.locks.yaml", "["),
        ("components.lock.prodyaml", "["),
    ]);
    let manifests = folder.path().join("manifests");
    let names = |locks: &[Lock]| {
        locks.iter().map(|lock| lock.path.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = names(&all_locks(&manifests).unwrap());
    assert_eq!(found, ["components.lock.eu.west.yaml", "components.lock.prod.yaml", "components.lock.yaml"]);

    let broken = manifests.join("components.lock.dev.yaml");
    fs::write(&broken, "components: [").unwrap();
    let error = all_locks(&manifests).unwrap_err();
    assert_eq!(error.class(), Class::Workspace);
    assert!(error.chain().starts_with("manifests/components.lock.dev.yaml:1: "), "{}", error.chain());

    fs::remove_file(&broken).unwrap();
    std::os::unix::fs::symlink("nowhere", &broken).unwrap();
    let error = all_locks(&manifests).unwrap_err();
    assert_eq!(error.class(), Class::Workspace);
    assert!(error.chain().contains("components.lock.dev.yaml"), "{}", error.chain());

    assert_eq!(all_locks(&folder.path().join("none")).unwrap_err().class(), Class::Workspace);
}

#[test]
fn the_lock_that_is_asked_for_is_used_and_no_other_in_its_place() {
    let folder = workspace(&[
        ("components.yaml", "components: {a: }"),
        ("components.lock.prod.yaml", "components: {a: {version: prod}}"),
    ]);
    let workspace = find(folder.path()).unwrap();
    let prod = lock_for(&workspace, Some("prod")).unwrap();
    assert_eq!(prod.component(&ComponentName::new("a").unwrap()).unwrap().version, "prod");
    let missing = prod.component(&ComponentName::new("b").unwrap()).unwrap_err();
    assert_eq!(missing.class(), Class::Workspace);

    for environment in [None, Some("dev")] {
        let error = lock_for(&workspace, environment).unwrap_err();
        assert_eq!(error.class(), Class::Workspace, "{environment:?}");
        let name = environment.map_or_else(String::new, |name| format!("{name}."));
        assert_eq!(error.chain(), format!("there is no `manifests/components.lock.{name}yaml`"));
        assert!(error.next_step().unwrap().contains("monofo lock"));
    }
    fs::write(folder.path().join("manifests/components.lock.yaml"), "components: {}").unwrap();
    assert!(lock_for(&workspace, None).unwrap().components.is_empty());
    assert_eq!(lock_for(&workspace, Some("dev")).unwrap_err().class(), Class::Workspace);
    for wrong in ["", "../x", "a/b", "."] {
        assert_eq!(lock_for(&workspace, Some(wrong)).unwrap_err().class(), Class::Usage, "{wrong}");
    }

    let none = tempfile::tempdir().unwrap();
    let error = lock_for(&find(none.path()).unwrap(), None).unwrap_err();
    assert_eq!(error.class(), Class::Workspace);
    assert!(error.chain().contains("no workspace"), "{}", error.chain());
}

#[test]
fn each_difference_between_lock_and_manifest_is_named() {
    let folder = workspace(&[
        (
            "components.yaml",
            "components:\n  same: {version: v1, type: t, build_target: x, depends_on: ['new:*']}\n  a: {version: v2, \
             type: bazel, build_target: //a, depends_on: [same, new], repo: here, platform: any}\n  new: {}\n",
        ),
        (
            "components.lock.yaml",
            "components:\n  same: {version: v1, type: t, build_target: x, depends_on: [new]}\n  a: {version: v1, \
             type: make, depends_on: [same, old], repo: there}\n  old: {}\n",
        ),
    ]);
    let workspace = find(folder.path()).unwrap();
    let lock = lock_for(&workspace, None).unwrap();
    assert_eq!(
        drift(&workspace, &lock, workspace.components.keys()),
        [
            "`a`: version is `v2` in the manifest and `v1` in the lock",
            "`a`: type is `bazel` in the manifest and `make` in the lock",
            "`a`: build_target is `//a` in the manifest and `` in the lock",
            "`a`: depends on `new` in the manifest and not in the lock",
            "`a`: depends on `old` in the lock and not in the manifest",
        ]
    );
}
