//! The part of the driver that runs on every node: attaches through fs-core, makes file systems,
//! mounts. It keeps no state: what is there is known to fs-core and to the kernel.
//!
//! - `service` checks calls and gives each a task with the keys of its volume; `stage`, `publish`,
//!   `unstage` and `expand` are what those tasks do.
//! - `trim` works by itself, with the same keys.
//! - `worker` is another process: whatever touches a device, a path or a mount is done there.

pub mod capability;
pub mod daemon;
pub mod device;
pub mod expand;
pub mod format;
pub mod options;
pub mod publish;
pub mod request;
pub mod service;
pub mod stage;
pub mod text;
pub mod trim;
pub mod unstage;
pub mod worker;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use lunar_proto::csi::identity_server::IdentityServer;
use lunar_proto::csi::node_server::NodeServer;
use tonic::service::Routes;

use crate::args::NodeArgs;
use crate::identity::IdentityService;
use crate::keyed_lock::KeyedLock;
use crate::server::serve;

use self::daemon::Daemon;
use self::service::NodeService;
use self::stage::Node;
use self::workers::Workers;

/// Serves until SIGTERM.
///
/// # Errors
/// The arguments cannot be what they say, or the socket cannot be served.
pub async fn run(arguments: &NodeArgs) -> Result<(), Box<dyn std::error::Error>> {
    let socket = arguments.socket.clone();
    let is_ready = Arc::new(move || {
        let socket = socket.clone();
        Box::pin(async move { tokio::net::UnixStream::connect(socket).await.is_ok() }) as _
    });
    let identity = IdentityServer::new(IdentityService::new(is_ready));
    let daemon = Daemon::at(&arguments.socket)?;
    let workers = Workers::new(arguments.kubelet_root.clone());
    let (node, locks) = (Node { daemon, workers }, KeyedLock::default());
    if arguments.trim_seconds > 0 {
        let every = Duration::from_secs(arguments.trim_seconds);
        tokio::spawn(trim::keep_trimming(node.clone(), locks.clone(), every));
    }
    let node = NodeServer::new(NodeService::new(node, locks));
    let services = Routes::new(identity).add_service(node);
    Ok(serve(&arguments.serve.endpoint, services).await?)
}
