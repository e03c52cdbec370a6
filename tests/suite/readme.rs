//! What README and docs say is so: their YAML is valid, their commands run, their tables are complete, their links lead
//! somewhere.
//!
//! Blocks marked `sh` are run line by line, in order, in a folder with a few small files; of a line only the parts that
//! call `monofo` matter, and a line without one is not run. `<!-- only parsed -->` above a block says that its lines need
//! something that is not here: their arguments are checked, no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{CommandFactory, Parser};
use monofo::cli::Cli;
use monofo::config::{pipeline, workspace};
use serde_json::Value;

/// The page of all options and variables.
const REFERENCE: &str = "docs/reference.md";

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: impl AsRef<Path>) -> String {
    let path = repository().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page for people, relative to the repository.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/decisions"] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let name = PathBuf::from(entry.unwrap().file_name());
            if name.extension().is_some_and(|end| end == "md") {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    found.sort();
    assert!(found.len() > 8, "{found:?}");
    found
}

/// A fenced block.
struct Block {
    at: String,
    language: String,
    only_parsed: bool,
    text: String,
}

fn blocks(page: &Path) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    let mut above = String::new();
    for (index, line) in read(page).lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(_), true) => open = false,
            (Some(language), false) => {
                let at = format!("{}:{}", page.display(), index + 2);
                let only_parsed = above.trim() == "<!-- only parsed -->";
                blocks.push(Block { at, language: language.trim().to_owned(), only_parsed, text: String::new() });
                open = true;
            }
            (None, true) => blocks.last_mut().unwrap().text.push_str(&format!("{line}\n")),
            (None, false) => above = line.to_owned(),
        }
    }
    assert!(!open, "{}: a block is not closed", page.display());
    blocks
}

/// The rows of the table that follows a marker: the text of their first column.
fn rows(page: &str, marker: &str) -> Vec<String> {
    let marker = format!("<!-- {marker} -->\n");
    let (_, after) = page.split_once(&marker).unwrap_or_else(|| panic!("there is no {marker}"));
    let table = after.lines().take_while(|line| line.starts_with('|')).skip(2);
    table.map(|row| row.split('|').nth(1).unwrap().trim().to_owned()).collect()
}

/// What stands between back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn assert_valid(at: &str, text: &str) {
    let read = pipeline::read(text, &BTreeMap::new());
    let told = |mistakes: &[pipeline::Mistake]| {
        mistakes.iter().map(|m| format!("\n  line {}: {}", m.place.line, m.message)).collect::<String>()
    };
    match read {
        Err(mistakes) => panic!("{at}: mistakes:{}", told(&mistakes)),
        Ok(pipeline) => assert!(pipeline.warnings.is_empty(), "{at}: warnings:{}", told(&pipeline.warnings)),
    }
}

#[test]
fn pipelines_in_pages_and_files_are_valid() {
    let mut count = 0;
    for page in pages() {
        for block in blocks(&page).iter().filter(|block| matches!(block.language.as_str(), "yaml" | "yml")) {
            if is_workspace(block) {
                continue;
            }
            assert!(block.text.contains("steps:"), "{}: a YAML block without steps is checked by nobody", block.at);
            assert!(block.text.contains("vital-software/monofo#v"), "{}: the plugin is not used", block.at);
            assert_valid(&block.at, &block.text);
            count += 1;
        }
    }
    assert!(count >= 5, "{count}");
    assert_valid(".buildkite/pipeline.yml", &read(".buildkite/pipeline.yml"));
    for entry in fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yml") {
            assert_valid(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
        }
    }
}

/// Whether a block is a file of a workspace: a manifest or a lock file.
fn is_workspace(block: &Block) -> bool {
    block.text.lines().any(|line| line == "components:")
}

#[test]
fn manifests_and_lock_files_in_pages_are_valid() {
    let (mut manifests, mut locks) = (0, 0);
    for page in pages() {
        for block in blocks(&page).iter().filter(|block| block.language == "yaml" && is_workspace(block)) {
            let folder = tempfile::tempdir().unwrap();
            let at = &block.at;
            if block.text.starts_with("lock_version:") {
                let path = folder.path().join("components.lock.yaml");
                fs::write(&path, &block.text).unwrap();
                let read = workspace::read_lock(&path).unwrap_or_else(|error| panic!("{at}: {}", error.chain()));
                assert!(!read.components.is_empty(), "{at}");
                locks += 1;
            } else {
                fs::write(folder.path().join("components.yaml"), &block.text).unwrap();
                let read = workspace::with_manifests(folder.path());
                let read = read.unwrap_or_else(|error| panic!("{at}: {}", error.chain()));
                assert!(!read.components.is_empty(), "{at}");
                manifests += 1;
            }
        }
    }
    assert!(manifests >= 2 && locks >= 1, "{manifests}, {locks}");
}

