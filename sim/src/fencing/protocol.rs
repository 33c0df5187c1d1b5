//! What may happen, by whom, and the one promise: no write of an epoch that is over takes effect.

use super::world::{Daemon, Fence, LUNS, Life, NODES, Registration, Row, Stage, Task, Thaw, World};
use crate::search::Model;

/// More grants are not looked at.
const EPOCHS: u8 = 3;
/// More attempts of fencers are not looked at.
const ATTEMPTS: u8 = 2;

/// A mistake that is planted, to prove that the search finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A key is taken away, and what the array had taken under it is not aborted.
    SkipAbort,
    /// A daemon whose I/O is rejected registers again at once, and asks nobody.
    BlindReregistration,
    /// A volume is granted when the fence of its holder begins.
    GrantBeforeComplete,
    /// The key of everybody is taken away instead of the victim's.
    VictimKeyZero,
    /// A fencer that finds the key gone takes the LUN for fenced, and does not wait.
    AbsentIsDone,
    /// Who leaves takes its own key away, and with the last one the reservation.
    LeaverUnregisters,
    /// Intents are taken down although the incarnation is being fenced.
    IntentWhileFencing,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are node, LUN, victim")]
pub enum Step {
    BeginFence { node: usize },
    Hand { fencer: usize, victim: (u8, u8), lun: usize },
    Preempt { fencer: usize },
    FindAbsent { fencer: usize },
    SeeAborted { fencer: usize },
    Report { fencer: usize },
    Grant { node: usize },
    Write { node: usize, lun: usize },
    Arrive { node: usize, lun: usize },
    Land { node: usize, lun: usize },
    Abort { node: usize, lun: usize },
    AskToThaw { node: usize, lun: usize },
    SendRegister { node: usize, lun: usize },
    Register { node: usize, lun: usize },
    Confirm { node: usize, lun: usize },
    Intend { node: usize, lun: usize },
    Die { node: usize },
    Join { node: usize },
    Leave { node: usize },
    CleanUp { by: usize, node: usize, lun: usize },
}

/// The protocol, perhaps with a mistake.
pub struct Protocol {
    /// The mistake.
    pub fault: Option<Fault>,
    /// Where it begins.
    pub start: World,
}

type Outcome = Result<World, String>;

impl Model for Protocol {
    type State = World;
    type Step = Step;

    fn start(&self) -> World {
        self.start.clone()
    }

    fn steps(&self, world: &World) -> Vec<(Step, Outcome)> {
        let mut found = Vec::new();
        for node in 0..NODES {
            self.steps_of_service(world, node, &mut found);
            self.steps_of_fencer(world, node, &mut found);
            steps_of_process(self, world, node, &mut found);
            for lun in 0..LUNS {
                self.steps_of_daemon(world, node, lun, &mut found);
                self.steps_of_array(world, node, lun, &mut found);
            }
        }
        found
    }
}

impl Protocol {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn steps_of_service(&self, world: &World, node: usize, found: &mut Vec<(Step, Outcome)>) {
        if world.is_bystander(node) {
            return;
        }
        let record = world.records[node];
        let may_be_fenced = matches!(record.life, Life::Joining | Life::Active);
        if may_be_fenced && world.fences_left > 0 {
            let mut next = world.clone();
            next.fences_left -= 1;
            begin_fence(&mut next, node);
            found.push((Step::BeginFence { node }, Ok(next)));
        }
        let is_free = match world.holder {
            None => true,
            Some(holder) => {
                let is_fencing = world.fences.iter().any(|fence| fence.victim == holder);
                world.gone.contains(&holder) || (self.has(Fault::GrantBeforeComplete) && is_fencing)
            }
        };
        let sees_all = (0..LUNS).all(|lun| world.is_active_at(node, lun));
        if is_free && sees_all && world.epoch < EPOCHS {
            let mut next = world.clone();
            next.epoch += 1;
            next.holder = Some((node as u8, record.incarnation));
            next.daemons[node].epoch = next.epoch;
            found.push((Step::Grant { node }, Ok(next)));
        }
    }

    fn steps_of_fencer(&self, world: &World, fencer: usize, found: &mut Vec<(Step, Outcome)>) {
        match world.daemons[fencer].task {
            None => hand_out(world, fencer, found),
            Some(task) => self.go_on_fencing(world, fencer, task, found),
        }
    }

