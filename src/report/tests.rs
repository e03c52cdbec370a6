use std::time::Duration;

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(lock(&self.0).clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn report(style: Style, verbosity: Verbosity) -> (Report, Captured, Captured) {
    let (out, err) = (Captured::default(), Captured::default());
    let mode = Mode { style, verbosity, json: true };
    (Report::with_streams(mode, Box::new(out.clone()), Box::new(err.clone())), out, err)
}

fn moved() -> Outcome {
    Outcome {
        files: 1234,
        content_bytes: 4_000_000,
        artifact_bytes: 1_000_000,
        took: Duration::from_secs(2),
        moved: true,
        from: Some("job 7".into()),
        ..Outcome::default()
    }
}

#[test]
fn a_job_sees_a_group_and_a_line_per_artifact() {
    let (report, _, err) = report(Style::Job, Verbosity::Normal);
    report.begin_block(Verb::Download, 2);
    report.outcome("a.tar.lz4", &moved());
    report.skipped("b.tar", "MONOFO_ARTIFACT_B_SKIP is set");
    assert_eq!(
        err.text(),
        "~~~ monofo: downloading 2 artifacts\n\
         a.tar.lz4: 1,234 files, 1.0 MB to 4.0 MB (25 %), 2.0 s, 2.0 MB/s\n\
         b.tar: skipped, MONOFO_ARTIFACT_B_SKIP is set\n"
    );
}

#[test]
fn every_verb_has_its_participle() {
    for (verb, word) in [(Verb::Upload, "uploading 1"), (Verb::Deflate, "deflating 1"), (Verb::Inflate, "inflating 1")]
    {
        let (report, _, err) = report(Style::Job, Verbosity::Normal);
        report.begin_block(verb, 1);
        assert_eq!(err.text(), format!("~~~ monofo: {word} artifact\n"));
    }
}

#[test]
fn elsewhere_the_same_lines_come_without_groups() {
    let (report, _, err) = report(Style::Plain, Verbosity::Verbose);
    report.begin_block(Verb::Upload, 1);
    report.outcome("a.tar", &moved());
    report.failure("b.tar", &Error::failed("no"), Severity::Error);
    assert_eq!(
        err.text(),
        "a.tar: 1,234 files, 4.0 MB to 1.0 MB (25 %), 2.0 s, 2.0 MB/s\na.tar: came from job 7\nerror: b.tar: no\n"
    );
}

#[test]
fn trouble_opens_the_group_once_and_ends_with_what_to_do() {
    let (report, _, err) = report(Style::Job, Verbosity::Quiet);
    report.begin_block(Verb::Upload, 2);
    report.failure("a.tar", &Error::failed("x").caused_by(Error::failed("y")).hint("do z"), Severity::Error);
    report.failure("b.tar", &Error::failed("w"), Severity::Warning);
    assert_eq!(err.text(), "^^^ +++\nerror: a.tar: x: y\nhint: do z\nwarning: b.tar: w\n");
}

#[test]
fn an_empty_artifact_is_a_loud_warning_and_left_out_files_are_a_quiet_one() {
    let (report, _, err) = report(Style::Job, Verbosity::Quiet);
    report.begin_block(Verb::Upload, 2);
    report.outcome("a.tar", &Outcome { warnings: vec!["2 sockets left out".into()], ..moved() });
    assert_eq!(err.text(), "warning: a.tar: 2 sockets left out\n");
    report.outcome("b.tar", &Outcome { warnings: vec!["nothing matched".into()], ..Outcome::default() });
    assert!(err.text().ends_with("^^^ +++\nwarning: b.tar: nothing matched\n"), "{}", err.text());
}

#[test]
fn an_empty_artifact_without_a_warning_is_still_mentioned() {
    let (report, _, err) = report(Style::Plain, Verbosity::Normal);
    report.begin_block(Verb::Upload, 2);
    report.outcome("a.tar", &Outcome::default());
    report.outcome("b.tar", &Outcome { warnings: vec!["nothing matched".into()], ..Outcome::default() });
    assert_eq!(err.text(), "a.tar: nothing to upload\nwarning: b.tar: nothing matched\n");
}

#[test]
fn no_text_can_open_a_group_or_drive_a_terminal() {
    let (report, _, err) = report(Style::Plain, Verbosity::Normal);
    report.warning("bad\x1b[2J \\x0a\n+++ fake");
    report.note("--- fake");
    assert_eq!(err.text(), "warning: bad\\x1b[2J \\x0a\n  +++ fake\n  --- fake\n");
}

#[test]
fn quiet_leaves_out_what_went_well() {
    let (report, _, err) = report(Style::Job, Verbosity::Quiet);
    report.begin_block(Verb::Upload, 1);
    report.outcome("a.tar", &moved());
    report.detail("why");
    assert_eq!(err.text(), "");
}

#[test]
fn the_summary_has_stable_keys() {
    let (report, out, _) = report(Style::Plain, Verbosity::Quiet);
    report.begin_block(Verb::Upload, 3);
    report.outcome("a.tar", &moved());
    report.failure("b.tar", &Error::refused("x").hint("y"), Severity::Warning);
    report.warning("w");
    report.finish(0);
    let document: Value = serde_json::from_str(&out.text()).unwrap();
    assert_eq!(
        document,
        serde_json::json!({
            "command": "upload", "status": 0, "warnings": ["w"], "error": null,
            "artifacts": [
                {"name": "a.tar", "result": "done", "files": 1234, "content_bytes": 4_000_000,
                 "artifact_bytes": 1_000_000, "seconds": 2.0, "from": "job 7", "warnings": [], "error": null},
                {"name": "b.tar", "result": "warned", "files": 0, "content_bytes": 0, "artifact_bytes": 0,
                 "seconds": 0.0, "from": null, "warnings": [],
                 "error": {"class": "refused", "message": "x", "hint": "y"}},
            ]
        })
    );
}

#[test]
fn a_bar_appears_after_a_second_and_goes_away() {
    let (report, _, _) = report(Style::Terminal, Verbosity::Normal);
    let progress = Progress::default();
    let watch = report.watch(vec![progress.clone()]);
    progress.expect(10);
    progress.add(5);
    assert!(lock(&report.shared.bar).is_none());
    std::thread::sleep(Duration::from_millis(1300));
    assert!(lock(&report.shared.bar).is_some());
    report.note("a line in between");
    drop(watch);
    assert!(lock(&report.shared.bar).is_none());
}

/// A disk without room.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_summary_that_cannot_be_printed_is_a_failure() {
    let mode = Mode { style: Style::Plain, verbosity: Verbosity::Normal, json: true };
    let report = Report::with_streams(mode, Box::new(Full), Box::new(std::io::sink()));
    assert_eq!(report.finish(0), 1);
    assert_eq!(report.finish(3), 3);
    let silent = Report::with_streams(Mode { json: false, ..mode }, Box::new(Full), Box::new(std::io::sink()));
    assert_eq!(silent.finish(0), 0);
}
