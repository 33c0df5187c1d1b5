//! Tests of the modelled disk: its cache, its tears and its faults.

use std::collections::BTreeSet;

use super::*;

const SOURCE: Source = Source { volume: 1, queue: 0 };

fn stamped(first: u64, sectors: usize, write: u32) -> Rc<[u8]> {
    let mut bytes = vec![0; sectors * SECTOR_BYTES];
    for (sector, into) in (first..).zip(bytes.chunks_exact_mut(SECTOR_BYTES)) {
        Stamp::Written { volume: 1, sector, write }.fill(into);
    }
    bytes.into()
}

struct Bench {
    disk: Disk,
    dice: Dice,
    faults: FaultRates,
    next: u64,
}

impl Bench {
    fn new(seed: u64, unit: u32) -> Self {
        let disk = Disk::new(0, 1 << 20, unit);
        Self { disk, dice: Dice::new(seed), faults: FaultRates::default(), next: 0 }
    }

    /// Runs one command to the delivery of its completion.
    fn run(&mut self, io: DiskIo) -> Ended {
        self.next += 1;
        self.disk.submit(self.next, SOURCE, io);
        while self.disk.executed() == 0 {
            self.disk.execute_one(&mut self.dice, self.faults);
        }
        self.disk.deliver_one(&mut self.dice)
    }

    fn write(&mut self, sectors: usize, write: u32, durable: bool) {
        let io = DiskIo::Write { at: 0, bytes: stamped(0, sectors, write), durable };
        assert!(self.run(io).result.is_ok());
    }

    fn flush(&mut self) -> Ended {
        self.run(DiskIo::Flush { only: None })
    }

    /// The writes that the first sectors show; 0 is the earlier tenant.
    fn shown(&mut self, sectors: usize) -> Vec<u32> {
        let data = self.disk.read_visible(0, sectors * SECTOR_BYTES);
        data.chunks_exact(SECTOR_BYTES)
            .map(|sector| match Stamp::read(sector) {
                Stamp::Written { write, .. } => write,
                Stamp::Tenant { .. } => 0,
                other => panic!("{other} is none of ours"),
            })
            .collect()
    }
}

#[test]
fn what_was_flushed_or_written_durably_survives_every_cut() {
    for seed in 0..200 {
        let mut bench = Bench::new(seed, 512);
        bench.write(8, 1, seed % 2 == 0);
        bench.flush();
        bench.disk.cut_power(&mut bench.dice);
        assert_eq!(bench.shown(8), [1; 8], "seed {seed}");
    }
}

#[test]
fn cuts_tear_volatile_writes_at_the_unit_and_bring_back_any_of_them() {
    for (unit, is_torn) in [(512, true), (4096, false)] {
        let mut seen = BTreeSet::new();
        for seed in 0..400 {
            let mut bench = Bench::new(seed, unit);
            bench.write(8, 1, false);
            bench.write(8, 2, false);
            bench.disk.cut_power(&mut bench.dice);
            let shown = bench.shown(8);
            assert!(is_torn || shown.iter().all(|write| *write == shown[0]), "{shown:?}");
            seen.insert(shown);
        }
        for whole in 0..3 {
            assert!(seen.contains(&vec![whole; 8]), "unit {unit}: never {whole}");
        }
        assert_eq!(seen.len() > 3, is_torn, "unit {unit}: {}", seen.len());
    }
}

#[test]
fn a_flush_does_not_cover_what_completed_after_it_was_sent() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut bench = Bench::new(seed, 512);
        bench.disk.submit(100, SOURCE, DiskIo::Flush { only: None });
        let io = DiskIo::Write { at: 0, bytes: stamped(0, 1, 1), durable: false };
        bench.disk.submit(101, SOURCE, io);
        while bench.disk.submitted() > 0 {
            bench.disk.execute_one(&mut bench.dice, FaultRates::default());
        }
        bench.disk.cut_power(&mut bench.dice);
        lost += u64::from(bench.shown(1) == [0]);
    }
    assert!((10..90).contains(&lost), "{lost} of 100 writes beside a flush were lost");
}

#[test]
fn a_failed_flush_drops_data_that_was_visible() {
    let mut dropped = 0;
    for seed in 0..100 {
        let mut bench = Bench::new(seed, 512);
        bench.write(1, 1, true);
        bench.write(1, 2, false);
        bench.faults.flush = 1000;
        let ended = bench.flush();
        assert!(ended.result.is_err());
        let is_dropped = bench.shown(1) == [1];
        assert_eq!(!ended.lost.is_empty(), is_dropped, "seed {seed}");
        dropped += u64::from(is_dropped);
    }
    assert!((10..90).contains(&dropped), "{dropped} of 100");
}

#[test]
fn a_kill_finishes_or_cancels_what_was_under_way_and_loses_nothing_else() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        let mut bench = Bench::new(seed, 512);
        bench.write(1, 1, false);
        let io = DiskIo::Write { at: 0, bytes: stamped(0, 1, 2), durable: false };
        bench.disk.submit(100, SOURCE, io);
        bench.disk.finish(|_| true, &mut bench.dice);
        outcomes.insert(bench.shown(1));
        bench.flush();
        let before = bench.shown(1);
        bench.disk.cut_power(&mut bench.dice);
        assert_eq!(bench.shown(1), before, "a later flush covers what the dead had written");
    }
    assert_eq!(outcomes, BTreeSet::from([vec![1], vec![2]]));
}

#[test]
fn short_transfers_move_whole_units_and_say_so() {
    let mut bench = Bench::new(3, 4096);
    bench.faults.short = 1000;
    let ended = bench.run(DiskIo::Read { at: 0, length: 16384 });
    let Err(LunError::Short { moved, asked: 16384 }) = ended.result else {
        panic!("{:?}", ended.result)
    };
    assert!(moved < 16384 && moved.is_multiple_of(4096), "{moved}");
}
