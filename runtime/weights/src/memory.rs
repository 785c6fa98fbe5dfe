//! How much memory this process may still take.
//!
//! Decides which of the system's own figures count. Only Linux tells; elsewhere the answer is
//! unknown, and allocations fail when memory is full. Must not know what the memory is for.

/// What the machine has left.
const MACHINE: &str = "/proc/meminfo";

/// What the container allows: the newer and the older control groups.
const CONTAINER: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// Bytes that can be had without driving out other programs; `None` if the system does not
/// say.
pub fn available() -> Option<u64> {
    available_from(|path| std::fs::read_to_string(path).ok())
}

fn available_from(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let machine = read(MACHINE).and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    });
    // No limit is written as `max`, which is no number.
    let container = CONTAINER
        .into_iter()
        .filter_map(|path| read(path)?.trim().parse().ok());
    container.chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> Option<u64> {
        available_from(|path| {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map(|(_, text)| text.to_string())
        })
    }

    #[test]
    fn the_smallest_figure_that_the_system_gives_counts() {
        let machine = "MemTotal: 9 kB\nMemFree:  1 kB\nMemAvailable:       4 kB\nBuffers: 0 kB\n";
        let [newer, older] = CONTAINER;
        assert_eq!(with(&[(MACHINE, machine)]), Some(4096));
        assert_eq!(with(&[(MACHINE, machine), (newer, "max\n")]), Some(4096));
        assert_eq!(with(&[(MACHINE, machine), (newer, "4095\n")]), Some(4095));
        assert_eq!(with(&[(older, "7\n")]), Some(7));
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[(MACHINE, "MemAvailable: many kB")]), None);
    }
}
