//! One call: how long it may take, and what it may not overlap with.
//!
//! Invariants:
//! - the metadata service is asked for no longer than the caller waits, so that the caller hears
//!   what is the matter and not only that time is over;
//! - the work of a call is a task of its own, which has its key until it has ended: a call that is
//!   cancelled does not let another one in while its last request is under way.

use std::future::Future;
use std::time::Duration;

use lunar_metadata_client::{MetadataClient, Policy};
use lunar_proto::domain::WAIT_MAX;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, warn};

use super::ids::shown;
use crate::errors::CsiError;
use crate::keyed_lock::KeyedLock;

/// The header in which a caller says how long it waits.
const TIMEOUT: &str = "grpc-timeout";
/// Of a caller that does not say.
const UNSAID: Duration = Duration::from_secs(15);
/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(120);
/// The most that is kept back for the answer.
const FOR_THE_ANSWER_MAX: Duration = Duration::from_millis(500);
/// The most that a call which waits leaves for its request to come and go.
const FOR_THE_WAY_MAX: Duration = Duration::from_secs(5);
/// The least that it leaves: a service under load answers late.
const FOR_THE_WAY_MIN: Duration = Duration::from_millis(250);
/// Less than this is not worth another wait.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// What a handler answers.
pub(super) type Answer<T> = Result<Response<T>, Status>;

/// How long the caller waits: at most eight digits and a unit.
fn timeout_of(headers: &MetadataMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    let of = |unit: Duration| Some(unit.saturating_mul(number));
    match unit {
        "H" => of(Duration::from_secs(3600)),
        "M" => of(Duration::from_secs(60)),
        "S" => of(Duration::from_secs(1)),
        "m" => of(Duration::from_millis(1)),
        "u" => of(Duration::from_micros(1)),
        "n" => of(Duration::from_nanos(1)),
        _ => None,
    }
}

/// What the work of one call has.
#[derive(Clone, Debug)]
pub(super) struct Call {
    client: MetadataClient,
    ends: Instant,
}

impl Call {
    fn new(client: &MetadataClient, headers: &MetadataMap) -> Self {
        let whole = timeout_of(headers).unwrap_or(UNSAID).min(LONGEST);
        let ends = Instant::now() + whole.saturating_sub((whole / 10).min(FOR_THE_ANSWER_MAX));
        Self { client: client.clone(), ends }
    }

    fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// The metadata service, asked for what is left of the time.
    pub(super) fn service(&self) -> MetadataClient {
        let policy = self.client.policy();
        self.client.with_policy(Policy { total: self.left().min(policy.total), ..policy })
    }

    /// The service, for a stream: its caller takes as long as he likes, each message has a time.
    pub(super) fn patient(&self) -> MetadataClient {
        self.client.clone()
    }

    /// The service, and how long it may be asked to wait; nothing when the time is over.
    pub(super) fn waiting(&self) -> Option<(MetadataClient, Duration)> {
        let (left, policy) = (self.left(), self.client.policy());
        let total = (left / 4).clamp(FOR_THE_WAY_MIN, FOR_THE_WAY_MAX);
        let wait = left.saturating_sub(total).min(WAIT_MAX);
        let client = self.client.with_policy(Policy { total, ..policy });
        (wait >= WAIT_MIN).then_some((client, wait))
    }
}

/// What all calls share.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    client: MetadataClient,
    locks: KeyedLock,
    alpha: bool,
}

impl Controller {
    /// With `alpha` it claims what is alpha too.
    pub(super) fn new(client: MetadataClient, alpha: bool) -> Self {
        Self { client, locks: KeyedLock::default(), alpha }
    }

    pub(super) const fn claims_alpha(&self) -> bool {
        self.alpha
    }

    /// Starts a call that has no key: it changes nothing.
    pub(super) fn begin<M>(&self, request: &Request<M>) -> Call {
        Call::new(&self.client, request.metadata())
    }

    /// Does what a call asks for.
    pub(super) async fn look<M, A, F, Fut>(&self, request: Request<M>, body: F) -> Answer<A>
    where
        F: FnOnce(Call, M) -> Fut,
        Fut: Future<Output = Result<A, CsiError>>,
    {
        let call = self.begin(&request);
        answered(body(call, request.into_inner()).await)
    }

