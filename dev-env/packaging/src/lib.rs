//! Checks of what is installed on Kubernetes: what the chart and kustomize render, and the tools
//! that render it.
//!
//! - A check takes objects and gives findings; none is no finding. It touches nothing, so each is
//!   tested with objects that have the fault.
//! - A tool that is missing is an error that names how to get it, never a check that passed.
//!
//! Deliberately absent: a cluster. Whether Kubernetes takes the objects is not known here.

pub mod checks;
pub mod objects;
pub mod pods;
pub mod tools;
