//! How memory is asked for ahead of its use. Processors differ in what they want, by a factor of two: `README.md` has the
//! measurements.

use std::arch::x86_64::{__cpuid, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::sync::LazyLock;

/// What this processor wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Into the level-1 cache, or only into the level-2 cache.
    nearest: bool,
    /// How many bytes ahead.
    pub(super) ahead: usize,
    /// Rows of W that one row of x meets at a time, where rows are long.
    pub(super) rows: usize,
}

/// Zen 5 takes lines into its level-1 cache as fast as they come, and follows a single stream best.
const ZEN_5: Reading = Reading { nearest: true, ahead: 8192, rows: 1 };
/// On Zen 4 lines that are asked into the level-1 cache hold up the loads of those that are there: it reads 9 to 11 GB/s
/// where it reads 23 to 27 this way.
const OTHERS: Reading = Reading { nearest: false, ahead: 16384, rows: 2 };

impl Reading {
    /// What the processor that this runs on wants.
    pub(super) fn here() -> Self {
        static HERE: LazyLock<Reading> = LazyLock::new(|| {
            let vendor = __cpuid(0);
            let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
            if name.as_flattened() == b"AuthenticAMD" { Reading::of_amd(__cpuid(1).eax) } else { OTHERS }
        });
        *HERE
    }

    /// What a processor of AMD wants, by its signature (AMD64 manual, volume 3, `CPUID Fn0000_0001_EAX`).
    fn of_amd(signature: u32) -> Self {
        let (base, extended) = (signature >> 8 & 15, signature >> 20 & 255);
        // Family 1Ah.
        if base + extended == 0x1A { ZEN_5 } else { OTHERS }
    }

    /// Asks for the line at `address`, which may be anything.
    #[inline(always)]
    pub(super) fn ask(self, address: *const u8) {
        // SAFETY: a prefetch reads nothing that a program could see, and never faults.
        unsafe {
            if self.nearest {
                _mm_prefetch::<_MM_HINT_T0>(address.cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(address.cast());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_apart() {
        // Signatures of Genoa and of Turin.
        assert_eq!(Reading::of_amd(0x00A1_0F11), OTHERS);
        assert_eq!(Reading::of_amd(0x00B0_0F21), ZEN_5);
    }
}
