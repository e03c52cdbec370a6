//! The words of one line.

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::engine::{ChunkCounts, Outcome};
use crate::report::Verb;
use crate::text::{Bytes, Count, Number, Shown, Took};

/// `a.tar.lz4: 89,339 files, 635 MB to 182 MB (29 %), 1.3 s, 488 MB/s`; the rate counts the bytes of the files.
pub(super) fn outcome(verb: Verb, name: &str, outcome: &Outcome) -> String {
    let (content, artifact) = (outcome.content_bytes, outcome.artifact_bytes);
    let (from, to) = if verb.makes_artifact() { (content, artifact) } else { (artifact, content) };
    let mut line = format!("{name}: {}, {} to {}", Count(outcome.files, "file"), Bytes(from), Bytes(to));
    if content > 0 {
        line.push_str(&format!(" ({:.0} %)", artifact as f64 * 100.0 / content as f64));
    }
    if let Some(chunks) = &outcome.chunks {
        line.push_str(&self::chunks(verb, chunks));
    }
    line.push_str(&format!(", {}", Took(outcome.took)));
    let seconds = outcome.took.as_secs_f64();
    if seconds > 0.0 && content > 0 {
        line.push_str(&format!(", {}/s", Bytes((content as f64 / seconds) as u64)));
    }
    line
}

/// How much of an archive travelled.
fn chunks(verb: Verb, counts: &ChunkCounts) -> String {
    let how = if verb.makes_artifact() { "new" } else { "fetched" };
    let mut text = format!(", {} of {} {how}", Number(counts.moved), Count(counts.total, "chunk"));
    for (count, place) in [(counts.from_seed, "seed"), (counts.from_cache, "cache")] {
        if count > 0 {
            text.push_str(&format!(", {} from the {place}", Number(count)));
        }
    }
    text
}

/// Text whose control characters are escaped. A line break stays one, but what follows is indented, so that it cannot
/// pass for a line of ours or a log group of the agent's. Backslashes stay as they are: names in messages are escaped
/// already.
pub(super) fn clean(text: &str) -> String {
    let escaped = |line: &str| -> String {
        line.split('\\').map(|part| Shown(part.as_bytes()).to_string()).collect::<Vec<_>>().join("\\")
    };
    let lines: Vec<String> = text.trim_end_matches('\n').split('\n').map(escaped).collect();
    let text = lines.join("\n  ");
    match opens_group(text.as_bytes()) {
        true => format!("  {text}"),
        false => text,
    }
}

fn opens_group(line: &[u8]) -> bool {
    ["---", "+++", "~~~", "^^^"].iter().any(|group| line.starts_with(group.as_bytes()))
}

/// What another program said, as it is. In a job's log no line of it opens or closes a group; colours end with it.
pub(super) fn passage(said: &mut dyn Read, out: &mut dyn Write, in_job: bool) -> io::Result<()> {
    let mut said = BufReader::new(said);
    let (mut piece, mut escapes) = (Vec::new(), false);
    let (mut is_start, mut held) = (true, false);
    // A line without an end is passed on in pieces.
    while (&mut said).take(64 << 10).read_until(b'\n', &mut piece)? > 0 {
        if std::mem::take(&mut held) {
            out.write_all(b"\n")?;
        }
        if in_job && is_start && opens_group(&piece) {
            out.write_all(b"  ")?;
        }
        escapes |= piece.contains(&0x1b);
        held = piece.last() == Some(&b'\n');
        is_start = held;
        out.write_all(&piece[..piece.len() - usize::from(held)])?;
        piece.clear();
    }
    // Before the last line break: a heading has to begin its line.
    if escapes {
        out.write_all(b"\x1b[0m")?;
    }
    out.write_all(b"\n")
}
