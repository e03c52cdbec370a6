//! Matrix steps: `{{matrix}}` and `{{matrix.NAME}}` take the first value of their dimension.

use crate::config::yaml::{Content, Mistake, Node};

/// Puts the first value of each dimension of `setup` into the step's texts.
pub(super) fn use_first(step: &mut Node, setup: &Node) -> Result<(), Mistake> {
    let dimensions = match &setup.content {
        Content::Map(_) => setup.field("setup").unwrap_or(setup),
        _ => setup,
    };
    let first = |node: &Node| match &node.content {
        Content::List(values) => values.first().and_then(Node::scalar),
        _ => None,
    };
    let mut values = Vec::new();
    match &dimensions.content {
        Content::List(_) => values.extend(first(dimensions).map(|value| (String::new(), value))),
        Content::Map(entries) => {
            for (key, value) in entries {
                values.extend(first(value).map(|value| (format!(".{}", key.text), value)));
            }
        }
        _ => {}
    }
    if values.is_empty() {
        return Err(Mistake::new(setup.place, "`matrix` must be a list of values, or a `setup` of them"));
    }
    step.rewrite(&mut |text| replace(text, &values))
}

fn replace(text: &str, values: &[(String, String)]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let (before, after) = rest.split_at(start);
        out.push_str(before);
        let inside = after.find("}}").map(|end| (&after[2..end], end + 2));
        match inside.and_then(|(token, length)| Some((token.trim().strip_prefix("matrix")?, length))) {
            Some((name, length)) if name.is_empty() || name.starts_with('.') => {
                let value = values.iter().find(|(known, _)| known == name);
                out.push_str(&value.ok_or_else(|| format!("`matrix{name}` is not a dimension of the matrix"))?.1);
                rest = &after[length..];
            }
            _ => {
                out.push_str("{{");
                rest = &after[2..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_become_the_first_value() {
        let values = [(String::new(), "linux".to_string()), (".arch".to_string(), "arm".to_string())];
        for (text, result) in [
            ("plain", "plain"),
            ("on {{matrix}}!", "on linux!"),
            ("{{ matrix.arch }}/{{matrix}}", "arm/linux"),
            ("{{other}} {{ {{matrix}}", "{{other}} {{ linux"),
            ("{{matrix", "{{matrix"),
        ] {
            assert_eq!(replace(text, &values).as_deref(), Ok(result), "{text}");
        }
        assert!(replace("{{matrix.os}}", &values).is_err());
    }
}
