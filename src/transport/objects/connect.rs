//! The environment into a client for a bucket: credentials by the usual chains, endpoint, region, retries.
//!
//! S3, first found: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` · `S3_ACCESS_KEY` and `S3_SECRET_KEY` · a web
//! identity (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`) · the profile `AWS_PROFILE` or `default` · the container's or
//! the machine's role. GCS: `GOOGLE_APPLICATION_CREDENTIALS` and the other `GOOGLE_…` names of `object_store`, gcloud's
//! own file, the machine's account; none with `STORAGE_EMULATOR_HOST`.

use std::fs::File;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};

use super::Limits;
use super::errors::{Kind, Place};
use super::profile::Profile;
use super::watch::Watch;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::location::Bucket;
use crate::text::Shown;
use crate::transport::secrets::Secrets;

/// Settings for S3 beside those that `object_store` knows.
const S3_SETTINGS: [&str; 6] =
    ["S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SESSION_TOKEN", "S3_REGION", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"];

/// Settings for Google Cloud Storage beside those that `object_store` knows.
const GS_SETTINGS: [&str; 2] = ["SERVICE_ACCOUNT", "STORAGE_EMULATOR_HOST"];

/// Variables that name a file with credentials for Google Cloud Storage.
const KEY_FILES: [&str; 4] =
    ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "SERVICE_ACCOUNT"];

/// Where an S3 service answers, when the place of the bucket says so and not the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The service: `https://host` or `http://host:port`.
    pub url: String,
    /// Whether the bucket is a part of the host's name, and not of the path.
    pub virtual_hosted: bool,
}

impl Endpoint {
    /// The address of a bucket as `object_store` wants it.
    fn of_bucket(&self, bucket: &Bucket) -> String {
        match self.url.split_once("://") {
            Some((scheme, host)) if self.virtual_hosted => format!("{scheme}://{}.{host}", bucket.name),
            _ => self.url.clone(),
        }
    }

    /// The region that a host of Amazon's names: `s3.eu-west-1.amazonaws.com`, `s3-eu-west-1.amazonaws.com`.
    fn region(&self) -> Option<&str> {
        let (_, host) = self.url.split_once("://")?;
        let name = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
        let region = name.rsplit_once('.').map_or(name, |(_, region)| region);
        Some(region.strip_prefix("s3-").unwrap_or(region)).filter(|region| region.contains('-'))
    }
}

/// A client for an S3 bucket, at an endpoint of its own or at that of the environment.
pub(super) fn s3(
    bucket: &Bucket,
    own: Option<&Endpoint>,
    env: &Env,
    limits: &Limits,
) -> Result<(Arc<dyn ObjectStore>, Place)> {
    check_settings(env, |name| {
        S3_SETTINGS.contains(&name) || name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().is_ok()
    })?;
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client_options(limits))
        .with_retry(retry(limits))
        .with_http_connector(Watch::new(limits));
    for (name, value) in env.iter().filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty()) {
        match name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            // Another service's address would win over ours.
            Ok(AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint) if own.is_some() => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => {}
        }
    }
    let mut has_keys = env.text("AWS_ACCESS_KEY_ID").is_some() || env.text("AWS_SECRET_ACCESS_KEY").is_some();
    if let (false, Some(id), Some(secret)) = (has_keys, env.text("S3_ACCESS_KEY"), env.text("S3_SECRET_KEY")) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        if let Some(token) = env.text("S3_SESSION_TOKEN") {
            builder = builder.with_token(token);
        }
        has_keys = true;
    }
    let has_identity = env.text("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && env.text("AWS_ROLE_ARN").is_some();
    let profile = Profile::of(env, !has_keys && !has_identity)?;
    let has_profile_keys = profile.keys.is_some();
    if let Some(keys) = profile.keys {
        builder = builder.with_access_key_id(keys.id).with_secret_access_key(keys.secret);
        if let Some(token) = keys.token {
            builder = builder.with_token(token);
        }
    }
    let region = ["AWS_REGION", "AWS_DEFAULT_REGION", "S3_REGION"].iter().find_map(|name| env.text(name));
    let named = || own.and_then(Endpoint::region).map(str::to_owned);
    let region = region.map(str::to_owned).or_else(named).or(profile.region).unwrap_or_else(|| "us-east-1".to_owned());
    builder = builder.with_region(&region).with_bucket_name(&bucket.name);

    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].iter().find_map(|name| env.text(name));
    let endpoint = match own {
        Some(own) => {
            builder = builder.with_virtual_hosted_style_request(own.virtual_hosted);
            Some(own.of_bucket(bucket))
        }
        None => endpoint.map(str::to_owned).or(profile.endpoint),
    };
    if let Some(endpoint) = &endpoint {
        check_address("AWS_ENDPOINT_URL", endpoint)?;
        builder = builder.with_endpoint(endpoint);
        if endpoint.starts_with("http://") {
            builder = builder.with_allow_http(true);
            // Nothing here will need TLS, so a machine without any certificates will do.
            let bare = (has_keys || has_profile_keys).to_string();
            builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::NoSystemCertificates), bare);
        }
    }
    let place = Place {
        kind: Kind::S3,
        bucket: bucket.name.clone(),
        shown: own.map_or_else(|| format!("s3://{bucket}"), |own| format!("s3+{}/{bucket}", own.url)),
        endpoint: endpoint.unwrap_or_else(|| format!("s3.{region}.amazonaws.com")),
        secrets: Secrets::of(env),
    };
    let store = builder.build().map_err(|error| misconfigured(&place, &error))?;
    Ok((Arc::new(store), place))
}

