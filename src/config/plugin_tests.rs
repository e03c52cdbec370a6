use serde_json::json;

use super::*;
use crate::error::Class;

fn read(configuration: Value) -> Result<PluginConfig> {
    PluginConfig::read(&configuration, &Env::of([("BUILDKITE_BUILD_ID", "b-1")]))
}

fn problem(configuration: Value) -> String {
    read(configuration).unwrap_err().chain()
}

#[test]
fn every_form_of_upload_becomes_a_request() {
    let config = read(json!({"upload": {
        "c.tar": "dist/**",
        "b.tar.gz": ["a/**", "!**/*.map"],
        "a.tar.lz4": {"filesFrom": "./lists/x.list", "null": true, "globs": "extra/*", "when": "always",
                      "soft-fail": true, "if-empty": "ignore"},
    }}))
    .unwrap();
    let names: Vec<&str> = config.uploads.iter().map(|upload| upload.request.name.as_str()).collect();
    assert_eq!(names, ["a.tar.lz4", "b.tar.gz", "c.tar"]);
    let first = &config.uploads[0];
    assert_eq!(first.request.selection.list, Some(ListSource::File("lists/x.list".into())));
    assert!(first.request.selection.null_separated && first.soft_fail);
    assert_eq!((first.when, first.request.if_empty), (When::Always, IfEmpty::Ignore));
    assert_eq!(first.request.selection.globs, ["extra/*"]);
    assert_eq!(config.uploads[1].request.selection.globs, ["a/**", "!**/*.map"]);
    assert_eq!(config.uploads[2].when, When::Success);
}

#[test]
fn every_form_of_download_becomes_a_request_in_listed_order() {
    let config = read(json!({"download": [
        "z.tar", {"name": "a.tar", "step": "compile", "build": "b-2", "into": "out/./x/../y", "soft-fail": true}
    ]}))
    .unwrap();
    assert_eq!(config.downloads[0].request.pick, Pick { build: "b-1".into(), step: None });
    assert_eq!(config.downloads[0].request.into, PathBuf::from("."));
    let second = &config.downloads[1];
    assert_eq!(second.request.pick, Pick { build: "b-2".into(), step: Some("compile".into()) });
    assert_eq!(second.request.into, PathBuf::from("out/y"));
    assert!(second.soft_fail);
    assert_eq!(read(json!({"download": "one.tar"})).unwrap().downloads.len(), 1);
}

