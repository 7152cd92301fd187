//! Equal values, kept once: whoever agrees holds the same one.

use std::hash::Hash;
use std::sync::{Arc, Weak};

use dashmap::DashMap;

/// Values in use, by a key that few of them share.
#[derive(Debug)]
pub struct Interned<K: Eq + Hash, V>(DashMap<K, Vec<Weak<V>>>);

impl<K: Eq + Hash, V> Default for Interned<K, V> {
    fn default() -> Self {
        Self(DashMap::new())
    }
}

impl<K: Eq + Hash, V: PartialEq> Interned<K, V> {
    /// The value that is equal to this one and in use, or this one from now on.
    pub fn shared(&self, key: K, value: V) -> Arc<V> {
        let mut known = self.0.entry(key).or_default();
        known.retain(|weak| weak.strong_count() > 0);
        if let Some(same) = known.iter().filter_map(Weak::upgrade).find(|known| **known == value) {
            return same;
        }
        let fresh = Arc::new(value);
        known.push(Arc::downgrade(&fresh));
        fresh
    }

    /// Drops what was kept for a key, if nobody uses any of it.
    pub fn forget(&self, key: &K) {
        self.0.remove_if(key, |_, known| known.iter().all(|weak| weak.strong_count() == 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_others_are_not() {
        let interned = Interned::default();
        let one = interned.shared("a", 1);
        assert!(Arc::ptr_eq(&one, &interned.shared("a", 1)));
        assert!(!Arc::ptr_eq(&one, &interned.shared("a", 2)));
        assert!(!Arc::ptr_eq(&one, &interned.shared("b", 1)));
        interned.forget(&"a");
        assert!(Arc::ptr_eq(&one, &interned.shared("a", 1)), "it is in use");
        drop(one);
        interned.forget(&"a");
        assert!(!interned.0.contains_key("a"));
    }
}
