//! The allocator of a program that runs for weeks, for all that is no tensor.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

/// mimalloc. A program names it as its `#[global_allocator]`.
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` of version 3's `mimalloc.h`, which the binding does not name.
const PURGE_DELAY: mi_option_t = 15;

/// Lets the allocator give pages back as soon as nothing is left in them. By default it waits for a second to pass and for the
/// same thread to come by again, which a thread that has nothing more to do does not. The variable `MIMALLOC_PURGE_DELAY`
/// (milliseconds) goes before. To be called by `main`, before there are other threads.
pub fn give_pages_back_at_once() {
    // SAFETY: the function takes any known option and any number, and writes the number into the table of options, which lives
    // as long as the program; 15 is a known one, as the test below finds.
    unsafe { mi_option_set_default(PURGE_DELAY, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: the function reads the table of options.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(delay(), 1000, "no other option has this default");
        give_pages_back_at_once();
        assert_eq!(delay(), 0);
    }
}
