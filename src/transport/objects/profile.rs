//! Profiles of the AWS command line: the INI files `~/.aws/credentials` and `~/.aws/config`.
//!
//! Read are static keys, `region` and `endpoint_url`. Profiles that take their keys from elsewhere (single sign-on,
//! assumed roles, other processes) are refused by name when they were asked for by name.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::env::Env;
use crate::error::{Error, Result};
use crate::text::Shown;

/// Settings of a section of an INI file.
type Section = BTreeMap<String, String>;

/// What a profile says.
#[derive(Default)]
pub(super) struct Profile {
    pub(super) keys: Option<Keys>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

/// Static credentials. Not `Debug`: they must not be printed.
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

impl Profile {
    /// Reads the profile that the environment names, or `default`. Its keys are taken only when they are wanted.
    pub(super) fn of(env: &Env, want_keys: bool) -> Result<Self> {
        let asked = env.text("AWS_PROFILE").or_else(|| env.text("AWS_DEFAULT_PROFILE"));
        let name = asked.unwrap_or("default");
        let home = env.path("HOME");
        let file = |variable: &str, default: &str| env.path(variable).or_else(|| Some(home.as_ref()?.join(default)));
        let secret_file = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        let (secret, secret_wrong) = section(secret_file.as_deref(), &[name])?;
        let long = format!("profile {name}");
        let config_file = file("AWS_CONFIG_FILE", ".aws/config");
        let (config, config_wrong) = section(config_file.as_deref(), &[&long, name])?;
        let has_keys = |section: &Option<Section>| section.as_ref().is_some_and(|section| keys(section).is_some());
        if asked.is_some() && want_keys && !has_keys(&secret) && !has_keys(&config) {
            check_lines(secret_file.as_deref(), secret_wrong)?;
            check_lines(config_file.as_deref(), config_wrong)?;
        }
        if let (Some(asked), None, None, true) = (asked, &secret, &config, want_keys) {
            return Err(Error::usage(format_args!("there is no AWS profile `{}`", Shown(asked.as_bytes())))
                .hint("check AWS_PROFILE, ~/.aws/credentials and ~/.aws/config"));
        }
        let (secret, config) = (secret.unwrap_or_default(), config.unwrap_or_default());
        let keys = keys(&secret).or_else(|| keys(&config)).filter(|_| want_keys);
        if let (Some(asked), true, None) = (asked, want_keys, &keys) {
            for way in ["sso_session", "sso_start_url", "role_arn", "credential_process"] {
                if config.contains_key(way) || secret.contains_key(way) {
                    return Err(Error::usage(format_args!(
                        "AWS profile `{}` uses `{way}`, which is not understood here",
                        Shown(asked.as_bytes())
                    ))
                    .hint("export its keys first: `eval \"$(aws configure export-credentials --format env)\"`"));
                }
            }
        }
        Ok(Profile { keys, region: config.get("region").cloned(), endpoint: config.get("endpoint_url").cloned() })
    }
}

fn keys(section: &Section) -> Option<Keys> {
    Some(Keys {
        id: section.get("aws_access_key_id")?.clone(),
        secret: section.get("aws_secret_access_key")?.clone(),
        token: section.get("aws_session_token").cloned(),
    })
}

/// Fails for a line that could not be read; its text may be a secret and is not repeated.
fn check_lines(file: Option<&Path>, wrong: Option<usize>) -> Result<()> {
    let (Some(file), Some(line)) = (file, wrong) else { return Ok(()) };
    Err(Error::usage(format_args!("line {line} of `{}` is neither `[profile]` nor `key = value`", Shown::path(file)))
        .hint("correct that line; AWS_PROFILE asks for a profile whose keys were not found"))
}

/// The first of the named sections that a file has, and the number of its first line that is none of an INI file's. A
/// file that is not there has neither.
fn section(file: Option<&Path>, names: &[&str]) -> Result<(Option<Section>, Option<usize>)> {
    let Some(file) = file else { return Ok((None, None)) };
    let text = match fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok((None, None));
        }
        Err(error) => {
            return Err(Error::usage(format_args!("cannot read `{}`", Shown::path(file))).caused_by(error));
        }
    };
    let (mut sections, wrong) = parse(&text);
    let section = names.iter().find_map(|name| sections.remove(*name));
    for (key, value) in section.iter().flatten() {
        if value.chars().any(char::is_control) {
            let key = Shown(key.as_bytes());
            return Err(Error::usage(format_args!("`{key}` in `{}` contains a control character", Shown::path(file)))
                .hint("write the value again, without blanks other than spaces"));
        }
    }
    Ok((section, wrong))
}

