//! The pods that a rendering makes, with their containers, mounts and ports.

use serde_json::Value;

use crate::objects::{Object, Objects};

/// What makes pods.
const WORKLOADS: [&str; 3] = ["DaemonSet", "Deployment", "StatefulSet"];

/// The pods of one workload.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'a> {
    /// What makes them.
    pub workload: &'a Object,
}

/// One container of them.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// The workload.
    pub workload: &'a Object,
    /// The container.
    pub spec: &'a Value,
}

/// The pods of all workloads.
pub fn all(objects: &Objects) -> impl Iterator<Item = Pods<'_>> {
    let made = objects.iter().filter(|object| WORKLOADS.contains(&object.kind()));
    made.map(|workload| Pods { workload })
}

/// All containers of all pods, those for initialisation too.
pub fn containers(objects: &Objects) -> impl Iterator<Item = Container<'_>> {
    all(objects).flat_map(Pods::containers)
}

fn members(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn name_of(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

impl<'a> Pods<'a> {
    /// Their specification.
    #[must_use]
    pub fn spec(self) -> &'a Value {
        self.workload.at("/spec/template/spec")
    }

    /// Their labels.
    #[must_use]
    pub fn labels(self) -> &'a Value {
        self.workload.at("/spec/template/metadata/labels")
    }

    /// Their containers, those for initialisation too.
    pub fn containers(self) -> impl Iterator<Item = Container<'a>> {
        let spec = self.spec();
        let all = members(&spec["initContainers"]).chain(members(&spec["containers"]));
        all.map(move |spec| Container { workload: self.workload, spec })
    }

    /// One container, by name.
    #[must_use]
    pub fn container(self, name: &str) -> Option<Container<'a>> {
        self.containers().find(|container| container.name() == name)
    }

    /// The names of their volumes, with those that are made of claims.
    #[must_use]
    pub fn volumes(self) -> Vec<&'a str> {
        let claims = members(self.workload.at("/spec/volumeClaimTemplates"));
        let claims = claims.map(|claim| name_of(&claim["metadata"]));
        members(&self.spec()["volumes"]).map(name_of).chain(claims).collect()
    }

    /// One volume, by name.
    #[must_use]
    pub fn volume(self, name: &str) -> Option<&'a Value> {
        members(&self.spec()["volumes"]).find(|volume| name_of(volume) == name)
    }

    /// The names of the ports of their containers.
    #[must_use]
    pub fn ports(self) -> Vec<&'a str> {
        self.containers()
            .flat_map(|container| members(&container.spec["ports"]))
            .map(name_of)
            .collect()
    }
}

impl<'a> Container<'a> {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'a str {
        name_of(self.spec)
    }

    /// Its image.
    #[must_use]
    pub fn image(self) -> &'a str {
        self.spec["image"].as_str().unwrap_or_default()
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(self) -> Vec<&'a str> {
        members(&self.spec["args"]).filter_map(Value::as_str).collect()
    }

    /// What it mounts.
    pub fn mounts(self) -> impl Iterator<Item = &'a Value> {
        members(&self.spec["volumeMounts"])
    }

    /// What it mounts at a path.
    #[must_use]
    pub fn mount_at(self, path: &str) -> Option<&'a Value> {
        self.mounts().find(|mount| mount["mountPath"] == path)
    }
}

impl std::fmt::Display for Container<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "container '{}' of {}", self.name(), self.workload)
    }
}
