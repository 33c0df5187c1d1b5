//! What there is at a moment: what the metadata service has stored, what runs on the nodes, and
//! what the array holds.

/// Nodes of the model.
pub const NODES: usize = 3;
/// LUNs of the model.
pub const LUNS: usize = 2;

/// What the service has of an incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Life {
    /// It may register, and do no I/O.
    Joining,
    /// It may hold volumes.
    Active,
    /// It is being cut off.
    Fencing,
    /// It was cut off on every LUN.
    Fenced,
    /// It went, drained.
    Left,
}

/// What the service has of an incarnation at a LUN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Registration {
    /// Nothing.
    None,
    /// It may register.
    Intended,
    /// It was seen to be registered.
    Confirmed,
}

/// A node as the service has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// Its newest incarnation.
    pub incarnation: u8,
    /// How that one stands.
    pub life: Life,
    /// Its registrations.
    pub at: [Registration; LUNS],
}

/// How far a fence has come on a LUN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Row {
    /// To be done.
    Open,
    /// This node is at it; the last number is its attempt.
    Begun(u8, u8),
    /// The victim cannot write there any more.
    Done,
}

/// A fence under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fence {
    /// The node, and the incarnation of it.
    pub victim: (u8, u8),
    /// By LUN.
    pub rows: [Row; LUNS],
    /// Whether it may have written to the LUN.
    pub was_confirmed: [bool; LUNS],
}

/// How far a fencer has come with a LUN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// It has the right to do it.
    Begun,
    /// PREEMPT AND ABORT was sent, and the key is gone.
    Aborting,
    /// It has seen that the victim can write no more.
    Seen,
}

/// What a fencer is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Task {
    /// Whom it fences.
    pub victim: (u8, u8),
    /// Where.
    pub lun: u8,
    /// Which attempt.
    pub attempt: u8,
    /// How far.
    pub stage: Stage,
}

/// How far a frozen daemon has come on its way back to a LUN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Thaw {
    /// Not frozen.
    Serving,
    /// It begins nothing on this LUN.
    Frozen,
    /// The service has said that it is ACTIVE, and may think otherwise by now.
    Allowed,
    /// REGISTER was sent.
    Registering,
}

/// The daemon of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Daemon {
    /// Whether it runs.
    pub runs: bool,
    /// What it thinks it is.
    pub incarnation: u8,
    /// The epoch that it thinks it holds the volume under; 0 is none.
    pub epoch: u8,
    /// Where it was confirmed.
    pub confirmed: [bool; LUNS],
    /// By LUN.
    pub thaw: [Thaw; LUNS],
    /// Whom it fences.
    pub task: Option<Task>,
}

/// A LUN, and what is on its way to it. There is one path a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lun {
    /// By node the incarnation in its key; 0 is none.
    pub keys: [u8; NODES],
    /// Whether writes need a key.
    pub is_reserved: bool,
    /// By node the epoch of a write that the LUN has not taken yet; 0 is none.
    pub sent: [u8; NODES],
    /// By node the epoch of a write that it has taken, and not carried out; 0 is none.
    pub taken: [u8; NODES],
    /// By node the incarnation in a REGISTER on its way; 0 is none.
    pub registers: [u8; NODES],
    /// By node whether what was taken from it is being aborted.
    pub aborting: [bool; NODES],
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// What the service has of the nodes.
    pub records: [Record; NODES],
    /// Fences under way.
    pub fences: Vec<Fence>,
    /// Incarnations that cannot write any more.
    pub gone: Vec<(u8, u8)>,
    /// Who holds the volume.
    pub holder: Option<(u8, u8)>,
    /// The epoch of the last grant.
    pub epoch: u8,
    /// What runs.
    pub daemons: [Daemon; NODES],
    /// The array.
    pub luns: [Lun; LUNS],
    /// How many fences the service may still begin by itself.
    pub fences_left: u8,
    /// How many daemons may still end.
    pub deaths_left: u8,
    /// How many nodes may still leave.
    pub leaves_left: u8,
    /// Whether the last node only fences others: it is neither fenced nor granted the volume.
    pub has_bystander: bool,
}

impl World {
    /// All nodes are ACTIVE and registered; the first one holds the volume.
    #[must_use]
    pub fn new(fences_left: u8, deaths_left: u8, leaves_left: u8) -> Self {
        let record =
            Record { incarnation: 1, life: Life::Active, at: [Registration::Confirmed; LUNS] };
        let daemon = Daemon {
            runs: true,
            incarnation: 1,
            epoch: 0,
            confirmed: [true; LUNS],
            thaw: [Thaw::Serving; LUNS],
            task: None,
        };
        let lun = Lun {
            keys: [1; NODES],
            is_reserved: true,
            sent: [0; NODES],
            taken: [0; NODES],
            registers: [0; NODES],
            aborting: [false; NODES],
        };
        let mut daemons = [daemon; NODES];
        daemons[0].epoch = 1;
        Self {
            records: [record; NODES],
            fences: Vec::new(),
            gone: Vec::new(),
            holder: Some((0, 1)),
            epoch: 1,
            daemons,
            luns: [lun; LUNS],
            fences_left,
            deaths_left,
            leaves_left,
            has_bystander: false,
        }
    }

    /// The same, with a last node that only fences others: fewer states.
    #[must_use]
    pub fn with_bystander(mut self) -> Self {
        self.has_bystander = true;
        self
    }

    /// Whether a node takes no part but as a fencer.
    #[must_use]
    pub const fn is_bystander(&self, node: usize) -> bool {
        self.has_bystander && node + 1 == NODES
    }

    /// The first node was fenced and does not know it; a write of it is on its way.
    #[must_use]
    pub fn with_fenced_holder(mut self) -> Self {
        self.records[0].life = Life::Fenced;
        self.gone.push((0, 1));
        for lun in &mut self.luns {
            lun.keys[0] = 0;
        }
        self.luns[0].sent[0] = 1;
        self
    }

    /// The same, with a LUN that a node has not registered at yet: it has just joined the pool.
    #[must_use]
    pub fn with_new_lun(mut self, node: usize, lun: usize) -> Self {
        self.records[node].at[lun] = Registration::None;
        self.daemons[node].confirmed[lun] = false;
        self.luns[lun].keys[node] = 0;
        self
    }

    /// Whether the service takes this daemon for the newest of its node, and how that stands.
    #[must_use]
    pub fn life_of(&self, node: usize) -> Option<Life> {
        let (record, daemon) = (&self.records[node], &self.daemons[node]);
        (daemon.runs && record.incarnation == daemon.incarnation).then_some(record.life)
    }

    /// Whether a daemon may be ordered to do something at a LUN.
    #[must_use]
    pub fn is_active_at(&self, node: usize, lun: usize) -> bool {
        self.life_of(node) == Some(Life::Active)
            && self.records[node].at[lun] == Registration::Confirmed
    }

    /// Whether nothing of a node is on its way to a LUN or in it.
    #[must_use]
    pub fn is_drained(&self, node: usize, lun: usize) -> bool {
        self.luns[lun].sent[node] == 0 && self.luns[lun].taken[node] == 0
    }
}
