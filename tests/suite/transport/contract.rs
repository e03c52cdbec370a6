//! What every transport does, as plain functions run on each of them.

use std::io::{Read, Write};
use std::time::Duration;

use monofo::artifact::ArtifactName;
use monofo::error::{Class, Error, from_io};
use monofo::transport::{Pick, Transport};

use super::subjects::{self, Subject};

pub(super) fn name(name: &str) -> ArtifactName {
    ArtifactName::new(name).unwrap()
}

pub(super) fn pick(build: &str, step: Option<&str>) -> Pick {
    Pick { build: build.into(), step: step.map(Into::into) }
}

/// Bytes that differ from place to place, so that swapped or repeated blocks are noticed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(super) fn put(transport: &dyn Transport, artifact: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut upload = transport.upload(&name(artifact))?;
    // Odd pieces: cuts of parts must not depend on the sizes of writes.
    for piece in bytes.chunks(10_007) {
        upload.write_all(piece).map_err(|error| from_io("writing", error))?;
    }
    upload.finish()
}

pub(super) fn get(transport: &dyn Transport, artifact: &str, pick: &Pick) -> Result<Vec<u8>, Error> {
    let mut download = transport.download(&name(artifact), pick)?;
    let mut bytes = Vec::new();
    download.reader.read_to_end(&mut bytes).map_err(|error| from_io("reading", error))?;
    if let Some(size) = download.size {
        assert_eq!(size, bytes.len() as u64, "the announced size");
    }
    Ok(bytes)
}

/// A build that nothing else uses: places outside keep what earlier runs left.
fn fresh_build(test: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{test}-{}-{}", std::process::id(), now.as_nanos())
}

fn bytes_out_are_bytes_in(subject: &Subject) {
    let build = fresh_build("bytes");
    let transport = subject.open(&build, Some("compile"), "j1");
    let part = subject.part;
    for size in [0, 1, part - 1, part, part + 1, 3 * part + 7] {
        if size > subject.most {
            println!("SKIPPED: this place takes no artifact of {size} bytes");
            continue;
        }
        let bytes = noise(size as u64, size);
        let artifact = format!("size-{size}.tar");
        put(&*transport, &artifact, &bytes).unwrap();
        let back = get(&*transport, &artifact, &pick(&build, None)).unwrap();
        assert!(back == bytes, "{size} bytes came back as {}", back.len());
    }
}

fn the_newest_wins_and_steps_can_be_told_apart(subject: &Subject) {
    let build = fresh_build("newest");
    for (step, job) in [(Some("compile"), "j9"), (None, "j8"), (Some("lint"), "j1")] {
        put(&*subject.open(&build, step, job), "a.tar", job.as_bytes()).unwrap();
        std::thread::sleep(subject.tick);
    }
    let transport = subject.open(&build, None, "reader");
    let read = |step| get(&*transport, "a.tar", &pick(&build, step));
    assert_eq!(read(None).unwrap(), b"j1");
    assert_eq!(read(Some("compile")).unwrap(), b"j9");
    assert_eq!(read(Some("lint")).unwrap(), b"j1");
    // A job that uploads again replaces its own and is the newest.
    put(&*subject.open(&build, Some("compile"), "j9"), "a.tar", b"again").unwrap();
    assert_eq!(read(None).unwrap(), b"again");
    let absent = read(Some("-")).unwrap_err();
    assert_eq!(absent.class(), Class::NotThere);
    assert!(!subject.own_layout || absent.next_step().unwrap().contains("compile"), "{absent:?}");
}

fn what_is_absent_is_not_there(subject: &Subject) {
    let build = fresh_build("absent");
    let transport = subject.open(&build, None, "j");
    put(&*transport, "dir/there.tar", b"x").unwrap();
    for absent in ["not.tar", "dir", "there.tar", "dir/there.tar/-.j", "dir/there.tar.gz"] {
        let error = get(&*transport, absent, &pick(&build, None)).unwrap_err();
        assert_eq!(error.class(), Class::NotThere, "{absent}: {error:?}");
        assert!(error.chain().contains(absent) && error.chain().contains(&build), "{error:?}");
        assert!(error.next_step().is_some());
    }
    let other = get(&*transport, "dir/there.tar", &pick("no-such-build", None)).unwrap_err();
    assert_eq!(other.class(), Class::NotThere);
}

