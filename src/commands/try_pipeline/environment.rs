//! What an agent would put into a job's environment, made up for a build on this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::checkout::WorkingTree;
use crate::config::pipeline::CommandStep;
use crate::config::pipeline::plugin_env::go_json;
use crate::env::Env;
use crate::error::{IoContext, Result};

/// Variables that point git at another checkout than the one at hand.
pub(super) const GIT_LOCATIONS: [&str; 3] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"];

/// The variables that all jobs of the build share: those of the user, less what belongs to another build or would lead our
/// artifacts away, and the facts about this one. `scratch` is the build's own folder.
pub(super) fn of_build(
    env: &Env,
    tree: &WorkingTree,
    scratch: &Path,
    program: &Path,
) -> Result<BTreeMap<String, String>> {
    let mut variables: BTreeMap<String, String> = env
        .iter()
        .filter(|(name, _)| is_inherited(name))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let git = |arguments: &[&str]| {
        let answer = tree.ask_git(arguments)?;
        let line = String::from_utf8(answer).ok()?.trim().to_string();
        (!line.is_empty()).then_some(line)
    };
    let folder = |name: &str| scratch.join(name).display().to_string();
    for (name, value) in [
        ("CI", "true".to_string()),
        ("BUILDKITE", "true".into()),
        ("BUILDKITE_AGENT_NAME", "monofo-try".into()),
        ("BUILDKITE_BRANCH", git(&["symbolic-ref", "--short", "-q", "HEAD"]).unwrap_or_else(|| "main".into())),
        ("BUILDKITE_BUILD_ID", fresh_id()?),
        ("BUILDKITE_BUILD_NUMBER", "1".into()),
        ("BUILDKITE_COMMIT", git(&["rev-parse", "--verify", "-q", "HEAD"]).unwrap_or_else(|| "0".repeat(40))),
        ("BUILDKITE_MESSAGE", git(&["log", "-1", "--format=%s"]).unwrap_or_default()),
        ("BUILDKITE_ORGANIZATION_SLUG", "local".into()),
        ("BUILDKITE_PIPELINE_DEFAULT_BRANCH", "main".into()),
        ("BUILDKITE_PIPELINE_PROVIDER", "git".into()),
        ("BUILDKITE_PIPELINE_SLUG", slug(&tree.root)),
        ("BUILDKITE_PULL_REQUEST", "false".into()),
        ("BUILDKITE_REPO", tree.root.display().to_string()),
        ("BUILDKITE_RETRY_COUNT", "0".into()),
        ("BUILDKITE_SOURCE", "ui".into()),
        ("MONOFO_ARTIFACTS", file_url(&folder("artifacts"))),
        ("MONOFO_BIN", program.display().to_string()),
        ("MONOFO_CACHE_DIR", folder("cache")),
        // All steps share it. Cache and seeds are not named: in front of a folder nothing is gained by either.
        ("MONOFO_DESYNC_STORE", folder("chunks")),
        ("MONOFO_STORE_DIR", folder("store")),
    ] {
        variables.insert(name.to_string(), value);
    }
    Ok(variables)
}

/// Where a trial keeps things. A pipeline names the real places for real builds, and a trial must not touch those.
const PLACES: [&str; 7] = [
    "MONOFO_ARTIFACTS",
    "MONOFO_CACHE_DIR",
    "MONOFO_DESYNC_CACHE",
    "MONOFO_DESYNC_SEED_DIR",
    "MONOFO_DESYNC_STORE",
    "MONOFO_REMOTE",
    "MONOFO_STORE_DIR",
];

/// Whether a variable says where artifacts and stores lie, which in a trial is nobody's choice.
pub(super) fn is_place(name: &str) -> bool {
    PLACES.contains(&name)
}

/// Adds what one job has of its own. The pipeline's `env` comes first, then the step's; neither can change what the agent
/// says about the job, nor where the trial keeps things.
pub(super) fn add_job(
    variables: &mut BTreeMap<String, String>,
    pipeline_env: &[(String, String)],
    step: &CommandStep,
    checkout: &Path,
) -> Result<()> {
    let ours = |name: &str| is_place(name) || name == "BUILDKITE_BUILD_ID";
    let given = pipeline_env.iter().chain(&step.env).filter(|(name, _)| !ours(name));
    variables.extend(given.cloned());
    let plugins: Vec<Value> = step
        .plugins
        .iter()
        .map(|listing| Value::Object(Map::from_iter([(listing.location.clone(), listing.config.clone())])))
        .collect();
    if !plugins.is_empty() {
        variables.insert("BUILDKITE_PLUGINS".into(), go_json(&Value::Array(plugins)));
    }
    if step.parallel {
        variables.insert("BUILDKITE_PARALLEL_JOB".into(), "0".into());
        variables.insert("BUILDKITE_PARALLEL_JOB_COUNT".into(), "1".into());
    }
    for (name, value) in [
        ("BUILDKITE_BUILD_CHECKOUT_PATH", checkout.display().to_string()),
        ("BUILDKITE_COMMAND", step.command.clone()),
        ("BUILDKITE_GROUP_LABEL", step.group.clone().unwrap_or_default()),
        ("BUILDKITE_JOB_ID", fresh_id()?),
        ("BUILDKITE_LABEL", step.label.clone().unwrap_or_default()),
        ("BUILDKITE_STEP_ID", fresh_id()?),
        ("BUILDKITE_STEP_KEY", step.key.clone().unwrap_or_default()),
    ] {
        variables.insert(name.to_string(), value);
    }
    Ok(())
}

