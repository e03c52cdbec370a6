//! Hits and misses, a line each in `counters/usage`. Best effort: counting never fails a command.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Home, plain};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An exact entry of this machine.
    Hit,
    /// An exact entry of the remote.
    RemoteHit,
    /// No entry.
    Miss,
    /// An entry that proved to be damaged.
    Damaged,
    /// The remote could not be used; with the class of failure.
    Remote(&'static str),
    /// A gc, with the bytes that it freed.
    Gc,
}

impl Event {
    fn word(self) -> &'static str {
        match self {
            Event::Hit => "hit",
            Event::RemoteHit => "remote-hit",
            Event::Miss => "miss",
            Event::Damaged => "damaged",
            // Not the word for what lies here.
            Event::Remote("damaged") => REMOTE_DAMAGED,
            Event::Remote(class) => class,
            Event::Gc => "gc",
        }
    }
}

/// A payload of a remote that proved to be damaged.
pub const REMOTE_DAMAGED: &str = "remote-damaged";

/// Counts an event, and the bytes that it moved.
pub fn count(home: &Home, event: Event, bytes: u64) {
    let folder = home.root().join("counters");
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let line = format!("{seconds} {} {bytes}\n", event.word());
    let append = || plain::options().append(true).create(true).open(folder.join("usage"));
    let Ok(mut file) = append().or_else(|_| {
        // Only in a cache that is there.
        fs::create_dir(&folder)?;
        append()
    }) else {
        return;
    };
    // One short write to the end of a file: lines of several processes do not mix.
    let _ = file.write_all(line.as_bytes());
}

/// What was counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events by their words: how many, and their bytes.
    pub events: BTreeMap<String, (u64, u64)>,
    /// When the first was, in seconds since 1970.
    pub since: Option<u64>,
    /// When the last gc was, and the bytes that it freed: that of the last line, whatever clock wrote it.
    pub last_gc: Option<(u64, u64)>,
}

/// Reads what was counted. Lines that make no sense are passed over.
pub fn read(home: &Home) -> Counts {
    let text = plain::read(&home.root().join("counters").join("usage")).unwrap_or_default();
    let mut counts = Counts::default();
    for line in String::from_utf8_lossy(&text).lines() {
        let mut fields = line.split(' ');
        let (Some(at), Some(word), Some(bytes)) = (fields.next(), fields.next(), fields.next()) else { continue };
        // `TIME EVENT BYTES`, or `TIME EVENT BYTES COUNT` for many that were added up.
        let number = |text: &str| text.parse::<u64>().ok();
        let (Some(at), Some(bytes)) = (number(at), number(bytes)) else { continue };
        let times = fields.next().and_then(number).unwrap_or(1);
        counts.since = Some(counts.since.map_or(at, |since| since.min(at)));
        if word == "gc" {
            counts.last_gc = Some((at, bytes));
        }
        let sum = counts.events.entry(word.to_owned()).or_default();
        (sum.0, sum.1) = (sum.0.saturating_add(times), sum.1.saturating_add(bytes));
    }
    counts
}

/// Adds up a file that has become long. A line that is written meanwhile may be lost.
pub fn compact(home: &Home) {
    const LONG: u64 = 1 << 20;
    let path = home.root().join("counters").join("usage");
    if fs::metadata(&path).map_or(0, |status| status.len()) < LONG {
        return;
    }
    let mut counts = read(home);
    let since = counts.since.unwrap_or(0);
    if let (Some((_, freed)), Some((times, bytes))) = (counts.last_gc, counts.events.get_mut("gc")) {
        // It has a line of its own, the last one.
        (*times, *bytes) = (times.saturating_sub(1), bytes.saturating_sub(freed));
    }
    let sums = counts.events.iter().map(|(word, (times, bytes))| format!("{since} {word} {bytes} {times}\n"));
    let last = counts.last_gc.map(|(at, bytes)| format!("{at} gc {bytes}\n"));
    let text: String = sums.chain(last).collect();
    if let Ok(staging) = super::Staging::new(home) {
        let staged = staging.join("usage");
        let _ = fs::write(&staged, text).and_then(|()| fs::rename(&staged, &path));
    }
}
