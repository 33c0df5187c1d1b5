//! Volumes, their holders and their devices on this node.

use lunar_proto::domain::{Holder, Origin, Peer, Pool, Volume, VolumeState};
use lunar_proto::v1;
use serde::Serialize;

use super::publication::PublicationView;
use super::{NONE, count, size, with_restored};
use crate::output::{Report, facts, table};

/// Who holds a volume.
#[derive(Serialize, Debug)]
pub struct HolderView {
    node_id: u16,
    node_name: String,
    incarnation: u32,
    epoch: u64,
    live: bool,
}

impl From<&Holder> for HolderView {
    fn from(holder: &Holder) -> Self {
        Self {
            node_id: holder.node.node.get(),
            node_name: holder.node_name.to_string(),
            incarnation: holder.node.incarnation.get(),
            epoch: holder.epoch.get(),
            live: holder.live,
        }
    }
}

impl HolderView {
    fn to_text(&self) -> String {
        let gone = if self.live { "" } else { " (gone)" };
        format!("{}{gone}", self.node_name)
    }
}

/// A volume.
#[derive(Serialize, Debug)]
pub struct VolumeView {
    volume_id: String,
    pub(super) name: String,
    pool_id: String,
    pool_name: String,
    pub(super) size_bytes: u64,
    mapped_bytes: u64,
    logical_block_size_bytes: u32,
    state: &'static str,
    /// It came back with a backup, and nobody has accepted it since.
    restored: bool,
    head_layer: u64,
    epoch: u64,
    holder: Option<HolderView>,
    /// The nodes that have it together; none while one has it alone.
    peers: Vec<PeerView>,
    /// How often it has changed hands between them.
    moves: u64,
    /// The nodes that have leave to attach it; none: whoever is told to by hand.
    publications: Vec<PublicationView>,
    /// What its content may be: blank, formatting, used.
    content: String,
    /// What it began as; none: nothing.
    origin: Option<OriginView>,
}

/// What a volume began as. It may be gone.
#[derive(Serialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum OriginView {
    /// A snapshot.
    SnapshotId(String),
    /// A volume, at the moment when it was cut.
    VolumeId(String),
}

impl From<Origin> for OriginView {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Snapshot(id) => Self::SnapshotId(id.to_string()),
            Origin::Volume(id) => Self::VolumeId(id.to_string()),
        }
    }
}

impl OriginView {
    fn to_text(&self) -> String {
        match self {
            Self::SnapshotId(id) => format!("snapshot {id}"),
            Self::VolumeId(id) => format!("volume {id}"),
        }
    }
}

/// A node that has a volume together with another one.
#[derive(Serialize, Debug)]
pub struct PeerView {
    node_id: u16,
    node_name: String,
    incarnation: u32,
    live: bool,
    owner: bool,
    /// It has asked for the volume and waits for it.
    waits: bool,
}

impl PeerView {
    fn new(peer: &Peer, volume: &Volume) -> Self {
        let owner = volume.holder.as_ref().is_some_and(|holder| holder.node == peer.node);
        Self {
            node_id: peer.node.node.get(),
            node_name: peer.node_name.to_string(),
            incarnation: peer.node.incarnation.get(),
            live: peer.live,
            owner,
            waits: peer.wishes && !owner,
        }
    }

    fn to_text(&self) -> String {
        let mut marks = Vec::new();
        for (mark, is_so) in [("owns", self.owner), ("waits", self.waits), ("gone", !self.live)] {
            if is_so {
                marks.push(mark);
            }
        }
        match marks.is_empty() {
            true => self.node_name.clone(),
            false => format!("{} ({})", self.node_name, marks.join(", ")),
        }
    }
}

impl VolumeView {
    /// A volume and the pool that it lives in.
    #[must_use]
    pub fn new(volume: &Volume, pool: &Pool) -> Self {
        Self {
            volume_id: volume.id.to_string(),
            name: volume.name.to_string(),
            pool_id: pool.id.to_string(),
            pool_name: pool.name.to_string(),
            size_bytes: volume.size.bytes(),
            mapped_bytes: volume.mapped_extents.saturating_mul(pool.extent_size.bytes()),
            logical_block_size_bytes: volume.logical_block_size.bytes(),
            state: state_word(volume.state),
            restored: volume.restored,
            head_layer: volume.head.get(),
            epoch: volume.epoch.get(),
            holder: volume.holder.as_ref().map(HolderView::from),
            peers: volume.peers.iter().map(|peer| PeerView::new(peer, volume)).collect(),
            moves: volume.moves,
            publications: volume.publications.iter().map(PublicationView::new).collect(),
            content: volume.content.to_string(),
            origin: volume.origin.map(OriginView::from),
        }
    }

