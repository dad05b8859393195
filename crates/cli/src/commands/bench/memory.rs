//! What the process occupies, as the kernel counts it.

use serde_json::{Value, json};

/// Bytes of this process in physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "a number says its unit")]
pub(super) struct Resident {
    /// Its own: heap, stacks, buffers.
    pub(super) anonymous_bytes: u64,
    /// Pages of files that are mapped: weights, and the program itself.
    pub(super) file_bytes: u64,
    /// The most of both together, since the program began.
    pub(super) peak_bytes: u64,
}

impl Resident {
    /// Of this moment; none where the kernel does not say.
    pub(super) fn now() -> Option<Self> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        Self::parse(&fs_err::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
            Some(1024 * kib)
        };
        Some(Self {
            anonymous_bytes: bytes("RssAnon")?,
            file_bytes: bytes("RssFile")? + bytes("RssShmem")?,
            peak_bytes: bytes("VmHWM")?,
        })
    }

    pub(super) fn json(self) -> Value {
        json!({
            "anonymous_bytes": self.anonymous_bytes, "file_bytes": self.file_bytes, "peak_bytes": self.peak_bytes,
        })
    }

    pub(super) fn text(self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let Self { anonymous_bytes, file_bytes, peak_bytes } = self;
        format!(
            "{} MiB of its own, {} MiB of files; at most {} MiB",
            mib(anonymous_bytes),
            mib(file_bytes),
            mib(peak_bytes)
        )
    }
}

/// The most that a process occupied, apart from what it did aside.
#[derive(Debug, Default)]
pub(super) struct Watch {
    most: Option<Resident>,
    /// Whether the kernel's peak has something of what was done aside.
    is_peak_foreign: bool,
}

impl Watch {
    /// Looks now, and tells the most so far.
    pub(super) fn look(&mut self) -> Option<Resident> {
        let now = Resident::now()?;
        let peak = if self.is_peak_foreign { now.anonymous_bytes + now.file_bytes } else { now.peak_bytes };
        let before = self.most.unwrap_or(now);
        self.most = Some(Resident {
            anonymous_bytes: before.anonymous_bytes.max(now.anonymous_bytes),
            file_bytes: before.file_bytes.max(now.file_bytes),
            peak_bytes: before.peak_bytes.max(peak),
        });
        self.most
    }

    /// Runs what is not to be counted.
    pub(super) fn aside<T>(&mut self, run: impl FnOnce() -> T) -> T {
        self.look();
        let result = run();
        // The peak begins anew (Linux, proc(5), clear_refs).
        self.is_peak_foreign |= fs_err::write("/proc/self/clear_refs", "5").is_err();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::{Resident, Watch};

    #[test]
    fn the_kernels_words_are_understood() {
        let status = "Name:\thadal\nVmHWM:\t    4096 kB\nVmRSS:\t 3 kB\nRssAnon:\t       1 kB\nRssFile:\t 2 kB\nRssShmem:\t 0 kB\n";
        let found = Resident::parse(status).unwrap();
        assert_eq!(found, Resident { anonymous_bytes: 1024, file_bytes: 2048, peak_bytes: 4 << 20 });
        assert_eq!(found.text(), "0 MiB of its own, 0 MiB of files; at most 4 MiB");
        for wrong in ["", "VmHWM: 1 kB\n", &status.replace("kB", "MB"), &status.replace("4096", "many")] {
            assert_eq!(Resident::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_occupies_something() {
        let now = Resident::now().unwrap();
        assert!(now.anonymous_bytes > 0 && now.peak_bytes >= now.anonymous_bytes);
    }
    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_done_aside_is_not_counted() {
        const BYTES: u64 = 1 << 28;
        let mut watch = Watch::default();
        let before = watch.look().unwrap();
        let sum: u64 =
            watch.aside(|| std::hint::black_box(vec![1_u8; BYTES as usize]).iter().map(|&x| u64::from(x)).sum());
        assert_eq!(BYTES, sum);
        let after = watch.look().unwrap();
        assert!(after.peak_bytes < before.peak_bytes + BYTES / 2, "{before:?} {after:?}");
    }
}
