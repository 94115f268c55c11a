//! What the figures were measured on, and what processes used.

use std::fs;

use serde::Serialize;

use super::{BenchError, Doing};

/// Libraries whose version decides about the figures.
const LIBRARIES: [&str; 6] = ["quinn", "quinn-proto", "quinn-udp", "rustls", "aws-lc-rs", "tokio"];

#[derive(Debug, Serialize)]
pub(super) struct Machine {
    ghost: &'static str,
    libraries: Vec<String>,
    debug_build: bool,
    kernel: String,
    cpu: String,
    cores: usize,
    load_before: [f64; 3],
    load_after: [f64; 3],
}

impl Machine {
    pub(super) fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name").map(|rest| rest.trim_matches([' ', '\t', ':'])))
            .unwrap_or("unknown")
            .to_owned();
        Self {
            ghost: env!("CARGO_PKG_VERSION"),
            libraries: locked_versions(include_str!("../../../Cargo.lock")),
            debug_build: cfg!(debug_assertions),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_before: load(),
            load_after: load(),
        }
    }

    pub(super) fn look_again(&mut self) {
        self.load_after = load();
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [before, after] =
            [self.load_before, self.load_after].map(|load| load.map(|value| value.to_string()).join(" "));
        write!(
            f,
            "ghost {}; {}\n{}, {} cores; Linux {}; load average {before} before, {after} after",
            self.ghost,
            self.libraries.join(", "),
            self.cpu,
            self.cores,
            self.kernel
        )?;
        if self.debug_build {
            f.write_str("\n**Not a release build: these figures mean nothing.**")?;
        }
        Ok(())
    }
}

/// The versions this binary was built with.
fn locked_versions(lock: &str) -> Vec<String> {
    let packages = lock.split("[[package]]").filter_map(|package| {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(" = ").trim_matches('"'))
        };
        Some((field("name")?, field("version")?))
    });
    let found: Vec<_> = packages.collect();
    let of = |library: &&str| {
        found
            .iter()
            .filter(|(name, _)| name == library)
            .map(|(name, version)| format!("{name} {version}"))
            .collect::<Vec<_>>()
    };
    LIBRARIES.iter().flat_map(of).collect()
}

fn load() -> [f64; 3] {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut values = text.split(' ').map(|value| value.parse().unwrap_or(f64::NAN));
    [(); 3].map(|()| values.next().unwrap_or(f64::NAN))
}

/// Seconds of processor time this process has used, all threads, user and system.
pub(super) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Resident memory of a process, in bytes.
pub(super) fn resident_bytes(pid: u32) -> Result<u64, BenchError> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).doing("reading the memory of a process")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or("no VmRSS line")
        .doing("reading the memory of a process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_is_found_in_the_lock_file() {
        let found = locked_versions(include_str!("../../../Cargo.lock"));
        for library in LIBRARIES {
            assert!(
                found.iter().any(|text| text.starts_with(&format!("{library} "))),
                "{library} in {found:?}"
            );
        }
    }

    #[test]
    fn time_and_memory_of_this_process_are_read() {
        let before = cpu_seconds();
        let mut bytes = vec![0u8; 64 << 20];
        bytes.iter_mut().step_by(1024).for_each(|byte| *byte = 1);
        assert!(resident_bytes(std::process::id()).unwrap() > 64 << 20);
        let mut sum = 0u64;
        while cpu_seconds() - before < 0.02 {
            sum = std::hint::black_box(sum + u64::from(bytes[sum as usize % bytes.len()]) + 1);
        }
    }
}