    /// The volume's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn state_text(&self) -> String {
        with_restored(self.state, self.restored)
    }

    fn holder_text(&self) -> String {
        if !self.peers.is_empty() {
            let peers: Vec<_> = self.peers.iter().map(PeerView::to_text).collect();
            return peers.join(", ");
        }
        self.holder.as_ref().map_or_else(|| NONE.to_owned(), HolderView::to_text)
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            ("name", self.name.clone()),
            ("id", self.volume_id.clone()),
            ("pool", format!("{} ({})", self.pool_name, self.pool_id)),
            ("size", size(self.size_bytes)),
            ("mapped", size(self.mapped_bytes)),
            ("logical blocks", size(self.logical_block_size_bytes.into())),
            ("state", self.state_text()),
            ("content", self.content.clone()),
            ("head layer", self.head_layer.to_string()),
            ("epoch", self.epoch.to_string()),
            ("attached to", self.holder_text()),
        ];
        if let Some(origin) = &self.origin {
            pairs.push(("made of", origin.to_text()));
        }
        if !self.publications.is_empty() {
            let nodes: Vec<_> = self.publications.iter().map(PublicationView::node_text).collect();
            pairs.push(("published to", nodes.join(", ")));
        }
        pairs
    }
}

const fn state_word(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Creating => "creating",
        VolumeState::Ready => "ready",
        VolumeState::Deleting => "deleting",
    }
}

impl Report for VolumeView {
    fn to_text(&self) -> String {
        facts(&self.pairs())
    }
}

/// `lunar volume list`.
#[derive(Serialize, Debug)]
pub struct VolumeList {
    volumes: Vec<VolumeView>,
}

impl VolumeList {
    /// The list of these volumes.
    #[must_use]
    pub fn new(volumes: Vec<VolumeView>) -> Self {
        Self { volumes }
    }
}

impl Report for VolumeList {
    fn to_text(&self) -> String {
        let row = |volume: &VolumeView| {
            [
                volume.name.clone(),
                size(volume.size_bytes),
                size(volume.mapped_bytes),
                volume.pool_name.clone(),
                volume.state_text(),
                volume.holder_text(),
                volume.volume_id.clone(),
            ]
        };
        let rows = self.volumes.iter().map(row).collect();
        let header = ["NAME", "SIZE", "MAPPED", "POOL", "STATE", "ATTACHED TO", "ID"];
        table(header, rows, "no volumes")
    }
}

/// What the device of a volume has done since it was attached.
#[derive(Serialize, Debug)]
pub struct CountersView {
    read_requests: u64,
    read_bytes: u64,
    write_requests: u64,
    write_bytes: u64,
    flush_requests: u64,
    discard_requests: u64,
    failed_requests: u64,
    lun_read_bytes: u64,
    lun_write_bytes: u64,
    dirty_slots: u64,
    parked_requests: u64,
    reserved_extents: u64,
    checkpoints: u64,
    split_reads: u64,
    split_read_ios: u64,
    consolidated_extents: u64,
    consolidated_bytes: u64,
    failed_copies: u64,
}

impl From<&v1::VolumeCounters> for CountersView {
    fn from(counters: &v1::VolumeCounters) -> Self {
        Self {
            read_requests: counters.read_requests,
            read_bytes: counters.read_bytes,
            write_requests: counters.write_requests,
            write_bytes: counters.write_bytes,
            flush_requests: counters.flush_requests,
            discard_requests: counters.discard_requests,
            failed_requests: counters.failed_requests,
            lun_read_bytes: counters.lun_read_bytes,
            lun_write_bytes: counters.lun_write_bytes,
            dirty_slots: counters.dirty_slots,
            parked_requests: counters.parked_requests,
            reserved_extents: counters.reserved_extents,
            checkpoints: counters.checkpoints,
            split_reads: counters.split_reads,
            split_read_ios: counters.split_read_ios,
            consolidated_extents: counters.consolidated_extents,
            consolidated_bytes: counters.consolidated_bytes,
            failed_copies: counters.failed_copies,
        }
    }
}

/// A volume as a device of this node.
#[derive(Serialize, Debug)]
pub struct AttachmentView {
    volume_id: String,
    volume_name: String,
    pool_id: String,
    epoch: u64,
    pub(super) device_path: String,
    pub(super) size_bytes: u64,
    logical_block_size_bytes: u32,
    state: &'static str,
    problem: String,
    /// Another node may have it too.
    migratable: bool,
    /// While it waits: requests that wait for the volume to come here.
    waiting_requests: u32,
    /// The volume is larger, and the device cannot follow before it was detached.
    grows_at_next_attachment: bool,
    counters: Option<CountersView>,
}

impl From<&v1::LocalAttachment> for AttachmentView {
    fn from(attachment: &v1::LocalAttachment) -> Self {
        Self {
            volume_id: attachment.volume_id.clone(),
            volume_name: attachment.volume_name.clone(),
            pool_id: attachment.pool_id.clone(),
            epoch: attachment.epoch,
            device_path: attachment.device_path.clone(),
            size_bytes: attachment.size_bytes,
            logical_block_size_bytes: attachment.logical_block_size,
            state: attachment_word(attachment.state()),
            problem: attachment.problem.clone(),
            migratable: attachment.migratable,
            waiting_requests: attachment.waiting_requests,
            grows_at_next_attachment: attachment.grows_at_next_attachment,
            counters: attachment.counters.as_ref().map(CountersView::from),
        }
    }
}

