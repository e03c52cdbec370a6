//! A plugin's configuration as the environment variables that an agent gives to the plugin's hooks.
//!
//! `BUILDKITE_PLUGIN_<NAME>_<KEY>…`: keys in upper case with `-` and white space as `_` and everything else kept, list
//! elements by index, an empty list or map without any variable. The whole is in `BUILDKITE_PLUGIN_CONFIGURATION` as JSON
//! with sorted keys. A null anywhere makes all of them vanish: the agent gives up on such a configuration.

use serde_json::Value;

/// All variables of one listing of the plugin; empty if the configuration has a null inside.
pub fn variables(location: &str, config: &Value) -> Vec<(String, String)> {
    let empty = Value::Object(serde_json::Map::new());
    let config = if config.is_null() { &empty } else { config };
    if has_null(config) {
        return Vec::new();
    }
    let name = plugin_name(location);
    let mut variables = vec![
        ("BUILDKITE_PLUGIN_NAME".to_string(), name.clone()),
        ("BUILDKITE_PLUGIN_CONFIGURATION".to_string(), go_json(config)),
    ];
    flatten(&format!("BUILDKITE_PLUGIN_{name}"), config, &mut variables);
    variables
}

/// The plugin's name in variables: the last part of its location, less `-buildkite-plugin`, letters and digits kept.
fn plugin_name(location: &str) -> String {
    let path = location.split('#').next().unwrap_or_default().trim_end_matches('/');
    let last = path.rsplit('/').next().unwrap_or_default();
    let last = last.strip_suffix(".git").unwrap_or(last);
    let last = last.strip_suffix("-buildkite-plugin").unwrap_or(last);
    last.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}

fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{prefix}_{index}"), item, out);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                let key: String = key.chars().map(|c| if c == '-' || c.is_whitespace() { '_' } else { c }).collect();
                flatten(&format!("{prefix}_{}", key.to_uppercase()), item, out);
            }
        }
        Value::String(text) => out.push((prefix.to_string(), text.clone())),
        Value::Bool(_) | Value::Number(_) => out.push((prefix.to_string(), value.to_string())),
        Value::Null => {}
    }
}

/// JSON as the agent writes it: keys sorted, `<`, `>`, `&` and the two line separators escaped.
pub fn go_json(value: &Value) -> String {
    let mut value = value.clone();
    value.sort_all_objects();
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(config: &Value) -> Vec<String> {
        let prefix = "BUILDKITE_PLUGIN_MONOFO_";
        variables("x/monofo#v1", config)
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{}={value}", name.strip_prefix(prefix)?)))
            .collect()
    }

    #[test]
    fn configuration_is_flattened_as_the_agent_does() {
        for (config, expected) in [
            (
                json!({"download": ["a.tar", {"name": "b", "soft-fail": true}]}),
                &["DOWNLOAD_0=a.tar", "DOWNLOAD_1_NAME=b", "DOWNLOAD_1_SOFT_FAIL=true"][..],
            ),
            (json!({"upload": {"node-modules.tar.lz4": ["x"]}}), &["UPLOAD_NODE_MODULES.TAR.LZ4_0=x"]),
            (json!({"m.y/z": 1, "some--key": 1.5, "a b": ""}), &["M.Y/Z=1", "SOME__KEY=1.5", "A_B="]),
            (json!({"upload": {}, "download": []}), &[]),
            (json!({"big": 12_345_678_901_234_567_890_u64, "no": false}), &["BIG=12345678901234567890", "NO=false"]),
        ] {
            assert_eq!(names(&config), expected, "{config}");
        }
    }

    #[test]
    fn the_json_has_sorted_keys_and_escapes() {
        let variables = variables("monofo", &json!({"b": "<a&b>", "a": {"d": 1, "c": [2]}}));
        assert_eq!(variables[0], ("BUILDKITE_PLUGIN_NAME".into(), "MONOFO".into()));
        assert_eq!(variables[1].1, r#"{"a":{"c":[2],"d":1},"b":"\u003ca\u0026b\u003e"}"#);
    }

    #[test]
    fn a_null_anywhere_hides_everything_but_no_configuration_is_an_empty_one() {
        assert_eq!(variables("monofo", &json!({"upload": {"a.tar": ["x", {"y": null}]}, "z": 1})), []);
        assert_eq!(variables("monofo", &Value::Null)[1].1, "{}");
    }

    #[test]
    fn names_come_from_the_last_part_of_the_location() {
        for (location, name) in [
            ("file:///x/foo-bar-buildkite-plugin", "FOO_BAR"),
            ("vital-software/monofo#v1.0.0", "MONOFO"),
            ("https://example.com/monofo-buildkite-plugin.git#main", "MONOFO"),
            ("./.buildkite/plugins/monofo", "MONOFO"),
        ] {
            assert_eq!(plugin_name(location), name);
        }
    }
}
