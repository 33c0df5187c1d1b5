//! Lines for a person who waits: one when a step begins, and one every few seconds while it runs.

use std::io::{self, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(5);

/// Prints one line to standard error.
pub fn say(text: &str) {
    // A closed standard error must not end a lab.
    let _ = writeln!(io::stderr(), "lab: {text}");
}

#[allow(clippy::disallowed_methods, reason = "the lab is a driver: it measures real waits")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "the lab is a driver: it polls other processes")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}

/// A step under way; its end prints how long it took when that was long enough to notice.
pub(crate) struct Step {
    text: String,
    start: Instant,
    ticker: Option<(Sender<String>, JoinHandle<()>)>,
}

impl Step {
    /// Says that the step begins.
    pub(crate) fn begin(text: impl Into<String>) -> Self {
        let text = text.into();
        let start = now();
        say(&text);
        let (details, inbox) = channel::<String>();
        let name = text.clone();
        let ticker = thread::spawn(move || {
            let mut detail = String::new();
            loop {
                match inbox.recv_timeout(INTERVAL) {
                    Ok(news) => detail = news,
                    Err(RecvTimeoutError::Timeout) => {
                        say(&format!("{name}: {} s {detail}", start.elapsed().as_secs()));
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { text, start, ticker: Some((details, ticker)) }
    }

    /// Words for the next line.
    pub(crate) fn detail(&self, text: impl Into<String>) {
        if let Some((details, _)) = &self.ticker {
            let _ = details.send(text.into());
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some((details, ticker)) = self.ticker.take() {
            drop(details);
            let _ = ticker.join();
        }
        let taken = self.start.elapsed();
        if taken > Duration::from_secs(2) {
            let result = if thread::panicking() { "aborted" } else { "took" };
            say(&format!("{}: {result} {:.1} s", self.text, taken.as_secs_f64()));
        }
    }
}