/// Words of a shell line, quotes undone; `|`, `&&` and `;` that are not quoted stand for themselves.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '#') if words.last().unwrap().is_empty() => break,
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The arguments of each call of `monofo` in a line.
fn calls(line: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for part in words(line).split(|word| matches!(word.as_str(), "|" | "&&" | ";")) {
        let is_variable = |word: &&String| word.split_once('=').is_some_and(|(name, _)| !name.contains('-'));
        let command: Vec<&String> = part.iter().skip_while(is_variable).collect();
        if command.first().is_some_and(|program| *program == "monofo") {
            let arguments = command.into_iter().take_while(|word| !matches!(word.as_str(), "<" | ">"));
            calls.push(arguments.cloned().collect());
        }
    }
    calls
}

/// A folder with what the commands of the pages work on.
fn sandbox() -> tempfile::TempDir {
    let sandbox = tempfile::tempdir().unwrap();
    let work = sandbox.path().join("work");
    for (name, content) in [
        ("src/app.ts", "app"),
        ("package-lock.json", "{}"),
        ("dist/app.js", "app"),
        ("dist/app.js.map", "map"),
        ("reports/index.html", "<p>"),
        ("node_modules/left/index.js", "left"),
        (".buildkite/pipeline.yml", "steps:\n  - command: test -e dist/app.js\n"),
    ] {
        let path = work.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let mut tar = tar::Builder::new(fs::File::create(work.join("files.tar")).unwrap());
    tar.append_dir_all("files", work.join("dist")).unwrap();
    tar.finish().unwrap();
    for folder in ["bin", "tmp"] {
        fs::create_dir(sandbox.path().join(folder)).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_monofo"), sandbox.path().join("bin/monofo")).unwrap();
    sandbox
}

#[test]
fn commands_in_pages_work() {
    let mut run = 0;
    for page in pages() {
        let sandbox = sandbox();
        for block in blocks(&page).iter().filter(|block| block.language == "sh") {
            for line in block.text.lines() {
                let calls = calls(line);
                for call in &calls {
                    if let Err(error) = Cli::try_parse_from(call) {
                        panic!("{}: `{line}`: {error}", block.at);
                    }
                }
                if calls.is_empty() || block.only_parsed {
                    continue;
                }
                let mut bash = Command::new("bash");
                bash.args(["-e", "-o", "pipefail", "-c", line]).current_dir(sandbox.path().join("work")).env_clear();
                let path = format!("{}:/usr/local/bin:/usr/bin:/bin", sandbox.path().join("bin").display());
                bash.env("PATH", path).env("HOME", sandbox.path()).env("TMPDIR", sandbox.path().join("tmp"));
                let output = bash.stdin(Stdio::null()).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{}: `{line}`: {said}", block.at);
                assert!(!said.contains("warning"), "{}: `{line}`: {said}", block.at);
                run += 1;
            }
        }
        if page == Path::new(REFERENCE) {
            for (name, there) in [
                ("out/dist/app.js", true),
                ("out/dist/app.js.map", false),
                ("out/node_modules/left/index.js", true),
                ("out/files/app.js", true),
                ("coverage.html", true),
                ("monofo.bash", true),
                ("restored/left/index.js", true),
                ("again/left/index.js", true),
            ] {
                assert_eq!(sandbox.path().join("work").join(name).exists(), there, "{name}");
            }
        }
    }
    assert!(run >= 10, "{run}");
}

#[test]
fn the_options_of_the_readme_are_those_of_the_plugin() {
    let readme = read("README.md");
    let plugin: Value = serde_saphyr::from_str(&read("plugin.yml")).unwrap();
    let configuration = &plugin["configuration"];
    for (table, schema) in [
        ("options: top", configuration),
        ("options: upload", &configuration["$defs"]["uploadOptions"]),
        ("options: download", &configuration["$defs"]["downloadOptions"]),
        ("options: cache", &configuration["$defs"]["cacheEntry"]),
    ] {
        let known: BTreeSet<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let rows = rows(&readme, table);
        let told: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(row)).collect();
        assert_eq!(told, known, "{table}");
    }
}

#[test]
fn the_flags_of_the_reference_are_those_of_the_commands() {
    let reference = read(REFERENCE);
    let mut cli = Cli::command();
    cli.build();
    let flags = |command: &clap::Command, global: bool| -> BTreeSet<String> {
        let arguments = command.get_arguments().filter(|argument| {
            let shared = argument.is_global_set() || matches!(argument.get_id().as_str(), "help" | "version");
            shared == global
        });
        let names = |argument: &clap::Arg| {
            let long = argument.get_long().map(|name| format!("--{name}"));
            [long, argument.get_short().map(|name| format!("-{name}"))]
        };
        arguments.flat_map(|argument| names(argument).into_iter().flatten()).collect()
    };
    let told = |table: &str| -> BTreeSet<String> {
        let rows = rows(&reference, table);
        let words = rows.iter().flat_map(|row| quoted(row)).flat_map(str::split_whitespace);
        words.filter(|word| word.starts_with('-')).map(str::to_owned).collect()
    };
    assert_eq!(told("flags: global"), flags(&cli, true));
    let mut commands = 0;
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        assert!(reference.contains(&format!("\n### monofo {name} ")), "{REFERENCE} has no heading for `monofo {name}`");
        let groups = command.get_subcommands().filter(|inner| inner.get_name() != "help");
        let own = groups.flat_map(|inner| flags(inner, false)).chain(flags(command, false)).collect::<BTreeSet<_>>();
        assert_eq!(told(&format!("flags: {name}")), own, "monofo {name}");
        commands += 1;
    }
    assert_eq!(reference.matches("\n### monofo ").count(), commands);
}