/// Variables of another build would make ours pretend to be it; ours, set for daily use, would send a trial's artifacts to
/// where real ones are. Only the switches of single artifacts are for trying out.
fn is_inherited(name: &str) -> bool {
    let ours = name.starts_with("MONOFO_") && !name.starts_with("MONOFO_ARTIFACT_");
    !name.starts_with("BUILDKITE") && !ours && !GIT_LOCATIONS.contains(&name)
}

fn file_url(path: &str) -> String {
    format!("file://{}", path.replace('%', "%25").replace('?', "%3F").replace('#', "%23"))
}

fn slug(root: &Path) -> String {
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let slug: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let slug = slug.trim_matches('-');
    if slug.is_empty() { "pipeline".into() } else { slug.into() }
}

/// A random identifier in the form that the service gives to builds and jobs (UUID, version 4).
pub(super) fn fresh_id() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).or_fail(|| "reading `/dev/urandom`")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let groups = [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]];
    Ok(groups.map(|group| group.concat()).join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_builds_variables_and_our_settings_stay_outside() {
        let env = Env::of([
            ("PATH", "/bin"),
            ("BUILDKITE_BUILD_ID", "other"),
            ("BUILDKITE_AGENT_ACCESS_TOKEN", "secret"),
            ("MONOFO_ARTIFACTS", "s3://real"),
            ("MONOFO_REMOTE", "s3://real"),
            ("MONOFO_DESYNC_STORE", "s3://real"),
            ("MONOFO_DESYNC_CACHE", "/real/cache"),
            ("MONOFO_DESYNC_SEED_DIR", "/real/seeds"),
            ("MONOFO_ARTIFACT_X_SKIP", "1"),
            ("GIT_DIR", "/elsewhere"),
        ]);
        let tree = WorkingTree { root: "/some/My Repo".into(), git: false };
        let variables = of_build(&env, &tree, Path::new("/scratch#%"), Path::new("/bin/monofo")).unwrap();
        for (name, value) in [
            ("PATH", Some("/bin")),
            ("BUILDKITE_AGENT_ACCESS_TOKEN", None),
            ("MONOFO_ARTIFACTS", Some("file:///scratch%23%25/artifacts")),
            ("MONOFO_REMOTE", None),
            ("MONOFO_DESYNC_STORE", Some("/scratch#%/chunks")),
            ("MONOFO_DESYNC_CACHE", None),
            ("MONOFO_DESYNC_SEED_DIR", None),
            ("MONOFO_ARTIFACT_X_SKIP", Some("1")),
            ("GIT_DIR", None),
            ("BUILDKITE_BRANCH", Some("main")),
            ("BUILDKITE_PIPELINE_SLUG", Some("my-repo")),
        ] {
            assert_eq!(variables.get(name).map(String::as_str), value, "{name}");
        }
        assert_ne!(variables["BUILDKITE_BUILD_ID"], "other");
    }

    #[test]
    fn the_step_wins_over_the_pipeline_but_not_over_the_agent() {
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        let step = CommandStep {
            key: Some("k".into()),
            env: vec![
                pair("A", "step"),
                pair("BUILDKITE_STEP_KEY", "forged"),
                pair("BUILDKITE_BUILD_ID", "forged"),
                pair("MONOFO_ARTIFACTS", "file:///mine"),
            ],
            ..CommandStep::default()
        };
        let mut variables = BTreeMap::from([
            pair("A", "user"),
            pair("MONOFO_ARTIFACTS", "file:///scratch"),
            pair("BUILDKITE_BUILD_ID", "this"),
        ]);
        add_job(&mut variables, &[pair("A", "pipeline"), pair("B", "pipeline")], &step, Path::new("/checkout"))
            .unwrap();
        for (name, value) in [
            ("A", "step"),
            ("B", "pipeline"),
            ("BUILDKITE_STEP_KEY", "k"),
            ("BUILDKITE_BUILD_ID", "this"),
            ("MONOFO_ARTIFACTS", "file:///scratch"),
        ] {
            assert_eq!(variables[name], value, "{name}");
        }
        assert!(!variables.contains_key("BUILDKITE_PLUGINS"));
    }

    #[test]
    fn identifiers_have_the_usual_form_and_differ() {
        let (one, two) = (fresh_id().unwrap(), fresh_id().unwrap());
        assert_ne!(one, two);
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(one.as_bytes()[14], b'4');
    }
}
