//! The `plugins` of a step: which are ours, and what is wrong with their configuration.

use serde_json::Value;

use crate::config::listing::{is_ours, nulls};
use crate::config::mistakes::{At, Mistakes};
use crate::config::plugin::{PluginConfig, When};
use crate::config::yaml::{Content, Key, Mistake, Node, Place};
use crate::env::Env;

/// One plugin of a step.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Location and version, as written.
    pub location: String,
    /// Its configuration: a map, or null for none.
    pub config: Value,
    /// Whether it is this plugin.
    pub ours: bool,
}

/// Reads `plugins`: listings, warnings and mistakes.
pub(super) fn read(node: &Node) -> (Vec<Listing>, Vec<Mistake>, Vec<Mistake>) {
    let mut found = Found::default();
    match &node.content {
        Content::Null => {}
        Content::Map(entries) => found.entries(entries),
        Content::List(items) => {
            for item in items {
                match &item.content {
                    Content::Text(location) => found.listing(location, None),
                    Content::Map(entries) => found.entries(entries),
                    _ => found
                        .mistakes
                        .push(Mistake::new(item.place, "a plugin is a location, or a map of one to its configuration")),
                }
            }
        }
        _ => found.mistakes.push(Mistake::new(node.place, "`plugins` must be a list")),
    }
    (found.listings, found.warnings, found.mistakes)
}

#[derive(Default)]
struct Found {
    listings: Vec<Listing>,
    warnings: Vec<Mistake>,
    mistakes: Vec<Mistake>,
    uploads: Vec<(String, When, Place)>,
}

impl Found {
    fn entries(&mut self, entries: &[(Key, Node)]) {
        for (key, config) in entries {
            self.listing(&key.text, Some(config));
        }
    }

    fn listing(&mut self, location: &str, config: Option<&Node>) {
        let ours = is_ours(location);
        if let Some(config) = config.filter(|_| ours) {
            self.check(config);
        }
        let config = config.map_or(Value::Null, Node::to_json);
        self.listings.push(Listing { location: location.to_string(), config, ours });
    }

    fn check(&mut self, config: &Node) {
        match &config.content {
            Content::Null => return,
            Content::Map(_) => {}
            _ => {
                self.mistakes.push(Mistake::new(config.place, "the plugin's configuration must be a mapping"));
                return;
            }
        }
        let (json, places) = (config.to_json(), config.places());
        let place = |at: &At| places.get(at.as_str()).copied().unwrap_or(config.place);
        let mut found = Mistakes::default();
        let read = PluginConfig::read_into(&json, &Env::default(), &mut found);
        for mistake in found.all() {
            let message = match mistake.at.as_str() {
                "" => mistake.problem.clone(),
                at => format!("`{at}`: {}", mistake.problem),
            };
            self.mistakes.push(Mistake { place: place(&mistake.at), message, hint: mistake.hint.clone() });
        }
        for at in nulls(&json) {
            let message =
                format!("`{}` is null: an agent then hides the plugin's variables from its hooks", at.as_str());
            self.warnings.push(Mistake::new(place(&at), message).hint("give it a value, or leave the key out"));
        }
        let uploads = read.uploads.iter().map(|upload| {
            let name = upload.request.name.as_str();
            (name.to_string(), upload.when, place(&At::top().key("upload").key(name)))
        });
        self.warn_of_twins(uploads.collect());
    }

    /// Two listings may upload the same name, and mostly that is a slip: who downloads it gets the newest.
    fn warn_of_twins(&mut self, uploads: Vec<(String, When, Place)>) {
        for (name, when, place) in &uploads {
            let both = |other: When| [false, true].iter().any(|failed| when.applies(*failed) && other.applies(*failed));
            if let Some((.., first)) = self.uploads.iter().find(|(known, other, _)| known == name && both(*other)) {
                let message =
                    format!("`{name}` is uploaded by a listing in line {} too; this later one wins", first.line);
                self.warnings.push(Mistake::new(*place, message).hint("give one of the two another name"));
            }
        }
        self.uploads.extend(uploads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    #[test]
    fn every_way_of_listing_plugins_is_read() {
        for (text, locations) in [
            ("[a#v1, 'x/monofo#v1']", &["a#v1", "x/monofo#v1"][..]),
            ("[{a: {x: 1}}, {b: ~, c: {}}]", &["a", "b", "c"]),
            ("{a: {x: 1}, b: ~}", &["a", "b"]),
            ("~", &[]),
        ] {
            let (listings, warnings, mistakes) = read(&yaml::read(text).unwrap());
            assert_eq!(listings.iter().map(|listing| listing.location.as_str()).collect::<Vec<_>>(), locations);
            assert!(warnings.is_empty() && mistakes.is_empty(), "{text}: {warnings:?} {mistakes:?}");
        }
    }

    #[test]
    fn two_listings_that_upload_the_same_name_are_warned_about() {
        let text = "- monofo#v1:\n    upload: {a.tar: x, b.tar: {globs: x, when: failure}}\n- monofo#v1:\n    upload:\n      b.tar: y\n      a.tar: y\n";
        let (_, warnings, mistakes) = read(&yaml::read(text).unwrap());
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(warnings.iter().map(|warning| warning.place.line).collect::<Vec<_>>(), [6], "{warnings:?}");
        assert!(warnings[0].message.contains("`a.tar`") && warnings[0].message.contains("line 2"), "{warnings:?}");
    }

    #[test]
    fn mistakes_and_nulls_in_our_configuration_are_told_with_their_line() {
        let text = "- monofo#v1:\n    upload: ~\n    uplaod: {}\n- monofo#v1: 7\n- other#v1: 7\n- 8\n";
        let (_, warnings, mistakes) = read(&yaml::read(text).unwrap());
        assert_eq!(mistakes.iter().map(|mistake| mistake.place.line).collect::<Vec<_>>(), [3, 4, 6], "{mistakes:?}");
        assert_eq!(warnings.iter().map(|warning| warning.place.line).collect::<Vec<_>>(), [2]);
    }
}