    fn go_on_fencing(
        &self,
        world: &World,
        fencer: usize,
        task: Task,
        found: &mut Vec<(Step, Outcome)>,
    ) {
        let daemon = world.daemons[fencer];
        if !daemon.runs {
            return;
        }
        let (node, lun) = (usize::from(task.victim.0), usize::from(task.lun));
        let at = world.luns[lun];
        let has_key = at.keys[fencer] == daemon.incarnation && at.is_reserved;
        match task.stage {
            Stage::Begun if !has_key => {}
            Stage::Begun if at.keys[node] == task.victim.1 => {
                let mut next = world.clone();
                self.preempt(&mut next, node, lun);
                let is_over = self.has(Fault::SkipAbort) || self.has(Fault::VictimKeyZero);
                let stage = if is_over { Stage::Seen } else { Stage::Aborting };
                next.daemons[fencer].task = Some(Task { stage, ..task });
                found.push((Step::Preempt { fencer }, Ok(next)));
            }
            Stage::Begun => {
                let fence = world.fences.iter().find(|fence| fence.victim == task.victim);
                let was_confirmed = fence.is_some_and(|fence| fence.was_confirmed[lun]);
                // What D is for: by then all that the array had taken has ended.
                let has_ended = at.taken[node] == 0 && !at.aborting[node];
                if has_ended || !was_confirmed || self.has(Fault::AbsentIsDone) {
                    let mut next = world.clone();
                    next.daemons[fencer].task = Some(Task { stage: Stage::Seen, ..task });
                    found.push((Step::FindAbsent { fencer }, Ok(next)));
                }
            }
            Stage::Aborting => {
                if !at.aborting[node] && at.keys[node] != task.victim.1 && has_key {
                    let mut next = world.clone();
                    next.daemons[fencer].task = Some(Task { stage: Stage::Seen, ..task });
                    found.push((Step::SeeAborted { fencer }, Ok(next)));
                }
            }
            Stage::Seen => {
                let mut next = world.clone();
                next.daemons[fencer].task = None;
                if may_prove(world, fencer, task.victim, lun) {
                    note_done(&mut next, fencer, task);
                }
                found.push((Step::Report { fencer }, Ok(next)));
            }
        }
    }

    /// PREEMPT AND ABORT: the key goes at once, what was taken a little later.
    fn preempt(&self, world: &mut World, node: usize, lun: usize) {
        let at = &mut world.luns[lun];
        if self.has(Fault::VictimKeyZero) {
            at.keys = [0; NODES];
            at.is_reserved = false;
            return;
        }
        at.keys[node] = 0;
        at.aborting[node] = !self.has(Fault::SkipAbort);
    }

    fn steps_of_daemon(
        &self,
        world: &World,
        node: usize,
        lun: usize,
        found: &mut Vec<(Step, Outcome)>,
    ) {
        let daemon = world.daemons[node];
        if !daemon.runs {
            return;
        }
        let with = |change: &dyn Fn(&mut World)| {
            let mut next = world.clone();
            change(&mut next);
            Ok(next)
        };
        let at = world.luns[lun];
        let (life, registration) = (world.life_of(node), world.records[node].at[lun]);
        let is_serving = daemon.thaw[lun] == Thaw::Serving;
        if daemon.epoch > 0 && is_serving && daemon.confirmed[lun] && world.is_drained(node, lun) {
            let write = with(&|next| next.luns[lun].sent[node] = daemon.epoch);
            found.push((Step::Write { node, lun }, write));
        }
        if daemon.thaw[lun] == Thaw::Frozen && world.is_drained(node, lun) {
            let asked = with(&|next| match life {
                Some(Life::Active) => next.daemons[node].thaw[lun] = Thaw::Allowed,
                _ => end(next, node),
            });
            found.push((Step::AskToThaw { node, lun }, asked));
        }
        if self.may_register(life) && registration == Registration::None {
            let intended = with(&|next| next.records[node].at[lun] = Registration::Intended);
            found.push((Step::Intend { node, lun }, intended));
        }
        let may_register = daemon.thaw[lun] == Thaw::Allowed
            || (is_serving && !daemon.confirmed[lun] && registration != Registration::None);
        if may_register && at.registers[node] == 0 && at.keys[node] != daemon.incarnation {
            let sent = with(&|next| {
                next.luns[lun].registers[node] = daemon.incarnation;
                if daemon.thaw[lun] == Thaw::Allowed {
                    next.daemons[node].thaw[lun] = Thaw::Registering;
                }
            });
            found.push((Step::SendRegister { node, lun }, sent));
        }
        let waits = !daemon.confirmed[lun] || daemon.thaw[lun] == Thaw::Registering;
        if waits && at.keys[node] == daemon.incarnation && at.is_reserved && self.may_register(life)
        {
            let confirmed = with(&|next| confirm(next, node, lun));
            found.push((Step::Confirm { node, lun }, confirmed));
        }
    }

