//! The HTTP client, with the options of `object_store` and without its following of redirects.
//!
//! A redirect would carry the headers of a request to another host, `x-amz-security-token` among them; and since a
//! signature covers the host, no honest service is reached that way. `object_store` has no option for this.

use std::error::Error as StdError;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use object_store::{ClientConfigKey as Key, ClientOptions};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::tls::Certificate;
use reqwest::{Client, ClientBuilder, NoProxy, Proxy, redirect};

/// A client with these options. Those that nobody but this program could set (headers, root certificates, a resolver) are
/// not set and not looked at.
pub(super) fn client(options: &ClientOptions) -> object_store::Result<Client> {
    build(options).map_err(|source| object_store::Error::Generic { store: "HTTP client", source })
}

fn build(options: &ClientOptions) -> Result<Client, Box<dyn StdError + Send + Sync>> {
    let text = |key| options.get_config_value(&key);
    let flag = |key| text(key).map_or(Ok(false), |value| truth(&value));
    let time = |key| text(key).map(|value| duration(&value)).transpose();
    // A compressed answer would have another length than the object.
    let mut builder =
        ClientBuilder::new().redirect(redirect::Policy::none()).no_gzip().no_brotli().no_zstd().no_deflate();
    builder = builder.https_only(!flag(Key::AllowHttp)?);
    if let Some(agent) = text(Key::UserAgent) {
        builder = builder.user_agent(agent);
    }
    if let Some(url) = text(Key::ProxyUrl) {
        let mut proxy = Proxy::all(url)?;
        if let Some(certificate) = text(Key::ProxyCaCertificate) {
            builder = builder.tls_certs_merge([Certificate::from_pem(certificate.as_bytes())?]);
        }
        if let Some(excludes) = text(Key::ProxyExcludes) {
            proxy = proxy.no_proxy(NoProxy::from_string(&excludes));
        }
        builder = builder.proxy(proxy);
    }
    if flag(Key::NoSystemCertificates)? {
        builder = builder.tls_certs_only([]);
    }
    if flag(Key::AllowInvalidCertificates)? {
        builder = builder.danger_accept_invalid_certs(true);
    }
    for (key, set) in [
        (Key::Timeout, ClientBuilder::timeout as fn(ClientBuilder, Duration) -> ClientBuilder),
        (Key::ConnectTimeout, ClientBuilder::connect_timeout),
        (Key::ReadTimeout, ClientBuilder::read_timeout),
        (Key::PoolIdleTimeout, |builder, time| builder.pool_idle_timeout(time)),
        (Key::Http2KeepAliveInterval, |builder, time| builder.http2_keep_alive_interval(time)),
        (Key::Http2KeepAliveTimeout, ClientBuilder::http2_keep_alive_timeout),
    ] {
        if let Some(time) = time(key)? {
            builder = set(builder, time);
        }
    }
    if let Some(most) = text(Key::PoolMaxIdlePerHost) {
        builder = builder.pool_max_idle_per_host(most.parse()?);
    }
    if let Some(size) = text(Key::Http2MaxFrameSize) {
        builder = builder.http2_max_frame_size(Some(size.parse()?));
    }
    if flag(Key::Http2KeepAliveWhileIdle)? {
        builder = builder.http2_keep_alive_while_idle(true);
    }
    if flag(Key::Http1Only)? {
        builder = builder.http1_only();
    }
    if flag(Key::Http2Only)? {
        builder = builder.http2_prior_knowledge();
    }
    if flag(Key::RandomizeAddresses)? {
        builder = builder.dns_resolver(Shuffled);
    }
    Ok(builder.build()?)
}

/// The words that `object_store` takes, too. The value is not repeated: it may stand in the wrong variable.
fn truth(value: &str) -> Result<bool, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" | "y" => Ok(true),
        "0" | "false" | "off" | "no" | "n" => Ok(false),
        _ => Err("an option of the HTTP client is neither true nor false"),
    }
}

fn duration(value: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(value).map_err(|_| "an option of the HTTP client is not a time such as `30s`")
}

/// Addresses of a name in random order: connections spread over the machines of a service.
struct Shuffled;

impl Resolve for Shuffled {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // reqwest puts the port of the address in.
            let mut found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let random = RandomState::new();
            found.sort_by_cached_key(|address| random.hash_one(address));
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_as_object_store_takes_them() {
        let options = ClientOptions::new();
        assert!(client(&options).is_ok());
        for (key, good, bad) in [
            (Key::Timeout, "30s", "soon"),
            (Key::Http2KeepAliveInterval, "1m 5s", "-1"),
            (Key::PoolMaxIdlePerHost, "3", "some"),
            (Key::AllowHttp, "Yes", "hunter2"),
            (Key::Http2MaxFrameSize, "65536", "x"),
            (Key::ProxyUrl, "http://proxy:3128", "http://"),
        ] {
            assert!(client(&options.clone().with_config(key, good)).is_ok(), "{key:?}");
            let error = client(&options.clone().with_config(key, bad)).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
