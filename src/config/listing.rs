//! Finds the plugin's own configuration in the environment that the agent gives a hook.
//!
//! The agent writes it to `BUILDKITE_PLUGIN_CONFIGURATION`. Where any value of it is `null`, the agent drops that
//! variable (and everything else it derives from the configuration) with no more than a warning line, so our entry is
//! then looked up in `BUILDKITE_PLUGINS`, which holds every plugin of the step: a list of `"location"` or
//! `{"location": configuration}`.

use serde_json::{Map, Value};

use crate::config::mistakes::At;
use crate::env::Env;
use crate::error::{Error, Result};

const CONFIGURATION: &str = "BUILDKITE_PLUGIN_CONFIGURATION";
const PLUGINS: &str = "BUILDKITE_PLUGINS";

/// The plugin's configuration as the pipeline's author wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The configuration; an empty map when the plugin is listed without one.
    pub configuration: Value,
    /// What the author should know about how it was found.
    pub warning: Option<String>,
}

/// Finds the configuration this hook runs for. [`Class::Usage`](crate::error::Class::Usage) when there is none, or when
/// the plugin is listed several times and it cannot be told which listing is meant.
pub fn find(env: &Env) -> Result<Listing> {
    if let Some(text) = env.text(CONFIGURATION) {
        return Ok(Listing { configuration: or_empty(parse(CONFIGURATION, text)?), warning: None });
    }
    let Some(text) = env.text(PLUGINS) else {
        return Err(Error::usage(format_args!(
            "no plugin configuration: neither {CONFIGURATION} nor {PLUGINS} is set"
        ))
        .hint("hooks are run by the Buildkite agent; to try a pipeline here, use `monofo try PIPELINE.yml`"));
    };
    choose(ours(&parse(PLUGINS, text)?))
}

/// Whether a plugin location (`org/name#version`, a git URL, a path) is this plugin.
pub fn is_ours(location: &str) -> bool {
    let location = location.split('#').next().unwrap_or_default().trim_end_matches('/');
    let location = location.strip_suffix(".git").unwrap_or(location);
    let name = location.rsplit(['/', ':']).next().unwrap_or_default();
    name == "monofo" || name == "monofo-buildkite-plugin"
}

