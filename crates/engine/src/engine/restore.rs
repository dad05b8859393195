//! Blocks of latents that outlive the engine: what it reads from disk and what it has written there.

use std::sync::Arc;

use model::BLOCK_TOKENS;

use super::{Engine, Phase};
use crate::disk::{Block, Claim, DiskCache};
use crate::event::Event;

impl Engine<'_> {
    /// The same engine with a place for the blocks of its prompts that outlives it.
    ///
    /// # Panics
    /// When `disk` was opened for another model.
    #[must_use]
    pub fn with_disk(self, disk: Arc<DiskCache>) -> Self {
        disk.check(self.model);
        Self { disk: Some(disk), ..self }
    }

    /// Has all blocks written that are worth it and not on disk yet, as far as there is free room, and waits until they are.
    /// It is for the end: the blocks of a running engine are written when they are made.
    pub fn save(&self) {
        if let Some(disk) = &self.disk {
            self.prefixes.kept().for_each(|block| disk.save(block));
            disk.flush();
        }
    }

    /// Finds out what the blocks of prompt `i` are called on disk, and notes that those it has are used.
    pub(super) fn name(&mut self, i: usize) {
        let Some(disk) = self.disk.clone() else { return };
        let running = &mut self.running[i];
        let request = &running.job.request;
        running.names = disk.names(request.salt, &request.prompt);
        // The last one that is there: it stands for all before it.
        if let Some(last) = running.names.iter().take_while(|name| disk.has(name)).last() {
            disk.touch(last);
        }
        self.keep(i, 0);
    }

    /// Appends blocks of prompt `i` that are on disk to its cache, as long as a step may read more. Whether the prompt can
    /// go on without them.
    pub(super) fn restore(&mut self, i: usize, budget: &mut u64) -> bool {
        if !matches!(self.running[i].phase, Phase::Known) {
            return true;
        }
        while let Some(disk) = self.disk.clone() {
            let running = &self.running[i];
            let at = running.shared;
            // As in memory: tokens whose logits are wanted are always run over.
            let is_there = (at + 1) * BLOCK_TOKENS <= running.job.knowable() && disk.has(&running.names[at]);
            if !is_there {
                break;
            }
            if *budget == 0 {
                return false;
            }
            *budget = budget.saturating_sub(self.model.cache_block_bytes() as u64);
            self.make_room(|running| running.get(i).map_or(0, |running| running.more_blocks(BLOCK_TOKENS)));
            if i >= self.running.len() {
                return false;
            }
            let running = &mut self.running[i];
            let request = &running.job.request;
            let tokens = &request.prompt[at * BLOCK_TOKENS..(at + 1) * BLOCK_TOKENS];
            let Some(block) = disk.read(self.model, &running.names[at], tokens) else { break };
            let (id, block) = self.prefixes.add(request.salt, running.pin, tokens, block);
            running.cache.push_block(&block);
            (running.pin, running.shared) = (Some(id), at + 1);
            if running.job.usage.preemptions == 0 {
                running.job.usage.cached += BLOCK_TOKENS;
                self.stats.cached_tokens += BLOCK_TOKENS as u64;
                let (done, total) = (running.cache.len(), request.prompt.len());
                let queue = running.job.times().queue;
                running.job.sink.send(Event::Prompt { done, total, cached: done, queue });
            }
            self.keep(i, at);
        }
        self.running[i].phase = Phase::Prompt;
        true
    }

    /// Notes that the blocks of prompt `i` from `first` on are worth files, if they are, and has them written.
    pub(super) fn keep(&mut self, i: usize, first: usize) {
        let Some(disk) = &self.disk else { return };
        let running = &self.running[i];
        let Some(at) = running.pin.filter(|_| first < running.shared && disk.keeps(&running.job.request.prompt)) else {
            return;
        };
        let blocks = self.prefixes.keep(at, &running.names[first..running.shared]);
        blocks.into_iter().rev().for_each(|block| disk.offer(block, Claim::Used));
    }
}

/// Has a block written that leaves memory, if there is a place for it.
pub(super) fn offer(disk: Option<&DiskCache>, block: Block) {
    if let Some(disk) = disk {
        disk.offer(block, Claim::Late);
    }
}