    /// Does what a call asks for, one at a time for each key.
    pub(super) async fn work<M, A, F, Fut>(
        &self,
        request: Request<M>,
        key: String,
        body: F,
    ) -> Answer<A>
    where
        A: Send + 'static,
        F: FnOnce(Call, M) -> Fut,
        Fut: Future<Output = Result<A, CsiError>> + Send + 'static,
    {
        let held = self.locks.try_lock([key]).map_err(|key| {
            let key = shown(&key);
            CsiError::aborted(format!("another call for {key} is under way: ask again later"))
        })?;
        let call = self.begin(&request);
        let work = body(call, request.into_inner());
        let task = tokio::spawn(async move {
            let outcome = work.await;
            drop(held);
            outcome
        });
        match task.await {
            Ok(outcome) => answered(outcome),
            Err(panic) => {
                warn!(%panic, "a call broke an assertion of the driver");
                Err(CsiError::unavailable("the driver broke an assertion: see its log").into())
            }
        }
    }
}

fn answered<A>(outcome: Result<A, CsiError>) -> Answer<A> {
    match outcome {
        Ok(answer) => Ok(Response::new(answer)),
        Err(error) => {
            match error.code {
                Code::Internal | Code::Unavailable | Code::DataLoss => {
                    warn!(code = ?error.code, "not done: {error}");
                }
                _ => debug!(code = ?error.code, "refused: {error}"),
            }
            Err(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<Duration> {
        let mut headers = MetadataMap::new();
        headers.insert(TIMEOUT, text.parse().expect("a header"));
        timeout_of(&headers)
    }

    #[test]
    fn the_time_of_a_caller_is_read_as_grpc_writes_it() {
        assert_eq!(told("15S"), Some(Duration::from_secs(15)));
        assert_eq!(told("2M"), Some(Duration::from_secs(120)));
        assert_eq!(told("250m"), Some(Duration::from_millis(250)));
        assert_eq!(told("99999999H"), Some(Duration::from_secs(3600) * 99_999_999));
        for odd in ["", "S", "15", "-1S", "999999999S", "1.5S", "15s"] {
            assert_eq!(told(odd), None, "{odd}");
        }
        assert_eq!(timeout_of(&MetadataMap::new()), None);
    }

    async fn call(timeout: &str) -> Call {
        let client = MetadataClient::new(&["127.0.0.1:1"], Policy::default()).expect("one");
        let mut request = Request::new(());
        request.metadata_mut().insert(TIMEOUT, timeout.parse().expect("a header"));
        Controller::new(client, false).begin(&request)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_asks_no_longer_than_its_caller_waits() {
        let call = call("10S").await;
        assert_eq!(call.service().policy().total, Duration::from_millis(9500));
        let (client, wait) = call.waiting().expect("there is time");
        assert!(client.policy().total + wait <= Duration::from_millis(9500));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(call.service().policy().total, Duration::from_millis(500));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(call.waiting().is_none());
    }

    #[tokio::test]
    async fn a_cancelled_call_keeps_its_key_until_its_work_has_ended() {
        let client = MetadataClient::new(&["127.0.0.1:1"], Policy::default()).expect("one");
        let controller = Controller::new(client, false);
        let key = || "volume v".to_owned();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let first = controller.work(Request::new(()), key(), |_, ()| async move {
            ended.await.expect("it is told to end");
            Ok(())
        });
        let cancelled = tokio::time::timeout(Duration::from_millis(20), first).await;
        assert!(cancelled.is_err(), "it was under way");
        let second = || controller.work(Request::new(()), key(), |_, ()| async { Ok(()) });
        let refused = second().await.expect_err("the key is taken");
        assert_eq!(refused.code(), Code::Aborted);
        end.send(()).expect("it still goes on");
        for _ in 0..100 {
            match second().await {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("the key was never given back");
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_key_back_and_says_nothing_of_what_it_did() {
        let client = MetadataClient::new(&["127.0.0.1:1"], Policy::default()).expect("one");
        let controller = Controller::new(client, false);
        for _ in 0..2 {
            let work = controller.work(Request::new(()), "k".to_owned(), |_, ()| async {
                let nothing: Option<()> = None;
                nothing.ok_or_else(|| panic!("on purpose"))
            });
            assert_eq!(work.await.expect_err("it fails").code(), Code::Unavailable);
        }
    }
}
