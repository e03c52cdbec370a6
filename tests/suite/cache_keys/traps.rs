//! Manifests with traps: what the specification says of each, with file and line, in little time.

use std::fs;

use crate::entries::{json, key};
use crate::harness::Sandbox;

#[test]
fn manifests_that_would_be_misread_are_refused_with_file_and_line() {
    let long = format!("components:\n  a: {{version: \"{}\"}}\n", "x".repeat(4 << 20));
    let mut bomb = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        bomb.push_str(&format!("l{level}: &l{level} [{}]\n", vec![format!("*l{}", level - 1); 10].join(", ")));
    }
    bomb.push_str("components: {a: {}}\n");
    let cases: [(&str, &str, &str); 26] = [
        ("a float", "components:\n  a: {version: 1.10}\n", "components.yaml:2:"),
        ("a float says what to do", "components:\n  a: {version: 1.10}\n", "quotes"),
        ("a bool", "components:\n  a: {version: true}\n", "components.yaml:2:"),
        ("a date", "components:\n  a: {version: 2024-01-02}\n", "components.yaml:2:"),
        ("an old bool", "components:\n  a: {version: no}\n", "components.yaml:2:"),
        ("a component twice", "components:\n  a: {}\n  a: {}\n", "components.yaml:3:"),
        ("a field twice", "components:\n  a:\n    version: v1\n    version: v2\n", "components.yaml:4:"),
        ("an unknown dependency", "components:\n  a:\n    depends_on: [b]\n", "components.yaml:3:"),
        ("itself", "components:\n  a:\n    depends_on: [a]\n", "components.yaml:3:"),
        (
            "a cycle",
            "components:\n  c: {depends_on: [a]}\n  b: {depends_on: [c]}\n  a: {depends_on: [b]}\n",
            "a -> b -> c -> a",
        ),
        ("a range", "components:\n  a: {depends_on: [\"b:^2\"]}\n  b: {version: v1.2.0}\n", "components.yaml:2:"),
        ("a map in place of a range", "components:\n  a: {depends_on: [b: ^1]}\n  b: {}\n", "components.yaml:2:"),
        ("a bomb", &bomb, "components.yaml"),
        ("4 MiB and more", &long, "4 MiB"),
        ("a path that leaves", "components:\n  a: {path: ../x}\n", "components.yaml:2:"),
        ("an absolute path", "components:\n  a: {path: /x}\n", "components.yaml:2:"),
        ("outputs that leave", "components:\n  a: {outputs: x/../../y}\n", "components.yaml:2:"),
        ("an input that leaves", "components:\n  a: {inputs: [../x]}\n", "components.yaml:2:"),
        ("a name that is a path", "components:\n  ../a: {}\n", "components.yaml:2:"),
        ("a name with a space", "components:\n  a b: {}\n", "components.yaml:2:"),
        ("a secret variable", "components:\n  a: {env: [GITHUB_TOKEN]}\n", "components.yaml:2:"),
        ("a platform nobody has", "components:\n  a: {platform: windows}\n", "components.yaml:2:"),
        ("no YAML", "components: [\n", "components.yaml:"),
        ("no map", "- a\n- b\n", "components.yaml:1:"),
        ("no components", "meta: {mode: reference}\n", "components.yaml:1:"),
        ("two documents", "components: {a: {}}\n---\ncomponents: {a: {version: v2}}\n", "components.yaml:"),
    ];
    for (what, text, told) in cases {
        let sandbox = Sandbox::new();
        sandbox.write("manifests/components.yaml", text);
        let ran = sandbox.monofo(["cache", "key", "a"]).at_most(10).exits(4);
        assert!(ran.stderr.contains(told), "{what}: expected `{told}` in:\n{}", ran.stderr);
        assert!(ran.stdout.is_empty(), "{what}");
        assert_eq!(json(&sandbox, &["cache", "list"], 4)["error"]["kind"], "workspace", "{what}");
        assert!(!sandbox.work(".meta-cache").exists(), "{what}");
    }
}

#[test]
fn a_manifest_that_is_no_text_no_file_or_not_readable_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("manifests/components.yaml", b"components:\n  a: {version: \"\xff\"}\n");
    sandbox.monofo(["cache", "key", "a"]).exits(4).says("components.yaml:2:").says("UTF-8");
    fs::remove_file(sandbox.work("manifests/components.yaml")).unwrap();
    fs::create_dir(sandbox.work("manifests/components.yaml")).unwrap();
    sandbox.monofo(["cache", "key", "a"]).exits(4).says("components.yaml");
    fs::remove_dir(sandbox.work("manifests/components.yaml")).unwrap();
    let fifo = sandbox.work("manifests/components.yaml");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    sandbox.monofo(["cache", "key", "a"]).at_most(10).exits(4).says("components.yaml");
}

#[test]
fn the_same_manifest_written_in_other_ways_gives_the_same_keys() {
    let plain = "components:\n  a:\n    version: \"1\"\n    depends_on: [b]\n  b: {version: v1}\n";
    let ways = [
        plain.replace("\"1\"", "1"),
        plain.replace('\n', "\r\n"),
        format!("\u{feff}{plain}"),
        format!("# about\n{plain}...\n"),
        plain.replace("\"1\"", "'1'").replace("[b]", "[ \"b:^1\" ]"),
        "components: {b: &b {version: v1}, a: {version: \"1\", depends_on: [b]}}".to_owned(),
    ];
    let keyed = |text: &str| {
        let sandbox = Sandbox::new();
        sandbox.write("manifests/components.yaml", text);
        sandbox.write("components/a/x", "x");
        sandbox.write("components/b/y", "y");
        (key(&sandbox, "a"), key(&sandbox, "b"))
    };
    let expected = keyed(plain);
    for way in ways {
        assert_eq!(keyed(&way), expected, "{way:?}");
    }
}
