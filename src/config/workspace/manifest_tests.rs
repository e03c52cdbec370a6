//! What a manifest may say, and every mistake that can be in one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::manifest;
use crate::error::{Class, Error};
use crate::key::{Component, ComponentName, Platform};

fn read(bytes: impl AsRef<[u8]>) -> Result<BTreeMap<ComponentName, Component>, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    manifest::read(file.path(), "manifests/components.yaml").map(|(components, _)| components)
}

/// A component `a`, with these lines below it, beside a `b` whose version is `v1.2.3`.
fn with(fields: &str) -> String {
    let fields: String = fields.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "    {line}");
        all
    });
    format!("components:\n  b: {{ version: v1.2.3 }}\n  a:\n{fields}")
}

fn a(fields: &str) -> Component {
    read(with(fields)).unwrap_or_else(|error| panic!("{fields}: {}", error.chain())).remove("a").unwrap()
}

/// The only mistake in a file: its message, and its hint.
fn mistake(text: impl AsRef<[u8]>) -> (String, String) {
    let error = read(text).unwrap_err();
    assert_eq!(error.class(), Class::Workspace);
    assert!(!error.chain().contains("mistakes:"), "{}", error.chain());
    (error.chain(), error.next_step().unwrap_or_else(|| panic!("no hint: {}", error.chain())).to_owned())
}

#[test]
fn every_field_is_read() {
    let text = r#"
meta: { mode: vendored, owner: somebody }
components:
  agent-core:
  infrastructure-primitives: { version: "1.4.0", platform: any }
  scraper-capabilities:
    version: "v3.0.1"
    type: bazel
    build_target: "//scraper_capabilities:all"
    repo: "git@github.com:org/scraper-capabilities.git"
    depends_on: [infrastructure-primitives:^1.2, agent-core, "agent-core"]
    path: ./src//scraper/
    outputs: bazel-bin/scraper_capabilities
    inputs: [".bazelversion", "tools/**/*.bzl", "!tools/old/**"]
    exclude: ["docs/**"]
    env: [DEBUG, CFLAGS, DEBUG]
    platform: native
    build: "bazel build //scraper_capabilities:all"
    owners: [one, { two: 3.10 }]
"#;
    let components = read(text).unwrap();
    let name = |name: &str| ComponentName::new(name).unwrap();
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = Component {
        name: name("scraper-capabilities"),
        version: "v3.0.1".into(),
        kind: "bazel".into(),
        build_target: "//scraper_capabilities:all".into(),
        repo: "git@github.com:org/scraper-capabilities.git".into(),
        depends_on: vec![name("agent-core"), name("infrastructure-primitives")],
        path: "src/scraper".into(),
        outputs: Some("bazel-bin/scraper_capabilities".into()),
        inputs: texts(&[".bazelversion", "tools/**/*.bzl", "!tools/old/**"]),
        exclude: texts(&["docs/**"]),
        env: texts(&["CFLAGS", "DEBUG"]),
        platform: Platform::Native,
        build: Some("bazel build //scraper_capabilities:all".into()),
    };
    assert_eq!(components["scraper-capabilities"], expected);
    assert_eq!(components["infrastructure-primitives"].platform, Platform::Any);
    let bare = &components["agent-core"];
    assert_eq!((bare.version.as_str(), bare.path.as_path()), ("latest", Path::new("components/agent-core")));
    assert_eq!((&bare.outputs, &bare.build, bare.kind.as_str()), (&None, &None, ""));
}

#[test]
fn a_field_with_nothing_in_it_is_as_good_as_none() {
    let empty =
        a("type:\nbuild_target: ~\nrepo:\ndepends_on:\npath:\noutputs:\ninputs:\nexclude:\nenv:\nplatform:\nbuild:");
    assert_eq!(empty, a("{}"));
    assert_eq!(read("components:\n").unwrap().len(), 0);
    assert_eq!(read("components: {}\nmeta:\n").unwrap().len(), 0);
}

