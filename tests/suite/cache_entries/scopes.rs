//! Entries of several scopes in one cache: whose are used, and whose may be replaced.

use serde_json::{Value, json};

use crate::entries::{document, workspace};
use crate::harness::{Run, Sandbox};

fn scoped<'a>(sandbox: &'a Sandbox, args: &[&str], (write, read): (&str, &str)) -> Run<'a> {
    let run = sandbox.monofo([&["--json"], args].concat());
    run.env("MONOFO_SCOPE", write).env("MONOFO_READ_SCOPES", read)
}

const BUILD: [&str; 5] = ["cache", "build", "a", "--source", "out"];
const GET: [&str; 5] = ["cache", "get", "a", "--target", "got"];
const TRUSTED: (&str, &str) = ("trusted", "trusted");
const REQUEST: (&str, &str) = ("pr/1", "pr/1,trusted");

#[test]
fn a_build_of_another_scope_takes_no_entry_away_from_the_scope_that_it_reads() {
    for same in [true, false] {
        let sandbox = workspace();
        document(scoped(&sandbox, &BUILD, TRUSTED), 0);
        if !same {
            sandbox.write("out/data", "another output");
        }
        let built = document(scoped(&sandbox, &BUILD, REQUEST), 0);
        assert_eq!((&built["already_cached"], &built["kept_other"]), (&json!(same), &json!(!same)), "{built:#}");
        assert_eq!(built["entry"]["scope"], "trusted", "{built:#}");
        let warned = built["warnings"].to_string().contains("of scope `trusted` that was here stays");
        assert_eq!(warned, !same, "{built:#}");
        let got = document(scoped(&sandbox, &GET, TRUSTED), 0);
        assert_eq!(got["entry"]["scope"], "trusted", "{got:#}");
        assert_eq!(std::fs::read(sandbox.work("got/data")).unwrap(), "v1".repeat(5000).into_bytes());
        document(scoped(&sandbox, &GET, REQUEST), 0);
    }
}

#[test]
fn an_own_entry_and_one_that_is_not_read_give_way_to_what_was_built() {
    let sandbox = workspace();
    document(scoped(&sandbox, &BUILD, ("pr/2", "pr/2")), 0);
    let built = document(scoped(&sandbox, &BUILD, TRUSTED), 0);
    assert_eq!((&built["already_cached"], &built["entry"]["scope"]), (&json!(false), &json!("trusted")), "{built:#}");
    document(scoped(&sandbox, &GET, ("pr/2", "pr/2")), 3);
    sandbox.write("out/data", "another output");
    let built = document(scoped(&sandbox, &BUILD, TRUSTED), 0);
    assert!(built["warnings"].to_string().contains("The new one replaced it"), "{built:#}");
    document(scoped(&sandbox, &GET, TRUSTED), 0);
    assert_eq!(std::fs::read(sandbox.work("got/data")).unwrap(), b"another output");
}

#[test]
fn a_run_that_writes_to_no_scope_replaces_nobodys_entry() {
    for read in ["trusted", "other"] {
        let sandbox = workspace();
        document(scoped(&sandbox, &BUILD, TRUSTED), 0);
        sandbox.write("out/data", "another output");
        let built = document(scoped(&sandbox, &BUILD, ("-", read)), 0);
        assert_eq!(built["kept_other"], true, "{built:#}");
        assert_eq!(built["warnings"].as_array().map(Vec::len), Some(1), "{built:#}");
        document(scoped(&sandbox, &GET, TRUSTED), 0);
        assert_eq!(std::fs::read(sandbox.work("got/data")).unwrap(), "v1".repeat(5000).into_bytes(), "{read}");
    }
    // What it stores itself is nobody's, and not what others read.
    let sandbox = workspace();
    document(scoped(&sandbox, &BUILD, ("-", "trusted")), 0);
    document(scoped(&sandbox, &GET, ("-", "trusted")), 0);
    document(scoped(&sandbox, &GET, TRUSTED), 3);
}

#[test]
fn an_entry_of_a_scope_that_is_not_read_is_no_hit_and_both_commands_say_that_it_is_there() {
    let sandbox = workspace();
    document(scoped(&sandbox, &BUILD, ("pr/2", "pr/2")), 0);
    let explained = document(scoped(&sandbox, &["cache", "explain", "a"], TRUSTED), 0);
    assert_eq!((&explained["hit"], &explained["other_scope"]), (&json!(false), &json!(true)), "{explained:#}");
    let got = document(scoped(&sandbox, &GET, TRUSTED), 3);
    assert_eq!((&got["result"], &got["other_scope"]), (&json!("miss"), &json!(true)), "{got:#}");
    for args in [&["cache", "explain", "a"][..], &GET] {
        let run = sandbox.monofo(args).env("MONOFO_SCOPE", "trusted");
        let status = if args == GET { 3 } else { 0 };
        let ran = run.exits(status);
        let all = format!("{}{}", ran.stdout, ran.stderr);
        assert!(all.contains("an entry of another scope is here, and is not used"), "{args:?}: {all}");
        assert!(!all.contains("nothing to compare with") && !all.contains("exactly this key"), "{args:?}: {all}");
    }
    let here = document(scoped(&sandbox, &["cache", "explain", "a"], ("pr/2", "pr/2")), 0);
    assert_eq!((&here["hit"], here.get("other_scope")), (&json!(true), Some(&Value::Bool(false))), "{here:#}");
}
