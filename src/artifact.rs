//! Artifact names, and the format that a name's suffix asks for.

use std::fmt;

use crate::error::{Error, Result};

/// How an artifact's bytes are made, told by the suffix of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.tar`: no compression.
    Tar,
    /// `.tar.gz`, `.tgz`.
    TarGz,
    /// `.tar.lz4`.
    TarLz4,
    /// `.tar.zst`.
    TarZst,
    /// `.catar`: casync's archive, uncompressed.
    Catar,
    /// `.catar.caibx`: the index of a catar whose chunks are in a chunk store.
    CatarCaibx,
    /// Any other name: one file, sent as it is.
    Plain,
}

impl Format {
    /// The format a name asks for. Other indexes of chunks than those of a catar are read, and not made.
    pub fn of(name: &str) -> Result<Format> {
        const SUFFIXES: [(&str, Format); 7] = [
            (".catar.caibx", Format::CatarCaibx),
            (".catar", Format::Catar),
            (".tar", Format::Tar),
            (".tar.gz", Format::TarGz),
            (".tgz", Format::TarGz),
            (".tar.lz4", Format::TarLz4),
            (".tar.zst", Format::TarZst),
        ];
        let found = SUFFIXES.iter().find(|(suffix, _)| name.ends_with(suffix));
        if found.is_none() && [".caibx", ".caidx"].iter().any(|suffix| name.ends_with(suffix)) {
            return Err(Error::usage(format_args!("`{name}` names an index of chunks, but not of a .catar"))
                .hint("end the name in .catar.caibx"));
        }
        Ok(found.map_or(Format::Plain, |(_, format)| *format))
    }

    /// Whether an artifact of this format holds files to unpack.
    pub fn is_archive(self) -> bool {
        self != Format::Plain
    }
}

/// The name of an artifact: a relative path without `.`/`..` parts, control characters or glob characters.
///
/// Glob characters are refused because the Buildkite agent reads artifact names as patterns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArtifactName(String);

impl ArtifactName {
    /// Longest name accepted, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Checks a name.
    pub fn new(name: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format_args!("artifact name `{}` {why}", name.escape_debug()))
                .hint("use a plain relative name such as `node-modules.tar.lz4`")
        };
        if name.is_empty() {
            return Err(wrong("is empty"));
        }
        if name.len() > Self::MAX_LEN {
            return Err(wrong("is longer than 255 bytes"));
        }
        if name.starts_with('-') {
            return Err(wrong("starts with `-`"));
        }
        if let Some(c) = name.chars().find(|c| c.is_control() || "*?[]{}!;\\".contains(*c)) {
            return Err(wrong(&format!("contains {c:?}")));
        }
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(wrong("is not a plain relative path"));
        }
        Ok(ArtifactName(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part of the name.
    pub fn base(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The artifact's part of `MONOFO_ARTIFACT_<NAME>_…` variables: the base name up to its first dot, snake case,
    /// upper case (`node-modules.tar.lz4` and `nodeModules.tgz` both give `NODE_MODULES`).
    pub fn variable(&self) -> String {
        let base = self.base();
        let stem = match base.find('.') {
            Some(0) | None => base.trim_start_matches('.'),
            Some(dot) => &base[..dot],
        };
        let mut out = String::new();
        let mut previous_lower = false;
        for c in stem.chars() {
            if !c.is_ascii_alphanumeric() {
                if !out.is_empty() && !out.ends_with('_') {
                    out.push('_');
                }
                previous_lower = false;
                continue;
            }
            if c.is_ascii_uppercase() && previous_lower {
                out.push('_');
            }
            previous_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
            out.push(c.to_ascii_uppercase());
        }
        out.trim_end_matches('_').to_owned()
    }

    /// The format this name asks for.
    pub fn format(&self) -> Result<Format> {
        Format::of(&self.0)
    }
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn the_suffix_names_the_format() {
        for (name, format) in [
            ("a.tar", Format::Tar),
            ("a.tar.gz", Format::TarGz),
            ("a.tgz", Format::TarGz),
            ("node.modules.tar.lz4", Format::TarLz4),
            ("a.tar.zst", Format::TarZst),
            ("report.html", Format::Plain),
            ("a.gz", Format::Plain),
            ("tar", Format::Plain),
        ] {
            assert_eq!(Format::of(name).unwrap(), format, "{name}");
        }
        assert_eq!(Format::of("a.catar").unwrap(), Format::Catar);
        assert_eq!(Format::of("x/a.catar.caibx").unwrap(), Format::CatarCaibx);
        for name in ["a.caibx", "a.caidx", "a.tar.caibx"] {
            assert_eq!(Format::of(name).unwrap_err().class(), Class::Usage);
        }
    }

    #[test]
    fn names_that_could_leave_or_match_more_are_refused() {
        for name in ["", "/a", "../a", "a/../b", "a//b", "./a", "a*", "a;b", "a\nb", "-a", "a[1]", "a/"] {
            assert!(ArtifactName::new(name).is_err(), "{name:?}");
        }
        for name in ["a", "node-modules.tar.lz4", "out/a b.txt", "ünïcode.tar", ".hidden", "a..b"] {
            assert!(ArtifactName::new(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn variables_are_upper_snake_case_of_the_stem() {
        for (name, variable) in [
            ("node-modules.tar.lz4", "NODE_MODULES"),
            ("nodeModules.tgz", "NODE_MODULES"),
            ("out/build.catar.caibx", "BUILD"),
            ("a--b__c.tar", "A_B_C"),
            ("v2Build.tar", "V2_BUILD"),
            (".env", "ENV"),
        ] {
            assert_eq!(ArtifactName::new(name).unwrap().variable(), variable, "{name}");
        }
    }
}
