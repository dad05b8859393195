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

#[cfg(test)]
mod tests {
    use super::Resident;

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
}
