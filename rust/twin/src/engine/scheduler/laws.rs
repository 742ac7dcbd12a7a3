//! What must hold between steps, by walking every request: asserted after every step in debug builds.

use super::Scheduler;

impl Scheduler {
    /// Blocks, context, slots and phases as the running list has them are those kept as counts.
    ///
    /// # Panics
    /// If one is not.
    pub(crate) fn assert_laws(&self) {
        let (mut blocks, mut context_tokens) = (0, 0);
        let (mut seen, mut distinct) = (vec![false; self.is_base.len()], 0);
        for id in self.running.iter() {
            let request = &self.requests[id];
            let decodes = self.capped_batch.is_none() && self.partial != Some(id);
            let computed = if decodes {
                request.computed_before(self.step)
            } else {
                request.computed()
            };
            blocks += self.kv_cache.blocks(computed);
            context_tokens += u64::from(computed);
            let adapter = request.adapter as usize;
            assert!(self.slots.contains(request.adapter), "slots: {adapter}");
            if !std::mem::replace(&mut seen[adapter], true) && !self.is_base[adapter] {
                distinct += 1;
            }
        }
        assert_eq!(blocks, self.kv_cache.used(), "blocks are conserved");
        assert_eq!(context_tokens, self.context_tokens, "tokens are conserved");
        assert_eq!(distinct, self.slots.distinct(), "slots are conserved");
        assert!(self.slots.distinct() <= self.max_loras, "slots");
        assert!(self.running.len() <= self.max_num_seqs, "max_num_seqs");
    }
}
