//! A claim of Kubernetes: what it says of itself, and which of our volumes it is.

use lunar_types::VolumeId;
use serde_json::Value;

use super::Explanation;
use crate::kubernetes::{Claim, DRIVER, text};

/// Most words of Kubernetes that are repeated.
const EVENTS: usize = 3;

/// The volume of ours that a claim is bound to.
#[must_use]
pub fn volume_of(claim: &Claim) -> Option<VolumeId> {
    let volume = claim.volume.as_ref()?;
    let is_ours = text(volume, "/spec/csi/driver") == Some(DRIVER);
    let handle = text(volume, "/spec/csi/volumeHandle").filter(|_| is_ours)?;
    handle.parse().ok()
}

/// Explains a claim as far as Kubernetes knows it.
#[must_use]
pub fn of_claim(claim: &Claim) -> Explanation {
    let mut told = Explanation::default();
    told.fact("claim", format!("{}/{}", claim.namespace, claim.name));
    told.fact("phase", text(&claim.claim, "/status/phase").unwrap_or("not known"));
    if let Some(class) = text(&claim.claim, "/spec/storageClassName") {
        told.fact("storage class", class);
    }
    match &claim.volume {
        None => unbound(&mut told, claim),
        Some(volume) => bound(&mut told, claim, volume),
    }
    told
}

/// Explains that a volume is not there which a claim is bound to.
#[must_use]
pub fn of_lost(volume: VolumeId) -> Explanation {
    let mut told = Explanation::default();
    told.waits(
        format!("volume {volume}, which does not exist any more"),
        "a restore of the metadata from a backup, if it was deleted by mistake; otherwise delete \
         the claim",
    );
    told
}

fn unbound(told: &mut Explanation, claim: &Claim) {
    let newest = claim.events.iter().rev().take(EVENTS).rev();
    told.facts.extend(newest.map(|event| ("Kubernetes says", event.clone())));
    let (name, namespace) = (&claim.name, &claim.namespace);
    told.waits(
        "a volume: the provisioner makes one when it hears of the claim, or of the first pod that \
         has it where the class says WaitForFirstConsumer",
        format!(
            "'kubectl describe pvc {name} --namespace {namespace}', and the log of csi-provisioner \
             beside the controller"
        ),
    );
}

fn bound(told: &mut Explanation, claim: &Claim, volume: &Value) {
    let name = text(volume, "/metadata/name").unwrap_or_default();
    told.fact("persistent volume", name);
    let driver = text(volume, "/spec/csi/driver").unwrap_or("none: it is no CSI volume");
    if volume_of(claim).is_none() {
        told.fact("driver", format!("{driver}; the volume is none of Lunar's"));
        return;
    }
    if text(volume, "/metadata/deletionTimestamp").is_some() {
        told.waits(
            format!("persistent volume '{name}' to be deleted"),
            "nothing, once no pod has it and it is published nowhere",
        );
    }
    for attachment in &claim.attachments {
        attached(told, attachment);
    }
}

/// One VolumeAttachment: Kubernetes' wish that a node has the volume.
fn attached(told: &mut Explanation, attachment: &Value) {
    let node = text(attachment, "/spec/nodeName").unwrap_or("an unnamed node");
    let is_attached = attachment.pointer("/status/attached") == Some(&Value::Bool(true));
    let is_leaving = text(attachment, "/metadata/deletionTimestamp").is_some();
    let how = match (is_leaving, is_attached) {
        (true, _) => "wanted there no more",
        (false, true) => "attached",
        (false, false) => "not attached yet",
    };
    told.fact("Kubernetes wants it at", format!("node '{node}': {how}"));
    for (field, what) in [("attachError", "attach it"), ("detachError", "detach it")] {
        if let Some(why) = text(attachment, &format!("/status/{field}/message")) {
            told.waits(
                format!("the driver to {what} at node '{node}': {why}"),
                "what is said of the volume below; the log of the controller has every attempt",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Report as _;

    const ID: &str = "0b7e4a52-9f57-4d1f-8c6c-2a106fa1c2d4";

    fn claim() -> Claim {
        Claim {
            namespace: "shop".to_owned(),
            name: "db".to_owned(),
            claim: json!({
                "status": { "phase": "Pending" },
                "spec": { "storageClassName": "lunar-ext4" },
            }),
            ..Claim::default()
        }
    }

    fn bound_to(driver: &str, attachments: Vec<Value>) -> Claim {
        let volume = json!({
            "metadata": { "name": "pvc-1" },
            "spec": { "csi": { "driver": driver, "volumeHandle": ID } },
        });
        Claim { volume: Some(volume), attachments, ..claim() }
    }

    #[test]
    fn a_claim_without_a_volume_says_what_kubernetes_says() {
        let events = ["1", "2", "3", "waiting for a volume"].map(str::to_owned).to_vec();
        let told = of_claim(&Claim { events, ..claim() }).to_text();
        assert!(told.contains("shop/db") && told.contains("Pending"), "{told}");
        assert!(told.contains("waiting for a volume") && !told.contains("says 1"), "{told}");
        assert!(told.contains("kubectl describe pvc db --namespace shop"), "{told}");
    }

    #[test]
    fn a_volume_is_ours_by_driver_and_handle() {
        assert_eq!(volume_of(&bound_to(DRIVER, Vec::new())), ID.parse().ok());
        assert_eq!(volume_of(&bound_to("other.csi", Vec::new())), None);
        assert_eq!(volume_of(&claim()), None);
        let told = of_claim(&bound_to("other.csi", Vec::new())).to_text();
        assert!(told.contains("none of Lunar's") && told.contains("waits for nothing"), "{told}");
    }

    #[test]
    fn what_keeps_an_attachment_is_told_with_its_node() {
        let attachment = json!({
            "spec": { "nodeName": "n2" },
            "status": {
                "attached": false,
                "attachError": { "message": "volume is published to 'n1'" },
            },
        });
        let told = of_claim(&bound_to(DRIVER, vec![attachment])).to_text();
        assert!(told.contains("node 'n2': not attached yet"), "{told}");
        assert!(told.contains("attach it at node 'n2': volume is published to 'n1'"), "{told}");
        let leaving = json!({
            "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": "n1" },
            "status": { "attached": true },
        });
        let told = of_claim(&bound_to(DRIVER, vec![leaving])).to_text();
        assert!(told.contains("node 'n1': wanted there no more"), "{told}");
    }

    #[test]
    fn a_volume_that_is_gone_is_named() {
        let told = of_lost(ID.parse().expect("an id")).to_text();
        assert!(told.contains(ID) && told.contains("restore"), "{told}");
    }
}
