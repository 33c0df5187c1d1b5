//! Taking a volume: from a device that waits to one that serves.
//!
//! Order: record says `taking` → LUNs, stale journals, journal, dirty table → the waiting queues
//! end, the driver has every request → record says `live` → queues of the engine.
//!
//! Whatever fails is recovered as after a kill: under `taking` nothing was written, the volume is
//! given back and the device waits again.

use std::sync::Arc;

use lunar_proto::domain::Attachment;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::attach::{blocking, device_error, load_error, serve};
use super::super::slot::Serving;
use super::super::steps::watched;
use super::super::{Node, NodeError, Slot, Stage, ViewState};
use super::Turn;
use super::waiting::Waiting;
use crate::queue::waiting::WaitingShared;
use crate::state::record::{Phase, Record};
use crate::volume::device::{self, QueueWork};

impl Node {
    /// Serves a volume that was granted to a device that waits.
    pub(super) async fn take_owned(self: &Arc<Self>, slot: &Arc<Slot>, attachment: &Attachment) {
        let mut stage = Arc::clone(&slot.gate).lock_owned().await;
        let waiting = match std::mem::replace(&mut *stage, Stage::Vacant) {
            Stage::Waiting(waiting) => waiting,
            other => {
                // It went while it was asked for: the grant is given back.
                *stage = other;
                return self.strays.expect(Instant::now());
            }
        };
        match self.take(slot, waiting, attachment).await {
            Ok(serving) => {
                slot.note_taken(true);
                *stage = Stage::Serving(serving);
            }
            Err((record, error)) => {
                warn!(volume = slot.name, error = error.message(), "not taken: it is given back");
                slot.note_taken(false);
                self.lose(slot, &mut stage, record, error.message());
            }
        }
    }

    /// Has a volume recovered by its record, as after a kill. Its queues have ended.
    pub(in super::super) fn lose(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        stage: &mut OwnedMutexGuard<Stage>,
        record: Record,
        why: String,
    ) {
        slot.show(|view| {
            view.state = ViewState::Attaching;
            view.problem = Some(why);
            view.record = record.clone();
            view.served = None;
            view.waiting = None;
        });
        **stage = Stage::Lost(record);
        slot.note_ended_here();
        let (node, slot) = (Arc::clone(self), Arc::clone(slot));
        tokio::spawn(async move {
            let member = node.joined().await;
            node.take_over_until_done(&slot, member).await;
        });
    }

    async fn take(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        waiting: Waiting,
        attachment: &Attachment,
    ) -> Result<Serving, (Record, NodeError)> {
        let begun = Instant::now();
        slot.show(|view| view.state = ViewState::Moving);
        let Waiting { record, info, queues, shared, .. } = waiting;
        let taking = Record { phase: Phase::Taking, epoch: attachment.epoch, ..record };
        let loaded = match self.load_taken(&taking, attachment).await {
            Ok(loaded) => loaded,
            Err(error) => {
                blocking(move || queues.stop()).await;
                return Err((taking, error));
            }
        };
        let load = begun.elapsed();
        let held = WaitingShared::held(&shared);
        blocking(move || queues.stop()).await;
        let size = loaded.attachment.volume.size;
        let served = match serve(loaded, info.queues) {
            Ok(served) => served,
            Err(error) => return Err((taking, error)),
        };
        let live = Record { phase: Phase::Live, ..taking.clone() };
        if let Err(error) = self.state.save_record(&live) {
            return Err((taking, error.into()));
        }
        let work = QueueWork::Serve {
            shared: Arc::clone(&served.shared),
            luns: served.luns.clone(),
            // The waiting queues have begun nothing.
            owes: false,
        };
        let starting = blocking(move || {
            device::begin_take_over(info.id)?;
            device::finish_take_over(&info, &work)
        });
        let queues = match watched(&live.name, "take the device over", starting).await {
            Ok(queues) => queues,
            Err(error) => {
                let error = device_error("take over", &live.name)(error);
                return Err((live, error));
            }
        };
        let serving = self.go_live(slot, live.clone(), served, Some(queues));
        slot.show(|view| view.turn = Some(Turn::begin(load)));
        self.grow_taken_over(&serving, size).await;
        let (epoch, elapsed_ms) = (live.epoch, begun.elapsed().as_millis());
        info!(volume = live.name, %epoch, elapsed_ms, held, "taken from the other node");
        Ok(serving)
    }

    async fn load_taken(
        &self,
        taking: &Record,
        attachment: &Attachment,
    ) -> Result<crate::volume::load::Loaded, NodeError> {
        self.state.save_record(taking)?;
        let member = self.joined().await;
        let loading = self.loader(&member);
        let loaded = watched(&taking.name, "load", loading.fresh(attachment)).await;
        let loaded = loaded.map_err(|source| load_error(attachment, source))?;
        self.note_loaded(attachment, &loaded)?;
        Ok(loaded)
    }
}
