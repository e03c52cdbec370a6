//! Values that nobody should see: a key is shown, and kept beside the entry.
//!
//! A value that only begins like a token is none: a branch may be called `npm_upgrade`, and its name must not fail a job.

use std::net::Ipv4Addr;

/// How tokens of services begin that many use, how many letters and digits follow at least, and what else may be among these.
const TOKENS: [(&str, usize, &str); 13] = [
    ("ghp_", 30, ""),
    ("gho_", 30, ""),
    ("ghu_", 30, ""),
    ("ghs_", 30, ""),
    ("ghr_", 30, ""),
    ("github_pat_", 30, "_"),
    ("glpat-", 20, "_-"),
    ("npm_", 30, ""),
    ("hf_", 30, ""),
    ("xoxb-", 30, "-"),
    ("xoxp-", 30, "-"),
    ("bkua_", 30, ""),
    // What all tokens of this index have in common.
    ("pypi-AgE", 30, "_-"),
];

/// What is asked for with a secret, in the query of an address.
const SIGNED: [&str; 9] = [
    "sig",
    "signature",
    "token",
    "access_token",
    "password",
    "api_key",
    "x-amz-signature",
    "x-amz-security-token",
    "x-goog-signature",
];

/// What a value is that nobody should see, in a few words.
pub(super) fn secret_in(value: &str) -> Option<&'static str> {
    if value.starts_with("-----BEGIN") || words(value).any(is_token) {
        return Some("a token");
    }
    if has_password(value) {
        return Some("an address with a password in it");
    }
    let mut asked = value.split_once('?').map_or("", |(_, query)| query).split(['&', ';', '#']);
    let is_signed = asked.any(|part| {
        part.split_once('=').is_some_and(|(name, _)| SIGNED.iter().any(|signed| name.eq_ignore_ascii_case(signed)))
    });
    is_signed.then_some("an address with a token in it")
}

/// What stands between characters that no token has.
fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.'))
}

fn is_token(word: &str) -> bool {
    let known = |(begins, least, more): &(&str, usize, &str)| {
        let of_token = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        word.strip_prefix(begins).is_some_and(|rest| {
            let len = rest.find(|c| !of_token(c)).unwrap_or(rest.len());
            len >= *least && rest[..len].contains(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase())
        })
    };
    let is_key_of_aws = ["AKIA", "ASIA"].iter().any(|begins| {
        word.strip_prefix(begins).is_some_and(|rest| {
            rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        })
    });
    // The beginning of `{"` in base64, in both of the first parts.
    let mut parts = word.split('.');
    let is_web_token = parts.clone().count() == 3
        && parts.clone().take(2).all(|part| part.starts_with("eyJ"))
        && parts.all(|part| part.len() >= 10);
    is_key_of_aws || is_web_token || TOKENS.iter().any(known)
}

/// Whether it is an address with user and password, or a web address with either. `git@host:path`, `image:tag@sha256:…` and
/// versions as `1.2:3@4` are none.
fn has_password(value: &str) -> bool {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => ("", value.trim_start_matches('/')),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let Some((user, host)) = authority.rsplit_once('@') else { return false };
    if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") {
        return !user.is_empty();
    }
    let Some((name, _)) = user.split_once(':') else { return false };
    let is_digest = host.split_once(':').is_some_and(|(kind, digits)| {
        kind.strip_prefix("sha").is_some_and(|bits| bits.bytes().all(|byte| byte.is_ascii_digit()))
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    // Without a scheme, what may be a user's name at a host, or at the port of one.
    let is_name = name.is_empty() || name.starts_with(|c: char| c.is_ascii_alphabetic());
    let bare = host.split(':').next().unwrap_or(host);
    let is_host = host.contains(|c: char| c.is_ascii_alphabetic() || c == '[') || bare.parse::<Ipv4Addr>().is_ok();
    !is_digest && (!scheme.is_empty() || (is_name && is_host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_begins_like_a_secret_is_none() {
        let long = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8";
        for begins in
            ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_11A_", "glpat-", "npm_", "hf_", "xoxb-1-2-", "bkua_"]
        {
            assert_eq!(secret_in(&format!("{begins}{long}")), Some("a token"), "{begins}");
            assert_eq!(secret_in(&format!("Bearer {begins}{long}")), Some("a token"), "{begins}");
            assert_eq!(secret_in(&format!("{begins}upgrade")), None, "{begins}");
        }
        for secret in [
            "glpat-a1B2-3D4e5_6g7H8i9J0",
            "pypi-AgEIcHlwaS5vcmcCJGE1YjYtNzg5MC00YWJjLWRlZjA",
            "AKIAIOSFODNN7EXAMPLE",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhbUJU1p1r",
            "postgres://u:s@h/x",
            "redis://:s@h",
            "user:s@h.example",
            "user:s@h",
            "user:s@10.0.0.1/x",
            "user:s@10.0.0.1:5432",
            "user:s@[::1]:5432",
            "//u:s@h/x",
            "https://s@h/x",
            "https://u:s@sha256:443/",
            "https://h/x?sig=s",
        ] {
            assert!(secret_in(secret).is_some(), "{secret}");
        }
        for plain in [
            "npm_upgrade_all_dependencies_to_the_newest_major",
            "ghs_fix",
            "npm_",
            "glpat-rotate-all-of-our-old-tokens",
            "pypi-release-2026-with-many-more-improvements",
            "AKIA",
            "AKIAIOSFODNN7EXAMPLEX",
            "xhf_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
            "eyJ.eyJ.x",
            "1.2:3@4",
            "tool:3@4.5",
            "v1.2:3@4",
            "docker-image://a:1@sha256:ab",
            "node:20@sha256:0011",
            "git@h:a/b.git",
            "ssh://git@h/a.git",
            "r:5000/x@y:z",
            "a?b=c",
            "@scope/package",
        ] {
            assert_eq!(secret_in(plain), None, "{plain}");
        }
    }
}
