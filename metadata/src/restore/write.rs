//! The second pass: entries into the store under the mark, and the transaction that ends it.

use std::io::Read;

use lunar_backup::BackupReader;

use super::space::quarantine_all;
use super::survey::Survey;
use super::{Raised, RestoreError};
use crate::keyspace::{
    BackupsKey, BackupsRecord, Counter, CounterKey, CounterRecord, KEYSPACE_VERSION, Key as _,
    KeyedTxn, KeyspaceKey, KeyspaceRecord, Record as _, RestoreKey, RestoreRecord,
};
use crate::store::{KeyRange, KeyValue, MetaStore, RangeRead, Txn};

/// Bytes of keys and values of one transaction, about: far below what a store takes.
const BYTES_PER_STEP: usize = 400_000;
/// Entries of one transaction.
const ENTRIES_PER_STEP: usize = 5000;

/// What the next transaction writes.
#[derive(Default)]
struct Batch {
    entries: Vec<KeyValue>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, (key, value): KeyValue) {
        self.bytes += key.len() + value.len();
        self.entries.push((key, value));
    }

    fn is_full(&self) -> bool {
        self.bytes >= BYTES_PER_STEP || self.entries.len() >= ENTRIES_PER_STEP
    }

    async fn write<S: MetaStore>(&mut self, store: &S) -> Result<(), RestoreError> {
        let Self { entries, .. } = std::mem::take(self);
        let entries = &entries;
        let written = store.transact(|txn| async move {
            entries.iter().for_each(|(key, value)| txn.set(key, value));
            Ok::<_, RestoreError>(())
        });
        written.await
    }
}

impl Survey {
    fn mark(&self, finished: bool) -> RestoreRecord {
        let (backup, begun) = (self.header.number, self.header.begun);
        RestoreRecord { finished, backup, begun, restored: self.raised.now() }
    }
}

/// Writes the mark into an empty store. The transaction may find its own mark.
async fn begin<S: MetaStore>(store: &S, survey: &Survey) -> Result<(), RestoreError> {
    let mark = &survey.mark(false);
    let begun = store.transact(|txn| async move {
        let everything = KeyRange::new(Vec::new(), vec![0xFF; 2]);
        let found = txn.get_range(&RangeRead::first(everything, 2)).await?;
        let own = (RestoreKey {}.pack(), mark.encode());
        match found.as_slice() {
            [] => txn.put(&RestoreKey {}, mark),
            [entry] if *entry == own => {}
            _ => return Err(RestoreError::NotEmpty),
        }
        Ok(())
    });
    begun.await
}

/// Writes the entries; the file must be the one that was surveyed.
async fn write_entries<S: MetaStore>(
    store: &S,
    input: impl Read,
    survey: &Survey,
) -> Result<(), RestoreError> {
    let mut reader = BackupReader::begin(input)?;
    if *reader.header() != survey.header {
        return Err(RestoreError::Changed);
    }
    let mut batch = Batch::default();
    while let Some(block) = reader.next_block()? {
        for (key, value) in block.entries() {
            survey.rewritten(key, value)?.into_iter().for_each(|entry| batch.push(entry));
            if batch.is_full() {
                batch.write(store).await?;
            }
        }
    }
    batch.write(store).await?;
    if reader.end()? != survey.end { Err(RestoreError::Changed) } else { Ok(()) }
}

impl Survey {
    /// What is freed from now on is held back for the backup that was restored, as for any: it may
    /// be restored again. It is the newest complete one, unless the horizon was off.
    fn backups_from_now(&self) -> BackupsRecord {
        let BackupsRecord { unprotected, is_horizon_off, .. } = self.backups;
        let complete = if self.is_protected() { self.header.number } else { 0 };
        BackupsRecord { begun: self.raised.number(), complete, unprotected, is_horizon_off }
    }
}

/// The numbers, the keyspace version, and the mark that an operator takes away.
async fn finish<S: MetaStore>(store: &S, survey: &Survey) -> Result<(), RestoreError> {
    let number = survey.raised.number();
    let counters = [
        (Counter::Layer, number),
        (Counter::Operation, number),
        (Counter::Generation, Raised::generation(survey.generation)),
        (Counter::Incarnation, u64::from(survey.raised.incarnation())),
    ];
    let (mark, backups) = (&survey.mark(true), &survey.backups_from_now());
    let finished = store.transact(|txn| async move {
        for (counter, last) in counters {
            txn.put(&CounterKey { counter }, &CounterRecord { last });
        }
        txn.put(&BackupsKey {}, backups);
        txn.put(&KeyspaceKey {}, &KeyspaceRecord { version: KEYSPACE_VERSION });
        txn.put(&RestoreKey {}, mark);
        Ok::<_, RestoreError>(())
    });
    finished.await
}

/// Restores a surveyed backup, which is read once more, into an empty store; gives how many extents
/// are in quarantine.
///
/// # Errors
/// See [`RestoreError`]. The service refuses to start on a store in which this has begun and not
/// ended.
pub async fn restore<S: MetaStore>(
    store: &S,
    input: impl Read,
    survey: &Survey,
) -> Result<u64, RestoreError> {
    begin(store, survey).await?;
    write_entries(store, input, survey).await?;
    let quarantined = quarantine_all(store, survey).await?;
    finish(store, survey).await?;
    Ok(quarantined)
}
