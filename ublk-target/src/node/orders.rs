//! Orders to cut others off, each tried until it is carried out or not given any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::FenceOrder;
use tracing::warn;

use super::{Node, UNPOISONED};
use crate::lun::inspect::with_causes;

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// What this node is to do to others.
#[derive(Default)]
pub(super) struct Orders {
    /// As they were given last.
    given: BTreeSet<FenceOrder>,
    /// Those that a task is at.
    taken: BTreeSet<FenceOrder>,
}

impl Node {
    /// Takes up the orders that nobody here is at yet.
    pub(super) fn follow_orders(self: &Arc<Self>, given: &[FenceOrder]) {
        let fresh: Vec<FenceOrder> = {
            let mut orders = self.orders.lock().expect(UNPOISONED);
            orders.given = given.iter().copied().collect();
            let fresh: Vec<_> = orders.given.difference(&orders.taken).copied().collect();
            orders.taken.extend(&fresh);
            fresh
        };
        for order in fresh {
            let node = Arc::clone(self);
            tokio::spawn(async move { node.carry_out(order).await });
        }
    }

    async fn carry_out(&self, order: FenceOrder) {
        while self.is_given(order) {
            let Some(station) = self.station(order.lun) else {
                warn!(victim = %order.victim, lun = %order.lun, "told to fence at an unknown LUN");
                break;
            };
            match station.carry_out(order).await {
                Ok(_) => break,
                Err(problem) => {
                    let why = with_causes(&problem);
                    warn!(victim = %order.victim, lun = %order.lun, why, "not cut off yet");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
        self.orders.lock().expect(UNPOISONED).taken.remove(&order);
    }

    fn is_given(&self, order: FenceOrder) -> bool {
        self.orders.lock().expect(UNPOISONED).given.contains(&order)
    }
}