/// A client for a Google Cloud Storage bucket.
pub(super) fn gs(bucket: &Bucket, env: &Env, limits: &Limits) -> Result<(Arc<dyn ObjectStore>, Place)> {
    check_settings(env, |name| {
        // The text of a key file may have lines.
        let plain = name.starts_with("GOOGLE_") && name != "GOOGLE_SERVICE_ACCOUNT_KEY";
        GS_SETTINGS.contains(&name) || plain && name.to_ascii_lowercase().parse::<GoogleConfigKey>().is_ok()
    })?;
    if env.text("STORAGE_EMULATOR_HOST").is_none() {
        check_key_files(env)?;
    }
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(client_options(limits).with_allow_http(true))
        .with_retry(retry(limits))
        .with_http_connector(Watch::new(limits));
    if let Some(path) = env.text("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (name, value) in env.iter().filter(|(name, value)| name.starts_with("GOOGLE_") && !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let mut endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    if let Some(host) = env.text("STORAGE_EMULATOR_HOST") {
        let address = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
        let address = address.trim_end_matches('/').to_owned();
        check_address("STORAGE_EMULATOR_HOST", &address)?;
        // An empty token keeps the machine's own credentials from being looked for, or sent.
        builder = builder.with_base_url(&address).with_bearer_token("").with_skip_signature(true);
        builder = builder.with_http_connector(Watch::new(limits).for_emulator());
        let bare = address.starts_with("http://").to_string();
        builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::NoSystemCertificates), bare);
        endpoint = Some(address);
    }
    let place = Place {
        kind: Kind::Gs,
        bucket: bucket.name.clone(),
        shown: format!("gs://{bucket}"),
        endpoint: endpoint.unwrap_or_else(|| "storage.googleapis.com".to_owned()),
        secrets: Secrets::of(env),
    };
    let store = builder.with_bucket_name(&bucket.name).build().map_err(|error| misconfigured(&place, &error))?;
    Ok((Arc::new(store), place))
}

/// No limit on a whole request: `watch` and the readers limit silence instead.
pub(super) fn client_options(limits: &Limits) -> ClientOptions {
    ClientOptions::new()
        .with_config(ClientConfigKey::UserAgent, concat!("monofo/", env!("CARGO_PKG_VERSION")))
        .with_timeout_disabled()
        .with_connect_timeout(limits.connect)
}

fn retry(limits: &Limits) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: limits.backoff, max_backoff: limits.backoff * 50, base: 2.0 },
        max_retries: limits.retries,
        retry_timeout: limits.retry_time,
    }
}

/// Settings become headers and addresses, where a control character makes `object_store` panic. Values are not repeated.
fn check_settings(env: &Env, ours: impl Fn(&str) -> bool) -> Result<()> {
    match env.iter().find(|(name, value)| value.chars().any(char::is_control) && ours(name)) {
        None => Ok(()),
        Some((name, _)) => Err(Error::usage(format_args!("{name} contains a line break or another control character"))
            .hint("remove the line break; a secret read from a file often ends with one")),
    }
}

