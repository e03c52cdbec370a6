//! Whose entries a job's `cache:` block reads and writes.
//!
//! | the job is of | writes | reads |
//! |---|---|---|
//! | the default branch, or a tag | `trusted` | `trusted` |
//! | another branch | `branch/<name>` | that, then `trusted` |
//! | a pull request | `pr/<number>` | that, its base branch's, then `trusted` |
//!
//! `MONOFO_SCOPE` says in their place where it writes, and reads the same scope; `MONOFO_READ_SCOPES` says what it reads, and
//! nothing else. Whatever they say, a fork's pull request writes nothing unless `MONOFO_SAVE_FROM_FORKS` is set: an agent has
//! them for all its jobs.
//!
//! A job controls its own variables: who may write where is for the bucket's policy to say.

use crate::config::entries::Keeping;
use crate::env::Env;
use crate::error::Result;
use crate::hash::Hash;
use crate::remote::{Scope, Scopes};
use crate::text::Shown;

const TRUSTED: &str = "trusted";

/// How much of a name stays readable.
const READABLE: usize = 40;

/// The scopes of the `cache:` block, and why nothing is written, if that is so.
pub fn job_scopes(keeping: &Keeping, env: &Env) -> Result<(Scopes, Option<String>)> {
    let named = env.text("MONOFO_SCOPE").is_some() || !env.in_job();
    let mut scopes = if named { keeping.scopes.clone() } else { of_job(env)? };
    if env.text("MONOFO_READ_SCOPES").is_some() {
        scopes.read.clone_from(&keeping.scopes.read);
    }
    if scopes.write.is_none() {
        return Ok((scopes, Some("MONOFO_SCOPE says that this run writes nothing".to_owned())));
    }
    if pull_request(env).is_some() && is_fork(env) && !env.switch("MONOFO_SAVE_FROM_FORKS") {
        scopes.write = None;
        return Ok((scopes, Some(why_fork(env))));
    }
    Ok((scopes, None))
}

/// Why a pull request counts as a fork's, with both addresses: one behind an alias of ssh is for the user to see through.
fn why_fork(env: &Env) -> String {
    let unless = "a fork's pull request, which stores nothing unless MONOFO_SAVE_FROM_FORKS is set";
    let Some(from) = env.text("BUILDKITE_PULL_REQUEST_REPO") else {
        return format!("BUILDKITE_PULL_REQUEST_REPO is empty, so this may be {unless}");
    };
    let own = env.text("BUILDKITE_REPO").map_or_else(|| "empty".to_owned(), |own| format!("`{}`", plain_address(own)));
    format!("BUILDKITE_PULL_REQUEST_REPO is `{}` and BUILDKITE_REPO is {own}, so this is {unless}", plain_address(from))
}

/// An address without user, password and query. Nothing of one where these cannot be told apart.
fn plain_address(url: &str) -> Shown<'_> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = match rest.rsplit_once('@') {
        Some((user, _)) if user.contains(['?', '#']) => "…",
        Some((_, rest)) => rest,
        None => rest,
    };
    Shown(rest.split(['?', '#']).next().unwrap_or(rest).as_bytes())
}

/// What a job's own variables say.
fn of_job(env: &Env) -> Result<Scopes> {
    let trusted = Scope::new(TRUSTED)?;
    let default = env.text("BUILDKITE_PIPELINE_DEFAULT_BRANCH");
    let of_branch = |name: &str| -> Result<Scope> {
        if Some(name) == default { Ok(trusted.clone()) } else { Scope::new(&format!("branch/{}", slug(name))) }
    };
    // First, since a pull request's branch may have any name.
    let own = match (pull_request(env), env.text("BUILDKITE_BRANCH")) {
        (Some(number), _) => Scope::new(&format!("pr/{}", slug(number)))?,
        (None, _) if env.text("BUILDKITE_TAG").is_some() => trusted.clone(),
        (None, Some(branch)) => of_branch(branch)?,
        // No branch is nobody's in particular.
        (None, None) => Scope::new("branch/-")?,
    };
    let mut read = vec![own.clone()];
    if let (Some(_), Some(base)) = (pull_request(env), env.text("BUILDKITE_PULL_REQUEST_BASE_BRANCH")) {
        read.push(of_branch(base)?);
    }
    if !read.contains(&trusted) {
        read.push(trusted);
    }
    Ok(Scopes { write: Some(own), read })
}

/// The number of the pull request that a job is of.
pub fn pull_request(env: &Env) -> Option<&str> {
    env.text("BUILDKITE_PULL_REQUEST").filter(|number| *number != "false")
}

/// Whether a job is of its pipeline's default branch, and of no pull request.
pub fn is_default_branch(env: &Env) -> bool {
    let branch = env.text("BUILDKITE_BRANCH");
    pull_request(env).is_none() && branch.is_some() && branch == env.text("BUILDKITE_PIPELINE_DEFAULT_BRANCH")
}

