//! Who a connection speaks for, and what it may ask.
//!
//! Which calls a role may make at all the guard has decided before, by the table `proto::roles`.
//! What is left to the handlers is here: whether a call is one of a node, and of which.

use lunar_proto::error::{ErrorReason, ErrorReport, Facts};
use lunar_types::Name;
use tonic::{Request, Status};

/// Which nodes a connection may speak for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeScope {
    /// None.
    None,
    /// The node of this name.
    Only(Name),
    /// Every node.
    Any,
}

/// Who a connection speaks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Whether it may ask for what is not a node's own: as far as the table of roles goes.
    pub admin: bool,
    /// Which nodes it may speak for.
    pub nodes: NodeScope,
    /// What the audit calls it.
    pub actor: String,
}

fn refuse(reason: ErrorReason, message: &str) -> Status {
    ErrorReport { reason, message: message.to_owned(), facts: Facts::new() }.to_status()
}

impl Identity {
    /// A connection from this host: everything.
    #[must_use]
    pub fn loopback() -> Self {
        let actor = "somebody on the service's host".to_owned();
        Self { admin: true, nodes: NodeScope::Any, actor }
    }

    /// The identity that the transport gave a request.
    pub(super) fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        request
            .extensions()
            .get()
            .ok_or_else(|| refuse(ErrorReason::NoIdentity, "the connection has no identity"))
    }

    /// Refuses a request whose connection may not administer; says whose it is that may.
    pub(super) fn require_admin<T>(request: &Request<T>) -> Result<&Self, Status> {
        let identity = Self::of(request)?;
        if identity.admin {
            return Ok(identity);
        }
        Err(refuse(ErrorReason::NotPermitted, "this needs the identity of an administrator"))
    }

    /// The one node that the connection speaks for, if it is not free to choose.
    pub(super) fn only_node(&self) -> Option<Option<Name>> {
        match &self.nodes {
            NodeScope::Any => None,
            NodeScope::None => Some(None),
            NodeScope::Only(name) => Some(Some(name.clone())),
        }
    }

    /// Refuses a node other than the one that the connection speaks for.
    pub(super) fn require_node_name(
        &self,
        asked: &Name,
        allowed: &Option<Name>,
    ) -> Result<(), Status> {
        if allowed.as_ref() == Some(asked) {
            return Ok(());
        }
        let message = format!("the connection does not speak for node '{asked}'");
        Err(refuse(ErrorReason::NotPermitted, &message))
    }

    /// Refuses a join under a name that the connection does not speak for.
    pub(super) fn require_join(&self, asked: &Name) -> Result<(), Status> {
        match self.only_node() {
            None => Ok(()),
            Some(allowed) => self.require_node_name(asked, &allowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn request(identity: Option<Identity>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(identity) = identity {
            request.extensions_mut().insert(identity);
        }
        request
    }

    fn reason<T: std::fmt::Debug>(refused: Result<T, Status>) -> ErrorReason {
        ErrorReport::from_status(&refused.expect_err("refused")).expect("ours").reason
    }

    #[test]
    fn a_request_without_identity_is_refused() {
        assert_eq!(reason(Identity::of(&request(None))), ErrorReason::NoIdentity);
        assert_eq!(reason(Identity::require_admin(&request(None))), ErrorReason::NoIdentity);
    }

    #[test]
    fn a_node_is_no_administrator_and_speaks_for_itself_alone() {
        let node =
            Identity { admin: false, nodes: NodeScope::Only(name("a")), actor: "a".to_owned() };
        let of_node = request(Some(node.clone()));
        assert_eq!(reason(Identity::require_admin(&of_node)), ErrorReason::NotPermitted);
        assert!(node.require_join(&name("a")).is_ok());
        assert_eq!(reason(node.require_join(&name("b"))), ErrorReason::NotPermitted);
        let nobody = Identity { admin: true, nodes: NodeScope::None, actor: "b".to_owned() };
        assert_eq!(reason(nobody.require_join(&name("a"))), ErrorReason::NotPermitted);
        assert!(Identity::require_admin(&request(Some(nobody))).is_ok());
        assert!(Identity::loopback().require_join(&name("b")).is_ok());
    }
}
