//! What Kubernetes says of a claim, asked through `kubectl` with whatever rights the caller has.
//!
//! Deliberately absent: any change. What is asked for is read, and once.

use std::io;

use serde_json::Value;
use tokio::process::Command;

use crate::error::{CliError, Exit};

/// The name of our driver in Kubernetes.
pub const DRIVER: &str = "csi.lunar.storage";

/// A claim, and what belongs to it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The PersistentVolumeClaim.
    pub claim: Value,
    /// The PersistentVolume that it is bound to.
    pub volume: Option<Value>,
    /// The VolumeAttachments of that.
    pub attachments: Vec<Value>,
    /// What was said of the claim, the newest last.
    pub events: Vec<String>,
}

/// The text at a JSON pointer.
#[must_use]
pub fn text<'v>(value: &'v Value, at: &str) -> Option<&'v str> {
    value.pointer(at).and_then(Value::as_str)
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.pointer("/items").and_then(Value::as_array).into_iter().flatten()
}

/// Runs kubectl for its JSON.
async fn kubectl(what: &str, arguments: &[&str]) -> Result<Value, CliError> {
    let output = Command::new("kubectl").args(arguments).args(["-o", "json"]).output().await;
    let output = output.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => {
                "install kubectl, or ask for the volume: 'lunar explain volume'"
            }
            _ => "see that kubectl can be run",
        };
        let message = format!("cannot look up {what}: kubectl cannot be started: {error}");
        CliError::new(Exit::Failed, "KUBECTL_NOT_STARTED", message).advise(advice)
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        let (exit, reason) = match said.contains("(NotFound)") {
            true => (Exit::NotFound, "NOT_IN_KUBERNETES"),
            false => (Exit::Unavailable, "KUBECTL_FAILED"),
        };
        let message = format!("cannot look up {what}: {said}");
        let advice = "see that kubectl reaches the cluster, and the namespace (--namespace)";
        return Err(CliError::new(exit, reason, message).advise(advice));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let message = format!("cannot look up {what}: kubectl has not printed JSON: {error}");
        CliError::new(Exit::Failed, "KUBECTL_FAILED", message)
    })
}

/// Asks for a claim; in the namespace of kubectl's context unless one is named.
///
/// # Errors
/// kubectl cannot be run, does not reach the cluster, or there is no such claim.
pub async fn claim(name: &str, namespace: Option<&str>) -> Result<Claim, CliError> {
    let within: Vec<&str> = namespace.into_iter().flat_map(|name| ["--namespace", name]).collect();
    let what = format!("claim '{name}'");
    let arguments = [&["get", "persistentvolumeclaim", name][..], &within].concat();
    let claim = kubectl(&what, &arguments).await?;
    let namespace = text(&claim, "/metadata/namespace").unwrap_or_default().to_owned();
    let field = format!("involvedObject.kind=PersistentVolumeClaim,involvedObject.name={name}");
    let arguments = ["get", "events", "--namespace", &namespace, "--field-selector", &field];
    // They help, and are not always to be read by who may read claims.
    let events = kubectl("events of the claim", &arguments).await.unwrap_or_default();
    let events = items(&events).filter_map(|event| text(event, "/message")).map(str::to_owned);
    let mut found =
        Claim { namespace, name: name.to_owned(), events: events.collect(), ..Claim::default() };
    if let Some(bound) = text(&claim, "/spec/volumeName") {
        let what = format!("persistent volume '{bound}'");
        found.volume = Some(kubectl(&what, &["get", "persistentvolume", bound]).await?);
        let all = kubectl("volume attachments", &["get", "volumeattachments"]).await?;
        let is_its = |it: &&Value| text(it, "/spec/source/persistentVolumeName") == Some(bound);
        found.attachments = items(&all).filter(is_its).cloned().collect();
    }
    found.claim = claim;
    Ok(found)
}
