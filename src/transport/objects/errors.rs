//! What a store's failure means to a user: absent, refused, unreachable, misconfigured; and what to check.
//!
//! Messages are made of known parts only: a status, an error code, the last cause.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::client::{HttpError, HttpErrorKind};

use super::watch::{Answered, GivenUp, NoCredentials, Strange};
use crate::error::{Class, Error, Why};
use crate::text::{Bytes, Took};
use crate::transport::secrets::Secrets;

/// Who keeps the objects; decides the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    S3,
    Gs,
    Web,
    Other,
}

/// What an answer says about being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// Nothing: it is another error.
    None,
    /// The object is not there, its bucket is.
    Object,
    /// The object is not there, and maybe its bucket neither.
    ObjectOrBucket,
}

/// Why an object was not made that must not replace another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmade {
    /// One of this name is there.
    Taken,
    /// Others are making it at this moment, and the service wants to be asked again.
    Contended,
    /// The service knows no such condition.
    Unconditional,
    /// The answer was lost.
    Unknown,
    /// It is another error.
    Failed,
}

/// A bucket and how it is reached, for messages.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) kind: Kind,
    /// The bucket's name.
    pub(super) bucket: String,
    /// The location as the user wrote it.
    pub(super) shown: String,
    /// The address that requests go to, without credentials.
    pub(super) endpoint: String,
    pub(super) secrets: Secrets,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Place {
    /// The place of a store that somebody else made.
    pub(super) fn of_store(store: &Arc<dyn ObjectStore>) -> Self {
        let shown = store.to_string();
        Place { kind: Kind::Other, bucket: shown.clone(), endpoint: shown.clone(), shown, secrets: Secrets::default() }
    }

    /// The error for a failed operation.
    pub(super) fn explain(&self, doing: &str, error: &object_store::Error) -> Error {
        use object_store::Error as Store;
        if find::<NoCredentials>(error).is_some() {
            return self.no_credentials(doing);
        }
        if let Some(answered) = find::<Answered>(error) {
            return self.answered(doing, answered);
        }
        if let Some(strange) = find::<Strange>(error) {
            return self.not_understood(doing, strange);
        }
        if let Some(given_up) = Self::given_up(error) {
            return match given_up.sent {
                None => self.silent(doing, given_up.limit),
                Some(sent) => self.stuck(doing, sent, given_up.limit),
            };
        }
        if let Some(http) = find::<HttpError>(error).filter(|_| !speaks_of_content(error)) {
            return self.unreachable(doing, http);
        }
        match error {
            Store::NotFound { .. } => self.answered(doing, &self.status(404)),
            Store::Precondition { .. } => self.answered(doing, &self.status(412)),
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => self.answered(doing, &self.status(403)),
            // The system's own words, about a file of credentials for example.
            _ if find::<io::Error>(error).is_some_and(|error| error.raw_os_error().is_some()) => {
                self.unavailable(doing, &self.cause(error), Why::Denied).hint(self.check_network())
            }
            // The words of parsers repeat what they parsed.
            _ => self.not_understood(doing, &Strange { host: self.endpoint.clone() }),
        }
    }

    /// As [`Place::explain`] for a listing or a new object, where nothing but the bucket itself can be absent.
    pub(super) fn explain_in_bucket(&self, doing: &str, error: &object_store::Error) -> Error {
        match find::<Answered>(error) {
            Some(answered)
                if answered.status == 404 && !answered.code.is_empty() && answered.code != "NoSuchBucket" =>
            {
                self.unavailable(doing, &answered.to_string(), Why::Denied).hint(format!(
                    "{}, and {}",
                    self.check_credentials(),
                    self.check_endpoint()
                ))
            }
            Some(answered) if answered.status == 404 => self.no_bucket(doing),
            None if matches!(error, object_store::Error::NotFound { .. }) => self.no_bucket(doing),
            _ => self.explain(doing, error),
        }
    }

    /// As [`Place::explain_in_bucket`] for objects to remove. What fails without a word of the connection is a single
    /// object, whose reason `object_store` keeps to itself.
    pub(super) fn explain_removal(&self, doing: &str, error: &object_store::Error) -> Error {
        let known = find::<Answered>(error).is_some()
            || find::<Strange>(error).is_some()
            || find::<HttpError>(error).is_some()
            || find::<NoCredentials>(error).is_some();
        if known || !matches!(error, object_store::Error::Generic { .. }) {
            return self.explain_in_bucket(doing, error);
        }
        let why = format!("{} did not remove all that it was asked to", self.endpoint);
        self.unavailable(doing, &why, Why::Denied)
            .hint(format!("{}, and remove objects from it", self.check_credentials()))
    }

    /// Whether an error says that an object is not there.
    pub(super) fn absence(error: &object_store::Error) -> Absence {
        match find::<Answered>(error) {
            Some(answered) => match (answered.status, answered.code.as_str()) {
                (404, "NoSuchKey") => Absence::Object,
                // An answer to HEAD has no code.
                (404, "") => Absence::ObjectOrBucket,
                _ => Absence::None,
            },
            None if matches!(error, object_store::Error::NotFound { .. }) => Absence::Object,
            None => Absence::None,
        }
    }

    /// What became of an object that was to be made and not replaced.
    pub(super) fn unmade(error: &object_store::Error) -> Unmade {
        match find::<Answered>(error).map(|answered| answered.status) {
            Some(304 | 412) => Unmade::Taken,
            Some(409) => Unmade::Contended,
            Some(501) => Unmade::Unconditional,
            Some(_) => Unmade::Failed,
            None => match error {
                object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => Unmade::Taken,
                object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                    Unmade::Unconditional
                }
                // The connection broke after the request was sent: it may have been served.
                _ if find::<HttpError>(error).is_some_and(|error| {
                    matches!(error.kind(), HttpErrorKind::Timeout | HttpErrorKind::Interrupted)
                }) =>
                {
                    Unmade::Unknown
                }
                _ => Unmade::Failed,
            },
        }
    }

    /// Whether an error says that a file of a web server is not there, in whatever words.
    pub(super) fn absent_file(error: &object_store::Error) -> bool {
        find::<Answered>(error).is_some_and(|answered| answered.status == 404 && answered.code != "NoSuchBucket")
    }

    /// The error for a place that made no progress for so long.
    pub(super) fn silent(&self, doing: &str, limit: Duration) -> Error {
        let why = format!("{} sent nothing for {}", self.endpoint, Took(limit));
        self.unavailable(doing, &why, Why::Silent).hint(self.check_network())
    }

    /// The error for a question that was not settled in this time, with all its tries.
    pub(super) fn late(&self, doing: &str, limit: Duration) -> Error {
        let why = format!("{} gave no answer within {}", self.endpoint, Took(limit));
        self.unavailable(doing, &why, Why::Silent).hint(self.check_network())
    }

    /// The error for a download of which only so many bytes came in this time.
    pub(super) fn too_slow(&self, doing: &str, came: u64, time: Duration) -> Error {
        let why = format!("{} sent only {} in {}", self.endpoint, Bytes(came), Took(time));
        self.unavailable(doing, &why, Why::Silent).hint(self.check_network())
    }

    /// The error for an upload of which only so many bytes went out in this time.
    fn stuck(&self, doing: &str, sent: u64, time: Duration) -> Error {
        let why = format!("{} took only {} in {}", self.endpoint, Bytes(sent), Took(time));
        self.unavailable(doing, &why, Why::Silent).hint(self.check_network())
    }

    /// A request that was given up and is not made again, if that is what the error says.
    pub(super) fn given_up(error: &object_store::Error) -> Option<&GivenUp> {
        find::<GivenUp>(error).filter(|given_up| given_up.for_good)
    }

    /// The error for an answer that ended before its announced length, again and again.
    pub(super) fn cut_short(&self, doing: &str, at: u64, size: u64) -> Error {
        let why = format!("the answer ended after {at} of {size} bytes");
        self.unavailable(doing, &why, Why::Busy).hint(self.check_network())
    }

    /// The last cause of a store's error, on one line and without secrets.
    pub(super) fn cause(&self, error: &(dyn StdError + 'static)) -> String {
        let mut last: &(dyn StdError + 'static) = error;
        while let Some(source) = last.source() {
            last = source;
        }
        let text = last.to_string();
        self.secrets.redact(text.lines().next().unwrap_or_default())
    }

    fn unavailable(&self, doing: &str, cause: &str, why: Why) -> Error {
        Error::new(Class::Unavailable, format_args!("{doing} in {self} failed: {cause}")).because(why)
    }

    fn no_credentials(&self, doing: &str) -> Error {
        let hint = match self.kind {
            Kind::Gs => {
                "set GOOGLE_APPLICATION_CREDENTIALS to a credentials file, or run `gcloud auth application-default login`"
            }
            _ => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
        };
        self.unavailable(doing, &NoCredentials.to_string(), Why::Nameless).hint(hint)
    }

    fn no_bucket(&self, doing: &str) -> Error {
        let why = format!("{} has no bucket `{}`", self.endpoint, self.bucket);
        let hint = match self.kind {
            Kind::Gs => "check the bucket's name and the project of the credentials",
            Kind::Web => "check the address",
            _ => "check the bucket's name, AWS_REGION and AWS_ENDPOINT_URL",
        };
        self.unavailable(doing, &why, Why::Denied).hint(hint)
    }

    fn unreachable(&self, doing: &str, error: &HttpError) -> Error {
        let (cause, why) = match error.kind() {
            HttpErrorKind::Connect => (format!("cannot connect to {}", self.endpoint), Why::Silent),
            HttpErrorKind::Timeout => (format!("{} does not answer", self.endpoint), Why::Silent),
            _ => (format!("the connection to {} broke", self.endpoint), Why::Busy),
        };
        self.unavailable(doing, &format!("{cause}: {}", self.cause(error)), why).hint(self.check_network())
    }

    fn not_understood(&self, doing: &str, strange: &Strange) -> Error {
        let hint = match self.kind {
            Kind::Gs => format!("{}: is it Google Cloud Storage that answers there?", self.check_endpoint()),
            Kind::Web => self.check_endpoint().to_owned(),
            _ => format!("{}: is it an S3 service that answers there?", self.check_endpoint()),
        };
        self.unavailable(doing, &strange.to_string(), Why::Strange).hint(hint)
    }

    /// Redirects are not followed: only the host that was named gets the credentials.
    fn elsewhere(&self, doing: &str, answered: &Answered) -> Error {
        if self.kind == Kind::Web {
            let why = format!("the server sends on to another address, which is not followed: {answered}");
            return self.unavailable(doing, &why, Why::Denied).hint("use the address that it sends to");
        }
        let (why, hint) = match (&answered.region, self.kind) {
            (Some(region), Kind::S3) => (String::new(), format!("set AWS_REGION={region}")),
            (_, Kind::Gs) => (format!(": {answered}"), self.check_endpoint().to_owned()),
            _ => (
                format!(" or at another address: {answered}"),
                "set AWS_REGION to the bucket's region, and check AWS_ENDPOINT_URL".to_owned(),
            ),
        };
        let why = format!("bucket `{}` lies in another region{why}", self.bucket);
        self.unavailable(doing, &why, Why::Denied).hint(hint)
    }

    /// What a store without HTTP would have answered.
    fn status(&self, status: u16) -> Answered {
        Answered { host: self.endpoint.clone(), status, code: String::new(), region: None }
    }

    /// The store's answer says no.
    fn answered(&self, doing: &str, answered: &Answered) -> Error {
        let why = answered.to_string();
        match (answered.status, answered.code.as_str()) {
            (_, "NoSuchBucket") => self.no_bucket(doing),
            (300..=399, _) | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
                self.elsewhere(doing, answered)
            }
            (404, _) => Error::new(Class::NotThere, format_args!("{doing} in {self} failed: it is not there any more"))
                .hint("run the step that uploads it again"),
            (412, _) => Error::new(Class::Changed, format_args!("{doing} in {self} failed: it was replaced meanwhile"))
                .hint("download it again"),
            (_, "RequestTimeTooSkewed") => self.unavailable(doing, &why, Why::Denied).hint("set this machine's clock"),
            (_, "ExpiredToken" | "TokenRefreshRequired") => self
                .unavailable(doing, &format!("access refused: {why}"), Why::Denied)
                .hint("the credentials have expired: renew them"),
            (400, "InvalidToken") | (401 | 403, _) | (200..=299, "AccessDenied") => {
                self.unavailable(doing, &format!("access refused: {why}"), Why::Denied).hint(self.check_credentials())
            }
            (408 | 429 | 500.., _) | (200..=299, "InternalError" | "SlowDown") => {
                self.unavailable(doing, &why, Why::Busy).hint("the service is in trouble or busy: try again later")
            }
            _ => self
                .unavailable(doing, &why, Why::Denied)
                .hint("the service does not take this request: is the endpoint the right one?"),
        }
    }

    fn check_credentials(&self) -> String {
        let variables = match self.kind {
            Kind::Gs => "GOOGLE_APPLICATION_CREDENTIALS",
            Kind::Web => return "the server must let this machine read without credentials".to_owned(),
            _ => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE",
        };
        format!("check {variables}, and that they may list, read and write bucket `{}`", self.bucket)
    }

    fn check_endpoint(&self) -> &'static str {
        match self.kind {
            Kind::Gs => "check STORAGE_EMULATOR_HOST and the proxy variables",
            Kind::Web => "check the address and the proxy variables",
            _ => "check AWS_ENDPOINT_URL and the proxy variables",
        }
    }

    fn check_network(&self) -> &'static str {
        match self.kind {
            Kind::Gs => "check the network, the proxy variables and STORAGE_EMULATOR_HOST",
            Kind::Web => "check the network, the proxy variables and the address",
            _ => "check the network, the proxy variables and AWS_ENDPOINT_URL",
        }
    }
}

