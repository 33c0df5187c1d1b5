//! Crashes: of one daemon or of several, of one node or of everything.
//!
//! A host that is in the middle of a procedure or of what its engine has asked for does not survive
//! a crash, so what survives is always whole. A node that loses its power takes its tmpfs and its
//! devices with it; the LUNs have power of their own. Their caches are lost only when all goes.

use lunar_types::BootId;

use crate::world::{Flow, Tmpfs, World};

/// Steps that survivors go on for before a daemon starts again.
const ALONE: u64 = 400;

/// What goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Daemons.
    Daemons,
    /// Nodes.
    Nodes,
    /// All nodes and all LUNs.
    Everything,
}

impl World {
    /// From the start of the daemons to a crash, or to the end of the run.
    pub(crate) fn live(&mut self, moments: u64) -> Flow {
        self.survivors_go_on()?;
        for host in 0..self.hosts.len() {
            if self.hosts[host].node.is_none() {
                self.alone_for_a_while()?;
                self.start_daemon(host)?;
            }
        }
        while self.moment < moments {
            self.step()?;
        }
        self.luns.fuse.put_out();
        self.finale()
    }

    /// The others do not wait for a daemon that was killed.
    fn alone_for_a_while(&mut self) -> Flow {
        let is_alone = self.served().next().is_some() && self.dice.chance(600);
        for _ in 0..if is_alone { self.dice.below(ALONE) } else { 0 } {
            self.step()?;
        }
        Ok(())
    }

    /// What a crash leaves.
    pub(crate) fn crash(&mut self) {
        let lost = self.draw_loss();
        let hosts = self.draw_victims(lost);
        self.luns.fuse.put_out();
        self.is_busy = false;
        self.acting.clear();
        let moment = self.moment;
        self.trace.line(moment, || match lost {
            Lost::Daemons => format!("KILL of {hosts:?}"),
            Lost::Nodes => format!("POWER CUT of {hosts:?}"),
            Lost::Everything => "POWER CUT".into(),
        });
        match lost {
            Lost::Daemons => self.counters.kills += 1,
            Lost::Nodes | Lost::Everything => self.counters.cuts += 1,
        }
        self.counters.survived += u64::from(hosts.len() < self.hosts.len());
        let guests = self.end_daemons(&hosts);
        let luns = std::rc::Rc::clone(&self.luns);
        for disk in luns.disks.borrow_mut().iter_mut() {
            let is_lost = |volume: u32| guests.contains(&(volume as usize));
            match lost {
                Lost::Daemons => disk.finish(is_lost, &mut self.dice),
                Lost::Nodes => disk.abandon(is_lost, &mut self.dice),
                Lost::Everything => disk.cut_power(&mut self.dice),
            }
        }
        if lost != Lost::Daemons {
            self.end_nodes(&hosts, lost == Lost::Everything);
        }
        if lost == Lost::Everything {
            self.inject_journal_fault();
        }
    }

    fn draw_loss(&mut self) -> Lost {
        if !self.dice.chance(self.scenario.power_cuts) {
            Lost::Daemons
        } else if self.hosts.len() > 1 && self.dice.chance(500) {
            Lost::Nodes
        } else {
            Lost::Everything
        }
    }

    fn draw_victims(&mut self, lost: Lost) -> Vec<usize> {
        let all: Vec<usize> = (0..self.hosts.len()).collect();
        if lost == Lost::Everything || self.dice.chance(300) {
            return all;
        }
        let drawn = self.dice.one_of(&all);
        let is_down = |host: &usize| self.hosts[*host].node.is_none();
        let is_alone = self.acting.is_empty();
        let is_victim = |host: &usize| {
            self.acting.contains(host) || is_down(host) || (is_alone && *host == drawn)
        };
        all.into_iter().filter(is_victim).collect()
    }

    /// Ends what the daemons of these hosts had under way; gives their volumes.
    fn end_daemons(&mut self, hosts: &[usize]) -> Vec<usize> {
        let is_theirs = |guest: &usize| {
            let served = self.served[*guest].as_ref();
            served
                .map_or(self.guests[*guest].host, |served| Some(served.host))
                .is_none_or(|host| hosts.contains(&host))
        };
        let guests: Vec<usize> = (0..self.guests.len()).filter(is_theirs).collect();
        let mut unanswered = Vec::new();
        for guest in &guests {
            let call = self.served[*guest].take().and_then(|served| served.call);
            unanswered.extend(call.filter(|call| call.answer.is_none()).map(|call| call.call));
        }
        unanswered.extend(self.sending.take());
        self.abandon(unanswered);
        self.flights.retain(|_, flight| !guests.contains(&flight.guest));
        for host in hosts {
            self.hosts[*host].node = None;
            self.hosts[*host].quarantine.clear();
        }
        guests
    }

    /// The nodes are without power for a moment.
    fn end_nodes(&mut self, hosts: &[usize], are_luns_cut: bool) {
        for host in hosts {
            self.boots += 1;
            self.hosts[*host].boot = BootId::from_u128(self.boots);
            self.hosts[*host].tmpfs = Tmpfs::default();
        }
        let moment = self.moment;
        for guest in &mut self.guests {
            if guest.host.is_none_or(|host| hosts.contains(&host)) {
                guest.power_was_cut(moment, are_luns_cut);
            }
        }
    }
}
