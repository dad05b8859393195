//! Prompts that begin alike share the blocks of their caches: a radix tree over blocks of tokens.
//!
//! A block is found by its tokens and those of all blocks before it, compared one by one: no hash can take one prompt for
//! another. Whoever uses a block pins it, and with it all blocks before it. Those that nobody uses stay until room is
//! needed; the one used longest ago leaves first.

use std::collections::{BTreeMap, BTreeSet};

use model::{BLOCK_TOKENS, CacheBlock};

use crate::disk::{Block, Name};

/// A block in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(usize);

type Children = BTreeMap<Box<[u32]>, NodeId>;

#[derive(Default)]
pub(crate) struct Prefixes {
    nodes: Vec<Option<Node>>,
    free: Vec<NodeId>,
    /// The first blocks, by salt.
    roots: BTreeMap<u64, Children>,
    /// Those without children that nobody uses, by the time of their last use.
    idle: BTreeSet<(u64, NodeId)>,
    clock: u64,
    /// How many blocks somebody uses.
    in_use: usize,
}

struct Node {
    /// What it hangs on: a block, or a salt.
    parent: Result<NodeId, u64>,
    tokens: Box<[u32]>,
    block: CacheBlock,
    /// What it is called on disk, if it is worth a file; then all blocks before it are as well.
    name: Option<Name>,
    children: Children,
    /// Pins of it and of all blocks after it.
    users: usize,
    used: u64,
}

impl Prefixes {
    /// The blocks that `tokens` begin with, whole ones; the last of them is pinned, for [`Prefixes::release`].
    pub(crate) fn find(&mut self, salt: u64, tokens: &[u32]) -> (Option<NodeId>, Vec<CacheBlock>) {
        let path = self.path(salt, tokens);
        for &id in &path {
            self.join(id);
        }
        (path.last().copied(), path.into_iter().map(|id| self.node(id).block.clone()).collect())
    }

    /// How many blocks that `tokens` begin with there are.
    pub(crate) fn known(&self, salt: u64, tokens: &[u32]) -> usize {
        self.path(salt, tokens).len()
    }

    /// How many blocks that `tokens` begin with somebody uses.
    pub(crate) fn in_use_of(&self, salt: u64, tokens: &[u32]) -> usize {
        self.path(salt, tokens).into_iter().filter(|&id| self.node(id).users > 0).count()
    }

    fn path(&self, salt: u64, tokens: &[u32]) -> Vec<NodeId> {
        let mut path: Vec<NodeId> = Vec::new();
        for tokens in tokens.chunks_exact(BLOCK_TOKENS) {
            let children = self.children(salt, path.last().copied());
            let Some(&next) = children.and_then(|children| children.get(tokens)) else { break };
            path.push(next);
        }
        path
    }

    /// Adds the block of `tokens` behind the one that is pinned at `after`, and moves the pin to it. The result is the block
    /// in the tree: another one, with the same numbers, if somebody else was first.
    pub(crate) fn add(
        &mut self,
        salt: u64,
        after: Option<NodeId>,
        tokens: &[u32],
        block: CacheBlock,
    ) -> (NodeId, CacheBlock) {
        debug_assert_eq!(tokens.len(), BLOCK_TOKENS);
        let known = self.children(salt, after).and_then(|children| children.get(tokens)).copied();
        let id = known.unwrap_or_else(|| {
            let parent = after.ok_or(salt);
            let (tokens, children) = (Box::from(tokens), Children::new());
            let node = Node { parent, tokens, block, name: None, children, users: 0, used: self.clock };
            let id = self.free.pop().unwrap_or(NodeId(self.nodes.len()));
            let key = node.tokens.clone();
            if id.0 == self.nodes.len() {
                self.nodes.push(Some(node));
            } else {
                self.nodes[id.0] = Some(node);
            }
            self.siblings(parent).insert(key, id);
            id
        });
        // The pin of the block before it becomes one of this: those before have as many users as they had.
        self.join(id);
        (id, self.node(id).block.clone())
    }

