//! kill -9, over and over: whatever was acknowledged to the outside is there again.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::NodeSettings;
use super::tests::{Running, quick};

const FOLDER: &str = "FLEETUNE_TEST_CRASH_FOLDER";

fn settings() -> NodeSettings {
    NodeSettings { snapshot_entries: 25, ..quick() }
}

/// Not a test of its own: the process that is killed. Says what it was told, once it is durable.
#[tokio::test]
#[ignore = "the other half of the test below"]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let running = Running::start(Path::new(&folder), &settings());
    let begin = running.lines().await.len();
    for number in begin.. {
        let text = format!("{number} {}", "x".repeat(number * 37 % 9000));
        running.node.propose(text.into_bytes()).await.unwrap();
        // In one write, so that a kill never leaves half a line.
        std::io::stderr().write_all(format!("acknowledged {number}\n").as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_a_kill() {
    let folder = TempDir::new().unwrap();
    let mut acknowledged = 0;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["raft::crash::child", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // After a different number of acknowledgements each time, and at no particular moment of the next.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.by_ref() {
            let Some(number) = line.unwrap().strip_prefix("acknowledged ").map(str::to_owned)
            else {
                continue;
            };
            acknowledged = number.parse::<usize>().unwrap() + 1;
            seen += 1;
            if seen > round * 7 {
                break;
            }
        }
        std::thread::sleep(Duration::from_micros(round * 311));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("acknowledged ") {
                acknowledged = number.parse::<usize>().unwrap() + 1;
            }
        }
        assert!(seen > 0, "round {round}: the child said nothing");

        let running = Running::start(folder.path(), &settings());
        let lines = running.lines().await;
        assert!(lines.len() >= acknowledged, "{} of {acknowledged} are left", lines.len());
        for (number, line) in lines.iter().enumerate() {
            assert!(line.starts_with(&format!("{number} ")), "line {number} is {line:.20}");
        }
        running.stop().await.unwrap();
    }
}