#[test]
fn versions_are_text_and_integers_are_their_digits() {
    for (written, version) in [
        ("v3.0.1", "v3.0.1"),
        ("\"1.10\"", "1.10"),
        ("'2024-01-02'", "2024-01-02"),
        ("!!str 1.10", "1.10"),
        ("!!str 2024-01-02", "2024-01-02"),
        ("|-\n  2024-01-02", "2024-01-02"),
        ("10", "10"),
        ("007", "007"),
        ("-1", "-1"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("1.2.3", "1.2.3"),
        ("'yes'", "yes"),
        ("2024-01", "2024-01"),
        ("4e5f6a7", "4e5f6a7"),
    ] {
        assert_eq!(a(&format!("version: {written}")).version, version, "{written}");
    }
}

#[test]
fn what_yaml_takes_for_something_else_wants_quotes() {
    for written in [
        "1.10",
        "1.0",
        "1e3",
        "12e4567",
        "0x1f",
        "0o17",
        "+5",
        "1_000",
        "01.10",
        ".5",
        ".inf",
        ".nan",
        "12:30",
        "true",
        "True",
        "FALSE",
        "yes",
        "off",
        "n",
        "2024-01-02",
        "2024-01-02T03:04:05Z",
        "2024-01-02 03:04:05",
    ] {
        for field in ["version", "type", "build_target", "repo", "build", "platform", "path"] {
            let (message, hint) = mistake(with(&format!("{field}: {written}")));
            let begins = format!("manifests/components.yaml:4: `components.a.{field}`: found `{written}`");
            assert!(message.starts_with(&begins), "{message}");
            assert_eq!(hint, format!("put quotes around it: `\"{written}\"`"));
        }
        assert!(mistake(with(&format!("depends_on:\n- {written}"))).1.starts_with("put quotes around it"), "{written}");
    }
}

#[test]
fn a_value_behind_an_alias_is_judged_by_what_is_written_at_its_anchor() {
    let text = "x: [&quoted \"1.10\", &bare 1.10]\ncomponents:\n  a: { version: *quoted }\n";
    assert_eq!(read(text).unwrap()["a"].version, "1.10");
    let (message, hint) = mistake(text.replace("*quoted", "*bare"));
    assert!(message.starts_with("manifests/components.yaml:1: `components.a.version`: "), "{message}");
    assert!(hint.contains("put quotes around it"), "{hint}");
}

#[test]
fn each_mistake_is_told_with_its_line_and_what_to_do() {
    for (fields, line, message, hint) in [
        ("version:", 4, "found null, expected a version", "`latest`"),
        ("version: ''", 4, "found an empty text, expected a version", "`latest`"),
        ("version: [1]", 4, "found a list, expected text", "one value"),
        ("type: {a: b}", 4, "found a map, expected text", "one value"),
        ("depends_on: b", 4, "expected a list", "brackets"),
        ("depends_on:\n- c", 5, "there is no component `c`", ""),
        ("depends_on: ['b ']", 4, "not a possible name", "letters"),
        ("depends_on: ['../b']", 4, "not a possible name", "letters"),
        ("depends_on: [b, ]\ntype: x\n\nenv: [~]", 7, "the name of a variable", "take the element out"),
        ("depends_on: [~]", 4, "found null, expected `name`", "take the element out"),
        ("depends_on: [b: ^1.2]", 4, "found a map", "write `\"b:^1.2\"`"),
        ("depends_on: ['b:']", 4, "a range after the colon", "`name:^1.2`"),
        ("depends_on:\n- b\n- a", 6, "`a` depends on itself", "take it out"),
        ("depends_on: ['b:^2']", 4, "`a` needs `b` in `^2`, but its version is `v1.2.3`", "change the range"),
        ("path: /etc", 4, "`/etc`, which is absolute", "relative"),
        ("path: a/../b", 4, "which contains `..`", "without `..`"),
        ("path: ''", 4, "which is empty", "relative"),
        ("path: \"a\\0b\"", 4, "which contains a NUL byte", "relative"),
        ("outputs: ../out", 4, "which contains `..`", "without `..`"),
        ("outputs: ./", 4, "expected a path below `path`", "folder of its own"),
        ("inputs: '*.c'", 4, "expected a list", "brackets"),
        ("inputs:\n- ok\n- '../x/**'", 6, "which contains `..`", "without `..`"),
        ("inputs: ['!../x/**']", 4, "which contains `..`", "without `..`"),
        ("inputs: ['a/../b']", 4, "which contains `..`", "without `..`"),
        ("inputs: [/etc/*]", 4, "which is absolute", "relative"),
        ("inputs: ['[']", 4, "glob `[` cannot be read", "`**`"),
        ("inputs: ['.']", 4, "matches the working directory itself", "`**`"),
        ("inputs: ['']", 4, "found an empty text", "take the element out"),
        ("exclude: ['a/[à-ü]']", 4, "more than ASCII", "alternatives"),
        ("exclude: ['!docs']", 4, "`!` has no meaning here", "taken out already"),
        ("exclude: [1.5]", 4, "takes for a number", "quotes"),
        ("env: [A-B]", 4, "expected the name of a variable", "digits"),
        ("env: [1A]", 4, "expected the name of a variable", "digits"),
        ("env: [A=B]", 4, "expected the name of a variable", "digits"),
        ("env: ['']", 4, "found an empty text", "take the element out"),
        ("env:\n- CC\n- GITHUB_TOKEN", 6, "looks like a secret because of `TOKEN`", "leave it out"),
        ("env: [my_secret_x]", 4, "because of `SECRET`", "leave it out"),
        ("env: [PgPassword]", 4, "because of `PASSWORD`", "leave it out"),
        ("env: [AWS_CREDENTIALS]", 4, "because of `CREDENTIAL`", "leave it out"),
        ("env: [ssh_private_key]", 4, "because of `PRIVATE_KEY`", "leave it out"),
        ("platform: linux", 4, "expected `native` or `any`", "`any`"),
        ("type: x\ntype: y", 5, "duplicate key `type`", "remove or rename"),
        ("type: [", 4, "not valid YAML", "brackets"),
        ("depends_on: *nowhere", 4, "not valid YAML", "quotes"),
    ] {
        let (found, next) = mistake(with(fields));
        assert!(found.starts_with(&format!("manifests/components.yaml:{line}: ")), "{fields}: {found}");
        assert!(found.contains(message), "{fields}: {found}");
        assert!(next.contains(hint), "{fields}: {next}");
    }
}

#[test]
fn the_whole_file_has_to_be_a_manifest() {
    for (text, line, message) in [
        ("", 1, "there is no `components`"),
        ("# nothing\n", 2, "there is no `components`"),
        ("meta: {}\n", 1, "there is no `components`"),
        ("- a\n", 1, "something else than a map"),
        ("a\n", 1, "something else than a map"),
        ("components: [a]\n", 1, "found a list, expected a map"),
        ("components:\n  a: 1\n", 2, "found `1`, expected a map"),
        ("components:\n  ../a: {}\n", 2, "not a possible name"),
        ("components:\n  -a: {}\n", 2, "not a possible name"),
        ("components:\n  \"\": {}\n", 2, "not a possible name"),
        ("components:\n  1.10: {}\n", 2, "found the name `1.10`, which YAML takes for something else"),
        ("components:\n  ~: {}\n", 2, "found the name `~`"),
        ("components:\n  a: {}\n  b: {}\n  a: {}\n", 4, "duplicate key `a`"),
        ("components:\n  1: {}\n  '1': {}\n", 3, "duplicate key `1`"),
        ("components: {}\ncomponents: {}\n", 2, "duplicate key `components`"),
        ("components: {}\nmeta: x\n", 2, "expected a map"),
        ("components: {}\nmeta:\n  mode: copied\n", 3, "expected `reference` or `vendored`"),
        ("components: {}\n---\ncomponents: {}\n", 3, "a second document"),
    ] {
        let (found, _) = mistake(text);
        assert!(found.starts_with(&format!("manifests/components.yaml:{line}: ")), "{text:?}: {found}");
        assert!(found.contains(message), "{text:?}: {found}");
    }
    assert!(mistake(format!("components:\n  {}: \n", "x".repeat(129))).0.contains("not a possible name"));
    assert!(read(format!("components:\n  {}: \n", "x".repeat(128))).is_ok());
}

#[test]
fn all_mistakes_are_told_together_in_the_order_of_the_file() {
    let error = read(with("version: 1.10\ndepends_on: [c]\nenv: [MY_TOKEN]\nplatform: x")).unwrap_err();
    assert_eq!(error.class(), Class::Workspace);
    let text = error.chain();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "manifests/components.yaml has 4 mistakes:");
    for (line, (at, hint)) in lines[1..].iter().zip([
        ("manifests/components.yaml:4: ", "(put quotes around it"),
        ("manifests/components.yaml:5: ", "(did you mean `a`?)"),
        ("manifests/components.yaml:6: ", "(leave it out"),
        ("manifests/components.yaml:7: ", "(`native`"),
    ]) {
        assert!(line.starts_with(at), "{text}");
        assert!(hint.starts_with("(did") || line.contains(hint), "{text}");
    }
    assert_eq!(lines.len(), 5, "{text}");
}