    /// Says that the block at `at` and those before it are called `names` on disk, the last one as the last, and are worth
    /// files. The result is the blocks, from the last to the first.
    pub(crate) fn keep(&mut self, at: NodeId, names: &[Name]) -> Vec<Block> {
        let (mut at, mut blocks) = (Ok(at), Vec::with_capacity(names.len()));
        for &name in names.iter().rev() {
            let Ok(id) = at else { unreachable!("as many names as blocks") };
            let node = self.node_mut(id);
            node.name = Some(name);
            blocks.extend(node.to_disk());
            at = node.parent;
        }
        blocks
    }

    /// All blocks that are worth files, each after those before it.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Block> {
        let mut open: Vec<NodeId> = self.roots.values().flat_map(Children::values).copied().collect();
        std::iter::from_fn(move || {
            let node = self.node(open.pop()?);
            open.extend(node.children.values());
            Some(node.to_disk())
        })
        .flatten()
    }

    /// Gives a pin back.
    pub(crate) fn release(&mut self, id: NodeId) {
        self.clock += 1;
        let (clock, mut at) = (self.clock, Ok(id));
        while let Ok(id) = at {
            let node = self.node_mut(id);
            node.users -= 1;
            node.used = clock;
            at = node.parent;
            self.in_use -= usize::from(self.node(id).users == 0);
            self.rest(id);
        }
    }

    /// Forgets the block that was used longest ago, which goes to `keep` if it is worth a file; false when all are in use.
    pub(crate) fn evict(&mut self, keep: impl FnOnce(Block)) -> bool {
        let Some((_, id)) = self.idle.pop_first() else { return false };
        let Some(node) = self.nodes[id.0].take() else { unreachable!("idle blocks are in the tree") };
        self.free.push(id);
        self.siblings(node.parent).remove(&node.tokens);
        match node.parent {
            Ok(parent) => self.rest(parent),
            Err(salt) => {
                if self.roots[&salt].is_empty() {
                    self.roots.remove(&salt);
                }
            }
        }
        if let Some(block) = node.to_disk() {
            keep(block);
        }
        true
    }

    /// How many blocks there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// How many blocks somebody uses.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Adds a user.
    fn join(&mut self, id: NodeId) {
        let Node { used, users, .. } = *self.node(id);
        if users == 0 {
            self.idle.remove(&(used, id));
            self.in_use += 1;
        }
        self.node_mut(id).users += 1;
    }

    /// Notes that nobody uses a block, if that is so.
    fn rest(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.users == 0 && node.children.is_empty() {
            let used = node.used;
            self.idle.insert((used, id));
        }
    }

    fn children(&self, salt: u64, at: Option<NodeId>) -> Option<&Children> {
        match at {
            Some(id) => Some(&self.node(id).children),
            None => self.roots.get(&salt),
        }
    }

    fn siblings(&mut self, parent: Result<NodeId, u64>) -> &mut Children {
        match parent {
            Ok(id) => &mut self.node_mut(id).children,
            Err(salt) => self.roots.entry(salt).or_default(),
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0].as_ref().expect("ids are of blocks in the tree")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0].as_mut().expect("ids are of blocks in the tree")
    }
}

impl Node {
    fn to_disk(&self) -> Option<Block> {
        let name = self.name?;
        let (is_first, tokens, latents) = (self.parent.is_err(), self.tokens.clone(), self.block.clone());
        Some(Block { name, is_first, tokens, latents })
    }
}

#[cfg(test)]
mod tests {
    use config::presets;
    use model::Model;
    use tensor::Ctx;

    use super::*;

    fn block() -> CacheBlock {
        let model = Model::random(&presets::preset("tiny").unwrap(), 0.02, 1);
        let mut cache = model.new_cache();
        model.prefill(&Ctx::new(1).unwrap(), &[1; BLOCK_TOKENS], &mut cache).unwrap();
        cache.block(0)
    }

