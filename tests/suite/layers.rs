//! The table of layers in `src/lib.rs` is true: no module uses one of a later row.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module to row, from the table in the crate's documentation.
fn layers(map: &str) -> BTreeMap<String, usize> {
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | ")).filter(|row| row.contains("[`"));
    let mut layers = BTreeMap::new();
    for (row, line) in rows.enumerate() {
        let modules = line.split('|').nth(1).unwrap();
        for module in modules.split('`').skip(1).step_by(2) {
            let module = module.trim_start_matches("mod@");
            assert_eq!(layers.insert(module.to_owned(), row), None, "{module} stands in two rows");
        }
    }
    layers
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Top-level modules that code names by `crate::module` or `crate::{module, …}`, with their lines. Comments and tests
/// may name what they like.
fn uses(code: &str) -> Vec<(usize, String)> {
    let code = code.split("#[cfg(test)]").next().unwrap();
    let lines: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap()).collect();
    let text = lines.join("\n");
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let line = text[..at].matches('\n').count() + 1;
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push((line, word(rest))),
            Some(rest) => {
                let mut depth = 1;
                let mut start = 0;
                for (i, c) in rest.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || (depth == 1 && c == ',') {
                        found.push((line, word(rest[start..i].trim_start())));
                        start = i + 1;
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    found.retain(|(_, module)| !module.is_empty());
    found
}

#[test]
fn imports_go_from_later_layers_to_earlier_ones() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = fs::read_to_string(src.join("lib.rs")).unwrap();
    let layers = layers(&map);
    for module in map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        assert!(layers.contains_key(module), "`{module}` has no row in the table of src/lib.rs");
    }
    let mut files = Vec::new();
    sources(&src, &mut files);
    files.sort();
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.strip_suffix(".rs").unwrap_or(first);
        let name = relative.file_name().unwrap().to_str().unwrap();
        if name.ends_with("tests.rs") || matches!(module, "lib" | "main") {
            continue;
        }
        for (line, used) in uses(&fs::read_to_string(&file).unwrap()) {
            looked_at += 1;
            let (Some(from), Some(to)) = (layers.get(module), layers.get(&used)) else {
                wrong.push(format!("src/{}:{line}: `crate::{used}` is in no layer", relative.display()));
                continue;
            };
            if to > from {
                wrong.push(format!("src/{}:{line}: `{module}` uses `{used}` of a later layer", relative.display()));
            }
        }
    }
    assert!(looked_at > 100, "only {looked_at} imports were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_however_they_are_written() {
    let code = "use crate::{error::{Error, Result}, text};\n// crate::cli\nfn f() -> crate::location::Location {}\n\
                #[cfg(test)]\nmod tests { use crate::report; }";
    let found: Vec<String> = uses(code).into_iter().map(|(line, module)| format!("{line} {module}")).collect();
    assert_eq!(found, ["1 error", "1 text", "3 location"]);
}