#[test]
fn an_unknown_dependency_is_answered_with_the_nearest_name() {
    let (message, hint) = mistake("components:\n  agent-core:\n  a: { depends_on: [agnet-core] }\n");
    assert!(message.contains("there is no component `agnet-core`"), "{message}");
    assert_eq!(hint, "did you mean `agent-core`?");
    let (_, hint) = mistake("components:\n  agent-core:\n  a: { depends_on: [something-else] }\n");
    assert!(!hint.contains("did you mean"), "{hint}");
}

#[test]
fn a_range_is_checked_when_both_sides_can_be_compared() {
    for (version, range, fits) in [
        ("v1.2.3", "^1.2", true),
        ("v1.2.3", "^v1.2", true),
        ("1.2.3", ">=1.2, <1.3", true),
        ("1.2.3", ">= v1.2, < v1.3", true),
        ("v1.2.3", "~1.2.0", true),
        ("1.2.3", "*", true),
        ("1.2.3", "=1.2.4", false),
        ("v1.2.3", "v1.3", false),
        ("1.2.3", "<1.2", false),
        ("2.0.0-rc.1", "^2", false),
        ("latest", "^1", true),
        ("v1.2", "^2", true),
        ("1.2.3", "main", true),
        ("1.2.3", "^1 || ^3", true),
    ] {
        let text = format!("components:\n  b: {{ version: '{version}' }}\n  a: {{ depends_on: ['b:{range}'] }}\n");
        assert_eq!(read(text).is_ok(), fits, "{version} in {range}");
    }
}