/// Whether an answer came whole and its content was wrong. What reads it says what it read.
fn speaks_of_content(error: &(dyn StdError + 'static)) -> bool {
    find::<serde_json::Error>(error).is_some() || find::<std::string::FromUtf8Error>(error).is_some()
}

/// The first error of a type among an error and its causes.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            kind: Kind::S3,
            bucket: "b".into(),
            shown: "s3://b/p".into(),
            endpoint: "https://s3.example".into(),
            secrets: Secrets::default(),
        }
    }

    #[test]
    fn what_is_absent_when_an_object_is_made_is_the_bucket() {
        let store = object_store::Error::NotFound { path: "k".into(), source: "gone".into() };
        let error = place().explain_in_bucket("storing an artifact", &store);
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.to_string().contains("has no bucket `b`"), "{error:?}");
    }

    #[test]
    fn answers_are_told_apart() {
        let answer = |status, code: &str, region: Option<&str>| Answered {
            host: "h".into(),
            status,
            code: code.into(),
            region: region.map(Into::into),
        };
        for (status, code, class, hint) in [
            (403, "AccessDenied", Class::Unavailable, "AWS_ACCESS_KEY_ID"),
            (400, "ExpiredToken", Class::Unavailable, "renew"),
            (404, "NoSuchBucket", Class::Unavailable, "bucket's name"),
            (404, "NoSuchKey", Class::NotThere, "uploads it"),
            (412, "PreconditionFailed", Class::Changed, "again"),
            (301, "PermanentRedirect", Class::Unavailable, "AWS_REGION"),
            (503, "SlowDown", Class::Unavailable, "later"),
        ] {
            let error = place().answered("reading", &answer(status, code, None));
            assert_eq!(error.class(), class, "{code}");
            assert!(error.next_step().unwrap().contains(hint), "{code}: {error:?}");
        }
        let wrong = answer(400, "AuthorizationHeaderMalformed", Some("eu-west-1"));
        assert_eq!(place().answered("x", &wrong).next_step(), Some("set AWS_REGION=eu-west-1"));
    }
}
