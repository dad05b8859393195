use std::marker::PhantomData;

/// A buffer whose parts are written by several threads, none of which touches another's part.
///
/// The columns of one head are such a part: they are no slice of a row-major tensor, so the borrow checker cannot deal
/// them out.
pub(crate) struct Disjoint<'a> {
    data: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: the buffer is borrowed mutably for 'a, and `part` demands that threads ask for different elements.
unsafe impl Sync for Disjoint<'_> {}

impl<'a> Disjoint<'a> {
    pub(crate) fn new(data: &'a mut [f32]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), owner: PhantomData }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// While the result lives, nothing else may hold a part that shares an element with it.
    #[expect(clippy::mut_from_ref, reason = "that parts do not overlap is the caller's promise")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a part is inside its buffer");
        // SAFETY: inside the buffer, which 'a keeps borrowed, and not shared: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}