/// Upper-case names in text that begin with one of our or our libraries' prefixes.
fn variables(text: &str) -> BTreeSet<String> {
    const KNOWN: [&str; 9] =
        ["MONOFO_", "BUILDKITE_", "AWS_", "S3_", "GOOGLE_", "STORAGE_", "SERVICE_ACCOUNT", "TMPDIR", "HOME"];
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.split(|c: char| !is_part(c))
        .filter(|name| KNOWN.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with('_'))
        .map(str::to_owned)
        .collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn every_variable_that_is_read_stands_in_the_reference() {
    /// Given to the agent, to keep its output readable; never read.
    const GIVEN: [&str; 4] = [
        "BUILDKITE_AGENT_DEBUG",
        "BUILDKITE_AGENT_DEBUG_HTTP",
        "BUILDKITE_AGENT_LOG_LEVEL",
        "BUILDKITE_AGENT_NO_COLOR",
    ];
    let (reference, readme) = (variables(&read(REFERENCE)), variables(&read("README.md")));
    let mut files = Vec::new();
    rust_files(&repository().join("src"), &mut files);
    let mut read_by_us = variables(&read("hooks/monofo.bash"));
    for file in files {
        let path = file.to_str().unwrap().to_owned();
        // These make up an agent's environment instead of reading one.
        if path.contains("/try_pipeline/") || path.ends_with("/plugin_env.rs") || path.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            read_by_us.extend(line.split('"').skip(1).step_by(2).flat_map(variables));
        }
    }
    for given in GIVEN {
        assert!(read_by_us.remove(given), "{given}");
    }
    assert!(read_by_us.len() > 25, "{read_by_us:?}");
    let missing: Vec<_> = read_by_us.difference(&reference).collect();
    assert!(missing.is_empty(), "not in {REFERENCE}: {missing:?}");
    let unknown: Vec<_> = readme
        .union(&reference)
        .filter(|name| name.starts_with("MONOFO_") && !name.starts_with("MONOFO_ARTIFACT_"))
        .filter(|name| !read_by_us.contains(*name))
        .collect();
    assert!(unknown.is_empty(), "told, but never read: {unknown:?}");
}

#[test]
fn the_summary_in_the_reference_has_the_real_ones_keys() {
    let shown = blocks(Path::new(REFERENCE)).into_iter().find(|block| block.language == "json").unwrap();
    let shown: Value = serde_json::from_str(&shown.text).unwrap();
    let sandbox = sandbox();
    let mut command = Command::new(env!("CARGO_BIN_EXE_monofo"));
    command.args(["--json", "upload", "a.tar", "dist"]).current_dir(sandbox.path().join("work")).env_clear();
    let real: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&shown), keys(&real));
    assert_eq!(keys(&shown["artifacts"][0]), keys(&real["artifacts"][0]));
}

#[test]
fn every_exit_status_stands_in_the_readme() {
    let (_, table) =
        read("README.md").split_once("| exit status |").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let told: Vec<String> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .flat_map(|row| row.split('|').nth(1).unwrap().split(',').map(|s| s.trim().to_owned()).collect::<Vec<_>>())
        .collect();
    let help = Cli::command().render_long_help().to_string().replace('\n', " ");
    assert_eq!(told, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "130", "143"]);
    for status in &told {
        assert!(help.contains(&format!(" {status} ")), "{status} is not in --help");
    }
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = read(&page);
        for (_, rest) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let target = rest.split(')').next().unwrap();
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(repository().join(&linked).is_file(), "{}: {target}", page.display());
            let heading = |line: &str| {
                let words = line.trim_start_matches('#').trim().to_lowercase();
                let kept: String = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect();
                kept.replace(' ', "-")
            };
            let found =
                anchor.is_empty() || read(&linked).lines().any(|line| line.starts_with('#') && heading(line) == anchor);
            assert!(found, "{}: {target}", page.display());
        }
    }
}

#[test]
fn reasons_are_given_only_for_dependencies_that_exist() {
    let cargo = read("Cargo.toml");
    for row in read("docs/decisions/dependencies.md").lines().filter(|line| line.starts_with("| `")) {
        for name in quoted(row.split('|').nth(1).unwrap()) {
            let known = cargo.contains(&format!("\n{name} = ")) || cargo.contains(&format!("\"{name}\""));
            assert!(known, "{name} is no dependency");
        }
    }
}

#[test]
fn every_decision_stands_in_the_index() {
    let index = read("docs/decisions/README.md");
    for page in pages().iter().filter(|page| page.starts_with("docs/decisions") && !page.ends_with("README.md")) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("]({name})")), "{name}");
    }
}
