//! Names of artifacts at rest, the same in folders and buckets, and the words for one that is not there.
//!
//! ```text
//! <build id>/<artifact name>/<step key or ->.<job id>
//! ```
//!
//! Ids keep letters, digits and `_ : . -`; every other byte becomes `%XX`, and so does a dot at the front (no id is `.`,
//! `..` or one of our own dot folders). A dot in a job id is written `%2E`, so that the last dot ends the step's key.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Origin, Pick};
use crate::artifact::ArtifactName;
use crate::error::{Class, Error, Result};

/// The longest name that file systems take.
const LONGEST_PART: usize = 255;

/// The longest list of names in a hint.
const LISTED: usize = 8;

/// An id as one part of a path.
pub(super) fn part(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for (i, byte) in id.bytes().enumerate() {
        match byte {
            b'.' if i == 0 => out.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b':' | b'.' | b'-' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    if out.is_empty() { "%".to_owned() } else { out }
}

/// The id that [`part`] wrote, for people.
fn unpart(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|hex| *first == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A step's key as the first half of a leaf; `-` alone means that there is no key.
fn step_part(step: Option<&str>) -> String {
    match step {
        None => "-".to_owned(),
        Some("-") => "%2D".to_owned(),
        Some(step) => part(step),
    }
}

/// The last part of an artifact's place: who uploaded it. Ids that make a name too long are wrong usage.
pub(super) fn leaf(origin: &Origin) -> Result<String> {
    let leaf = format!("{}.{}", step_part(origin.step.as_deref()), part(&origin.job).replace('.', "%2E"));
    for (what, text) in [("the step's key and the job's id are", &leaf), ("the build's id is", &part(&origin.build))] {
        if text.len() > LONGEST_PART {
            let length = text.len();
            return Err(Error::usage(format_args!("{what} {length} bytes long as a name, of {LONGEST_PART} allowed"))
                .hint("shorten the step's `key` (BUILDKITE_STEP_KEY); letters outside ASCII count several times"));
        }
    }
    Ok(leaf)
}

/// Whether a leaf was uploaded by the step that a download asks for.
pub(super) fn fits(leaf: &str, pick: &Pick) -> bool {
    match (leaf.rsplit_once('.'), &pick.step) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some((step, _)), Some(wanted)) => step == step_part(Some(wanted)),
    }
}

/// What orders uploads that are equally old by the clock of their place, which may tick in whole seconds: the id of the
/// job, since those of Buildkite and our own sort by the time when the job was made. The step's key comes last.
pub(super) fn age(leaf: &str) -> (String, String) {
    let (step, job) = leaf.rsplit_once('.').unwrap_or(("", leaf));
    (job.to_owned(), step.to_owned())
}

/// A leaf for people: `step compile, job 0190…`.
pub(super) fn describe(leaf: &str) -> String {
    match leaf.rsplit_once('.') {
        Some(("-", job)) => format!("job {}", shown(job)),
        Some((step, job)) => format!("step {}, job {}", shown(step), shown(job)),
        None => leaf.escape_debug().to_string(),
    }
}

/// A stored id for people, on one line.
fn shown(part: &str) -> String {
    unpart(part).escape_debug().to_string()
}

/// What else was seen while looking for an artifact that is not there.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Leaves of this artifact in this build.
    pub(super) leaves: Vec<String>,
    /// Names (their first parts) of other artifacts of the build.
    pub(super) names: BTreeSet<String>,
    /// Other builds that have an artifact of this name.
    pub(super) builds: BTreeSet<String>,
}

/// The error for an artifact that is not there: which one, where it was looked for, and what is there instead.
pub(super) fn not_there(name: &ArtifactName, pick: &Pick, place: &str, seen: &Seen) -> Error {
    let step = pick.step.as_ref().map_or(String::new(), |step| format!(" by step `{}`", step.escape_debug()));
    let message = format!("no artifact `{name}` was uploaded{step} in build `{}` ({place})", pick.build.escape_debug());
    let steps: BTreeSet<_> = seen.leaves.iter().filter_map(|leaf| Some(leaf.rsplit_once('.')?.0)).collect();
    let hint = if !steps.is_empty() {
        let known = listed(
            steps.iter().map(|step| if *step == "-" { "a step without a key".to_owned() } else { unpart(step) }),
        );
        format!("this build has it from: {known}; check the step's key")
    } else if !seen.names.is_empty() {
        format!("this build has: {}; check the name and that the step ran before", listed(&seen.names))
    } else if !seen.builds.is_empty() {
        format!("other builds have it: {}; check the build's id", listed(seen.builds.iter().map(|build| unpart(build))))
    } else {
        "check the name, the build, and that the step which uploads it ran before".to_owned()
    };
    Error::new(Class::NotThere, message).hint(hint)
}

