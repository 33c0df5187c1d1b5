//! Logs that are made by hand: what is durable, what is pending, what is damaged.

use std::collections::BTreeMap;

use super::*;

const SECTOR: u64 = 512;
const SPLIT: u64 = 1 << 20;

/// A log in the making.
struct Maker {
    bytes: Vec<u8>,
    entries: u64,
}

impl Maker {
    fn new() -> Self {
        Self { bytes: vec![0; 512], entries: 0 }
    }

    fn entry(&mut self, at: u64, data: &[u8], flags: u64) -> &mut Self {
        let words = [at / SECTOR, data.len() as u64 / SECTOR, flags, 0];
        self.header(words, &[]);
        if flags & DISCARD == 0 {
            self.bytes.extend_from_slice(data);
        }
        self
    }

    fn mark(&mut self, name: &str) -> &mut Self {
        self.header([0, 0, MARK, name.len() as u64], name.as_bytes());
        self
    }

    fn header(&mut self, words: [u64; 4], inline: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.bytes.extend_from_slice(inline);
        self.bytes.resize(start + 512, 0);
        self.entries += 1;
    }

    fn write(&mut self, at: u64, byte: u8) -> &mut Self {
        self.entry(at, &[byte; 4096], 0)
    }

    fn fua(&mut self, at: u64, byte: u8) -> &mut Self {
        self.entry(at, &[byte; 4096], FUA)
    }

    fn flush(&mut self, at: u64) -> &mut Self {
        self.entry(at, &[], FLUSH)
    }

    fn log(&mut self) -> Log {
        for (n, word) in [MAGIC, VERSION, self.entries, SECTOR].into_iter().enumerate() {
            let end = if n == 3 { 28 } else { n * 8 + 8 };
            self.bytes[n * 8..end].copy_from_slice(&word.to_le_bytes()[..end - n * 8]);
        }
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&self.bytes, 0).expect("written");
        Log::open(file).expect("a log")
    }
}

/// First byte of each block that is durable after all entries, and the pending ones.
fn durable(log: &Log) -> (BTreeMap<u64, u8>, Vec<u64>) {
    let device = tempfile::tempfile().expect("a temporary file");
    device.set_len(4 * SPLIT).expect("sized");
    let mut touched = Vec::new();
    let cache = log.pass(Cache::new(SPLIT), u64::MAX, |_, writes| {
        touched.extend(writes.iter().map(|write| write.to));
        log.apply(writes, &device)
    });
    let first = |at: u64| {
        let mut byte = [0];
        device.read_exact_at(&mut byte, at).expect("read");
        (at, byte[0])
    };
    let pending = cache.expect("it passes").pending().iter().map(|write| write.to).collect();
    (touched.into_iter().map(first).collect(), pending)
}

#[test]
fn marks_and_sizes_are_read() {
    let mut maker = Maker::new();
    let log = maker.write(8192, 1).mark("e 7").entry(0, &[0; 1024], DISCARD).flush(SPLIT).log();
    let events: Vec<_> = log.events().map(|event| event.expect("sound").1).collect();
    let io = |at, is_flush, write| Event::Io { at, is_flush, write, is_durable: false };
    let write = |to, bytes, data| Some(Write { to, bytes, data });
    assert_eq!(events[0], io(8192, false, write(8192, 4096, Some(1024))));
    assert_eq!(events[1], Event::Mark("e 7".to_owned()));
    assert_eq!(events[2], io(0, false, write(0, 1024, None)));
    assert_eq!(events[3], io(SPLIT, true, None));
    assert_eq!((events.len(), log.len()), (4, 4));
}

#[test]
fn a_flush_makes_only_its_own_region_durable() {
    let mut maker = Maker::new();
    let log = maker.write(0, 1).write(SPLIT, 2).flush(SPLIT).log();
    assert_eq!(durable(&log), ([(SPLIT, 2)].into(), vec![0]));
    let log = maker.flush(0).log();
    assert_eq!(durable(&log), ([(0, 1), (SPLIT, 2)].into(), vec![]));
}

#[test]
fn fua_is_durable_at_once_and_older_writes_stay_below_it() {
    let mut maker = Maker::new();
    let log = maker.write(0, 1).write(8192, 3).fua(0, 2).flush(0).log();
    assert_eq!(durable(&log), ([(0, 2), (8192, 3)].into(), vec![]));
    let log = Maker::new().write(0, 1).write(8192, 3).fua(0, 2).log();
    assert_eq!(durable(&log), ([(0, 2)].into(), vec![8192]));
}

#[test]
fn a_discard_leaves_nothing_that_was_promised() {
    let mut maker = Maker::new();
    let log = maker.write(0, 1).flush(0).entry(0, &[0; 4096], DISCARD).flush(0).log();
    assert_eq!(durable(&log), ([(0, DISCARDED)].into(), vec![]));
}

#[test]
fn a_power_cut_leaves_some_units_of_what_is_pending() {
    let mut maker = Maker::new();
    let log = maker.entry(512, &[1; 16 * 4096], 0).log();
    let cache = log.pass(Cache::new(SPLIT), u64::MAX, |_, _| Ok(())).expect("it passes");
    let all: Vec<_> = cache.pending()[0].units().collect();
    assert_eq!((all.len(), all[0].bytes, all[16].bytes), (17, 3584, 512));
    assert_eq!(all.iter().map(|unit| unit.bytes).sum::<u64>(), 16 * 4096);
    let left: Vec<_> = (0..4).map(|seed| cache.left_by_power_cut(seed)).collect();
    assert!(left.iter().all(|left| !left.is_empty() && left.len() < 17));
    assert_ne!(left[0], left[1]);
    assert_eq!(left[0], cache.left_by_power_cut(0));
}

#[test]
fn damage_is_named() {
    let file = tempfile::tempfile().expect("a temporary file");
    file.write_all_at(&[7; 64], 0).expect("written");
    assert!(matches!(Log::open(file), Err(LogError::Foreign { .. })));
    let mut maker = Maker::new();
    maker.header([0, 0, MARK, 5000], b"");
    let log = maker.log();
    let event = log.events().next().expect("there is one");
    assert!(matches!(event, Err(LogError::Damaged { index: 0, .. })));
    let mut maker = Maker::new();
    maker.write(0, 1).entries += 1;
    let last = maker.log().events().last().expect("there is one");
    assert!(matches!(last, Err(LogError::Io { .. })));
}
