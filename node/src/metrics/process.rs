//! What the system says of this process, read when it is asked for.

use std::{fmt, fs, time::Instant};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::encode_gauge;

/// Resident memory of this process in bytes, or `None` where the system does not say (no `/proc`).
pub fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

/// Descriptors this process has open, or `None` where the system does not say.
pub fn descriptors_in_use() -> Option<u64> {
    // The directory being read is one of them.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

#[derive(Debug)]
pub(super) struct ProcessCollector {
    started: Instant,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = [
            ("resident_bytes", "Resident memory of the process", resident_bytes()),
            ("open_descriptors", "Descriptors the process has open", descriptors_in_use()),
            ("uptime_seconds", "Seconds since the process began", Some(self.started.elapsed().as_secs())),
        ];
        for (name, help, value) in figures {
            if let Some(value) = value {
                encode_gauge(&mut encoder, name, help, i64::try_from(value).unwrap_or(i64::MAX))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_memory_and_descriptors() {
        assert!(resident_bytes().unwrap() > 100_000);
        let before = descriptors_in_use().unwrap();
        let _file = fs::File::open("/proc/self/statm").unwrap();
        // Other tests of this process open and close files meanwhile, so only a floor is certain.
        assert!(before >= 3 && descriptors_in_use().unwrap() >= 3);
    }
}
