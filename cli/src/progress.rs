//! A line on the standard error while something takes longer than a person expects.
//!
//! - Nothing is shown before two seconds have passed.
//! - Without a terminal a plain line is written once, so that a log shows what is waited for.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::sleep;

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
        bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        bar.enable_steady_tick(TICK);
    } else {
        // A closed standard error must not end the work that is waited for.
        let _ = writeln!(io::stderr(), "{what} …");
    }
}
