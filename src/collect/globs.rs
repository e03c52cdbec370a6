//! The one glob dialect: that of `buildkite-agent artifact upload`.
//!
//! `*` and `?` stay within one folder, `**` crosses folders, `[a-z]` and `{a,b}` work, a dot file is a file like any
//! other, `\` escapes. A pattern that matches a folder means everything below it. `!pattern` takes out, wherever it
//! stands in the list. `.git`, `.monofo`, `.meta-cache` and `.meta-store` are never matched.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::list::relative;
use crate::error::{Error, Result};
use crate::text::Shown;

/// Names that a glob never matches: version control, our own stores, and (`.monofo-…`) files we are writing.
const RESERVED: [&[u8]; 4] = [b".git", b".monofo", b".meta-cache", b".meta-store"];

/// Compiled patterns.
#[derive(Debug)]
pub struct Globs {
    include: GlobSet,
    exclude: GlobSet,
    /// The including patterns as the user wrote them, and where the walk for each starts.
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    written: String,
    /// The leading folders that hold no glob character.
    base: String,
    /// How many folders below the base a match can lie; `None` without limit.
    depth: Option<usize>,
}

impl Globs {
    /// Compiles including patterns (a leading `!` makes one excluding) and excluding ones.
    pub fn new(globs: &[String], exclude: &[String]) -> Result<Self> {
        let mut included = GlobSetBuilder::new();
        let mut excluded = GlobSetBuilder::new();
        let mut patterns = Vec::new();
        for glob in globs {
            if let Some(rest) = glob.strip_prefix('!') {
                excluded.add(compile(rest)?.1);
            } else {
                let (text, compiled) = compile(glob)?;
                included.add(compiled);
                let parts: Vec<&str> = text.split('/').collect();
                let plain = parts.iter().take_while(|part| !part.contains(['*', '?', '[', '{', '\\'])).count();
                // The last part is what has to match, so it never belongs to the base.
                let plain = plain.min(parts.len() - 1);
                patterns.push(Pattern {
                    written: glob.clone(),
                    base: parts[..plain].join("/"),
                    depth: (!text.contains("**")).then(|| parts.len() - plain),
                });
            }
        }
        for glob in exclude {
            excluded.add(compile(glob)?.1);
        }
        let build = |set: GlobSetBuilder| set.build().map_err(|e| Error::usage("the globs are too large").caused_by(e));
        Ok(Globs { include: build(included)?, exclude: build(excluded)?, patterns })
    }

    /// Whether any pattern includes.
    pub fn selects(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether any pattern takes out.
    pub(super) fn excludes(&self) -> bool {
        !self.exclude.is_empty()
    }

    /// Whether this path is taken out; its parents are not looked at.
    pub(crate) fn is_excluded(&self, path: &[u8]) -> bool {
        !self.exclude.is_empty() && self.exclude.is_match(as_path(path))
    }

    /// Whether this path or a folder above it is taken out.
    pub(super) fn is_excluded_below(&self, path: &[u8]) -> bool {
        self.excludes()
            && (self.is_excluded(path)
                || path.iter().enumerate().any(|(at, byte)| *byte == b'/' && self.is_excluded(&path[..at])))
    }

    /// Whether a pattern includes this path itself. Those that do are crossed off `unmatched`.
    pub(super) fn is_included(&self, path: &[u8], unmatched: &mut Vec<usize>) -> bool {
        let path = as_path(path);
        if unmatched.is_empty() {
            return self.include.is_match(path);
        }
        let matches = self.include.matches(path);
        unmatched.retain(|index| !matches.contains(index));
        !matches.is_empty()
    }

    /// Where to walk, and how deep: folders relative to the root, none inside another.
    pub(super) fn walks(&self) -> Vec<(&str, Option<usize>)> {
        let mut walks: Vec<(&str, Option<usize>)> = Vec::new();
        let mut patterns: Vec<&Pattern> = self.patterns.iter().collect();
        patterns.sort_by(|a, b| a.base.len().cmp(&b.base.len()).then(a.base.cmp(&b.base)));
        for pattern in patterns {
            let inside = |outer: &str| {
                outer.is_empty() || pattern.base == outer || pattern.base.starts_with(&format!("{outer}/"))
            };
            match walks.iter_mut().find(|(outer, _)| inside(outer)) {
                None => walks.push((&pattern.base, pattern.depth)),
                Some((outer, depth)) => {
                    let parts = |path: &str| path.split('/').filter(|part| !part.is_empty()).count();
                    let lower = parts(&pattern.base) - parts(outer);
                    *depth = depth.zip(pattern.depth).map(|(a, b)| a.max(b + lower));
                }
            }
        }
        walks
    }

    /// Indexes of all including patterns.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.patterns.len()).collect()
    }

    /// An including pattern as the user wrote it.
    pub(super) fn written(&self, index: usize) -> &str {
        &self.patterns[index].written
    }
}