/// Whether a pull request comes from another repository than the pipeline's. The two are written in different ways, as
/// `git@github.com:a/b.git` and `git://github.com/a/b.git`; what cannot be told is a fork's, unless they are one text. So is one without an address:
/// Buildkite has it for each pull request, and builds that are made through its interface may leave it out.
fn is_fork(env: &Env) -> bool {
    let (from, own) = (env.text("BUILDKITE_PULL_REQUEST_REPO"), env.text("BUILDKITE_REPO"));
    let is_known =
        |from: &str| own == Some(from) || repository(from).is_some_and(|from| Some(from) == own.and_then(repository));
    !from.is_some_and(is_known)
}

/// Hosts that know a repository by its name in any case, and their names for ssh through port 443.
const HOSTS: [(&str, &str); 3] =
    [("github.com", "ssh.github.com"), ("gitlab.com", "altssh.gitlab.com"), ("bitbucket.org", "altssh.bitbucket.org")];

/// The host and the path of a repository's address, without what differs between ways to reach it: scheme, user, port, `www.`,
/// `.git`, and the path's case on hosts that do not mind it.
fn repository(url: &str) -> Option<(String, String)> {
    let (authority, path) = match url.split_once("://") {
        Some(("ssh" | "git" | "http" | "https" | "git+ssh" | "ssh+git", rest)) => rest.split_once('/')?,
        Some(_) => return None,
        // As scp writes it; a slash before the colon makes it a path of this machine.
        None => url.split_once(':').filter(|(host, _)| !host.contains('/'))?,
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if host.is_empty() || !path.contains('/') || !plain {
        return None;
    }
    let host = host.to_ascii_lowercase();
    let host = host.strip_prefix("www.").unwrap_or(&host);
    Some(match HOSTS.iter().find(|(known, ssh)| host == *known || host == *ssh) {
        Some((known, _)) => ((*known).to_owned(), path.to_ascii_lowercase()),
        None => (host.to_owned(), path.to_owned()),
    })
}

/// A name as a part of a scope. Another name has another one: where something had to change, a digest of the name tells it
/// apart, behind two dots, which no name that stays as it is has.
fn slug(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if name.len() <= READABLE
        && !name.is_empty()
        && name.chars().all(plain)
        && !name.contains("..")
        && name != "."
        && name != "-"
    {
        return name.to_owned();
    }
    let readable: String =
        name.to_ascii_lowercase().chars().map(|c| if plain(c) && c != '.' { c } else { '-' }).take(READABLE).collect();
    format!("{readable}..{}", Hash::of(name.as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::entries::keeping_alone;

    /// How Buildkite names a pipeline's repository, and that of a pull request.
    const OWN: &str = "git@github.com:acme-inc/my-project.git";
    const SAME: &str = "git://github.com/acme-inc/my-project.git";

    fn scopes(variables: &[(&str, &str)]) -> (String, String) {
        let usual = [("BUILDKITE_JOB_ID", "1"), ("BUILDKITE_PIPELINE_DEFAULT_BRANCH", "main"), ("BUILDKITE_REPO", OWN)];
        let env = Env::of(usual.into_iter().chain(variables.iter().copied()));
        let (scopes, why) = job_scopes(&keeping_alone(&env, Path::new("/w")).unwrap(), &env).unwrap();
        assert_eq!(scopes.write.is_none(), why.is_some());
        let read: Vec<String> = scopes.read.iter().map(Scope::to_string).collect();
        (scopes.write.map_or("-".to_owned(), |scope| scope.to_string()), read.join(" "))
    }

    #[test]
    fn the_job_decides() {
        let fork = ("BUILDKITE_PULL_REQUEST_REPO", "git://github.com/other/my-project.git");
        let same = ("BUILDKITE_PULL_REQUEST_REPO", SAME);
        for (variables, write, read) in [
            (vec![("BUILDKITE_BRANCH", "main")], "trusted", "trusted"),
            (vec![("BUILDKITE_BRANCH", "v1"), ("BUILDKITE_TAG", "v1")], "trusted", "trusted"),
            (
                vec![("BUILDKITE_BRANCH", "fix"), ("BUILDKITE_PULL_REQUEST", "false")],
                "branch/fix",
                "branch/fix trusted",
            ),
            (vec![("BUILDKITE_BRANCH", "main"), ("BUILDKITE_PULL_REQUEST", "7"), same], "pr/7", "pr/7 trusted"),
            (vec![("BUILDKITE_BRANCH", "main"), ("BUILDKITE_PULL_REQUEST", "7")], "-", "pr/7 trusted"),
            (
                vec![
                    ("BUILDKITE_BRANCH", "fix"),
                    ("BUILDKITE_PULL_REQUEST", "7"),
                    ("BUILDKITE_PULL_REQUEST_BASE_BRANCH", "next"),
                    same,
                ],
                "pr/7",
                "pr/7 branch/next trusted",
            ),
            (vec![("BUILDKITE_BRANCH", "main"), ("BUILDKITE_PULL_REQUEST", "7"), fork], "-", "pr/7 trusted"),
            (vec![("BUILDKITE_PULL_REQUEST", "7"), fork, ("MONOFO_SAVE_FROM_FORKS", "1")], "pr/7", "pr/7 trusted"),
            (vec![("BUILDKITE_BRANCH", "main"), ("MONOFO_SCOPE", "mine")], "mine", "mine"),
            (vec![("BUILDKITE_BRANCH", "main"), ("MONOFO_READ_SCOPES", "x,trusted")], "trusted", "x trusted"),
            (vec![("BUILDKITE_PULL_REQUEST", "7"), fork, ("MONOFO_READ_SCOPES", "x,trusted")], "-", "x trusted"),
            (vec![("BUILDKITE_PULL_REQUEST", "7"), fork, ("MONOFO_SCOPE", "trusted")], "-", "trusted"),
            (
                vec![
                    ("BUILDKITE_PULL_REQUEST", "7"),
                    fork,
                    ("MONOFO_SCOPE", "mine"),
                    ("MONOFO_SAVE_FROM_FORKS", "1"),
                    ("MONOFO_READ_SCOPES", "x"),
                ],
                "mine",
                "x",
            ),
        ] {
            assert_eq!(scopes(&variables), (write.to_owned(), read.to_owned()), "{variables:?}");
        }
    }

    #[test]
    fn a_repository_is_the_same_however_it_is_reached() {
        let is_fork = |own: &str, from: &str| {
            super::is_fork(&Env::of([("BUILDKITE_REPO", own), ("BUILDKITE_PULL_REQUEST_REPO", from)]))
        };
        for same in [
            OWN,
            SAME,
            "https://github.com/acme-inc/my-project.git",
            "https://github.com/acme-inc/my-project",
            "https://github.com/acme-inc/my-project/",
            "https://x-token:secret@GitHub.com:443/acme-inc/my-project.git/",
            "ssh://git@github.com/acme-inc/my-project.git",
            "ssh://git@github.com:22/acme-inc/my-project.git",
            "github.com:acme-inc/my-project",
            "git@github.com:/acme-inc/my-project.git",
            "https://github.com/Acme-Inc/My-Project.git",
            "ssh://git@ssh.github.com:443/acme-inc/my-project.git",
            "https://www.github.com/acme-inc/my-project",
        ] {
            assert!(!is_fork(OWN, same) && !is_fork(same, SAME), "{same}");
        }
        for fork in [
            "git://github.com/other/my-project.git",
            "git://github.com/acme-inc/my-project2.git",
            "git://github.com/x/acme-inc/my-project.git",
            "git://github.com/acme-inc/x/../my-project.git",
            "git://gitlab.com/acme-inc/my-project.git",
            "git://github.com.evil.example/acme-inc/my-project.git",
            "git://github.com@evil.example/acme-inc/my-project.git",
            "file:///acme-inc/my-project.git",
            "/srv/acme-inc/my-project.git",
            "my-project",
        ] {
            assert!(is_fork(OWN, fork), "{fork}");
        }
        assert!(!is_fork("ssh://git@altssh.gitlab.com:443/A/b/c.git", "git@gitlab.com:a/B/c.git"));
        assert!(!is_fork("ssh://git@altssh.bitbucket.org:443/a/b.git", "https://bitbucket.org/a/B"));
        // Where a path's case may matter.
        assert!(is_fork("git@git.example:Acme/app.git", "git@git.example:acme/app.git"));
        // One text is one repository, whatever it means.
        for same in ["/srv/a/b.git", "git@host.example:one.git", "git@work:acme/app.git"] {
            assert!(!is_fork(same, same) && is_fork(same, SAME) && is_fork(SAME, same), "{same}");
        }
        assert!(is_fork("git@host.example:one.git", "git@host.example:other.git") && is_fork("", SAME));
        assert!(is_fork(OWN, "") && is_fork("", ""));
    }

    #[test]
    fn an_address_is_shown_without_secrets() {
        for (url, shown) in [
            ("git@host:a/b.git", "host:a/b.git"),
            ("https://u:s/e@c@host/a/b?token=s#s", "host/a/b"),
            ("https://u:s#s@host/a/b", "…"),
            ("https://host/a/b?token=s@s", "…"),
            ("/srv/a", "/srv/a"),
        ] {
            assert_eq!(plain_address(url).to_string(), shown);
        }
    }

    #[test]
    fn no_two_branches_share_a_scope() {
        let long = "x".repeat(60);
        let names = [
            "feature/x",
            "Feature/X",
            "feature-x",
            "FEATURE-X",
            "feature..x",
            "-",
            ".",
            "..",
            "a/../b",
            "ü",
            "x",
            "X",
            &long,
            &long[1..],
            "trusted",
            &slug("feature/x"),
        ];
        let slugs: BTreeSet<String> = names.iter().map(|name| slug(name)).collect();
        assert_eq!(slugs.len(), names.len(), "{slugs:?}");
        for name in names {
            Scope::new(&format!("branch/{}", slug(name))).unwrap();
        }
        assert_eq!(slug("fix-1.2_x"), "fix-1.2_x");
    }
}
