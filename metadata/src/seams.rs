//! Time and randomness, which enter the service by trait so that a simulation repeats.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// The time of this process. Never compared with the time of another host or another start.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment; never falls.
    fn now(&self) -> Duration;

    /// Wall clock in seconds since 1970-01-01 UTC: kept and shown for people, never compared.
    /// 0 where there is none.
    fn unix_seconds(&self) -> u64 {
        0
    }
}

/// Where new ids come from.
pub trait RandomIds: Send + Sync + 'static {
    /// 128 bits that nobody has had before.
    fn next(&self) -> u128;
}

/// The operating system's monotonic clock.
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock that begins now.
    #[allow(clippy::disallowed_methods, reason = "this is the driver that owns the clock")]
    #[must_use]
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the driver that owns the clock")]
    fn unix_seconds(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }
}

/// Random UUIDs from the operating system.
pub struct SystemIds;

impl RandomIds for SystemIds {
    fn next(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future of the service to its end on this thread, without any runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
