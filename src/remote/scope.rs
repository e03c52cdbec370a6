//! Scopes: whose entries these are. A scope is a prefix of names, so that a bucket's policy can say who writes where.

use std::fmt;

use crate::env::Env;
use crate::error::{Error, Result};

/// The longest scope.
const LONGEST: usize = 64;

/// How many scopes are asked at most: each costs a request.
const MOST_READ: usize = 16;

/// What stands for no scope to write to.
const NONE: &str = "-";

/// The name of a scope: 1 to 64 of `a-z 0-9 . _ -`, in parts with `/` between them; no part is `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(String);

impl Scope {
    /// The scope when nothing else is said.
    pub const SHARED: &str = "shared";

    /// Checks a name. A wrong one is an error of class `Usage`.
    pub fn new(name: &str) -> Result<Self> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(known);
        if name.len() <= LONGEST && name != NONE && name.split('/').all(part) {
            return Ok(Scope(name.to_owned()));
        }
        let shown: String = name.chars().take(LONGEST + 1).flat_map(char::escape_debug).collect();
        Err(Error::usage(format_args!("`{shown}` is not a possible scope")).hint(format_args!(
            "use small letters, digits, `.`, `_` and `-`, with `/` between parts, at most {LONGEST} together"
        )))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a run writes, and where it reads, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes {
    /// The scope of its own; `None` for a run that must not write, such as that of a foreign pull request.
    pub write: Option<Scope>,
    /// The scopes whose entries it uses; the first that has one wins.
    pub read: Vec<Scope>,
}

impl Scopes {
    /// What a run that writes to no scope calls what it stores on this machine.
    pub const LOCAL: &str = "local";

    /// The scope of what this run stores on this machine.
    pub fn own(&self) -> &str {
        self.write.as_ref().map_or(Self::LOCAL, Scope::as_str)
    }

    /// Whether an entry of this scope is used: of those that are read, of the own one, or of nobody's.
    pub fn accepts(&self, scope: &str) -> bool {
        scope == self.own() || self.read.iter().any(|read| read.as_str() == scope)
    }

    /// Whether what this run builds may take the place of an entry of this scope on this machine. Those who are trusted less
    /// read what those have who are trusted more, and must not take it from them; what is not read is in the way.
    pub fn may_replace(&self, scope: &str) -> bool {
        scope == self.own() || (self.write.is_some() && !self.accepts(scope))
    }

    /// The scopes of the environment: `MONOFO_SCOPE`, default `shared`, where `-` means that nothing is written; and
    /// `MONOFO_READ_SCOPES`, separated by commas, default the own one.
    pub fn of(env: &Env) -> Result<Self> {
        let wrong = |variable: &'static str| move |error: Error| error.context(format_args!("{variable} is wrong"));
        let write = match env.strict("MONOFO_SCOPE")?.unwrap_or(Scope::SHARED) {
            NONE => None,
            name => Some(Scope::new(name).map_err(wrong("MONOFO_SCOPE"))?),
        };
        let Some(names) = env.strict("MONOFO_READ_SCOPES")? else {
            let read = write.clone().map_or_else(|| Scope::new(Scope::SHARED), Ok)?;
            return Ok(Scopes { write, read: vec![read] });
        };
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let mut read = Vec::new();
        for name in names {
            let scope = Scope::new(name).map_err(wrong("MONOFO_READ_SCOPES"))?;
            if !read.contains(&scope) {
                read.push(scope);
            }
        }
        if read.is_empty() || read.len() > MOST_READ {
            return Err(Error::usage(format_args!("MONOFO_READ_SCOPES names {} scopes", read.len()))
                .hint(format_args!("name 1 to {MOST_READ}, with commas between them, or unset it")));
        }
        Ok(Scopes { write, read })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn scopes_are_plain_names() {
        for name in ["shared", "branch/fix-1.2_x", "pr/17", "a", &"a".repeat(64)] {
            assert_eq!(Scope::new(name).unwrap().as_str(), name);
        }
        let long = "a".repeat(65);
        for name in
            ["", "-", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "A", "a b", "a\n", "ä", "a\\b", "a%2e", &long]
        {
            assert_eq!(Scope::new(name).unwrap_err().class(), Class::Usage, "{name:?}");
        }
    }

    #[test]
    fn what_is_read_from_others_is_not_replaced_and_a_run_without_a_scope_replaces_nobodys() {
        let scopes = |write: &str, read: &str| {
            Scopes::of(&Env::of([("MONOFO_SCOPE", write), ("MONOFO_READ_SCOPES", read)])).unwrap()
        };
        for (write, read, scope, replaces) in [
            ("pr/1", "pr/1,trusted", "pr/1", true),
            ("pr/1", "pr/1,trusted", "trusted", false),
            ("pr/1", "pr/1,trusted", "pr/2", true),
            ("pr/1", "pr/1,trusted", Scopes::LOCAL, true),
            ("-", "trusted", Scopes::LOCAL, true),
            ("-", "trusted", "trusted", false),
            ("-", "trusted", "pr/1", false),
        ] {
            assert_eq!(scopes(write, read).may_replace(scope), replaces, "{write} {read} {scope}");
        }
    }

    #[test]
    fn the_environment_says_where_to_write_and_read() {
        let scopes = |write: &str, read: &str| {
            let env = Env::of([("MONOFO_SCOPE", write), ("MONOFO_READ_SCOPES", read)]);
            Scopes::of(&env).map(|scopes| {
                let read: Vec<String> = scopes.read.iter().map(Scope::to_string).collect();
                (scopes.write.map(|scope| scope.to_string()).unwrap_or_default(), read.join(" "))
            })
        };
        for (write, read, expected) in [
            ("", "", ("shared", "shared")),
            ("trusted", "", ("trusted", "trusted")),
            ("-", "", ("", "shared")),
            ("pr/1", "pr/1, branch/x,,trusted,pr/1", ("pr/1", "pr/1 branch/x trusted")),
            ("-", "trusted", ("", "trusted")),
        ] {
            let (own, others) = scopes(write, read).unwrap();
            assert_eq!((own.as_str(), others.as_str()), expected, "{write} {read}");
        }
        for (write, read) in [("A", ""), ("a", "b/../c"), ("a", " , ")] {
            let error = scopes(write, read).unwrap_err();
            assert_eq!(error.class(), Class::Usage);
            assert!(error.to_string().contains("MONOFO_") && error.next_step().is_some(), "{error:?}");
        }
    }
}
