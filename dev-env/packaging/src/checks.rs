//! What has to hold of every rendering, whatever the values.
//!
//! Each check gives its findings as sentences for people; none is no finding.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::objects::{Object, Objects};
use crate::pods::{self, Container, Pods};

/// Containers without a limit of memory or processors: what they are killed or slowed for stops the
/// devices of their node.
const UNLIMITED: [&str; 1] = ["fs-core"];
/// Containers that may be privileged, each with its workload.
const PRIVILEGED: [(&str, &str); 2] =
    [("lunar-fs-core", "fs-core"), ("lunar-csi-node", "csi-driver")];
/// The pods that speak to the API server.
const WITH_TOKEN: [&str; 1] = ["lunar-csi-controller"];

/// Every check.
#[must_use]
pub fn findings(objects: &Objects) -> Vec<String> {
    let checks: [fn(&Objects) -> Vec<String>; 10] = [
        resources,
        images,
        service_accounts,
        roles,
        bindings,
        selectors,
        mounts,
        ports,
        privileges,
        contents,
    ];
    checks.iter().flat_map(|check| check(objects)).collect()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Every container says what it needs, and all but those that must not be stopped have a limit.
#[must_use]
pub fn resources(objects: &Objects) -> Vec<String> {
    let missing = |container: Container<'_>| {
        let resources = &container.spec["resources"];
        let limited = !UNLIMITED.contains(&container.name());
        let wanted = [
            ("request of cpu", &resources["requests"]["cpu"], true),
            ("request of memory", &resources["requests"]["memory"], true),
            ("limit of memory", &resources["limits"]["memory"], limited),
        ];
        let missing = wanted.into_iter().filter(|(_, value, wanted)| *wanted == value.is_null());
        let says = |what| match limited {
            true => format!("{container} has no {what}"),
            false => format!("{container} lacks a request or has a limit: see {what}"),
        };
        missing.map(|(what, _, _)| says(what)).collect::<Vec<_>>()
    };
    pods::containers(objects).flat_map(missing).collect()
}

/// Every image has a tag that does not move.
#[must_use]
pub fn images(objects: &Objects) -> Vec<String> {
    let moves = |container: &Container<'_>| {
        let name = container.image().rsplit('/').next().unwrap_or_default();
        name.split_once(':').is_none_or(|(_, tag)| tag.is_empty() || tag == "latest")
    };
    let moving = pods::containers(objects).filter(moves);
    moving.map(|container| format!("{container}: '{}' has no tag", container.image())).collect()
}

/// Every account that a pod uses is there, and only those who need it get a token.
#[must_use]
pub fn service_accounts(objects: &Objects) -> Vec<String> {
    let mut findings = Vec::new();
    for pods in pods::all(objects) {
        let account = pods.spec()["serviceAccountName"].as_str().unwrap_or("default");
        if objects.get("ServiceAccount", account).is_none() {
            findings.push(format!("{} uses the account '{account}': none", pods.workload));
        }
        let expected = Value::Bool(WITH_TOKEN.contains(&pods.workload.name()));
        if pods.spec()["automountServiceAccountToken"] != expected {
            findings.push(format!("{}: a token is not {expected}", pods.workload));
        }
    }
    findings
}

/// No rule has a wildcard, reads secrets, or lets anybody become more than he is.
#[must_use]
pub fn roles(objects: &Objects) -> Vec<String> {
    const NOT_GRANTED: [&str; 7] =
        ["*", "secrets", "pods/exec", "escalate", "bind", "impersonate", "deletecollection"];
    let roles = objects.of_kind("Role").chain(objects.of_kind("ClusterRole"));
    let rules = roles.flat_map(|role| {
        let rules = role.at("/rules").as_array().into_iter().flatten();
        rules.map(move |rule| (role, rule))
    });
    let granted = rules.flat_map(|(role, rule)| {
        let fields = ["apiGroups", "resources", "verbs", "nonResourceURLs"];
        fields.into_iter().flat_map(|field| strings(&rule[field])).map(move |word| (role, word))
    });
    let bad = granted.filter(|(_, word)| NOT_GRANTED.contains(word));
    bad.map(|(role, word)| format!("{role} grants '{word}'")).collect()
}

/// Every binding binds a role and accounts that are there, and every role is bound.
#[must_use]
pub fn bindings(objects: &Objects) -> Vec<String> {
    let mut findings = Vec::new();
    let mut bound = BTreeSet::new();
    let bindings = objects.of_kind("RoleBinding").chain(objects.of_kind("ClusterRoleBinding"));
    for binding in bindings {
        let (kind, name) = (binding.text("/roleRef/kind"), binding.text("/roleRef/name"));
        bound.insert((kind, name));
        if objects.get(kind, name).is_none() {
            findings.push(format!("{binding} binds {kind} '{name}': none"));
        }
        for subject in binding.at("/subjects").as_array().into_iter().flatten() {
            let name = subject["name"].as_str().unwrap_or_default();
            let account = objects.get("ServiceAccount", name);
            if account.is_none_or(|account| subject["namespace"] != account.namespace()) {
                findings.push(format!("{binding} is for the account '{name}': none"));
            }
        }
    }
    let roles = objects.of_kind("Role").chain(objects.of_kind("ClusterRole"));
    let unbound = roles.filter(|role| !bound.contains(&(role.kind(), role.name())));
    findings.extend(unbound.map(|role| format!("{role} is bound to nobody")));
    findings
}

