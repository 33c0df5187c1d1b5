//! The objects of a rendering: parsed, and found by kind and name.
//!
//! Two renderings of the same objects are equal here whatever the order of their lists of named
//! things: Kubernetes merges such lists by name.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// What names the members of a list, in the order in which it is looked for.
const LIST_KEYS: [&str; 3] = ["mountPath", "name", "containerPort"];

/// An object of Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(Value);

/// A rendering is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is no YAML.
    #[error("the rendering is no YAML")]
    Yaml(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A document is no object of Kubernetes.
    #[error("document {number} of the rendering has no {missing}: {text:.200}")]
    NoObject {
        /// Which one, from 1.
        number: usize,
        /// What every object has.
        missing: &'static str,
        /// The document.
        text: String,
    },
    /// Two objects are one.
    #[error("{0} is rendered twice")]
    Twice(String),
}

impl Object {
    /// Such as `Deployment`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Its namespace; empty where it has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    /// What is at a JSON pointer; null where nothing is.
    #[must_use]
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The text at a JSON pointer; empty where none is.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.kind(), self.name())
    }
}

/// The objects of a rendering, whatever its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects(BTreeMap<(String, String), Object>);

impl Objects {
    /// Parses documents of YAML.
    ///
    /// # Errors
    /// It is no YAML, a document is no object, or two are the same.
    pub fn parse(yaml: &str) -> Result<Self, ObjectError> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(yaml).map_err(|error| ObjectError::Yaml(error.into()))?;
        let mut objects = Self::default();
        let documents = documents.into_iter().enumerate().filter(|(_, value)| !value.is_null());
        for (index, document) in documents {
            objects.add(index + 1, document)?;
        }
        Ok(objects)
    }

    fn add(&mut self, number: usize, document: Value) -> Result<(), ObjectError> {
        let object = Object(in_order(document));
        let needed = [("apiVersion", "/apiVersion"), ("kind", "/kind"), ("name", "/metadata/name")];
        if let Some((missing, _)) = needed.iter().find(|(_, at)| object.text(at).is_empty()) {
            let text = object.0.to_string();
            return Err(ObjectError::NoObject { number, missing, text });
        }
        let key = (object.kind().to_owned(), object.name().to_owned());
        let named = object.to_string();
        match self.0.insert(key, object) {
            Some(_) => Err(ObjectError::Twice(named)),
            None => Ok(()),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.0.values()
    }

    /// All of a kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Object> {
        self.iter().filter(move |object| object.kind() == kind)
    }

    /// One, by kind and name.
    #[must_use]
    pub fn get(&self, kind: &str, name: &str) -> Option<&Object> {
        self.0.get(&(kind.to_owned(), name.to_owned()))
    }

    /// Kinds and names, for comparison.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.iter().map(Object::to_string).collect()
    }

    /// What `other` has, has not, or has otherwise; empty where both are the same.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let gone = self.0.keys().filter(|key| !other.0.contains_key(key));
        let gone = gone.map(|(kind, name)| format!("{kind} '{name}' is in the first alone"));
        let differs = |(key, object): (&(String, String), &Object)| match self.0.get(key) {
            None => Some(format!("{object} is in the second alone")),
            Some(ours) => differing_field(&ours.0, &object.0, String::new())
                .map(|(at, ours, theirs)| format!("{object} at {at}: {ours} and {theirs}")),
        };
        gone.chain(other.0.iter().filter_map(differs)).collect()
    }
}

/// The first field that differs: where, and both values.
fn differing_field(ours: &Value, theirs: &Value, at: String) -> Option<(String, String, String)> {
    if ours == theirs {
        return None;
    }
    let empty = Value::Null;
    let fields = match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let names = ours.keys().chain(theirs.keys());
            names.map(|name| (name.clone(), ours.get(name), theirs.get(name))).collect()
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            let range = 0..ours.len().max(theirs.len());
            range.map(|index| (index.to_string(), ours.get(index), theirs.get(index))).collect()
        }
        _ => Vec::new(),
    };
    let fields = fields.into_iter().map(|(name, ours, theirs)| {
        let at = format!("{at}/{name}");
        differing_field(ours.unwrap_or(&empty), theirs.unwrap_or(&empty), at)
    });
    fields.flatten().next().or_else(|| Some((at, ours.to_string(), theirs.to_string())))
}

/// The value with its lists of named things in the order of their names.
fn in_order(value: Value) -> Value {
    match value {
        Value::Array(members) => {
            let mut members: Vec<Value> = members.into_iter().map(in_order).collect();
            let key = LIST_KEYS.iter().find(|key| {
                !members.is_empty() && members.iter().all(|member| member.get(key).is_some())
            });
            if let Some(key) = key {
                members.sort_by_key(|member| member[key].to_string());
            }
            Value::Array(members)
        }
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, in_order(value))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(yaml: &str) -> Objects {
        Objects::parse(yaml).expect("it is a rendering")
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n";

    #[test]
    fn renderings_differ_by_content_and_not_by_the_order_of_named_things() {
        let one = parsed(&format!("{POD}    - {{name: a, image: x}}\n    - {{name: b}}\n"));
        let same = parsed(&format!("---\n{POD}    - {{name: b}}\n    - {{image: x, name: a}}\n"));
        let other = parsed(&format!("{POD}    - {{name: b}}\n    - {{image: z, name: a}}\n"));
        assert_eq!(one.differences(&same), [""; 0]);
        let found = one.differences(&other);
        assert_eq!(found, ["Pod 'p' at /spec/containers/0/image: \"x\" and \"z\""]);
    }

    #[test]
    fn what_one_rendering_lacks_is_named() {
        let one = parsed("apiVersion: v1\nkind: A\nmetadata: {name: one}\n");
        let other = parsed("apiVersion: v1\nkind: B\nmetadata: {name: one}\n");
        assert_eq!(one.differences(&other).len(), 2);
    }

    #[test]
    fn what_is_no_rendering_is_refused() {
        for yaml in ["a: [", "kind: A\n", "apiVersion: v1\nkind: A\nmetadata: {}\n", "- 1\n"] {
            assert!(Objects::parse(yaml).is_err(), "{yaml}");
        }
        let object = "apiVersion: v1\nkind: A\nmetadata: {name: one}\n";
        let twice = Objects::parse(&format!("{object}---\n{object}")).expect_err("twice");
        assert_eq!(twice.to_string(), "A 'one' is rendered twice");
    }

    #[test]
    fn empty_documents_are_none() {
        assert_eq!(parsed("---\n---\n# nothing\n").iter().count(), 0);
    }
}
