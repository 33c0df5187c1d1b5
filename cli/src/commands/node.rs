//! `lunar node`.

use std::time::Duration;

use lunar_metadata_client::{MetadataClient, fresh_request_id};
use lunar_proto::domain::{
    CertifyPoweredOff, DrainNode, FenceNode, Node, NodeState, Selector, UnfenceNode,
};
use lunar_types::Name;
use tokio::time::{Instant, sleep};

use super::Context;
use crate::args::{DrainArgs, FenceArgs, NodeCommand};
use crate::error::{CliError, Exit};
use crate::progress::Waiting;
use crate::views::fence::{AuditList, FenceList};
use crate::views::node::{NodeList, NodeView};

/// How often a node is looked at that is waited for.
const POLL: Duration = Duration::from_millis(500);
/// How long a fence is waited for before the command says what it waits for.
const FENCE_WAIT: Duration = Duration::from_secs(60);

pub(super) async fn run(command: &NodeCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    match command {
        NodeCommand::List => {
            let mut nodes = service.nodes().await?;
            nodes.sort_by(|left, right| left.name.cmp(&right.name));
            context.show(&NodeList::new(&nodes))
        }
        NodeCommand::Fence(args) => {
            let node = fence(&service, args).await?;
            context.show(&NodeView::from(&node))
        }
        NodeCommand::Unfence { node } => {
            let (request, node) = (fresh_request_id(), Selector::Name(node.clone()));
            let node = service.unfence_node(&UnfenceNode { request, node }).await?;
            context.show(&NodeView::from(&node))
        }
        NodeCommand::Drain(args) => drain(context, &service, args).await,
        NodeCommand::Undrain { node } => {
            let node = set_draining(&service, node, false).await?;
            context.show(&NodeView::from(&node))
        }
        NodeCommand::Fences => context.show(&FenceList::new(&service.fences().await?)),
        NodeCommand::Audit => context.show(&AuditList::new(&service.audit().await?)),
    }
}

async fn fence(service: &MetadataClient, args: &FenceArgs) -> Result<Node, CliError> {
    let (request, node) = (fresh_request_id(), Selector::Name(args.node.clone()));
    let reason = args.reason.clone();
    if let Some(confirm) = args.confirm.clone().filter(|_| args.certified_powered_off) {
        let certify = CertifyPoweredOff { request, node, confirm, reason };
        return Ok(service.certify_powered_off(&certify).await?);
    }
    let fence = FenceNode { request, node, reason, keeps_out: true };
    let node = service.fence_node(&fence).await?;
    wait_until_fenced(service, node, FENCE_WAIT).await
}

/// Waits until a node is cut off, for so long, and gives it as it is then.
pub(super) async fn wait_until_fenced(
    service: &MetadataClient,
    node: Node,
    limit: Duration,
) -> Result<Node, CliError> {
    let waiting = Waiting::on(&format!("cutting node '{}' off", node.name));
    let (by_id, begun) = (Selector::Id(node.id), Instant::now());
    let mut node = node;
    while node.state == NodeState::Fencing && begun.elapsed() < limit {
        sleep(POLL).await;
        node = service.node(&by_id).await?;
    }
    drop(waiting);
    Ok(node)
}

async fn set_draining(
    service: &MetadataClient,
    node: &Name,
    drains: bool,
) -> Result<Node, CliError> {
    let (request, node) = (fresh_request_id(), Selector::Name(node.clone()));
    Ok(service.drain_node(&DrainNode { request, node, drains }).await?)
}

async fn drain(
    context: &Context<'_>,
    service: &MetadataClient,
    args: &DrainArgs,
) -> Result<Exit, CliError> {
    let mut node = set_draining(service, &args.node, true).await?;
    if let Ok(daemon) = context.daemon().await
        && daemon.status().await?.node_name == args.node.as_str()
    {
        daemon.drain().await?;
    }
    let waiting = Waiting::on(&format!("draining node '{}'", args.node));
    let (by_id, begun) = (Selector::Id(node.id), Instant::now());
    loop {
        node = service.node(&by_id).await?;
        let left = node.attachments;
        if left == 0 {
            break;
        }
        if begun.elapsed() >= args.timeout {
            drop(waiting);
            return Err(still_holds(service, &node).await?);
        }
        waiting.update(format!("draining node '{}': it holds {left} volumes", args.node));
        sleep(POLL).await;
    }
    drop(waiting);
    context.show(&NodeView::from(&node))
}

async fn still_holds(service: &MetadataClient, node: &Node) -> Result<CliError, CliError> {
    let volumes = service.volumes().await?;
    let is_held = |holder: &lunar_proto::domain::Holder| holder.node.node == node.id;
    let held = volumes.iter().filter(|volume| volume.holder.as_ref().is_some_and(is_held));
    let names: Vec<String> = held.map(|volume| format!("'{}'", volume.name)).collect();
    let name = &node.name;
    let message = format!("node '{name}' still holds {}", names.join(", "));
    let advice = format!(
        "stop what uses them and run 'lunar volume detach' there; 'lunar node undrain {name}' \
         lets the node have volumes again"
    );
    Ok(CliError::new(Exit::Refused, "NODE_HOLDS_ATTACHMENTS", message).advise(advice))
}
