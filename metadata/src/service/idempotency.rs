//! Requests are remembered, so that each is carried out once.
//!
//! Memory is in generations: new requests go into the current one, a request is looked for in the
//! current and the one before, and older ones are forgotten. A generation ends when one process
//! has seen it stand for the retention on its own clock; then it raises the number by compare and
//! set. So a request is remembered for at least the retention, whatever the clocks of other
//! processes say, and restarts only lengthen it.

use std::hash::{Hash, Hasher};

use lunar_types::RequestId;

use crate::error::ServiceError;
use crate::keyspace::{
    Counter, CounterKey, Generation, IdempotencyKey, IdempotencyRecord, KeyedTxn, Outcome,
};
use crate::store::Txn;

/// FNV-1a, 64 bits: stable across builds, and enough to tell an accident.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A number that differs when what is asked for differs.
pub(super) fn fingerprint(what: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xCBF2_9CE4_8422_2325);
    what.hash(&mut hasher);
    hasher.finish()
}

/// What is known of a request.
pub(super) enum Memory {
    /// It was carried out.
    Done(Outcome),
    /// It is new, and belongs into this generation.
    New(Generation),
}

/// Looks a request up.
pub(super) async fn recall<T: Txn>(
    txn: &T,
    request: RequestId,
    fingerprint: u64,
) -> Result<Memory, ServiceError> {
    let current = txn.load_known(&CounterKey { counter: Counter::Generation }).await?.last;
    let generations = [current, current.saturating_sub(1)];
    let keys = generations
        .map(|generation| IdempotencyKey { generation: Generation::new(generation), request });
    let found = txn.load_many(&keys).await?.into_iter().flatten().next();
    match found {
        None => Ok(Memory::New(Generation::new(current))),
        Some(record) if record.fingerprint == fingerprint => Ok(Memory::Done(record.outcome)),
        Some(_) => Err(ServiceError::RequestIdReused { request }),
    }
}

/// Remembers what came of a request.
pub(super) fn remember<T: Txn>(
    txn: &T,
    generation: Generation,
    request: RequestId,
    fingerprint: u64,
    outcome: &Outcome,
) {
    let record = IdempotencyRecord { fingerprint, outcome: outcome.clone() };
    txn.put(&IdempotencyKey { generation, request }, &record);
}