    /// Blocks of equal tokens.
    fn tokens(of: &[u32]) -> Vec<u32> {
        of.iter().flat_map(|&t| [t; BLOCK_TOKENS]).collect()
    }

    fn insert(tree: &mut Prefixes, block: &CacheBlock, salt: u64, of: &[u32]) {
        let (mut at, found) = tree.find(salt, &tokens(of));
        for &t in &of[found.len()..] {
            at = Some(tree.add(salt, at, &[t; BLOCK_TOKENS], block.clone()).0);
        }
        tree.release(at.unwrap());
    }

    fn found(tree: &mut Prefixes, salt: u64, tokens: &[u32]) -> usize {
        let (at, blocks) = tree.find(salt, tokens);
        if let Some(id) = at {
            tree.release(id);
        }
        blocks.len()
    }

    #[test]
    fn whole_blocks_are_found_by_all_tokens_before_them() {
        let (mut tree, block) = (Prefixes::default(), block());
        insert(&mut tree, &block, 0, &[1, 2, 3]);
        insert(&mut tree, &block, 0, &[1, 2, 4]);
        assert_eq!(tree.len(), 4);
        for (of, want) in [(&[1, 2, 3][..], 3), (&[1, 2, 4, 5], 3), (&[1, 3], 1), (&[2, 3], 0)] {
            assert_eq!(found(&mut tree, 0, &tokens(of)), want, "{of:?}");
        }
        assert_eq!(found(&mut tree, 0, &tokens(&[1, 2])[..2 * BLOCK_TOKENS - 1]), 1, "no part of a block");
        assert_eq!(found(&mut tree, 7, &tokens(&[1, 2])), 0, "another salt");
    }

    #[test]
    fn what_was_used_longest_ago_leaves_first_and_nothing_in_use() {
        let (mut tree, block) = (Prefixes::default(), block());
        insert(&mut tree, &block, 0, &[1, 2]);
        insert(&mut tree, &block, 0, &[3]);
        insert(&mut tree, &block, 5, &[4]);
        assert_eq!(found(&mut tree, 0, &tokens(&[1, 2])), 2);
        let (pin, _) = tree.find(5, &tokens(&[4]));
        assert_eq!((tree.in_use(), tree.in_use_of(5, &tokens(&[4, 1])), tree.in_use_of(0, &tokens(&[1]))), (1, 1, 0));
        assert!(tree.evict(drop));
        assert_eq!(found(&mut tree, 0, &tokens(&[3])), 0);
        assert!(tree.evict(drop) && tree.evict(drop), "the child, then its parent");
        assert!(!tree.evict(drop), "what is left is in use");
        assert_eq!(tree.len(), 1);
        tree.release(pin.unwrap());
        assert!(tree.evict(drop) && tree.len() == 0 && tree.roots.is_empty());
        insert(&mut tree, &block, 0, &[1, 2]);
        assert_eq!((tree.len(), found(&mut tree, 0, &tokens(&[1, 2]))), (2, 2));
    }

    #[test]
    fn two_who_compute_the_same_block_share_one() {
        let (mut tree, ours, theirs) = (Prefixes::default(), block(), block());
        let (a, _) = tree.add(0, None, &[1; BLOCK_TOKENS], ours.clone());
        let (b, _) = tree.add(0, None, &[1; BLOCK_TOKENS], theirs);
        assert_eq!((a, tree.len(), tree.in_use()), (b, 1, 1));
        let (c, _) = tree.add(0, Some(b), &[2; BLOCK_TOKENS], ours);
        assert_eq!(tree.in_use(), 2);
        tree.release(a);
        assert!(!tree.evict(drop), "the other still uses it");
        tree.release(c);
        assert_eq!(tree.in_use(), 0);
        assert!(tree.evict(drop) && tree.evict(drop));
    }
}