fn nothing_shows_before_an_upload_is_finished(subject: &Subject) {
    let build = fresh_build("abandoned");
    let transport = subject.open(&build, None, "j");
    let before = subject.residue.as_ref().map(|count| count());
    let size = (3 * subject.part).min(subject.most);
    let mut upload = transport.upload(&name("a.tar")).unwrap();
    upload.write_all(&noise(1, size)).unwrap();
    let absent = get(&*transport, "a.tar", &pick(&build, None)).unwrap_err();
    assert_eq!(absent.class(), Class::NotThere);
    drop(upload);
    let absent = get(&*transport, "a.tar", &pick(&build, None)).unwrap_err();
    assert_eq!(absent.class(), Class::NotThere);
    assert_eq!(subject.residue.as_ref().map(|count| count()), before, "an abandoned upload left something");
    // An abandoned second upload leaves the first one alone.
    put(&*transport, "a.tar", b"first").unwrap();
    let mut upload = transport.upload(&name("a.tar")).unwrap();
    upload.write_all(b"second").unwrap();
    drop(upload);
    assert_eq!(get(&*transport, "a.tar", &pick(&build, None)).unwrap(), b"first");
}

fn names_of_every_kind_work(subject: &Subject) {
    let (test, step) = if subject.own_layout { ("names/é .", "step/with odd:key.") } else { ("names", "key") };
    let build = fresh_build(test);
    let transport = subject.open(&build, Some(step), "job.1");
    let names = [
        "a.tar",
        ".hidden.tar",
        "a..b",
        "out/deep/er/a.tar",
        "out/deep",
        "with space.tar",
        "ünïcode-日本.tar",
        "100%25.tar",
        "a+b=c&d,e'f(g)@h:i$j.tar",
        "a#b~c.tar",
    ];
    for name in names {
        put(&*transport, name, name.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    for name in names {
        let back = get(&*transport, name, &pick(&build, Some(step)));
        assert_eq!(back.unwrap_or_else(|error| panic!("{name}: {error:?}")), name.as_bytes());
    }
}

fn many_at_once_do_not_disturb_each_other(subject: &Subject) {
    let build = fresh_build("many");
    let transport = subject.open(&build, None, "j");
    let size = (2 * subject.part + 5).min(subject.most);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (transport, build) = (&transport, &build);
            scope.spawn(move || {
                let bytes = noise(thread, size - thread as usize);
                let artifact = format!("many-{thread}.tar");
                put(&**transport, &artifact, &bytes).unwrap();
                assert!(get(&**transport, &artifact, &pick(build, None)).unwrap() == bytes);
            });
        }
    });
}

fn a_reader_can_stop_early(subject: &Subject) {
    let build = fresh_build("early");
    let transport = subject.open(&build, None, "j");
    put(&*transport, "a.tar", &noise(3, (3 * subject.part).min(subject.most))).unwrap();
    let started = std::time::Instant::now();
    let mut download = transport.download(&name("a.tar"), &pick(&build, None)).unwrap();
    let mut first = [0; 100];
    download.reader.read_exact(&mut first).unwrap();
    assert_eq!(first[..], noise(3, 100)[..]);
    drop(download);
    drop(transport);
    assert!(started.elapsed() < Duration::from_secs(10));
}

contract! {
    subjects: memory folder s3 agent outside_s3 outside_gs outside_agent;
    bytes_out_are_bytes_in
    the_newest_wins_and_steps_can_be_told_apart
    what_is_absent_is_not_there
    nothing_shows_before_an_upload_is_finished
    names_of_every_kind_work
    many_at_once_do_not_disturb_each_other
    a_reader_can_stop_early
}
