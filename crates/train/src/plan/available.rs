//! How much memory a process may still take. Linux says; where its files are not there, nothing is known.

use std::path::{Path, PathBuf};

/// Memory that a process may take before the system runs short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// What limits it.
    pub limit: String,
}

/// The memory available now: the machine's, or what the process's control groups leave of theirs, whichever is less.
/// Memory that holds pages of files counts as available, swap does not.
pub fn available() -> Option<Available> {
    of(Path::new("/"))
}

/// The same below another root.
fn of(root: &Path) -> Option<Available> {
    let machine = fs_err::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB"))?;
        let bytes = kib.trim().parse::<u64>().ok()? * 1024;
        Some(Available { bytes, limit: "free on this machine".to_owned() })
    });
    let groups = fs_err::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let groups = groups.lines().flat_map(|line| group(root, line));
    machine.into_iter().chain(groups).min_by_key(|available| available.bytes)
}

/// What the group of a line of `/proc/self/cgroup`, and each group above it, leaves. A container may see its own group as
/// the root of the tree while the line names it from outside; so groups that are not there are passed over.
fn group(root: &Path, line: &str) -> Vec<Available> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let cgroup = root.join("sys/fs/cgroup");
    let (tree, files) = if controllers.is_empty() {
        (cgroup, ["memory.max", "memory.current"])
    } else if controllers.split(',').any(|c| c == "memory") {
        (cgroup.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes"])
    } else {
        return Vec::new();
    };
    let path = Path::new(path.trim_start_matches('/'));
    path.ancestors().filter_map(|group| left(&tree.join(group), files, group)).collect()
}

/// The limit of one group less what it uses, pages of files not counted; none without a limit.
fn left(dir: &Path, [limit, usage]: [&str; 2], name: &Path) -> Option<Available> {
    let read = |file: &str| fs_err::read_to_string(dir.join(file)).ok();
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    let (limit, usage) = (number(limit)?, number(usage)?);
    let stat = read("memory.stat").unwrap_or_default();
    // The first version of groups has sums over the groups below under a name of their own.
    let prefix = if stat.contains("total_inactive_file ") { "total_" } else { "" };
    let files: u64 = ["inactive_file ", "active_file "]
        .iter()
        .filter_map(|name| {
            let name = format!("{prefix}{name}");
            stat.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse::<u64>().ok())
        })
        .sum();
    let bytes = limit.saturating_sub(usage.saturating_sub(files));
    let name = PathBuf::from("/").join(name);
    Some(Available { bytes, limit: format!("left by the control group {}", name.display()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs_err::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs_err::write(path, text).expect("written");
        }
        dir
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    4000 kB\n");

    #[test]
    fn without_the_files_nothing_is_known() {
        assert_eq!(of(files(&[]).path()), None);
        assert_eq!(of(files(&[("proc/meminfo", "MemAvailable: many kB\n")]).path()), None);
    }

    #[test]
    fn the_machine_limits_where_no_group_does() {
        let dir = files(&[MEMINFO, ("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "max\n")]);
        assert_eq!(of(dir.path()).unwrap().bytes, 4000 * 1024);
    }

    #[test]
    fn the_tightest_group_on_the_way_up_limits() {
        let dir = files(&[
            MEMINFO,
            ("proc/self/cgroup", "12:cpu:/a/b\n0::/a/b\nnonsense\n"),
            ("sys/fs/cgroup/a/b/memory.max", "2000000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/memory.current", "500000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\nactive_file 20000\ninactive_file 30000\n"),
        ]);
        let found = of(dir.path()).unwrap();
        assert_eq!(found.bytes, 550_000);
        assert!(found.limit.contains("/a"), "{found:?}");
    }

    #[test]
    fn groups_of_the_first_version_count_those_below_them() {
        let dir = files(&[
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/outside/container\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "900000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 200000\ntotal_active_file 0\n"),
        ]);
        assert_eq!(of(dir.path()).unwrap().bytes, 300_000);
    }
}
