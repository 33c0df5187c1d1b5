//! One operation at a time for each key: a second one is turned away, never queued.
//!
//! Invariant: a key is free again when its guard is dropped, also by a panic or a cancelled call.
//! Deliberately absent: what keys mean. A caller that repeats its call is its caller's business.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Keys that are in use.
#[derive(Clone, Debug, Default)]
pub struct KeyedLock {
    held: Arc<Mutex<HashSet<String>>>,
}

/// A key that is in use until this is dropped.
#[derive(Debug)]
#[must_use = "the key is free again when this is dropped"]
pub struct Held {
    locks: KeyedLock,
    keys: Vec<String>,
}

impl KeyedLock {
    /// Takes the keys, all or none; gives the first one that is in use.
    ///
    /// # Errors
    /// One of them is in use.
    pub fn try_lock<K: Into<String>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Held, String> {
        let mut keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        keys.sort();
        keys.dedup();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(busy) = keys.iter().find(|key| held.contains(*key)) {
            return Err(busy.clone());
        }
        held.extend(keys.iter().cloned());
        drop(held);
        Ok(Held { locks: self.clone(), keys })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_held_once_and_free_again() {
        let locks = KeyedLock::default();
        let held = locks.try_lock(["a", "b"]).expect("both are free");
        assert_eq!(locks.try_lock(["c", "b"]).map(drop), Err("b".to_owned()));
        let other = locks.try_lock(["c"]).expect("the refused call has taken nothing");
        drop(held);
        assert!(locks.try_lock(["a"]).is_ok());
        drop(other);
    }

    #[test]
    fn a_key_that_is_named_twice_is_taken_once() {
        let locks = KeyedLock::default();
        drop(locks.try_lock(["a", "a"]).expect("it is free"));
        assert!(locks.try_lock(["a"]).is_ok());
    }

    #[test]
    fn a_panic_frees_what_was_held() {
        let locks = KeyedLock::default();
        let inside = locks.clone();
        let ended = std::thread::spawn(move || {
            let _held = inside.try_lock(["a"]);
            panic!("on purpose");
        });
        assert!(ended.join().is_err());
        assert!(locks.try_lock(["a"]).is_ok());
    }
}
