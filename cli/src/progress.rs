//! A line on the standard error while something takes longer than a person expects.
//!
//! - Nothing is shown before two seconds have passed.
//! - Without a terminal a plain line is written once, so that a log shows what is waited for.
//! - For programs, bytes that are moved are one line of JSON at the beginning, one every second and
//!   one at the end.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::args::OutputFormat;

const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(200);

/// What is waited for, shown until it is dropped.
#[derive(Debug)]
pub struct Waiting {
    bar: ProgressBar,
    shower: JoinHandle<()>,
}

impl Waiting {
    /// Starts waiting for `what`, such as "attaching volume 'a'". Needs a tokio runtime.
    #[must_use]
    pub fn on(what: &str) -> Self {
        let bar = ProgressBar::hidden();
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        bar.set_style(style.expect("the template is well-formed"));
        bar.set_message(what.to_owned());
        let shower = tokio::spawn(show_later(bar.clone(), what.to_owned()));
        Self { bar, shower }
    }

    /// Says how far it is.
    pub fn update(&self, what: String) {
        self.bar.set_message(what);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shower.abort();
        self.bar.finish_and_clear();
    }
}

async fn show_later(bar: ProgressBar, what: String) {
    sleep(PATIENCE).await;
    if io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(TICK);
    } else {
        // A closed standard error must not end the work that is waited for.
        let _ = writeln!(io::stderr(), "{what} …");
    }
}

const TELL: Duration = Duration::from_secs(1);
const BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// Bytes that are moved, shown until it is dropped.
#[derive(Debug)]
pub struct Moving {
    told: Told,
    shower: JoinHandle<()>,
}

/// What is shown, and where.
#[derive(Clone, Debug)]
struct Told {
    what: String,
    total: u64,
    moved: Arc<AtomicU64>,
    format: OutputFormat,
    bar: ProgressBar,
}

impl Moving {
    /// Starts to show how many of `total` bytes were moved. Needs a tokio runtime.
    #[must_use]
    pub fn of(what: &str, total: u64, format: OutputFormat) -> Self {
        let bar = match format == OutputFormat::Table && io::stderr().is_terminal() {
            true => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template(BAR);
        bar.set_style(style.expect("the template is well-formed"));
        bar.set_message(what.to_owned());
        let (what, moved) = (what.to_owned(), Arc::default());
        let told = Told { what, total, moved, format, bar };
        told.tell();
        let shower = tokio::spawn(show_moving(told.clone()));
        Self { told, shower }
    }

    /// Where the bytes are counted.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.told.moved)
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.shower.abort();
        self.told.tell();
        self.told.bar.finish_and_clear();
    }
}

impl Told {
    fn tell(&self) {
        let moved = self.moved.load(Ordering::Relaxed);
        self.bar.set_position(moved);
        if self.format == OutputFormat::Json {
            let Self { what, total, .. } = self;
            let line = json!({
                "progress": { "what": what, "moved_bytes": moved, "total_bytes": total }
            });
            // A closed standard error must not end the work that is shown.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}

async fn show_moving(told: Told) {
    if told.format == OutputFormat::Table && !io::stderr().is_terminal() {
        sleep(PATIENCE).await;
        let _ = writeln!(io::stderr(), "{} …", told.what);
    }
    let pause = if told.format == OutputFormat::Json { TELL } else { TICK };
    loop {
        sleep(pause).await;
        told.tell();
    }
}