/// The selector of an object that selects pods.
fn selector(object: &Object) -> Option<&Value> {
    let at = match object.kind() {
        "DaemonSet" | "Deployment" | "StatefulSet" | "PodDisruptionBudget" => {
            "/spec/selector/matchLabels"
        }
        "NetworkPolicy" => "/spec/podSelector/matchLabels",
        "Service" => "/spec/selector",
        _ => return None,
    };
    Some(object.at(at))
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let Some(selector) = selector.as_object() else { return false };
    !selector.is_empty() && selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Every selector finds the pods of one workload, and a workload's own finds its own.
#[must_use]
pub fn selectors(objects: &Objects) -> Vec<String> {
    let mut findings = Vec::new();
    for object in objects.iter() {
        let Some(selector) = selector(object) else { continue };
        let found = pods::all(objects).filter(|pods| selects(selector, pods.labels()));
        let found: Vec<_> = found.map(|pods| pods.workload).collect();
        let is_workload = !object.at("/spec/template").is_null();
        match found.as_slice() {
            [one] if !is_workload || *one == object => {}
            found => findings.push(format!("{object} selects pods of {} workloads", found.len())),
        }
    }
    findings
}

/// What is mounted is there, and what is there is mounted.
#[must_use]
pub fn mounts(objects: &Objects) -> Vec<String> {
    let check = |pods: Pods<'_>| {
        let volumes: BTreeSet<_> = pods.volumes().into_iter().collect();
        let mounts = pods.containers().flat_map(Container::mounts);
        let mounted: BTreeSet<_> = mounts.filter_map(|mount| mount["name"].as_str()).collect();
        let odd = volumes.symmetric_difference(&mounted);
        let says = |name| format!("{}: '{name}' is a volume or a mount alone", pods.workload);
        odd.map(says).collect::<Vec<_>>()
    };
    pods::all(objects).flat_map(check).collect()
}

/// Every port that is named is a port of a container.
#[must_use]
pub fn ports(objects: &Objects) -> Vec<String> {
    let mut findings = Vec::new();
    for container in pods::containers(objects) {
        let own = Pods { workload: container.workload }.ports();
        for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
            for how in ["httpGet", "tcpSocket"] {
                let port = container.spec[probe][how]["port"].as_str();
                findings.extend(missing_port(&container.to_string(), port, &own));
            }
        }
    }
    for service in objects.of_kind("Service") {
        let target = |pods: &Pods<'_>| selects(service.at("/spec/selector"), pods.labels());
        let own = pods::all(objects).find(target).map(Pods::ports).unwrap_or_default();
        for port in service.at("/spec/ports").as_array().into_iter().flatten() {
            findings.extend(missing_port(&service.to_string(), port["targetPort"].as_str(), &own));
        }
    }
    findings
}

fn missing_port(whose: &str, port: Option<&str>, own: &[&str]) -> Option<String> {
    let missing = port.filter(|port| !own.contains(port));
    missing.map(|port| format!("{whose} uses the port '{port}': no container has it"))
}

/// Only those are privileged who have to be; all others are left with nothing.
#[must_use]
pub fn privileges(objects: &Objects) -> Vec<String> {
    let mut findings = Vec::new();
    for container in pods::containers(objects) {
        let context = &container.spec["securityContext"];
        let may = PRIVILEGED.contains(&(container.workload.name(), container.name()));
        let is_privileged = context["privileged"] == true;
        let drops = strings(&context["capabilities"]["drop"]).any(|name| name == "ALL");
        let seccomp = context["seccompProfile"]["type"].as_str();
        let confined = drops && matches!(seccomp, Some("RuntimeDefault" | "Localhost"));
        match (is_privileged, may) {
            (true, true) => {}
            (true, false) => findings.push(format!("{container} is privileged")),
            (false, _) if !confined => findings.push(format!("{container} is not confined")),
            (false, _) => {}
        }
        if context["readOnlyRootFilesystem"] != true {
            findings.push(format!("{container} may write to its image"));
        }
    }
    findings
}

/// Everything is in one namespace, and no secret is part of a rendering.
#[must_use]
pub fn contents(objects: &Objects) -> Vec<String> {
    let namespaces: BTreeSet<_> =
        objects.iter().map(Object::namespace).filter(|name| !name.is_empty()).collect();
    let mut findings = Vec::new();
    if namespaces.len() > 1 {
        findings.push(format!("the objects are in several namespaces: {namespaces:?}"));
    }
    let secrets = objects.of_kind("Secret");
    findings.extend(secrets.map(|secret| format!("{secret} is a secret in a rendering")));
    findings
}

#[cfg(test)]
mod tests;
