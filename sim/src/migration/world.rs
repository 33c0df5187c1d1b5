//! What there is at a moment: what the metadata service has stored, what runs on the two nodes and
//! waits in their drivers, and what the block shows.
//!
//! - Writes are numbered over both nodes; a set of them is a mask.
//! - What outlives a kill: the record, the driver's requests, the device. What outlives a power
//!   cut: what the service and the LUN have.

/// Peers of the volume.
pub(super) const NODES: usize = 2;
/// Writes of a node's guest at the most.
const EACH: usize = 2;
/// Writes at the most.
pub(super) const WRITES: usize = NODES * EACH;

/// Who has the volume, as the service has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Owner {
    /// The node.
    pub node: usize,
    /// Of the grant.
    pub epoch: u8,
    /// Whether the incarnation that was granted it is proven to be gone.
    pub is_gone: bool,
}

/// What becomes of the journal at a release.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// The map has everything.
    Clean,
    /// The next owner replays it.
    KeepJournal,
}

/// What a daemon may ask the service. Each call supersedes those before it of the same session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Call {
    /// For the volume.
    Request,
    /// Whether this grant is still its own; 0: whether any is.
    Resume { epoch: u8 },
    /// To be rid of the grant.
    Release { epoch: u8, mode: Mode },
}

/// What the service says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// The volume is the asker's, in this epoch.
    Granted(u8),
    /// It is a peer, and not the owner.
    Wait,
    /// The grant is not its own, or not any more.
    Released,
}

/// Between a daemon and the service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Line {
    /// No call is under way.
    Idle,
    /// One is on its way.
    Sent(Call),
    /// The answer is.
    Answered(Answer),
}

/// What a daemon has written down for its successor. Here too, 0 is no epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Record {
    /// It has no epoch.
    Waiting,
    /// It was granted this epoch, and has not served.
    Taking(u8),
    /// It serves.
    Live(u8),
    /// It has ended its queues, and may have sent the release.
    Releasing(u8),
}

/// What an owner lets into its engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Admission {
    /// Everything.
    Open,
    /// Nothing: what comes is set aside in the driver.
    Stopped,
    /// Nothing, and the map has everything.
    Flushed,
}

/// What a node is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Without power.
    Dark,
    /// It has power, and is no peer.
    Stranger,
    /// A peer whose daemon was killed.
    Killed,
    /// A successor that has joined, and asks what its record does not say.
    Asking,
    /// Its queues fetch requests and answer none.
    Waiting,
    /// It was granted the volume.
    Taking { epoch: u8, has_replayed: bool },
    /// It serves.
    Live { epoch: u8, admission: Admission },
    /// It does nothing but release.
    Releasing { epoch: u8, mode: Mode },
}

/// How far a write of a guest has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Write {
    /// The guest has not asked.
    Unasked,
    /// The driver has it.
    InDriver,
    /// The engine has begun it, and the LUN has not carried it out.
    OnItsWay,
    /// The LUN and the journal have it.
    Landed,
    /// The guest knows.
    Answered,
    /// The guest lost its power.
    Lost,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// What it is at.
    pub phase: Phase,
    /// What its successor finds.
    pub record: Record,
    /// Its call.
    pub line: Line,
    /// Calls that nobody waits for any more, and that the service may still get, sorted.
    pub late: Vec<Call>,
    /// Whether it has asked for the volume and was not answered: it asks until it is.
    pub insists: bool,
    /// Writes that have to be answered before a wish of the other one is served.
    pub owed: u8,
    /// Whether the guest has a device.
    pub has_device: bool,
}

/// How often something may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// A daemon is killed.
    pub kills: u8,
    /// A daemon waits no longer for an answer, and its call is carried out later.
    pub late: u8,
    /// Taking the volume over fails.
    pub failures: u8,
    /// An operator moves the volume.
    pub moves: u8,
    /// A node loses its power.
    pub cuts: u8,
}

/// How long an owner keeps what it was granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Turns {
    /// Until what waited at the grant is answered.
    Whole,
    /// Perhaps for no request at all.
    Any,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// Who has the volume.
    pub owner: Option<Owner>,
    /// Of the last grant.
    pub epoch: u8,
    /// By node: 0 is no wish, 1 the older one.
    pub wishes: [u8; NODES],
    /// By node whether it is a peer.
    pub is_peer: [bool; NODES],
    /// By node whether a release of it was carried out; kept for one planted mistake only.
    pub has_released: [bool; NODES],
    /// What the map shows.
    pub map: u8,
    /// What the owner's journal has.
    pub journal: u8,
    /// What stale journals have.
    pub stale: u8,
    /// The write that the block shows.
    pub block: Option<usize>,
    /// The nodes.
    pub nodes: [Node; NODES],
    /// By write how far it is.
    pub writes: [Write; WRITES],
    /// By write the epoch whose engine has begun it; 0 is none.
    pub began: [u8; WRITES],
    /// By write the epoch of I/O whose daemon is gone, and that may still land; 0 is none.
    pub left_behind: [u8; WRITES],
    /// By node how many writes its guest asks for.
    pub guests: [usize; NODES],
    /// What may still happen.
    pub budget: Budget,
    /// How long turns are.
    pub turns: Turns,
    /// More grants are not looked at.
    pub epochs: u8,
}

