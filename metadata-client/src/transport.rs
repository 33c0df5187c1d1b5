//! Endpoints, deadlines and retries: how one call becomes attempts.

use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lunar_identity::ClientTls;
use lunar_proto::error::{ErrorReason, ErrorReport, FieldError};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tracing::debug;

use crate::connect::Target;
use crate::error::ClientError;

/// Largest answer that is taken, in bytes: a page of pools with many LUNs each.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Deadlines and waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// For connecting.
    pub connect: Duration,
    /// For one attempt.
    pub attempt: Duration,
    /// For all attempts of a call together.
    pub total: Duration,
    /// The wait before the second attempt; it doubles from one attempt to the next.
    pub first_wait: Duration,
    /// The longest wait between two attempts.
    pub longest_wait: Duration,
}

impl Default for Policy {
    /// Connect 2 s, attempt 5 s, in all 30 s, waits from 50 ms to 2 s.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            attempt: Duration::from_secs(5),
            total: Duration::from_secs(30),
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(2),
        }
    }
}

impl Policy {
    /// One attempt with this deadline, for who has a better use of the time than to repeat.
    #[must_use]
    pub fn once(deadline: Duration) -> Self {
        Self { connect: deadline, attempt: deadline, total: deadline, ..Self::default() }
    }
}

/// A text that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// None was given.
    #[error("no endpoint of the metadata service is given: name one, such as 127.0.0.1:7420")]
    None,
    /// Not host and port.
    #[error("'{0}' is no endpoint of the metadata service: write for example 127.0.0.1:7420")]
    Malformed(String),
    /// TLS without its files.
    #[error("'{0}' asks for TLS: give --tls-ca, --tls-cert and --tls-key")]
    NoFiles(String),
    /// Another host without TLS.
    #[error(
        "'{0}' is another host, which is reached over TLS only: write https:// and give --tls-ca, \
         --tls-cert and --tls-key"
    )]
    Plaintext(String),
}

/// A client of the metadata service. Clones share their connections.
#[derive(Clone, Debug)]
pub struct MetadataClient {
    endpoints: Arc<[Target]>,
    /// The endpoint that answered last, or is tried next.
    current: Arc<AtomicUsize>,
    policy: Policy,
}

/// What an attempt that may be repeated has met.
struct Failure {
    status: Status,
    report: Option<ErrorReport>,
    /// Whether this host could not talk to the service at all.
    transport: bool,
}

impl Failure {
    fn of(status: Status) -> Self {
        let report = ErrorReport::from_status(&status);
        // A status that this host made has the cause; one that the service sent has none.
        let transport = report.is_none() && status.source().is_some();
        Self { status, report, transport }
    }

    /// Whether the certificate of the connection is not, or no longer, good.
    fn is_of_certificate(&self) -> bool {
        let reason = self.report.as_ref().map(|report| report.reason);
        let bad = [ErrorReason::CertificateExpired, ErrorReason::CertificateRevoked];
        reason.is_some_and(|reason| bad.contains(&reason))
    }

    fn is_retryable(&self) -> bool {
        self.transport || self.status.code() == Code::Unavailable
    }
}

impl MetadataClient {
    /// A client of the service at these endpoints (`host:port`) on this host, without TLS; it
    /// connects when it is used, so it must be made inside a tokio runtime.
    ///
    /// # Errors
    /// None is given, or one is malformed or asks for TLS.
    pub fn new<T: AsRef<str>>(endpoints: &[T], policy: Policy) -> Result<Self, EndpointError> {
        Self::over(endpoints, policy, None)
    }

