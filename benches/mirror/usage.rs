//! Processor time and memory of a process and its children, from `/proc`.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Linux counts processor time in hundredths of a second wherever Rust runs on it.
const TICKS: u64 = 100;
const SAMPLE: Duration = Duration::from_millis(20);

/// A process and its children at the time of [`ProcessTree::of`].
#[derive(Clone, Debug, Default)]
pub struct ProcessTree(Vec<u32>);

impl ProcessTree {
    pub fn of(root: u32) -> Self {
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
            .collect();
        let mut tree = vec![root];
        let mut at = 0;
        while let Some(&parent) = tree.get(at) {
            tree.extend(
                parents
                    .iter()
                    .filter(|(_, of)| *of == parent)
                    .map(|(pid, _)| pid),
            );
            at += 1;
        }
        Self(tree)
    }

    /// Processor time so far, of user and kernel.
    pub fn cpu(&self) -> Duration {
        let ticks = |pid: &u32| {
            let stat = stat(*pid)?;
            Some(stat.get(11)?.parse::<u64>().ok()? + stat.get(12)?.parse::<u64>().ok()?)
        };
        let ticks: u64 = self.0.iter().filter_map(ticks).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let kilobytes = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.0.iter().filter_map(kilobytes).sum::<u64>() * 1024
    }

    /// Samples resident memory until [`MemoryWatch::peak`].
    pub fn watch(&self) -> MemoryWatch {
        let (tree, over, peak) = (
            self.clone(),
            Arc::<AtomicBool>::default(),
            Arc::<AtomicU64>::default(),
        );
        let (ended, highest) = (Arc::clone(&over), Arc::clone(&peak));
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                highest.fetch_max(tree.resident(), Ordering::Relaxed);
                tokio::time::sleep(SAMPLE).await;
            }
        });
        MemoryWatch { over, peak, task }
    }
}

pub struct MemoryWatch {
    over: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl MemoryWatch {
    /// The maximum of the samples, in bytes.
    pub async fn peak(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.expect("a watch");
        self.peak.load(Ordering::Relaxed)
    }
}

/// The fields of `/proc/PID/stat` after the name of the command, which may hold any character: state,
/// parent, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
