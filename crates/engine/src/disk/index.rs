//! Which blocks are on disk, and which of them leaves next.
//!
//! Blocks hang together as in the tree of prefixes in memory: without the ones before it a block is of no use. So only a
//! block that none on disk follows may leave, the one that was used longest ago first; and using a block uses all before it.

use std::collections::{BTreeMap, BTreeSet};

use super::key::{Key, Name};

#[derive(Default)]
pub(super) struct Index {
    entries: BTreeMap<Key, Entry>,
    /// How many entries there are behind a key, whether it has one itself or not.
    followers: BTreeMap<Key, usize>,
    /// Files that nothing follows, by the time of their last use.
    leaves: BTreeSet<(u64, Key)>,
    clock: u64,
    /// Of all files.
    bytes: u64,
    files: usize,
}

struct Entry {
    parent: Key,
    used: u64,
    /// The size of its file; none while it waits to be written.
    bytes: Option<u64>,
}

impl Index {
    /// Whether there is a file of it.
    pub(super) fn has(&self, key: Key) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.bytes.is_some())
    }

    /// The bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many files there are.
    pub(super) fn files(&self) -> usize {
        self.files
    }

    /// Notes that a block is about to be written; false if it is already, or was.
    pub(super) fn announce(&mut self, name: Name) -> bool {
        let Name { key, parent } = name;
        if self.entries.contains_key(&key) {
            return false;
        }
        self.clock += 1;
        self.entries.insert(key, Entry { parent, used: self.clock, bytes: None });
        *self.followers.entry(parent).or_default() += 1;
        if let Some(entry) = self.entries.get(&parent) {
            self.leaves.remove(&(entry.used, parent));
        }
        true
    }

    /// Notes that an announced block has a file of so many bytes.
    pub(super) fn written(&mut self, key: Key, bytes: u64) {
        let entry = self.entries.get_mut(&key).expect("what is written was announced");
        debug_assert!(entry.bytes.is_none(), "a block is written once");
        entry.bytes = Some(bytes);
        self.bytes += bytes;
        self.files += 1;
        self.rest(key);
    }

    /// Notes that a block is used now, and with it all before it.
    pub(super) fn touch(&mut self, key: Key) {
        self.clock += 1;
        let mut at = key;
        while let Some(entry) = self.entries.get_mut(&at) {
            let before = std::mem::replace(&mut entry.used, self.clock);
            let parent = entry.parent;
            // Names of files that nobody wrote could go in a circle.
            if before == self.clock {
                break;
            }
            if self.leaves.remove(&(before, at)) {
                self.leaves.insert((self.clock, at));
            }
            at = parent;
        }
    }

    /// Forgets the file that is to leave next, but not `except`, and names it.
    pub(super) fn evict(&mut self, except: Key) -> Option<Name> {
        let &(_, key) = self.leaves.iter().find(|(_, key)| *key != except)?;
        self.forget(key)
    }

    /// Forgets a block, if it is known, and names it.
    pub(super) fn forget(&mut self, key: Key) -> Option<Name> {
        let Entry { parent, used, bytes } = self.entries.remove(&key)?;
        self.leaves.remove(&(used, key));
        self.bytes -= bytes.unwrap_or(0);
        self.files -= usize::from(bytes.is_some());
        let followers = self.followers.get_mut(&parent).expect("it is one of them");
        *followers -= 1;
        if *followers == 0 {
            self.followers.remove(&parent);
            self.rest(parent);
        }
        Some(Name { key, parent })
    }

    /// Notes that a file may leave, if there is one and nothing follows it.
    fn rest(&mut self, key: Key) {
        if let Some(Entry { used, bytes: Some(_), .. }) = self.entries.get(&key)
            && !self.followers.contains_key(&key)
        {
            self.leaves.insert((*used, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key([n; 32])
    }

    /// Writes block `n` behind `parent`.
    fn write(index: &mut Index, n: u8, parent: u8) {
        assert!(index.announce(Name { key: key(n), parent: key(parent) }));
        index.written(key(n), 10);
    }

    fn evicted(index: &mut Index) -> Vec<u8> {
        std::iter::from_fn(|| index.evict(key(0))).map(|name| name.key.0[0]).collect()
    }

    #[test]
    fn the_ends_of_chains_leave_first_and_a_used_chain_last() {
        let mut index = Index::default();
        for (n, parent) in [(1, 0), (2, 1), (3, 2), (4, 0), (5, 2)] {
            write(&mut index, n, parent);
        }
        assert_eq!((index.bytes(), index.files()), (50, 5));
        index.touch(key(3));
        // 4 and 5 are older; 3 was used, and 2 and 1 with it, but they are needed by what follows them.
        assert_eq!(evicted(&mut index), [4, 5, 3, 2, 1]);
        assert_eq!((index.bytes(), index.files()), (0, 0));
        assert!(index.followers.is_empty() && index.leaves.is_empty());
    }

    #[test]
    fn a_block_stays_while_one_behind_it_waits_to_be_written() {
        let mut index = Index::default();
        write(&mut index, 1, 0);
        assert!(index.announce(Name { key: key(2), parent: key(1) }));
        assert!(!index.announce(Name { key: key(2), parent: key(1) }), "once is enough");
        assert!(!index.has(key(2)) && index.evict(key(0)).is_none());
        index.forget(key(2));
        assert_eq!(evicted(&mut index), [1]);
    }

    #[test]
    fn a_block_whose_parent_is_missing_gets_it_back() {
        let mut index = Index::default();
        for (n, parent) in [(1, 0), (2, 1), (3, 2)] {
            write(&mut index, n, parent);
        }
        index.forget(key(2));
        write(&mut index, 2, 1);
        assert_eq!(index.evict(key(3)), None, "all others are needed");
        assert_eq!(evicted(&mut index), [3, 2, 1]);
    }
}