/// Sections of an INI file, and the number of the first line that could not be read. Lines that begin with a blank belong
/// to a nested setting and are left out.
fn parse(text: &str) -> (BTreeMap<String, Section>, Option<usize>) {
    let mut sections = BTreeMap::new();
    let mut wrong = None;
    let mut current: Option<&mut Section> = None;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ").replace('"', "");
            current = Some(sections.entry(name).or_default());
        } else if let (Some(section), Some((key, value)), false) =
            (&mut current, trimmed.split_once('='), line.starts_with([' ', '\t']))
        {
            let value = value.split(" #").next().unwrap_or(value).trim();
            section.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        } else if !line.starts_with([' ', '\t']) {
            wrong.get_or_insert(index + 1);
        }
    }
    (sections, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn home(credentials: &str, config: &str) -> (tempfile::TempDir, Vec<(&'static str, String)>) {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join(".aws")).unwrap();
        fs::write(temp.path().join(".aws/credentials"), credentials).unwrap();
        fs::write(temp.path().join(".aws/config"), config).unwrap();
        let home = temp.path().to_str().unwrap().to_owned();
        (temp, vec![("HOME", home)])
    }

    #[test]
    fn keys_and_region_of_the_named_profile_are_found() {
        let credentials = "# c\n[default]\naws_access_key_id = D\naws_secret_access_key=d\n\n[ci]\n\
            aws_access_key_id=A=1\naws_secret_access_key = s/+= # note\naws_session_token=t\n";
        let config = "[default]\nregion=us-west-2\n[profile ci]\nregion = eu-west-1\ns3 =\n  region = nested\n";
        let (_temp, mut variables) = home(credentials, config);
        let profile = Profile::of(&Env::of(variables.clone()), true).unwrap();
        assert_eq!(profile.keys.unwrap().id, "D");
        assert_eq!(profile.region.unwrap(), "us-west-2");
        variables.push(("AWS_PROFILE", "ci".into()));
        let profile = Profile::of(&Env::of(variables.clone()), true).unwrap();
        let keys = profile.keys.unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str(), keys.token.as_deref()), ("A=1", "s/+=", Some("t")));
        assert_eq!(profile.region.unwrap(), "eu-west-1");
        assert!(Profile::of(&Env::of(variables), false).unwrap().keys.is_none());
    }

    #[test]
    fn a_broken_line_is_named_when_the_keys_of_a_named_profile_are_missing() {
        let (_temp, mut variables) = home("[ci]\naws_access_key_id hunter2\naws_secret_access_key = s\n", "");
        assert!(Profile::of(&Env::of(variables.clone()), true).unwrap().keys.is_none());
        variables.push(("AWS_PROFILE", "ci".into()));
        let error = Profile::of(&Env::of(variables), true).err().unwrap();
        assert_eq!(error.class(), Class::Usage);
        assert!(
            error.to_string().contains("line 2 of `") && error.to_string().contains(".aws/credentials"),
            "{error:?}"
        );
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_profile_that_is_missing_or_needs_more_is_a_usage_error() {
        let (_temp, mut variables) = home("", "[profile sso]\nsso_session = x\n");
        assert!(Profile::of(&Env::of(variables.clone()), true).unwrap().keys.is_none());
        variables.push(("AWS_PROFILE", "sso".into()));
        let error = Profile::of(&Env::of(variables.clone()), true).err().unwrap();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.to_string().contains("sso_session"));
        variables[1].1 = "other".into();
        assert_eq!(Profile::of(&Env::of(variables.clone()), true).err().unwrap().class(), Class::Usage);
        assert!(Profile::of(&Env::of(variables), false).is_ok());
    }
}