#[test]
fn the_order_of_keys_changes_nothing() {
    let one = read(json!({"upload": {"b.tar": "x", "a.tar": "y"}})).unwrap();
    let other = read(json!({"upload": {"a.tar": "y", "b.tar": "x"}})).unwrap();
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

#[test]
fn null_options_are_absent_but_a_null_upload_is_a_mistake() {
    let config = read(json!({"download": null, "upload": {"a.tar": {"globs": ["x"], "when": null, "null": null}}}));
    assert_eq!(config.unwrap().uploads[0].when, When::Success);
    let text = problem(json!({"upload": {"a.tar": null}}));
    assert!(text.contains(r#"`upload["a.tar"]`: found null, expected a glob"#), "{text}");
}

#[test]
fn mistakes_name_place_find_and_expectation() {
    for (configuration, expected) in [
        (
            json!({"upload": {"a.tar": {"globs": ["x", 3]}}}),
            r#"`upload["a.tar"].globs[1]`: found `3`, expected a glob"#,
        ),
        (json!({"upload": ["a"]}), "`upload`: found a list, expected a map"),
        (json!({"uploads": {}}), "`uploads`: unknown key"),
        (
            json!({"upload": {"a.tar": {"globs": "x", "when": "later"}}}),
            "expected one of `success`, `failure`, `always`",
        ),
        (json!({"upload": {"a.tar": {"globs": "x", "soft-fail": "yes"}}}), "found the text `yes`, expected `true`"),
        (json!({"upload": {"a.tar": {"globs": "x", "null": true}}}), "there is no `filesFrom`"),
        (json!({"upload": {"a.tar": {"filesFrom": "-"}}}), "found `-`, expected a file"),
        (json!({"upload": {"a.tar": {"filesFrom": "a", "files-from": "b"}}}), "says the same as `filesFrom`"),
        (json!({"upload": {"a.tar": {"when": "always"}}}), "expected `globs` or `filesFrom`"),
        (json!({"upload": {"a.tar": []}}), "found an empty list, expected at least one glob"),
        (json!({"upload": {"a.tar": ["!x"]}}), "found only globs that take out"),
        (json!({"upload": {"a*.tar": ["x"]}}), "contains '*'"),
        (json!({"upload": {"a.caidx": ["x"]}}), "not of a .catar"),
        (json!({"download": [{"step": "x"}]}), "`download[0]`: has no `name`"),
        (json!({"download": ["a.tar", null]}), "`download[1]`: found null"),
        (json!({"download": ["a.tar", "a.tar"]}), "`download[1]`: `a.tar` is listed twice"),
        (json!({"download": [{"name": "x/f", "into": "."}, {"name": "x/f", "step": "s"}]}), "is listed twice"),
        (json!({"download": [{"name": "a.tar", "build": "../x"}]}), "expected the id of a build"),
        (json!({"download": [{"name": "a.tar", "build": ".."}]}), "expected the id of a build"),
        (json!("text"), "found the text `text`, expected a map"),
    ] {
        let error = read(configuration.clone()).unwrap_err();
        assert!(error.chain().contains(expected), "{configuration}: {}", error.chain());
        assert_eq!(error.class(), Class::Usage, "{configuration}");
    }
}

#[test]
fn the_nearest_known_key_is_the_hint() {
    let error = read(json!({"upload": {"a.tar": {"globs": "x", "ifEmpty": "warn"}}})).unwrap_err();
    assert_eq!(error.next_step(), Some("did you mean `if-empty`?"));
    let error = read(json!({"uploads": {"a.tar": "x"}})).unwrap_err();
    assert_eq!(error.next_step(), Some("did you mean `upload`?"));
}

#[test]
fn all_mistakes_are_told_together() {
    let text = problem(json!({"upload": {"a.tar": null, "b.tar": {"globs": [1, 2]}}, "download": [7], "dowload": 1}));
    assert!(text.contains("5 mistakes"), "{text}");
}

#[test]
fn paths_outside_are_refused_and_paths_inside_are_not() {
    for configuration in [
        json!({"upload": {"a.tar": "/etc/*"}}),
        json!({"upload": {"a.tar": ["x", "!../y"]}}),
        json!({"upload": {"a.tar": {"filesFrom": "/tmp/list"}}}),
        json!({"upload": {"a.tar": "a/../../b"}}),
        json!({"download": [{"name": "a.tar", "into": "/tmp"}]}),
        json!({"download": [{"name": "a.tar", "into": "x/../.."}]}),
    ] {
        assert_eq!(read(configuration.clone()).unwrap_err().class(), Class::Refused, "{configuration}");
    }
    for configuration in [
        json!({"upload": {"a.tar": ["..x/*", "a/..b", "x/../y", "./z"]}}),
        json!({"download": [{"name": "a.tar", "into": "./"}]}),
    ] {
        assert!(read(configuration.clone()).is_ok(), "{configuration}");
    }
}

#[test]
fn the_same_archive_of_two_steps_may_meet_in_one_folder() {
    let config = json!({"download": [{"name": "c.tar", "step": "unit"}, {"name": "c.tar", "step": "browser"}]});
    assert_eq!(read(config).unwrap().downloads.len(), 2);
}

#[test]
fn variables_of_an_artifact_win_over_the_configuration() {
    let env = Env::of([
        ("MONOFO_ARTIFACT_NODE_MODULES_SKIP", "1"),
        ("MONOFO_ARTIFACT_BUILD_SOFT_FAIL", "false"),
        ("MONOFO_ARTIFACT_BUILD_BUILD_ID", "other"),
        ("MONOFO_ARTIFACT_DIST_SKIP", "0"),
        ("MONOFO_ARTIFACT_DIST_BUILD_ID", "false"),
    ]);
    let downloads = json!(["node-modules.tar.lz4", {"name": "build.tgz", "soft-fail": true, "build": "b"}, "dist.tar"]);
    let config = PluginConfig::read(&json!({ "download": downloads }), &env).unwrap();
    assert!(config.downloads[0].skip);
    assert!(!config.downloads[1].soft_fail);
    assert_eq!(config.downloads[1].request.pick.build, "other");
    assert!(!config.downloads[2].skip);
    assert_eq!(config.downloads[2].request.pick.build, "local");
}

#[test]
fn a_build_id_from_the_environment_is_checked_too() {
    let env = Env::of([("MONOFO_ARTIFACT_A_BUILD_ID", "../../x")]);
    let error = PluginConfig::read(&json!({"download": "a.tar"}), &env).unwrap_err();
    assert!(error.chain().contains("MONOFO_ARTIFACT_A_BUILD_ID"), "{}", error.chain());
}
