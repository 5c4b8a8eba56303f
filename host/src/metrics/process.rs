//! The metrics of the process under Prometheus' standard names, read from `/proc` at each scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads the metrics of this process.
#[derive(Debug)]
pub struct ProcessCollector {
    /// Seconds since 1970.
    started: f64,
}

impl ProcessCollector {
    /// Takes the present as the start of the process.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started: now.unwrap_or_default().as_secs_f64(),
        }
    }
}

/// What `/proc/self/stat` says.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, which may hold anything.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The third field of proc_pid_stat(5) is the first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            resident_pages: field(24)?,
        })
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric =
                encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?;
            gauge.encode(metric)
        };
        gauge(
            "process_start_time",
            "Start of the process since 1970",
            Some(Unit::Seconds),
            self.started,
        )?;
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            gauge(
                "process_open_fds",
                "Open file descriptors",
                None,
                files.count() as f64,
            )?;
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            gauge(
                "process_max_fds",
                "The limit of open file descriptors",
                None,
                limit as f64,
            )?;
        }
        let stat = std::fs::read_to_string("/proc/self/stat").ok();
        let Some(stat) = stat.and_then(|text| Stat::parse(&text)) else {
            return Ok(());
        };
        gauge(
            "process_resident_memory",
            "Resident memory",
            Some(Unit::Bytes),
            stat.resident_pages as f64 * page_size() as f64,
        )?;
        gauge("process_threads", "Threads", None, stat.threads as f64)?;
        let cpu = ConstCounter::new(stat.cpu_ticks as f64 / clock_ticks_per_second() as f64);
        let metric = encoder.encode_descriptor(
            "process_cpu",
            "Time on the processor",
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?;
        cpu.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_behind_any_name() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 9 0 1000 \
                    900000 321 18446744073709551615 1 1";
        let expected = Stat {
            cpu_ticks: 175,
            threads: 9,
            resident_pages: 321,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("42 (a) S 1"), None);
    }
}