/// Whether a file name is one that globs never match.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    RESERVED.contains(&name) || name.starts_with(b".monofo-")
}

fn compile(glob: &str) -> Result<(String, globset::Glob)> {
    let shown = Shown(glob.as_bytes()).to_string();
    let normal = relative(glob.as_bytes()).map_err(|why| {
        Error::refused(format_args!("glob `{shown}` {why}"))
            .hint("globs are relative to the working directory and stay below it")
    })?;
    if normal.is_empty() {
        return Err(Error::usage(format_args!("glob `{shown}` matches the working directory itself"))
            .hint("use `**` for everything below it"));
    }
    let text = String::from_utf8_lossy(&normal).into_owned();
    if let Some(class) =
        text.split('[').skip(1).filter_map(|rest| rest.split(']').next()).find(|class| !class.is_ascii())
    {
        // Names are bytes, and so are the members of a class: half of a character must not match.
        let error = Error::usage(format_args!(
            "glob `{shown}` has a class `[{}]` with more than ASCII",
            Shown(class.as_bytes())
        ));
        return Err(error.hint("list the characters as alternatives: {à,é}"));
    }
    let spread = text.split('/').map(spread).collect::<Vec<_>>().join("/");
    let compiled = GlobBuilder::new(&spread)
        .literal_separator(true)
        .backslash_escape(true)
        .empty_alternates(true)
        .build()
        .map_err(|e| Error::usage(format_args!("glob `{shown}` cannot be read")).caused_by(e))?;
    Ok((text, compiled))
}

/// `**` beside other characters of a part crosses folders as well: `**b` is what `*b` is, at any depth.
fn spread(part: &str) -> String {
    match part.split_once("**") {
        Some((before, after)) if part != "**" && !part.contains(['{', '}', '[', '\\']) => {
            let after = after.trim_start_matches('*');
            let here = format!("{before}*{after}");
            let below = if before.is_empty() { String::new() } else { format!("{before}*/") };
            format!("{{{here},{below}**/*{after}}}")
        }
        _ => part.to_owned(),
    }
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn globs(patterns: &[&str]) -> Globs {
        Globs::new(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>(), &[]).unwrap()
    }

    #[test]
    fn the_dialect_is_the_agents() {
        for (pattern, path, matched) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("*", ".hidden", true),
            ("**/*.txt", "a.txt", true),
            ("**/*.txt", "d/e/.a.txt", true),
            ("dist/**", "dist/a/b", true),
            ("dist/**", "dist", false),
            ("d?/x", "d1/x", true),
            ("[ab]/{c,d}", "b/d", true),
            ("[!a]/c", "b/c", true),
            ("./dist//x", "dist/x", true),
            ("a/../b", "b", true),
            ("**b.txt", "b.txt", true),
            ("**b.txt", "d/e/xb.txt", true),
            ("a**z", "a1z", true),
            ("a**z", "a1/2/3z", true),
            ("a**z", "b/a1z", false),
            ("d/a**", "d/a1/2", true),
            ("{é,è}.txt", "é.txt", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
        ] {
            assert_eq!(globs(&[pattern]).is_included(path.as_bytes(), &mut vec![]), matched, "{pattern} on {path}");
        }
    }

    #[test]
    fn an_exclamation_mark_takes_out_wherever_it_stands() {
        let globs = globs(&["!**/*.map", "dist/**", "!**/tmp"]);
        assert!(globs.is_excluded_below(b"dist/a.map"));
        assert!(globs.is_excluded_below(b"dist/tmp/deep/x"));
        assert!(!globs.is_excluded_below(b"dist/a.js"));
    }

    #[test]
    fn walks_start_at_plain_folders_and_swallow_each_other() {
        assert_eq!(globs(&["dist/**", "dist/a/*.js"]).walks(), [("dist", None)]);
        assert_eq!(globs(&["*.txt"]).walks(), [("", Some(1))]);
        assert_eq!(globs(&["a/b/*.js", "a/*/x/*"]).walks(), [("a", Some(3))]);
        assert_eq!(globs(&["a/x/y/z/*.js", "a/*"]).walks(), [("a", Some(4))]);
        assert_eq!(globs(&["dist"]).walks(), [("", Some(1))]);
    }

    #[test]
    fn globs_that_lead_out_are_refused() {
        for glob in ["/abs/**", "../x", "a/../../x", "!../x"] {
            let error = Globs::new(&[glob.to_owned()], &[]).unwrap_err();
            assert_eq!(error.class(), Class::Refused, "{glob}");
        }
        assert_eq!(Globs::new(&["[à-ü]".to_owned()], &[]).unwrap_err().class(), Class::Usage);
        assert_eq!(Globs::new(&["[".to_owned()], &[]).unwrap_err().class(), Class::Usage);
    }
}