/// Every place in a configuration that holds a null.
pub fn nulls(configuration: &Value) -> Vec<At> {
    fn look(value: &Value, at: &At, found: &mut Vec<At>) {
        match value {
            Value::Null => found.push(at.clone()),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| look(item, &at.index(i), found)),
            Value::Object(map) => map.iter().for_each(|(key, item)| look(item, &at.key(key), found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    look(configuration, &At::top(), &mut found);
    found
}

fn parse(variable: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        Error::usage(format_args!("{variable} is not JSON"))
            .caused_by(error)
            .hint("the agent sets it for each step: leave it alone, or set it to the plugin's configuration as JSON")
    })
}

/// The configurations of all our entries, in listed order. A plugin listed without configuration has an empty one.
fn ours(plugins: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for entry in plugins.as_array().into_iter().flatten() {
        match entry {
            Value::String(location) if is_ours(location) => found.push(Value::Object(Map::new())),
            Value::Object(map) => {
                let entries = map.iter().filter(|(location, _)| is_ours(location));
                found.extend(entries.map(|(_, configuration)| or_empty(configuration.clone())));
            }
            _ => {}
        }
    }
    found
}

fn or_empty(configuration: Value) -> Value {
    match configuration {
        Value::Null => Value::Object(Map::new()),
        other => other,
    }
}

/// The variable is gone, so this hook runs for a listing with a null in it: when listings have some, only those count.
/// Agents before 3.28.1 never set the variable; then there is no null, and all listings count.
fn choose(listings: Vec<Value>) -> Result<Listing> {
    let with_null = listings.iter().any(|listing| !nulls(listing).is_empty());
    let mut candidates: Vec<Value> =
        listings.into_iter().filter(|listing| !with_null || !nulls(listing).is_empty()).collect();
    candidates.dedup();
    let [_] = candidates.as_slice() else {
        return Err(cannot_tell(&candidates, with_null));
    };
    let configuration = candidates.remove(0);
    let places: Vec<String> = nulls(&configuration).iter().map(|at| format!("`{}`", at.as_str())).collect();
    let warning = (!places.is_empty()).then(|| {
        format!(
            "the plugin's configuration holds null at {}, for which the agent hides all of it from the hook; \
             it was read from {PLUGINS} instead; leave such keys out",
            places.join(", ")
        )
    });
    Ok(Listing { configuration, warning })
}

fn cannot_tell(candidates: &[Value], with_null: bool) -> Error {
    if candidates.is_empty() {
        return Error::usage(format_args!("{CONFIGURATION} is not set and {PLUGINS} does not list this plugin"))
            .hint("take every null out of the plugin's configuration, or list it under a location ending in `monofo`");
    }
    let count = candidates.len();
    let how = if with_null { ", each with a null in its configuration" } else { "" };
    let error =
        Error::usage(format_args!("{CONFIGURATION} is not set, and the step lists this plugin {count} times{how}"));
    error.hint(match with_null {
        true => "the agent hides a configuration that holds null from the hook; leave those keys out",
        false => "list the plugin once with everything in it, or use buildkite-agent 3.28.1 or newer",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use serde_json::json;

    fn fallback(plugins: Value) -> Result<Listing> {
        find(&Env::of([(PLUGINS, plugins.to_string())]))
    }

    #[test]
    fn locations_of_this_plugin_are_recognized_in_every_form() {
        for location in [
            "vital-software/monofo#v1.0.0",
            "monofo",
            "./.buildkite/plugins/monofo",
            "./plugins/monofo/",
            "https://github.com/vital-software/monofo-buildkite-plugin.git#v1.0.0",
            "git@github.com:vital-software/monofo-buildkite-plugin.git",
            "ssh://git@host/monofo-buildkite-plugin#feature/x",
            "git@host:monofo.git",
        ] {
            assert!(is_ours(location), "{location}");
        }
        for location in ["docker#v5", "org/not-monofo#v1", "org/monofo-extra", "monofo/other", "x#monofo", ""] {
            assert!(!is_ours(location), "{location}");
        }
    }

    #[test]
    fn the_agents_variable_comes_first() {
        let env = Env::of([(CONFIGURATION, r#"{"download":"a.tar"}"#), (PLUGINS, r#"[{"monofo":{"download":"b"}}]"#)]);
        let found = find(&env).unwrap();
        assert_eq!(found, Listing { configuration: json!({"download": "a.tar"}), warning: None });
    }

    #[test]
    fn a_null_makes_us_look_in_the_list_of_plugins_and_say_where_it_is() {
        let config = json!({"upload": {"a.b.tar": {"globs": ["x"], "when": null}}});
        let found = fallback(json!(["docker#v1", {"org/monofo#v1": config}])).unwrap();
        assert_eq!(found.configuration, config);
        let warning = found.warning.unwrap();
        assert!(warning.contains(r#"`upload["a.b.tar"].when`"#), "{warning}");
    }

    #[test]
    fn listed_without_configuration_is_an_empty_one() {
        for plugins in [json!(["monofo#v1"]), json!([{"monofo#v1": null}]), json!([{"monofo#v1": {}}])] {
            assert_eq!(fallback(plugins).unwrap(), Listing { configuration: json!({}), warning: None });
        }
    }

    #[test]
    fn of_several_listings_the_one_with_a_null_is_meant() {
        let plain = json!({"download": ["a.tar"]});
        let holed = json!({"download": [{"name": "b.tar", "step": null}]});
        let found = fallback(json!([{"monofo#v1": plain}, {"monofo#v1": holed}])).unwrap();
        assert_eq!(found.configuration, holed);
    }

    #[test]
    fn listings_that_cannot_be_told_apart_are_an_error_with_a_way_out() {
        let (a, b) = (json!({"download": [{"name": "a", "step": null}]}), json!({"download": null}));
        for plugins in [
            json!([{"monofo": a}, {"monofo": b}]),
            json!([{"monofo": {"download": "a"}}, {"monofo": {"download": "b"}}]),
            json!([{"docker": a}]),
        ] {
            let error = fallback(plugins).unwrap_err();
            assert_eq!(error.class(), Class::Usage);
            assert!(error.next_step().is_some());
        }
        // The same twice is no riddle.
        assert!(fallback(json!([{"monofo": a}, {"monofo": a}])).is_ok());
    }

    #[test]
    fn broken_or_missing_variables_are_usage_errors() {
        for env in [Env::of([(CONFIGURATION, "{")]), Env::of([(PLUGINS, "nope")]), Env::default()] {
            assert_eq!(find(&env).unwrap_err().class(), Class::Usage);
        }
    }
}
