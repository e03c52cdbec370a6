//! The first defence of unpacking: what a name may be.

use crate::error::{Error, Result};
use crate::text::Shown;

/// Longest path of an entry and longest part of one, in bytes: the kernel's limits.
const LONGEST: usize = 4096;
const LONGEST_PART: usize = 255;

/// How much of a name that is refused is repeated.
const MOST_SHOWN: usize = 255;

/// A path that cannot lead out of the folder it is resolved in, as far as its text goes. Empty for the folder itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SafePath(Vec<u8>);

impl SafePath {
    /// Judges a path. `.` parts and doubled or trailing slashes are dropped; anything that leads elsewhere is refused.
    pub fn new(path: &[u8]) -> Result<Self> {
        let refused = |why: &str| match path.get(..MOST_SHOWN).filter(|shown| shown.len() < path.len()) {
            None => Error::refused(format_args!("entry `{}` {why}", Shown(path))),
            Some(shown) => Error::refused(format_args!("entry `{}…` {why}", Shown(shown))),
        };
        let refuse = |why: &str| {
            Err(refused(why).hint(
                "the archive tries to write outside its folder, and nothing of this entry was written: do not trust it",
            ))
        };
        let too_long = |why: &str| Err(refused(why).hint("no file system here takes such a name: shorten it"));
        if path.first() == Some(&b'/') {
            return refuse("has an absolute name");
        }
        if path.contains(&0) {
            return refuse("has a NUL byte in its name");
        }
        if path.len() > LONGEST {
            return too_long("has a name longer than 4096 bytes");
        }
        let mut clean = Vec::with_capacity(path.len());
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return refuse("has `..` in its name"),
                part if part.len() > LONGEST_PART => return too_long("has a part longer than 255 bytes in its name"),
                part => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(part);
                }
            }
        }
        Ok(SafePath(clean))
    }

    /// The cleaned bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the folder itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this lies below a folder.
    pub fn is_below(&self, folder: &SafePath) -> bool {
        self.0.strip_prefix(folder.as_bytes()).is_some_and(|rest| folder.is_root() || rest.starts_with(b"/"))
    }

    /// The folder's path (empty for the root) and the last part.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (b"", &self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn of_a_long_name_only_the_beginning_is_repeated() {
        for path in ["p/".repeat(2500), format!("/{}", "p".repeat(5000)), "p".repeat(256)] {
            let error = SafePath::new(path.as_bytes()).unwrap_err();
            let shown = format!("entry `{}…` ", &path[..255]);
            assert!(error.to_string().starts_with(&shown) && error.to_string().len() < 400, "{error}");
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in [
            &b"/etc/passwd"[..],
            b"..",
            b"../x",
            b"a/../../x",
            b"a/..",
            b"a\0b",
            b"//x",
            &[b'a'; 256],
            &b"a/".repeat(2500),
        ] {
            assert_eq!(SafePath::new(name).unwrap_err().class(), Class::Refused, "{}", Shown(name));
        }
        for (name, clean) in [
            (&b"./a"[..], &b"a"[..]),
            (b"a//b/", b"a/b"),
            (b".", b""),
            (b"...", b"..."),
            (b"a/..b", b"a/..b"),
            (b"a/./b", b"a/b"),
        ] {
            assert_eq!(SafePath::new(name).unwrap().as_bytes(), clean);
        }
    }
}