    /// A client of the service at these endpoints, over TLS where it is given: to an endpoint
    /// without a scheme or with `https://`. Made inside a tokio runtime.
    ///
    /// # Errors
    /// None is given, or one is malformed, or is another host without TLS.
    pub fn over<T: AsRef<str>>(
        endpoints: &[T],
        policy: Policy,
        tls: Option<&Arc<ClientTls>>,
    ) -> Result<Self, EndpointError> {
        let endpoints = endpoints.iter().map(|text| Target::new(text.as_ref(), &policy, tls));
        let endpoints: Arc<[_]> = endpoints.collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(EndpointError::None);
        }
        Ok(Self { endpoints, current: Arc::default(), policy })
    }

    /// The same client with other deadlines, on the same connections.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self { policy, ..self.clone() }
    }

    /// The deadlines and waits.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// The endpoints, for messages.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let addresses: Vec<&str> = self.endpoints.iter().map(Target::address).collect();
        addresses.join(", ")
    }

    fn target(&self) -> &Target {
        let at = self.current.load(Ordering::Relaxed) % self.endpoints.len();
        &self.endpoints[at]
    }

    /// The channel to try now.
    pub(crate) fn channel(&self) -> Channel {
        self.target().channel()
    }

    fn try_next_endpoint(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a request until it is answered or the deadlines are over, and checks the answer.
    pub(crate) async fn call<W, A, T, F, Fut>(
        &self,
        what: &'static str,
        request: W,
        send: F,
    ) -> Result<T, ClientError>
    where
        W: Clone,
        T: TryFrom<A, Error = FieldError>,
        F: Fn(Channel, W) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let answer = self.call_raw(what, request, send).await?;
        T::try_from(answer).map_err(|source| ClientError::Malformed { what, source })
    }

    /// Sends a request until it is answered or the deadlines are over.
    pub(crate) async fn call_raw<W, A, F, Fut>(
        &self,
        what: &'static str,
        request: W,
        send: F,
    ) -> Result<A, ClientError>
    where
        W: Clone,
        F: Fn(Channel, W) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let mut last = None;
        let attempts = self.attempts(what, request, &send, &mut last);
        match timeout(self.policy.total, attempts).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.gave_up(what, last)),
        }
    }

    async fn attempts<W, A, F, Fut>(
        &self,
        what: &'static str,
        request: W,
        send: &F,
        last: &mut Option<Failure>,
    ) -> Result<A, ClientError>
    where
        W: Clone,
        F: Fn(Channel, W) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let mut wait = self.policy.first_wait;
        loop {
            let sent = send(self.channel(), request.clone());
            match timeout(self.policy.attempt, sent).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => {
                    let failure = Failure::of(status);
                    if failure.is_of_certificate() && self.target().has_other_files() {
                        debug!(what, "the certificate is another one by now");
                        continue;
                    }
                    if !failure.is_retryable() {
                        return Err(refusal(what, failure));
                    }
                    debug!(what, status = %failure.status, "attempt failed, it is repeated");
                    *last = Some(failure);
                }
                Err(_) => debug!(what, "attempt not answered in time, it is repeated"),
            }
            self.try_next_endpoint();
            sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
            wait = (wait * 2).min(self.policy.longest_wait);
        }
    }

    /// The error of a call whose time is over.
    fn gave_up(&self, what: &'static str, last: Option<Failure>) -> ClientError {
        let endpoints = self.endpoints();
        match last {
            None => ClientError::TimedOut { what, endpoints, waited: self.policy.total },
            Some(failure) if failure.transport => {
                let problem = cause(&failure.status);
                ClientError::Unreachable { what, endpoints, problem }
            }
            Some(failure) => refusal(what, failure),
        }
    }

    /// The error of a stream that broke.
    pub(crate) fn stream_error(&self, what: &'static str, status: Status) -> ClientError {
        let failure = Failure::of(status);
        if failure.transport { self.gave_up(what, Some(failure)) } else { refusal(what, failure) }
    }
}

/// Whether a stream that ended so may be opened again.
pub(crate) fn is_broken(status: &Status) -> bool {
    Failure::of(status.clone()).is_retryable()
}

fn refusal(what: &'static str, failure: Failure) -> ClientError {
    match failure.report {
        Some(report) => ClientError::Refused { what, report },
        None => ClientError::Failed {
            what,
            code: failure.status.code(),
            message: failure.status.message().to_owned(),
        },
    }
}

/// The innermost cause of a status that this host made: "Connection refused" says more than
/// "transport error".
fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = status.source();
    while let Some(error) = next {
        text = error.to_string();
        next = error.source();
    }
    text
}

/// A generated client on a channel, taking answers as large as they come.
macro_rules! on_channel {
    ($client:ident, $channel:expr) => {
        $client::new($channel).max_decoding_message_size($crate::transport::ANSWER_BYTES_MAX)
    };
}
pub(crate) use on_channel;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endpoints_are_host_and_port() {
        for text in ["127.0.0.1:7420", "http://127.0.0.1:7420", "[::1]:7420", "localhost:1"] {
            let client = MetadataClient::new(&[text], Policy::default());
            let shown = client.expect("an endpoint").endpoints();
            assert_eq!(shown, text.trim_start_matches("http://"));
        }
        let refused = |text: &str| MetadataClient::new(&[text], Policy::default()).err();
        for text in ["", "localhost", "127.0.0.1", "http://", "a b:1", ":7420"] {
            assert_eq!(refused(text), Some(EndpointError::Malformed(text.to_owned())), "{text}");
        }
        let tls = "https://127.0.0.1:7420";
        assert_eq!(refused(tls), Some(EndpointError::NoFiles(tls.to_owned())));
        for other in ["meta.example:1", "http://192.0.2.1:7420", "[2001:db8::1]:7420"] {
            assert_eq!(refused(other), Some(EndpointError::Plaintext(other.to_owned())), "{other}");
        }
        let none = MetadataClient::new::<&str>(&[], Policy::default()).err();
        assert_eq!(none, Some(EndpointError::None));
    }
}