    /// Intents and confirmations are taken down.
    fn may_register(&self, life: Option<Life>) -> bool {
        matches!(life, Some(Life::Joining | Life::Active))
            || (self.has(Fault::IntentWhileFencing) && life == Some(Life::Fencing))
    }

    fn steps_of_array(
        &self,
        world: &World,
        node: usize,
        lun: usize,
        found: &mut Vec<(Step, Outcome)>,
    ) {
        let at = world.luns[lun];
        if at.sent[node] != 0 && at.taken[node] == 0 {
            let mut next = world.clone();
            next.luns[lun].sent[node] = 0;
            if at.keys[node] != 0 || !at.is_reserved {
                next.luns[lun].taken[node] = at.sent[node];
            } else if self.has(Fault::BlindReregistration) {
                next.luns[lun].registers[node] = world.daemons[node].incarnation;
            } else {
                next.daemons[node].thaw[lun] = Thaw::Frozen;
            }
            found.push((Step::Arrive { node, lun }, Ok(next)));
        }
        if at.taken[node] != 0 {
            let mut next = world.clone();
            next.luns[lun].taken[node] = 0;
            let (written, epoch) = (at.taken[node], world.epoch);
            let is_old = written < epoch;
            let broken =
                || format!("a write of epoch {written} takes effect on LUN {lun} in epoch {epoch}");
            let outcome = if is_old { Err(broken()) } else { Ok(next) };
            found.push((Step::Land { node, lun }, outcome));
        }
        if at.aborting[node] {
            let mut next = world.clone();
            next.luns[lun].aborting[node] = false;
            next.luns[lun].taken[node] = 0;
            found.push((Step::Abort { node, lun }, Ok(next)));
        }
        if at.registers[node] != 0 {
            let mut next = world.clone();
            next.luns[lun].registers[node] = 0;
            next.luns[lun].keys[node] = at.registers[node];
            next.luns[lun].is_reserved = true;
            found.push((Step::Register { node, lun }, Ok(next)));
        }
        self.clean_up(world, node, lun, found);
    }

    /// A key of an incarnation that cannot be is taken away by anybody who sees it.
    fn clean_up(&self, world: &World, node: usize, lun: usize, found: &mut Vec<(Step, Outcome)>) {
        let key = world.luns[lun].keys[node];
        if key == 0 || !world.gone.contains(&(node as u8, key)) {
            return;
        }
        for by in (0..NODES).filter(|by| *by != node && world.is_active_at(*by, lun)) {
            let mut next = world.clone();
            self.preempt(&mut next, node, lun);
            found.push((Step::CleanUp { by, node, lun }, Ok(next)));
        }
    }
}

fn begin_fence(world: &mut World, node: usize) {
    let record = &mut world.records[node];
    record.life = Life::Fencing;
    let open = |at: Registration| match at {
        // What was never confirmed has written nothing, and is not confirmed any more.
        Registration::None | Registration::Intended => Row::Done,
        Registration::Confirmed => Row::Open,
    };
    let fence = Fence {
        victim: (node as u8, record.incarnation),
        rows: record.at.map(open),
        was_confirmed: record.at.map(|at| at == Registration::Confirmed),
    };
    world.fences.push(fence);
    world.fences.sort_by_key(|fence| fence.victim);
    complete(world, fence.victim);
}

/// The last LUN makes the victim FENCED.
fn complete(world: &mut World, victim: (u8, u8)) {
    let is_it = |fence: &Fence| fence.victim == victim && fence.rows == [Row::Done; LUNS];
    if !world.fences.iter().any(is_it) {
        return;
    }
    world.fences.retain(|fence| fence.victim != victim);
    world.gone.push(victim);
    world.gone.sort_unstable();
    let record = &mut world.records[usize::from(victim.0)];
    if record.incarnation == victim.1 {
        record.life = Life::Fenced;
    }
}

