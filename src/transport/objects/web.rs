//! Whole files of a web server by their names, many at once.

use std::time::{Duration, SystemTime};

use object_store::ClientConfigKey;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
};
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, LAST_MODIFIED};

use super::connect::{check_address, client_options};
use super::download::Broken;
use super::errors::{Kind, Place};
use super::keyed::Object;
use super::watch::Watch;
use super::{Background, Limits, Shared, whole};
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::transport::secrets::Secrets;

/// The age of a file when the server does not tell: as old as can be, so that nobody relies on it.
const UNKNOWN_AGE: Duration = Duration::from_secs(u32::MAX as u64);

/// The files below an address. Every method blocks, may be called by many threads at once, and takes the words for what it
/// is `doing`, such as `reading a chunk`.
pub struct Web {
    shared: Shared<HttpClient>,
    /// Without a slash at its end.
    base: String,
}

impl Web {
    /// The files below `http://…` or `https://…`. Opens no connection.
    pub fn new(base: &str, env: &Env, limits: Limits, cancel: Cancel) -> Result<Self> {
        check_address("the store's address", base)?;
        let base = base.trim_end_matches('/').to_owned();
        let plain = base.starts_with("http://");
        let place = Place {
            kind: Kind::Web,
            bucket: base.clone(),
            shown: base.clone(),
            endpoint: base.clone(),
            secrets: Secrets::of(env),
        };
        // Nothing will need TLS at such an address, so a machine without any certificates will do.
        let options = client_options(&limits)
            .with_allow_http(plain)
            .with_config(ClientConfigKey::NoSystemCertificates, plain.to_string());
        let client = Watch::new(&limits).connect(&options);
        let store = client.map_err(|error| {
            Error::usage("the HTTP client cannot be set up")
                .caused_by(place.cause(&error))
                .hint("check the proxy variables")
        })?;
        let runtime = Background::new()?;
        let web = Web { shared: Shared { store, runtime, limits, cancel, place }, base };
        let request = web.request(Method::GET, "x")?;
        // A port that is no number shows only when it is connected to.
        if request.uri().authority().is_none_or(|host| host.port_u16().is_none() && host.as_str() != host.host()) {
            return Err(no_address());
        }
        Ok(web)
    }

    /// The address, for messages.
    pub fn place(&self) -> String {
        self.shared.place.to_string()
    }

    /// The whole of a file; `None` when it is not there.
    pub fn get(&self, doing: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let shared = &self.shared;
        shared.wait(shared.again(shared.limits.retries, async || {
            let Some(answer) = self.ask(doing, Method::GET, name).await? else { return Ok(None) };
            // Absent where the server makes up the answer as it goes.
            let length = length(&answer);
            let silence = shared.limits.no_progress / 2;
            let read = whole::read(answer.into_body().bytes_stream(), length, whole::LONGEST, silence).await;
            read.map(Some).map_err(|cut| shared.broken(doing, length, cut, |error| self.explain(doing, error)))
        }))?
    }

    /// What is known of a file; `None` when it is not there.
    pub fn head(&self, doing: &str, name: &str) -> Result<Option<Object>> {
        let shared = &self.shared;
        let asked = shared.again(shared.limits.retries, async || self.ask(doing, Method::HEAD, name).await);
        let Some(answer) = shared.wait(asked)?? else { return Ok(None) };
        let age = answer.headers().get(LAST_MODIFIED).and_then(|time| time.to_str().ok()).and_then(age);
        let len = match length(&answer) {
            Some(len) => len,
            None => match self.get(doing, name)? {
                Some(bytes) => bytes.len() as u64,
                None => return Ok(None),
            },
        };
        Ok(Some(Object { name: name.to_owned(), len, age: age.unwrap_or(UNKNOWN_AGE) }))
    }

    /// One request, up to the beginning of its answer.
    async fn ask(&self, doing: &str, method: Method, name: &str) -> Result<Option<HttpResponse>, Broken> {
        let request = self.request(method, name).map_err(Broken::ForGood)?;
        match self.shared.store.execute(request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                let passing = matches!(
                    error.kind(),
                    HttpErrorKind::Connect
                        | HttpErrorKind::Request
                        | HttpErrorKind::Timeout
                        | HttpErrorKind::Interrupted
                );
                let error = generic(error);
                if Place::absent_file(&error) {
                    return Ok(None);
                }
                let explained = self.shared.place.explain(doing, &error);
                Err(if passing { Broken::Meanwhile(explained) } else { Broken::ForGood(explained) })
            }
        }
    }

    fn request(&self, method: Method, name: &str) -> Result<HttpRequest> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}/{name}", self.base).parse().map_err(|_| no_address())?;
        Ok(request)
    }

    fn explain(&self, doing: &str, error: HttpError) -> Error {
        self.shared.place.explain(doing, &generic(error))
    }
}

fn no_address() -> Error {
    Error::usage("the store's address is not one").hint("write `https://host/folder`, with `%20` for a space")
}

fn generic(error: HttpError) -> object_store::Error {
    object_store::Error::Generic { store: "web", source: Box::new(error) }
}

fn length(answer: &HttpResponse) -> Option<u64> {
    answer.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How long ago a time was, which is written as `Thu, 01 Jan 2026 00:00:00 GMT`.
fn age(time: &str) -> Option<Duration> {
    let time = httpdate::parse_http_date(time).ok()?;
    Some(SystemTime::now().duration_since(time).unwrap_or_default())
}