fn listed<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let all: Vec<_> = names.into_iter().map(|name| name.as_ref().escape_debug().to_string()).collect();
    let more = all.len().saturating_sub(LISTED);
    let mut text = all[..all.len() - more].join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(step: Option<&str>, job: &str) -> Origin {
        Origin { build: "b".into(), step: step.map(Into::into), job: job.into() }
    }

    #[test]
    fn ids_become_single_plain_parts() {
        for (id, expected) in [
            ("0190-ab", "0190-ab"),
            ("a:b_c.d", "a:b_c.d"),
            ("a/b c", "a%2Fb%20c"),
            (".", "%2E"),
            ("..", "%2E."),
            (".tmp", "%2Etmp"),
            ("é", "%C3%A9"),
            ("", "%"),
        ] {
            assert_eq!(part(id), expected, "{id:?}");
        }
    }

    #[test]
    fn a_leaf_tells_its_step_whatever_the_ids_contain() {
        let pick = |step: Option<&str>| Pick { build: "b".into(), step: step.map(Into::into) };
        for step in [None, Some("compile"), Some("a.b"), Some("-"), Some("x/y"), Some("lint:js")] {
            for job in ["0190-ab", "j.1", ".", "a b"] {
                let leaf = leaf(&origin(step, job)).unwrap();
                assert!(fits(&leaf, &pick(None)), "{leaf}");
                assert!(!fits(&leaf, &pick(Some("other"))), "{leaf}");
                if step.is_some() {
                    assert!(fits(&leaf, &pick(step)), "{leaf}");
                }
                assert_eq!(step == Some("-"), fits(&leaf, &pick(Some("-"))), "{leaf}");
            }
        }
        assert!(!fits("no-dot", &pick(None)));
    }

    #[test]
    fn the_job_decides_among_equally_old_uploads_and_not_the_step() {
        assert!(age("a.0190-2") > age("z.0190-1"));
        assert!(age("b.0190-1") > age("a.0190-1"));
        assert!(age("a.b.local-19000000001-f") > age("z.local-19000000000-0"));
    }

    #[test]
    fn people_see_ids_as_they_were_given() {
        for id in ["0190-ab", "a/b c", "..", "é", "100%", "%2D"] {
            assert_eq!(unpart(&part(id)), id);
        }
        assert_eq!(unpart("%2D"), "-");
        assert_eq!(unpart("%+1%"), "%+1%");
        assert_eq!(describe("%2D.a%2Eb"), "step -, job a.b");
        assert_eq!(describe("a%0Ab.j"), "step a\\nb, job j");
    }

    #[test]
    fn ids_too_long_for_a_file_name_are_refused() {
        assert!(leaf(&origin(Some(&"s".repeat(250)), "job")).is_ok());
        let error = leaf(&origin(Some(&"s".repeat(300)), "job")).unwrap_err();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.next_step().unwrap().contains("BUILDKITE_STEP_KEY"));
    }

    #[test]
    fn a_missing_artifact_is_explained_by_what_is_there() {
        let name = ArtifactName::new("a.tar").unwrap();
        let pick = Pick { build: "b1".into(), step: Some("lint".into()) };
        let seen = Seen { leaves: vec!["compile.j1".into(), "-.j2".into()], ..Seen::default() };
        let error = not_there(&name, &pick, "/there", &seen);
        assert_eq!(error.class(), Class::NotThere);
        assert_eq!(error.to_string(), "no artifact `a.tar` was uploaded by step `lint` in build `b1` (/there)");
        assert_eq!(
            error.next_step().unwrap(),
            "this build has it from: a step without a key, compile; check the step's key"
        );
        let seen = Seen { builds: (0..10).map(|i| format!("b{i}")).collect(), ..Seen::default() };
        assert!(not_there(&name, &pick, "x", &seen).next_step().unwrap().contains("b7 and 2 more"));
    }
}
