//! When somebody last used this machine's keyboards, mice and terminals.
//!
//! Asks no display server, so that X, Wayland and a bare console are all alike, and reads no key: only whether
//! anything moved.
//!
//! | what | from |
//! |---|---|
//! | terminals, remote ones too | the access times of `/dev/pts/*` and `/dev/tty*`, which the kernel keeps |
//! | USB keyboards and mice | `urbnum`: how many transfers a device has made; one that rests makes none |
//! | built-in and PS/2 ones | interrupts of their controller, `i8042`, in `/proc/interrupts` |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// USB's number for keyboards, mice and the like.
const HID_CLASS: &str = "03";

/// Watches a machine's input.
#[derive(Debug)]
pub(super) struct Presence {
    root: PathBuf,
    /// What each counter said at the last look.
    counts: BTreeMap<PathBuf, u64>,
    /// When a counter last moved.
    moved_ms: Option<u64>,
}

impl Presence {
    /// Of the machine whose files are under `root`: `/`, but for tests.
    pub(super) fn of(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), counts: BTreeMap::new(), moved_ms: None }
    }

    /// Whether there is anything to watch.
    pub(super) fn can_tell(&self) -> bool {
        !self.terminals().is_empty() || !self.counters().is_empty()
    }

    /// When the machine was last used, in milliseconds since the epoch, as far as can be told at `now_ms`.
    pub(super) fn last_ms(&mut self, now_ms: u64) -> Option<u64> {
        let counts = self.counters();
        let moved = |(name, count): (&PathBuf, &u64)| {
            self.counts.get(name).is_some_and(|before| before != count)
        };
        if counts.iter().any(moved) {
            self.moved_ms = Some(now_ms);
        }
        self.counts = counts;
        let typed_ms = self.terminals().iter().filter_map(|path| accessed_ms(path)).max();
        self.moved_ms.max(typed_ms.filter(|typed| *typed <= now_ms))
    }

    fn terminals(&self) -> Vec<PathBuf> {
        let numbered = |path: &PathBuf, before: &str| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_prefix(before).unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        let remote = entries(&self.root.join("dev/pts")).filter(|path| numbered(path, ""));
        let local = entries(&self.root.join("dev")).filter(|path| numbered(path, "tty"));
        remote.chain(local).collect()
    }

    fn counters(&self) -> BTreeMap<PathBuf, u64> {
        let mut counts = BTreeMap::new();
        for device in entries(&self.root.join("sys/bus/usb/devices")) {
            if is_input(&device)
                && let Some(count) = number(&device.join("urbnum"))
            {
                counts.insert(device, count);
            }
        }
        let interrupts = self.root.join("proc/interrupts");
        if let Some(count) = i8042(&fs::read_to_string(&interrupts).unwrap_or_default()) {
            counts.insert(interrupts, count);
        }
        counts
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Whether one of a USB device's interfaces is for people's hands.
fn is_input(device: &Path) -> bool {
    let class = |interface: PathBuf| fs::read_to_string(interface.join("bInterfaceClass")).ok();
    entries(device).filter_map(class).any(|class| class.trim() == HID_CLASS)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// How often the keyboard controller has interrupted any of the processors.
fn i8042(interrupts: &str) -> Option<u64> {
    let counts = |line: &str| -> u64 {
        line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum()
    };
    let lines = interrupts.lines().filter(|line| line.ends_with("i8042"));
    lines.map(counts).reduce(|a, b| a + b)
}

fn accessed_ms(path: &Path) -> Option<u64> {
    let accessed = fs::metadata(path).ok()?.accessed().ok()?;
    u64::try_from(accessed.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn write(root: &Path, name: &str, text: &str) -> PathBuf {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn accessed(path: &Path, ms: u64) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        File::open(path).unwrap().set_times(FileTimes::new().set_accessed(at)).unwrap();
    }

    #[test]
    fn a_terminal_was_used_when_it_was_read_last() {
        let folder = tempfile::tempdir().unwrap();
        let mut presence = Presence::of(folder.path());
        assert!(!presence.can_tell());
        assert_eq!(presence.last_ms(9_000), None);
        accessed(&write(folder.path(), "dev/pts/3", ""), 5_000);
        accessed(&write(folder.path(), "dev/tty1", ""), 4_000);
        // Neither is a terminal that anybody types at.
        accessed(&write(folder.path(), "dev/pts/ptmx", ""), 6_000);
        accessed(&write(folder.path(), "dev/ttyS0", ""), 6_000);
        assert!(presence.can_tell());
        assert_eq!(presence.last_ms(9_000), Some(5_000));
    }

    #[test]
    fn a_device_whose_counter_moves_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let usb = "sys/bus/usb/devices";
        write(folder.path(), &format!("{usb}/1-2/1-2:1.0/bInterfaceClass"), "03\n");
        write(folder.path(), &format!("{usb}/1-2/urbnum"), "70\n");
        write(folder.path(), &format!("{usb}/1-3/1-3:1.0/bInterfaceClass"), "08\n");
        let mut presence = Presence::of(folder.path());
        assert_eq!(presence.last_ms(1_000), None, "the first look only counts");
        write(folder.path(), &format!("{usb}/1-3/urbnum"), "99\n");
        assert_eq!(presence.last_ms(2_000), None, "a disk is no keyboard");
        write(folder.path(), &format!("{usb}/1-2/urbnum"), "71\n");
        assert_eq!(presence.last_ms(3_000), Some(3_000));
        assert_eq!(presence.last_ms(4_000), Some(3_000));

        let line = |count| {
            format!(
                "           CPU0 CPU1\n  1:  9  {count}  IO-APIC  1-edge  i8042\n 16: 7 7 IO-APIC ahci\n"
            )
        };
        write(folder.path(), "proc/interrupts", &line(5));
        assert_eq!(presence.last_ms(5_000), Some(3_000));
        write(folder.path(), "proc/interrupts", &line(6));
        assert_eq!(presence.last_ms(6_000), Some(6_000));
    }
}