const fn attachment_word(state: v1::AttachmentState) -> &'static str {
    match state {
        v1::AttachmentState::Unspecified => "unknown",
        v1::AttachmentState::Attaching => "attaching",
        v1::AttachmentState::Live => "live",
        v1::AttachmentState::Poisoned => "poisoned",
        v1::AttachmentState::Detaching => "detaching",
        v1::AttachmentState::Waiting => "waiting",
        v1::AttachmentState::Moving => "moving",
    }
}

impl AttachmentView {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs =
            vec![("device", self.device_path.clone()), ("device state", self.state.to_owned())];
        if self.waiting_requests > 0 {
            pairs.push(("waiting requests", self.waiting_requests.to_string()));
        }
        if self.grows_at_next_attachment {
            let device = size(self.size_bytes);
            pairs.push(("device size", format!("{device}; the volume's at the next attachment")));
        }
        if !self.problem.is_empty() {
            pairs.push(("problem", self.problem.clone()));
        }
        if let Some(counters) = &self.counters {
            pairs.extend(counters.pairs());
        }
        pairs
    }
}

impl CountersView {
    fn pairs(&self) -> [(&'static str, String); 6] {
        let moved = |bytes: u64, requests: u64| {
            format!("{} in {}", size(bytes), count(requests, "request"))
        };
        [
            ("read", moved(self.read_bytes, self.read_requests)),
            ("written", moved(self.write_bytes, self.write_requests)),
            ("flushes", self.flush_requests.to_string()),
            ("failed requests", self.failed_requests.to_string()),
            ("LUN bytes", self.lun_text()),
            ("dirty slots", self.dirty_slots.to_string()),
        ]
    }

    fn lun_text(&self) -> String {
        format!("{} read, {} written", size(self.lun_read_bytes), size(self.lun_write_bytes))
    }
}

impl Report for AttachmentView {
    fn to_text(&self) -> String {
        match self.problem.as_str() {
            "" => format!("volume '{}' is attached as {}\n", self.volume_name, self.device_path),
            problem => format!("volume '{}': {problem}\n", self.volume_name),
        }
    }
}

/// `lunar volume show`.
#[derive(Serialize, Debug)]
pub struct VolumeDetail {
    #[serde(flatten)]
    volume: VolumeView,
    /// The device on this node; absent where this node does not hold the volume.
    attachment: Option<AttachmentView>,
    /// Why the device could not be looked up, or empty.
    attachment_problem: String,
}

impl VolumeDetail {
    /// A volume with its device on this node, if that could be asked for.
    #[must_use]
    pub fn new(volume: VolumeView, attachment: Result<Option<AttachmentView>, String>) -> Self {
        match attachment {
            Ok(attachment) => Self { volume, attachment, attachment_problem: String::new() },
            Err(attachment_problem) => Self { volume, attachment: None, attachment_problem },
        }
    }
}

impl Report for VolumeDetail {
    fn to_text(&self) -> String {
        let mut pairs = self.volume.pairs();
        if let Some(local) = &self.attachment {
            pairs.extend(local.pairs());
        }
        if !self.attachment_problem.is_empty() {
            pairs.push(("device", format!("unknown: {}", self.attachment_problem)));
        }
        facts(&pairs)
    }
}

/// `lunar volume detach`.
#[derive(Serialize, Debug)]
pub struct DetachView {
    volume: String,
    pending: bool,
    journal_kept: bool,
}

impl DetachView {
    /// The answer to the detach of `volume`, as the user named it.
    #[must_use]
    pub fn new(volume: String, answer: v1::DetachVolumeResponse) -> Self {
        Self { volume, pending: answer.pending, journal_kept: answer.journal_kept }
    }
}

impl Report for DetachView {
    fn to_text(&self) -> String {
        let mut text = format!("volume {} is detached\n", self.volume);
        if self.journal_kept {
            text += "its journal is kept: the next attachment replays it before any I/O\n";
        }
        if self.pending {
            text += "the metadata service is away: fs-core tells it as soon as it answers\n";
        }
        text
    }
}

/// `lunar volume delete`.
#[derive(Serialize, Debug)]
pub struct DeleteView {
    volume_id: String,
    name: String,
    /// Whether the space is back, or the deletion still goes on.
    finished: bool,
}

impl DeleteView {
    /// The deletion of this volume.
    #[must_use]
    pub fn new(volume: &Volume, finished: bool) -> Self {
        let (volume_id, name) = (volume.id.to_string(), volume.name.to_string());
        Self { volume_id, name, finished }
    }
}

impl Report for DeleteView {
    fn to_text(&self) -> String {
        match self.finished {
            true => format!("volume '{}' is deleted, its space is free\n", self.name),
            false => {
                let (name, id) = (&self.name, &self.volume_id);
                format!("volume '{name}' ({id}) is being deleted in the background\n")
            }
        }
    }
}