fn hand_out(world: &World, fencer: usize, found: &mut Vec<(Step, Outcome)>) {
    for fence in &world.fences {
        for lun in 0..LUNS {
            let attempt = match fence.rows[lun] {
                Row::Open => 1,
                // Its fencer may be dead, or slow.
                Row::Begun(by, attempt) if usize::from(by) != fencer => attempt + 1,
                Row::Begun(..) | Row::Done => continue,
            };
            if attempt > ATTEMPTS || !is_asked(world, fencer, fence.victim, lun) {
                continue;
            }
            let mut next = world.clone();
            let of = next.fences.iter_mut().find(|other| other.victim == fence.victim);
            let Some(of) = of else { continue };
            of.rows[lun] = Row::Begun(fencer as u8, attempt);
            let task = Task { victim: fence.victim, lun: lun as u8, attempt, stage: Stage::Begun };
            next.daemons[fencer].task = Some(task);
            found.push((Step::Hand { fencer, victim: fence.victim, lun }, Ok(next)));
        }
    }
}

/// The victim's own next incarnation is asked only where nobody else can.
fn is_asked(world: &World, fencer: usize, victim: (u8, u8), lun: usize) -> bool {
    let is_own = usize::from(victim.0) == fencer;
    let can_other = (0..NODES).any(|other| other != fencer && world.is_active_at(other, lun));
    may_prove(world, fencer, victim, lun) && !(is_own && can_other)
}

/// Another node that is ACTIVE, or the victim's own next incarnation, registered at the LUN.
fn may_prove(world: &World, fencer: usize, victim: (u8, u8), lun: usize) -> bool {
    if usize::from(victim.0) != fencer {
        return world.is_active_at(fencer, lun);
    }
    let record = world.records[fencer];
    record.incarnation > victim.1
        && matches!(record.life, Life::Joining | Life::Active)
        && record.at[lun] == Registration::Confirmed
}

/// Only the last attempt counts.
fn note_done(world: &mut World, fencer: usize, task: Task) {
    let lun = usize::from(task.lun);
    let fence = world.fences.iter_mut().find(|fence| fence.victim == task.victim);
    let Some(fence) = fence else { return };
    if fence.rows[lun] == Row::Begun(fencer as u8, task.attempt) {
        fence.rows[lun] = Row::Done;
        complete(world, task.victim);
    }
}

fn confirm(world: &mut World, node: usize, lun: usize) {
    let (record, daemon) = (&mut world.records[node], &mut world.daemons[node]);
    record.at[lun] = Registration::Confirmed;
    if record.life == Life::Joining && record.at == [Registration::Confirmed; LUNS] {
        record.life = Life::Active;
    }
    daemon.confirmed[lun] = true;
    daemon.thaw[lun] = Thaw::Serving;
}

/// A daemon ends. What it has sent is on its way all the same.
fn end(world: &mut World, node: usize) {
    let daemon = &mut world.daemons[node];
    *daemon = Daemon {
        runs: false,
        incarnation: daemon.incarnation,
        epoch: 0,
        confirmed: [false; LUNS],
        thaw: [Thaw::Serving; LUNS],
        task: None,
    };
}

fn steps_of_process(
    protocol: &Protocol,
    world: &World,
    node: usize,
    found: &mut Vec<(Step, Outcome)>,
) {
    let (record, daemon) = (world.records[node], world.daemons[node]);
    let own = (node as u8, record.incarnation);
    if daemon.runs && world.deaths_left > 0 && !world.is_bystander(node) {
        let mut next = world.clone();
        next.deaths_left -= 1;
        end(&mut next, node);
        found.push((Step::Die { node }, Ok(next)));
    }
    if !daemon.runs && record.incarnation < 2 {
        let mut next = world.clone();
        if matches!(record.life, Life::Joining | Life::Active) {
            begin_fence(&mut next, node);
        }
        next.records[node].incarnation += 1;
        next.records[node].life = Life::Joining;
        next.records[node].at = [Registration::None; LUNS];
        next.daemons[node].runs = true;
        next.daemons[node].incarnation = record.incarnation + 1;
        for lun in &mut next.luns {
            // Its ports log in anew: what was on its way is gone, what was taken is not.
            lun.sent[node] = 0;
            lun.registers[node] = 0;
        }
        found.push((Step::Join { node }, Ok(next)));
    }
    let is_idle = (0..LUNS).all(|lun| world.is_drained(node, lun)) && world.holder != Some(own);
    if world.life_of(node) == Some(Life::Active) && is_idle && world.leaves_left > 0 {
        let mut next = world.clone();
        next.leaves_left -= 1;
        next.records[node].life = Life::Left;
        next.gone.push(own);
        next.gone.sort_unstable();
        end(&mut next, node);
        if protocol.has(Fault::LeaverUnregisters) {
            for lun in &mut next.luns {
                lun.keys[node] = 0;
                lun.is_reserved &= lun.keys != [0; NODES];
            }
        }
        found.push((Step::Leave { node }, Ok(next)));
    }
}
