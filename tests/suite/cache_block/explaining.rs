//! What `cache explain` says of the block's entries.

use std::fs;

use serde_json::{Value, json};

use super::{Machine, deps, install, nothing};

#[test]
fn explain_tells_of_the_blocks_keys_what_differs_and_compares_no_other_key_with_them() {
    let machine = Machine::new();
    machine.job(&json!({ "key": "x", "paths": "other", "id": "deps" }), |sandbox| sandbox.write("other/a", ""));
    for lock in ["1", "2"] {
        machine.sandbox.write("lock", lock);
        machine.job(&deps(), install);
    }
    let cache = machine.home();
    let run = |args: &[&str]| {
        let run = machine.sandbox.monofo(["cache", "explain"].iter().chain(args));
        run.env("MONOFO_CACHE_DIR", cache.to_str().unwrap()).env("MONOFO_SCOPE", "trusted")
    };
    let explain = |args: &[&str]| run(args).exits(0).stdout;
    let told = explain(&["deps"]);
    assert!(told.contains("deps: 3 entries of the `cache:` block"), "{told}");
    for (says, times) in
        [(": the newest\n", 1), (": checksum \"lock\" changed since\n", 1), (": of another pipeline, ", 1)]
    {
        assert_eq!(told.matches(says).count(), times, "{says}: {told}");
    }
    assert!(!told.contains("no entry; compared with"), "{told}");
    // Files make a component of the name, and so does a manifest.
    for name in ["deps", "unknown"] {
        let told = explain(&[name, "--input", "lock"]);
        assert!(told.contains("nothing of this component was ever stored"), "{told}");
    }
    let document: Value = serde_json::from_str(&explain(&["deps", "--json"])).unwrap();
    let computed: Value = serde_json::from_str(&explain(&["unknown", "--input", "lock", "--json"])).unwrap();
    for field in computed.as_object().unwrap().keys() {
        assert!(document.get(field).is_some(), "{field}: {document}");
    }
    assert_eq!(
        (&document["hit"], &document["block"][0]["change"]),
        (&json!(false), &json!("the newest")),
        "{document}"
    );
    run(&["deps", "--remote-required"]).exits(2).says("--remote-required without a remote");
    let dead = machine.sandbox.path("dead");
    fs::write(&dead, "").unwrap();
    let dead = format!("file://{}/x", dead.display());
    run(&["deps", "--remote", &dead, "--remote-required"]).exits(8);
    machine.sandbox.write("manifests/components.yaml", "components:\n  deps: {version: \"v1\"}\n");
    machine.sandbox.write("components/deps/a", "");
    assert!(!explain(&["deps"]).contains("of the `cache:` block"));
}

#[test]
fn explain_tells_of_the_blocks_entries_of_other_machines() {
    let mut machine = Machine::new();
    let url = format!("file://{}", machine.sandbox.path("remote").display());
    machine.set(&[("MONOFO_REMOTE", &url)]);
    for lock in ["1", "2"] {
        machine.sandbox.write("lock", lock);
        machine.job(&deps(), install);
    }
    machine.forget();
    assert_eq!(machine.job(&deps(), nothing).0, "exact");
    let cache = machine.home();
    let explain = |args: &[&str]| {
        let run = machine.sandbox.monofo(["cache", "explain", "deps"].iter().chain(args));
        run.env("MONOFO_CACHE_DIR", cache.to_str().unwrap()).env("MONOFO_SCOPE", "trusted").exits(0).stdout
    };
    assert!(explain(&[]).contains("deps: 1 entry of the `cache:` block"));
    let told = explain(&["--remote", &url]);
    assert!(told.contains("deps: 2 entries") && told.contains("checksum \"lock\" changed since"), "{told}");
}