impl World {
    /// Both nodes are peers, the first one owns the volume and serves.
    #[must_use]
    pub fn new(guests: [usize; NODES], budget: Budget) -> Self {
        assert!(guests.iter().all(|writes| *writes <= EACH), "a guest has few writes");
        let waiting = Node {
            phase: Phase::Waiting,
            record: Record::Waiting,
            line: Line::Idle,
            late: Vec::new(),
            insists: false,
            owed: 0,
            has_device: true,
        };
        let live = Node {
            phase: Phase::Live { epoch: 1, admission: Admission::Open },
            record: Record::Live(1),
            ..waiting.clone()
        };
        Self {
            owner: Some(Owner { node: 0, epoch: 1, is_gone: false }),
            epoch: 1,
            wishes: [0; NODES],
            is_peer: [true; NODES],
            has_released: [false; NODES],
            map: 0,
            journal: 0,
            stale: 0,
            block: None,
            nodes: [live, waiting],
            writes: [Write::Unasked; WRITES],
            began: [0; WRITES],
            left_behind: [0; WRITES],
            guests,
            budget,
            turns: Turns::Whole,
            epochs: u8::MAX,
        }
    }

    /// The same, with an owner that may give the volume away at once; no more than some grants.
    #[must_use]
    pub const fn with_any_turns(mut self, epochs: u8) -> Self {
        self.turns = Turns::Any;
        self.epochs = epochs;
        self
    }

    /// Whether a node owns the volume in an epoch.
    #[must_use]
    pub fn is_owner(&self, node: usize, epoch: u8) -> bool {
        self.owner == Some(Owner { node, epoch, is_gone: false })
    }

    /// Whether a node's wish comes before the other one's.
    #[must_use]
    pub const fn wishes_first(&self, node: usize) -> bool {
        let (own, other) = (self.wishes[node], self.wishes[1 - node]);
        own != 0 && (other == 0 || own < other)
    }

    /// A wish is noted once, behind the other one's.
    pub const fn note_wish(&mut self, node: usize) {
        if self.wishes[node] == 0 {
            self.wishes[node] = self.wishes[1 - node] + 1;
        }
    }

    /// A wish ends; the other one, if there is one, is the older one.
    pub const fn end_wish(&mut self, node: usize) {
        self.wishes[node] = 0;
        if self.wishes[1 - node] != 0 {
            self.wishes[1 - node] = 1;
        }
    }

    /// A node's writes that stand somewhere.
    pub fn writes_at(&self, node: usize, at: Write) -> impl Iterator<Item = usize> + use<> {
        let writes = self.writes;
        writes_of(node).filter(move |write| writes[*write] == at)
    }

    /// What a node's driver has.
    #[must_use]
    pub fn in_driver(&self, node: usize) -> u8 {
        self.writes_at(node, Write::InDriver).map(bit).sum()
    }

    /// Whether a node's engine has nothing.
    #[must_use]
    pub fn is_drained(&self, node: usize) -> bool {
        let has_none = |at| self.writes_at(node, at).next().is_none();
        has_none(Write::OnItsWay) && has_none(Write::Landed)
    }

    /// Whether I/O of a daemon that is gone may still land.
    #[must_use]
    pub fn is_followed(&self, node: usize) -> bool {
        writes_of(node).any(|write| self.left_behind[write] != 0)
    }

    /// What guests know to be written.
    #[must_use]
    pub fn answered(&self) -> u8 {
        (0..NODES).flat_map(|node| self.writes_at(node, Write::Answered)).map(bit).sum()
    }
}

/// The writes of a node's guest.
pub(super) fn writes_of(node: usize) -> std::ops::Range<usize> {
    node * EACH..(node + 1) * EACH
}

/// Whose guest asks for a write.
pub(super) const fn node_of(write: usize) -> usize {
    write / EACH
}

/// A write in a mask.
pub(super) const fn bit(write: usize) -> u8 {
    1 << write
}