/// A file of credentials that was named must be readable.
fn check_key_files(env: &Env) -> Result<()> {
    for variable in KEY_FILES {
        let Some(path) = env.path(variable) else { continue };
        if let Err(error) = File::open(&path) {
            return Err(Error::usage(format_args!("{variable} names `{}`, which cannot be read", Shown::path(&path)))
                .caused_by(error)
                .hint(format_args!("let {variable} name a readable credentials file, or unset it")));
        }
    }
    Ok(())
}

/// An address is repeated in messages, so it must not carry credentials.
pub(super) fn check_address(variable: &str, address: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::usage(format_args!("{variable} {why}")).hint("write `https://host:port`"));
    let Some(rest) = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")) else {
        return wrong("does not begin with `http://` or `https://`");
    };
    if rest.contains('@') {
        return wrong("must not carry credentials");
    }
    if rest.is_empty() || rest.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#')) {
        return wrong("is not an address");
    }
    Ok(())
}

fn misconfigured(place: &Place, error: &object_store::Error) -> Error {
    let cause = place.cause(error);
    let hint = match place.kind {
        _ if cause.contains("No CA certificates") => {
            "install the system's CA certificates, or name a file in SSL_CERT_FILE"
        }
        Kind::Gs => "check the GOOGLE_… variables; credentials are of type service_account or authorized_user",
        _ => "check the AWS_… variables",
    };
    Error::usage(format_args!("{place} cannot be used as configured: {cause}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn bucket() -> Bucket {
        Bucket { name: "b".into(), prefix: String::new() }
    }

    #[test]
    fn endpoints_with_credentials_or_nonsense_are_refused_without_repeating_them() {
        for address in ["https://u:hunter2@host", "host:9000", "http://", "http://a b", "http://a/?hunter2"] {
            let env = Env::of([("AWS_ENDPOINT_URL", address)]);
            let error = s3(&bucket(), None, &env, &Limits::default()).err().unwrap();
            assert_eq!(error.class(), Class::Usage, "{address}");
            assert!(!format!("{error:?}").contains("hunter2"), "{address}");
        }
    }

    #[test]
    fn half_of_a_key_pair_is_a_usage_error() {
        let env = Env::of([("AWS_ACCESS_KEY_ID", "AKID"), ("HOME", "/nonexistent")]);
        assert_eq!(s3(&bucket(), None, &env, &Limits::default()).err().unwrap().class(), Class::Usage);
    }

    #[test]
    fn an_unreadable_credentials_file_is_named_as_the_trouble() {
        let env = Env::of([("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json")]);
        let error = gs(&bucket(), &env, &Limits::default()).err().unwrap();
        assert_eq!(error.class(), Class::Usage);
        assert!(
            error.to_string().contains("GOOGLE_APPLICATION_CREDENTIALS names `/nonexistent/key.json`"),
            "{error:?}"
        );
    }

    #[test]
    fn an_endpoint_of_its_own_wins_and_may_name_the_region() {
        let env = Env::of([
            ("AWS_ACCESS_KEY_ID", "AKTEST"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_ENDPOINT_URL_S3", "https://elsewhere.example"),
            ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
        ]);
        for (url, virtual_hosted, address, region) in [
            ("https://s3.eu-west-1.amazonaws.com", true, "https://b.s3.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("https://s3-eu-west-1.amazonaws.com", false, "https://s3-eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("https://s3.amazonaws.com", false, "https://s3.amazonaws.com", None),
            ("http://minio-1:9000", false, "http://minio-1:9000", None),
        ] {
            let own = Endpoint { url: url.into(), virtual_hosted };
            assert_eq!(own.region(), region, "{url}");
            let (store, place) = s3(&bucket(), Some(&own), &env, &Limits::default()).unwrap();
            assert_eq!(place.endpoint, address);
            assert!(!format!("{store:?}").contains("elsewhere"));
        }
    }

    #[test]
    fn control_characters_in_settings_are_refused_without_repeating_them() {
        for variable in
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "S3_SECRET_KEY"]
        {
            let env = Env::of([(variable, "hunter2\n")]);
            let error = s3(&bucket(), None, &env, &Limits::default()).err().unwrap();
            assert_eq!(error.class(), Class::Usage, "{variable}");
            assert!(error.to_string().starts_with(variable), "{error:?}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        for variable in ["GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST", "SERVICE_ACCOUNT"] {
            let env = Env::of([(variable, "hunter2\n")]);
            let error = gs(&bucket(), &env, &Limits::default()).err().unwrap();
            assert!(error.to_string().starts_with(variable), "{error:?}");
        }
    }
}
