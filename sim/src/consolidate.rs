//! A daemon makes extents of its volumes solid.

use lunar_engine::volume::{Claim, CopyStep};

use crate::planted::Planted;
use crate::world::{Flow, World};

impl World {
    /// Claims an extent, now and then, and goes on with the claim that there is.
    pub(crate) fn consolidate_now_and_then(&mut self, guest: usize) -> Flow {
        let is_wanted = self.dice.chance(self.scenario.consolidate) && !self.is_quiet;
        let Some(claim) = self.claim_of(guest, is_wanted) else { return Ok(()) };
        let logical = claim.logical;
        let mut out = Vec::new();
        let served = self.serving(guest);
        let control = served.queues.len() - 1;
        let step = served.volume.start_copy(&mut served.queues[control], claim, &mut out);
        let moment = self.moment;
        self.trace.line(moment, || format!("v{guest} copies of extent {logical}: {step:?}"));
        match step {
            CopyStep::Waits(claim) => self.serving(guest).claim = Some(claim),
            CopyStep::Begun => self.counters.copies += 1,
            CopyStep::Ended => self.counters.claims_ended += 1,
        }
        self.run_actions(guest, control, out)
    }

    fn claim_of(&mut self, guest: usize, is_wanted: bool) -> Option<Claim> {
        let (now, planted) = (self.now(), self.planted);
        let served = self.serving(guest);
        if let Some(claim) = served.claim.take() {
            return Some(claim);
        }
        let may_claim = is_wanted && !served.is_draining;
        let mut claim = may_claim.then(|| served.volume.claim(now).ok()).flatten()?;
        if planted == Some(Planted::ClaimWithoutGrace) {
            claim.since = claim.since.saturating_sub(2);
        }
        Some(claim)
    }
}
