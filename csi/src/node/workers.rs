//! The driver's side of its workers.
//!
//! - A worker is waited for as long as it lives: nobody knows how far one has come that hangs.
//! - One that was killed has perhaps done its work: UNAVAILABLE.
//! - Workers are started by threads of the runtime, which live as long as the driver: the kernel
//!   kills a worker when the thread ends that has started it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tracing::debug;

use super::device::Device;
use super::text::said;
use super::worker::failure::Failure;
use super::worker::paths::beneath;
use super::worker::tools::Tool;
use super::worker::{FAILED, Order, Work};
use crate::errors::CsiError;

/// This program, also when its file was replaced since.
const PROGRAM: &str = "/proc/self/exe";

/// How a tool has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// What it has printed.
    pub printed: String,
    /// What it has said of errors, or else printed, for people.
    pub said: String,
}

/// Workers for paths beneath one root.
#[derive(Clone, Debug)]
pub struct Workers {
    root: PathBuf,
    /// The same without symlinks, as the mount table has it.
    real_root: PathBuf,
}

impl Workers {
    /// Workers for paths beneath this root.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        let real_root = root.canonicalize().unwrap_or_else(|_| root.clone());
        Self { root, real_root }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the mount table has what is mounted at a path: the root may be, or be beneath, a
    /// symlink of the host; nothing beneath it is one.
    #[must_use]
    pub fn mount_point(&self, path: &str) -> String {
        match beneath(&self.root, path) {
            Ok(rest) => self.real_root.join(rest).display().to_string(),
            Err(_) => path.to_owned(),
        }
    }

    /// Has a piece of work done, and gives its answer.
    ///
    /// # Errors
    /// As the worker says, or it was killed.
    pub async fn ask<T: DeserializeOwned>(&self, work: Work) -> Result<T, CsiError> {
        let output = self.order(work).await?;
        let stdout = &output.stdout;
        match code_of(&output)? {
            0 => serde_json::from_slice(stdout).map_err(|error| {
                CsiError::unavailable(format!("a worker has not answered as agreed: {error}"))
            }),
            _ => Err(unknown_end(&output)),
        }
    }

    /// Has a tool run on a device, and tells how it has ended.
    ///
    /// # Errors
    /// It cannot be started, or was killed.
    pub async fn run(&self, tool: Tool, device: &Device) -> Result<Ended, CsiError> {
        let output = self.order(Work::Run { tool, device: device.clone() }).await?;
        let code = code_of(&output)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = match said(&output.stderr) {
            nothing if nothing.is_empty() => said(&output.stdout),
            problem => problem,
        };
        Ok(Ended { code, printed, said })
    }

    async fn order(&self, work: Work) -> Result<Output, CsiError> {
        debug!(?work, "a worker starts");
        let order = Order { driver: std::process::id(), root: self.root.clone(), work };
        let text = serde_json::to_vec(&order)
            .map_err(|error| CsiError::internal(format!("cannot order a worker: {error}")))?;
        let failed = |error| CsiError::internal(format!("cannot start a worker: {error}"));
        let mut command = Command::new(PROGRAM);
        command.arg("worker").env_clear().env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut worker = command.spawn().map_err(failed)?;
        let mut stdin = worker.stdin.take().expect("its standard input is a pipe");
        let lost = |error| CsiError::unavailable(format!("a worker was lost: {error}"));
        // One that ends before it has read says why on its standard output.
        let _ = stdin.write_all(&text).await;
        drop(stdin);
        worker.wait_with_output().await.map_err(lost)
    }
}

/// The exit code of one that was not killed and has not failed as a worker.
fn code_of(output: &Output) -> Result<i32, CsiError> {
    let code = output.status.code().ok_or_else(|| unknown_end(output))?;
    if code != i32::from(FAILED) {
        return Ok(code);
    }
    match serde_json::from_slice::<Failure>(&output.stdout) {
        Ok(failure) => Err(failure.into()),
        Err(_) => Err(unknown_end(output)),
    }
}

fn unknown_end(output: &Output) -> CsiError {
    let said = said(&output.stderr);
    CsiError::unavailable(format!("a worker was stopped ({}): {said}", output.status))
}