#[test]
fn a_cycle_is_told_in_order_with_its_smallest_name_first() {
    let text = "components:\n  z: { depends_on: [c] }\n  c: { depends_on: [b] }\n  a: { depends_on: [c, ok] }\n  b: { depends_on: [ok, a] }\n  ok:\n";
    let (message, _) = mistake(text);
    assert!(message.ends_with("in a cycle: a -> c -> b -> a"), "{message}");
    assert!(message.starts_with("manifests/components.yaml:4: "), "{message}");

    let error = read("components:\n  a: {depends_on: [b]}\n  b: {depends_on: [a]}\n  c: {depends_on: [d, a]}\n  d: {depends_on: [e]}\n  e: {depends_on: [d]}\n").unwrap_err();
    let text = error.chain();
    assert!(text.contains("cycle: a -> b -> a") && text.contains("cycle: d -> e -> d"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
}

/// Components in a row, each needing the next.
fn row(count: usize) -> String {
    (0..count).fold("components:\n".to_owned(), |mut all, number| {
        let next = if number + 1 < count { format!("c{}", number + 1) } else { String::new() };
        let _ = writeln!(all, "  c{number}: {{ depends_on: [{next}] }}");
        all
    })
}

#[test]
fn a_thousand_dependencies_in_a_row_work_and_more_do_not() {
    assert_eq!(read(row(1_001)).unwrap().len(), 1_001);
    let (message, _) = mistake(row(1_002));
    assert!(message.contains(":2: the dependencies of `c0` are 1,001 deep, expected 1,000 at most"), "{message}");
    let cycle = row(5_000).replace("[]", "[c0]");
    assert!(mistake(cycle).0.contains("cycle: c0 -> c1 -> c2 -> "));
}

#[test]
fn ten_thousand_components_work_and_more_do_not() {
    let many = |count: usize| {
        (0..count).fold("components:\n  base:\n".to_owned(), |mut all, number| {
            let _ = writeln!(all, "  c{number}: {{ version: v1.0.{number}, depends_on: [base], inputs: [a/**] }}");
            all
        })
    };
    assert_eq!(read(many(9_999)).unwrap().len(), 10_000);
    assert!(mistake(many(10_000)).0.contains("found 10,001 components, expected 10,000 at most"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing_but_other_encodings_are_refused() {
    let text = with("version: v1\ntype: bazel\ndepends_on: [b]");
    let plain = read(&text).unwrap();
    assert_eq!(read(format!("\u{feff}{text}")).unwrap(), plain);
    assert_eq!(read(text.replace('\n', "\r\n")).unwrap(), plain);
    let (message, _) = mistake(format!("\u{feff}{}", with("type: x\nversion: 1.10")).replace('\n', "\r\n"));
    assert!(message.starts_with("manifests/components.yaml:5: "), "{message}");
    assert!(message.contains("`1.10`"), "{message}");
    let utf_16: Vec<u8> = "\u{feff}components: {}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(mistake(utf_16).0.contains(":1: not valid UTF-8"));
    assert!(
        mistake(b"components:\n  a:\n    type: \xff\n").0.starts_with("manifests/components.yaml:3: not valid UTF-8")
    );
}

#[test]
fn four_mebibytes_are_read_and_a_byte_more_is_not() {
    let mut text = with("type: x");
    text.push('#');
    let room = (4 << 20) - text.len();
    text.push_str(&"x".repeat(room));
    assert!(read(&text).is_ok());
    text.push('x');
    assert!(mistake(text).0.contains("`manifests/components.yaml` is larger than 4 MiB"));
}

#[test]
fn anchors_that_would_fill_the_memory_are_refused_quickly() {
    let lists = (1..12).fold("l0: &l0 [lol, lol, lol, lol]\n".to_owned(), |mut all, level| {
        let before = vec![format!("*l{}", level - 1); 10].join(", ");
        let _ = writeln!(all, "l{level}: &l{level} [{before}]");
        all
    });
    let maps = (1..12).fold("m0: &m0 { a: lol, b: lol }\n".to_owned(), |mut all, level| {
        let _ = writeln!(all, "m{level}: &m{level} {{ a: *m{0}, b: *m{0}, c: *m{0}, d: *m{0} }}", level - 1);
        all
    });
    let long = format!("x: &x {}\ny: [{}]\n", "x".repeat(1 << 20), vec!["*x"; 1000].join(","));
    let own = "x: &x [*x]\n".to_owned();
    for (bomb, message) in [
        (lists, "longer than 1 MiB"),
        (maps, "longer than 1 MiB"),
        (long, "longer than 1 MiB"),
        (own, "an alias stands inside of its own anchor"),
    ] {
        let begun = Instant::now();
        let (found, _) = mistake(format!("{bomb}components: {{}}\n"));
        assert!(found.contains(message), "{found}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}

#[test]
fn nesting_without_end_is_refused_quickly() {
    for deep in ["[".repeat(100_000), "{a: ".repeat(50_000), "- ".repeat(100_000)] {
        let begun = Instant::now();
        let (found, _) = mistake(format!("components: {{}}\nx:\n  {deep}\n"));
        assert!(found.contains("more than 24 lists and maps") || found.contains("recursion limit"), "{found}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    assert!(read(format!("components: {{}}\nx: {}{}\n", "[".repeat(23), "]".repeat(23))).is_ok());
}

#[test]
fn one_anchor_may_serve_many_components() {
    let text = (0..500).fold("x: &env [CFLAGS]\ncomponents:\n".to_owned(), |mut all, number| {
        let _ = writeln!(all, "  c{number}: {{ env: *env }}");
        all
    });
    assert_eq!(read(text).unwrap()["c499"].env, ["CFLAGS"]);
    let merged = "x: &x { type: bazel, env: [CFLAGS] }\ncomponents:\n  a: { <<: *x, type: make }\n";
    let components = read(merged).unwrap();
    assert_eq!((components["a"].kind.as_str(), components["a"].env.len()), ("make", 1));
}

#[test]
fn only_the_first_of_very_many_mistakes_are_told() {
    let error = read(format!("components:\n  a: {{ depends_on: [{}] }}\n", "b,".repeat(100_000))).unwrap_err();
    let text = error.chain();
    assert!(text.starts_with("manifests/components.yaml has 100,000 mistakes:\n"));
    assert!(text.ends_with("\nand 99,900 more"));
    assert_eq!(text.lines().count(), 102);
}

proptest::proptest! {
    /// Pieces of manifests in any order, since whole ones are rarely hit by chance.
    #[test]
    fn no_text_makes_the_reader_panic(pieces in proptest::collection::vec(proptest::sample::select(vec![
        "components:", "\n", "\n  ", "\n    ", "a:", "é:", " ", "version:", "1.10", "2024-01-02", "depends_on:", "[", "]",
        "{", "}", ",", "- ", "&x ", "*x", "<<: ", "!!str ", "! ", "|", ">-", "\"", "'", "\\", "\u{feff}", "\r", "\t", "#", "~",
        "\u{2028}", "---\n", "? ", "env:", "inputs:", "path:", "..", "a", "b:^1", "\0",
    ]), 0..60)) {
        let _ = read(pieces.concat());
        let _ = read(format!("components:\n  a:\n    version: {}", pieces.concat()));
    }
}
