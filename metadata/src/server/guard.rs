//! The one place where a call is let in or refused by who makes it: before any handler.
//!
//! Invariants:
//! - a call passes only when `proto::roles` has a row for its path with the caller's role; on a
//!   loopback door without TLS, where there are no roles, when it has a row at all;
//! - who calls is the peer of the connection: nothing of the request but its path is looked at;
//! - a certificate is looked at with each call: its time, whether it is revoked, and whether its
//!   authority is still trusted, so connections that were made before a change are reached too.
//!
//! Deliberately absent: which node a node may speak for, which its handler compares.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use lunar_identity::{Distrust, Peer, ServerTls};
use lunar_proto::domain::CertSerial;
use lunar_proto::error::{ErrorReason, ErrorReport, Facts};
use lunar_proto::roles::{Role, callers_of};
use tonic::body::Body;
use tonic::codegen::http::{Extensions, Request, Response};
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service as Call};
use tracing::warn;

use super::identity::{Identity, NodeScope};
use crate::service::Service;

/// How connections come in.
#[derive(Clone)]
pub(super) enum Door {
    /// From this host, without TLS: everything is allowed.
    Loopback,
    /// Over TLS: the certificate says who it is.
    Tls(Arc<ServerTls>),
}

/// Lets calls in or refuses them.
pub(super) struct Guard<S> {
    service: Arc<Service<S>>,
    door: Door,
}

impl<S> Clone for Guard<S> {
    fn clone(&self) -> Self {
        Self { service: Arc::clone(&self.service), door: self.door.clone() }
    }
}

fn report(reason: ErrorReason, message: String, facts: &[(&str, String)]) -> ErrorReport {
    let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    ErrorReport { reason, message, facts: facts.collect::<Facts>() }
}

#[allow(clippy::disallowed_methods, reason = "certificates are valid by the time of day")]
fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // Before 1970 no certificate is valid.
    since.map_or(0, |since| since.as_secs())
}

/// What a role lets a handler do; the table has said before which handlers it reaches.
fn identity_of(role: Role, name: &lunar_types::Name) -> Identity {
    let actor = format!("{role}/{name}");
    match role.is_node() {
        true => Identity { admin: false, nodes: NodeScope::Only(name.clone()), actor },
        false => Identity { admin: role != Role::Metadata, nodes: NodeScope::None, actor },
    }
}

fn distrusted(distrust: &Distrust, serial: Option<&CertSerial>) -> ErrorReport {
    let reason = match distrust {
        Distrust::Nameless(_) => ErrorReason::NoIdentity,
        Distrust::OutOfTime | Distrust::Authority => ErrorReason::CertificateExpired,
    };
    let serial = serial.map(|serial| ("serial", serial.to_string()));
    report(reason, distrust.to_string(), serial.as_slice())
}

impl<S: crate::store::MetaStore> Guard<S> {
    pub(super) fn new(service: Arc<Service<S>>, door: Door) -> Self {
        Self { service, door }
    }

    /// Who makes a call of this path on a connection with these facts.
    fn admit(&self, path: &str, connection: &Extensions) -> Result<Identity, ErrorReport> {
        match &self.door {
            Door::Loopback => admit_local(path, connection),
            Door::Tls(tls) => {
                let peer = connection.get::<Arc<Peer>>().ok_or_else(|| {
                    let message = "the connection has no certificate".to_owned();
                    report(ErrorReason::NoIdentity, message, &[])
                })?;
                self.admit_peer(path, tls, peer)
            }
        }
    }

    fn admit_peer(
        &self,
        path: &str,
        tls: &ServerTls,
        peer: &Peer,
    ) -> Result<Identity, ErrorReport> {
        let serial = peer.facts().as_ref().ok().map(|facts| &facts.serial);
        let facts = tls.still_trusts(peer, unix_seconds());
        let facts = facts.map_err(|distrust| distrusted(&distrust, serial))?;
        let (name, serial) = (&facts.name, &facts.serial);
        let cluster = self.service.cluster().id;
        if name.cluster != cluster {
            let message =
                format!("the certificate of {name} is of another cluster: this is {cluster}");
            let known = [("cluster", cluster.to_string())];
            let given = [("cluster_given", name.cluster.to_string())];
            return Err(report(ErrorReason::OtherCluster, message, &[known, given].concat()));
        }
        if self.service.is_revoked(serial) {
            let message = format!(
                "the certificate of {name} with the serial number {serial} was revoked: issue \
                 another one"
            );
            let facts = [("serial", serial.to_string())];
            return Err(report(ErrorReason::CertificateRevoked, message, &facts));
        }
        if !callers_of(path).contains(&name.role) {
            let role = name.role;
            let message = format!("the role {role} may not call {path}: the certificate is {name}");
            return Err(report(ErrorReason::NotPermitted, message, &[("role", role.to_string())]));
        }
        Ok(identity_of(name.role, &name.name))
    }
}

fn admit_local(path: &str, connection: &Extensions) -> Result<Identity, ErrorReport> {
    let peer = connection.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    if !peer.is_some_and(|peer| peer.ip().is_loopback()) {
        let message = "only connections from this host are served without TLS".to_owned();
        return Err(report(ErrorReason::NoIdentity, message, &[]));
    }
    if callers_of(path).is_empty() {
        let message = format!("nobody may call {path}");
        return Err(report(ErrorReason::NotPermitted, message, &[]));
    }
    Ok(Identity::loopback())
}

impl<S: crate::store::MetaStore, T> Layer<T> for Guard<S> {
    type Service = Guarded<S, T>;

    fn layer(&self, inner: T) -> Guarded<S, T> {
        Guarded { guard: self.clone(), inner }
    }
}

/// What stands behind a guard.
pub(super) struct Guarded<S, T> {
    guard: Guard<S>,
    inner: T,
}

impl<S, T: Clone> Clone for Guarded<S, T> {
    fn clone(&self) -> Self {
        Self { guard: self.guard.clone(), inner: self.inner.clone() }
    }
}

impl<S, T> Call<Request<Body>> for Guarded<S, T>
where
    S: crate::store::MetaStore,
    T: Call<Request<Body>, Response = Response<Body>>,
    T::Error: Send + 'static,
    T::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, T::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), T::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.guard.admit(request.uri().path(), request.extensions()) {
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => {
                warn!(reason = %refusal.reason, "call refused: {}", refusal.message);
                Box::pin(ready(Ok(refusal.to_status().into_http())))
            }
        }
    }
}
