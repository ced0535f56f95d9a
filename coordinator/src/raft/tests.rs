//! The log's stories: what was acknowledged is there again, whatever happened in between.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use raft::prelude::{Entry, HardState};
use raft::{GetEntriesContext, Storage};
use tempfile::TempDir;
use tokio::sync::mpsc as tokio_mpsc;

use super::network::Network;
use super::node::Ended;
use super::storage::{Database, Identity, KeyValue, Log, StorageError, Write};
use super::{
    Alone, Event, Machine, MachineError, Node, NodeError, NodeSettings, Proposal, ProposeError,
};

/// Remembers what it was told; does not understand `?`.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Notebook(Vec<String>);

impl Machine for Notebook {
    type Command = String;
    type Reply = usize;
    type Effect = String;

    fn read(entry: &[u8]) -> Result<String, MachineError> {
        match &*String::from_utf8_lossy(entry) {
            "?" => Err(MachineError("`?` is no command".into())),
            line => Ok(line.to_owned()),
        }
    }

    fn apply(&mut self, line: String) -> (usize, Vec<String>) {
        self.0.push(line.clone());
        (self.0.len(), vec![line])
    }

    fn snapshot(&self) -> Result<Vec<u8>, MachineError> {
        Ok(self.0.join("\n").into_bytes())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), MachineError> {
        self.0 = String::from_utf8_lossy(state).lines().map(str::to_owned).collect();
        Ok(())
    }
}

fn identity(node: u64) -> Identity {
    Identity { cluster: "lab".into(), node }
}

fn open_log(folder: &Path) -> Result<Log<Database>, StorageError> {
    match Log::open(Database::open(folder)?)? {
        Ok(log) => Ok(log),
        Err(empty) => Log::found(empty, identity(1), &[1], b""),
    }
}

pub(super) fn quick() -> NodeSettings {
    NodeSettings { tick: Duration::from_millis(10), ..NodeSettings::default() }
}

pub(super) struct Running {
    pub(super) node: Node<Notebook>,
    ended: Ended,
    events: tokio_mpsc::UnboundedReceiver<Event<String>>,
}

impl Running {
    pub(super) fn start(folder: &Path, settings: &NodeSettings) -> Self {
        let log = open_log(folder).unwrap();
        let (sender, events) = tokio_mpsc::unbounded_channel();
        let (node, ended) = Node::start(log, Notebook::default(), Alone, settings, sender).unwrap();
        Self { node, ended, events }
    }

    pub(super) async fn stop(mut self) -> Result<(), NodeError> {
        self.node.stop();
        self.ended.wait().await
    }

    pub(super) async fn lines(&self) -> Vec<String> {
        self.node.catch_up().await.unwrap();
        self.node.read(|notebook| notebook.0.clone())
    }
}

#[test]
fn a_batch_is_there_again_after_reopening() {
    let folder = TempDir::new().unwrap();
    let pair = |i: u8| (vec![b'k', i], vec![i; 4096]);
    {
        let mut database = Database::open(folder.path()).unwrap();
        database.write((0..50).map(pair).map(|(k, v)| Write::Put(k, v)).collect()).unwrap();
        database.write(vec![Write::Delete(vec![b'k', 0])]).unwrap();
    }
    let database = Database::open(folder.path()).unwrap();
    assert_eq!(database.scan(b"k").unwrap(), (1..50).map(pair).collect::<Vec<_>>());
}

#[test]
fn entries_of_any_size_come_back_and_replace_what_they_contradict() {
    let folder = TempDir::new().unwrap();
    let entry = |index, term, bytes: usize| Entry {
        index,
        term,
        data: vec![index as u8; bytes].into(),
        ..Entry::default()
    };
    let read = |log: &Log<Database>| {
        let last = log.last_index().unwrap();
        log.entries(2, last + 1, None, GetEntriesContext::empty(false)).unwrap()
    };
    let kept = [entry(2, 1, 10), entry(3, 2, 100_000)];
    {
        let mut log = open_log(folder.path()).unwrap();
        log.persist(None, (2..6).map(|i| entry(i, 1, 10_000)).collect(), None).unwrap();
        log.persist(None, vec![kept[0].clone()], None).unwrap();
        let hard_state = HardState { term: 2, commit: 3, ..HardState::default() };
        log.persist(None, vec![kept[1].clone()], Some(&hard_state)).unwrap();
        assert_eq!(read(&log), kept);
    }
    let mut log = open_log(folder.path()).unwrap();
    assert_eq!(read(&log), kept);
    assert_eq!(log.initial_state().unwrap().hard_state.commit, 3);

    let state = vec![7; 50_000];
    log.compact(3, &state).unwrap();
    drop(log);
    let log = open_log(folder.path()).unwrap();
    assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (4, 3));
    assert_eq!(log.term(3).unwrap(), 2);
    assert_eq!(log.entry_bytes(), 0);
    assert_eq!(log.snapshot_data().unwrap(), state);
}

fn filled(batches: u64) -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut log = open_log(folder.path()).unwrap();
    for index in 2..2 + batches {
        let entry = Entry { index, term: 1, data: vec![1; 900].into(), ..Entry::default() };
        let hard_state = HardState { term: 1, commit: index, ..HardState::default() };
        log.persist(None, vec![entry], Some(&hard_state)).unwrap();
    }
    folder
}

fn sled_file(folder: &Path) -> PathBuf {
    folder.join("sled/db")
}

/// A damaged database is refused in words, and never opens as a shorter history.
fn assert_refused(folder: &Path, what: &str) {
    match open_log(folder) {
        Err(error @ StorageError::Damaged { .. }) => {
            assert!(error.to_string().contains("Move the folder aside"), "{what}: {error}");
        }
        Err(error) => panic!("{what}: refused, but not as damaged: {error}"),
        Ok(log) => panic!("{what}: opened with entries up to {:?}", log.last_index()),
    }
}

#[test]
fn a_truncated_database_is_refused() {
    for share in [0.0, 0.1, 0.5, 0.9] {
        let folder = filled(40);
        // Without sled's own note of where its pages are, as after a crash.
        let file = OpenOptions::new().write(true).open(sled_file(folder.path())).unwrap();
        let used = used_bytes(&sled_file(folder.path()));
        file.set_len((used as f64 * share) as u64).unwrap();
        assert_refused(folder.path(), &format!("cut to {share}"));
    }
}

/// Where the last byte that is not zero stands: sled grows its file ahead.
fn used_bytes(path: &Path) -> usize {
    fs::read(path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1
}

#[test]
fn a_flipped_bit_never_shortens_history() {
    for share in [0.2, 0.5, 0.8] {
        let folder = filled(40);
        let path = sled_file(folder.path());
        let at = (used_bytes(&path) as f64 * share) as u64;
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, at).unwrap();
        file.write_all_at(&bytes.map(|byte| !byte), at).unwrap();
        // Either the place was garbage that nothing refers to, or it is noticed.
        match open_log(folder.path()) {
            Ok(log) => {
                assert_eq!(log.last_index().unwrap(), 41, "flipped at {share}");
                let entries = log.entries(2, 42, None, GetEntriesContext::empty(false)).unwrap();
                assert!(entries.iter().all(|e| e.data == vec![1; 900]), "flipped at {share}");
            }
            Err(StorageError::Damaged { .. }) => {}
            Err(error) => panic!("flipped at {share}: refused, but not as damaged: {error}"),
        }
    }
}

#[test]
fn a_lost_database_is_not_taken_for_a_new_one() {
    let folder = filled(3);
    fs::remove_dir_all(folder.path().join("sled")).unwrap();
    assert_refused(folder.path(), "sled's folder removed");
}

#[test]
fn two_processes_never_share_a_database() {
    let folder = TempDir::new().unwrap();
    let _first = open_log(folder.path()).unwrap();
    assert!(matches!(Database::open(folder.path()), Err(StorageError::Locked { .. })));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut running = Running::start(folder.path(), &quick());
    assert_eq!(running.node.propose(b"one".to_vec()).await, Ok(1));
    assert_eq!(running.node.propose(b"two".to_vec()).await, Ok(2));
    assert_eq!(running.events.recv().await, Some(Event::Leading));
    assert_eq!(running.events.recv().await, Some(Event::Applied(vec!["one".into()])));
    running.stop().await.unwrap();

    let mut running = Running::start(folder.path(), &quick());
    assert_eq!(running.lines().await, ["one", "two"]);
    // What was carried out before is no news.
    assert_eq!(running.events.recv().await, Some(Event::Leading));
    assert_eq!(running.node.propose(b"three".to_vec()).await, Ok(3));
    assert_eq!(running.events.recv().await, Some(Event::Applied(vec!["three".into()])));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_replaces_the_log_and_gives_the_same_state() {
    let folder = TempDir::new().unwrap();
    let settings = NodeSettings { snapshot_entries: 10, ..quick() };
    let running = Running::start(folder.path(), &settings);
    for i in 0..37 {
        running
            .node
            .propose(format!("line {i} {}", "x".repeat(i * 200)).into_bytes())
            .await
            .unwrap();
    }
    let before = running.lines().await;
    running.stop().await.unwrap();

    let log = open_log(folder.path()).unwrap();
    assert!(log.snapshot_index() > 30, "snapshot at {}", log.snapshot_index());
    assert!(log.last_index().unwrap() - log.snapshot_index() < 10);
    drop(log);
    let running = Running::start(folder.path(), &settings);
    assert_eq!(running.lines().await, before);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn commands_that_go_together_are_carried_out_in_their_order() {
    let folder = TempDir::new().unwrap();
    let running = Running::start(folder.path(), &quick());
    running.node.catch_up().await.unwrap();
    let lines: Vec<String> = (1..=300).map(|number| format!("{number}")).collect();
    let commands: Vec<_> = lines.iter().map(|line| line.clone().into_bytes()).collect();
    let answers: Vec<_> = running.node.propose_all(commands).await;
    let counted: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(counted, (1..=300).collect::<Vec<_>>());
    assert_eq!(running.lines().await, lines);
    running.stop().await.unwrap();
    let batches = batches(folder.path());
    assert!(batches < 30, "{batches} batches for 300 commands");
}

#[tokio::test]
async fn what_was_read_before_is_not_read_again() {
    let folder = TempDir::new().unwrap();
    let mut running = Running::start(folder.path(), &quick());
    let understood = Proposal { entry: b"?".to_vec(), command: Some("!".to_owned()) };
    assert_eq!(running.node.propose(understood).await, Ok(1));
    assert_eq!(running.lines().await, ["!"]);
    // Only by whoever proposed it, and while it is in the log.
    running.node.stop();
    running.ended.wait().await.unwrap();
    drop(running);
    let mut running = Running::start(folder.path(), &quick());
    assert!(matches!(running.ended.wait().await, Err(NodeError::Entry { index: 3, .. })));
}

#[tokio::test]
async fn many_commands_share_a_sync() {
    let folder = TempDir::new().unwrap();
    let running = Running::start(folder.path(), &quick());
    running.node.catch_up().await.unwrap();
    let node = Arc::new(running);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..500 {
        let running = Arc::clone(&node);
        tasks.spawn(async move { running.node.propose(format!("{i}").into_bytes()).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(node.lines().await.len(), 500);
    let running = Arc::into_inner(node).unwrap();
    running.stop().await.unwrap();
    let batches = batches(folder.path());
    assert!(batches < 300, "{batches} batches for 500 commands");
}

/// How often a node that has ended wrote to its disk.
fn batches(folder: &Path) -> u64 {
    let sequence = sled::open(folder.join("sled")).unwrap().get("sequence").unwrap();
    u64::from_be_bytes(sequence.unwrap().as_ref().try_into().unwrap())
}

#[tokio::test]
async fn a_command_nobody_understands_stops_the_node_for_good() {
    let folder = TempDir::new().unwrap();
    let mut running = Running::start(folder.path(), &quick());
    running.node.propose(b"one".to_vec()).await.unwrap();
    assert_eq!(running.node.propose(b"?".to_vec()).await, Err(ProposeError::Stopped));
    let error = running.ended.wait().await.unwrap_err();
    assert!(matches!(error, NodeError::Entry { index: 4, .. }), "{error}");
    assert_eq!(running.node.propose(b"two".to_vec()).await, Err(ProposeError::Stopped));
    drop(running);

    // Again after a restart: it is never skipped.
    let mut running = Running::start(folder.path(), &quick());
    assert!(matches!(running.ended.wait().await, Err(NodeError::Entry { index: 4, .. })));
}

/// Three nodes in one process, whose messages pass through a channel.
type Nodes = Arc<Mutex<Vec<Option<Arc<Node<Notebook>>>>>>;

struct Wire(mpsc::Sender<(u64, Vec<u8>)>);

impl Network for Wire {
    fn send(&mut self, to: u64, message: Vec<u8>) {
        let _ = self.0.send((to, message));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_loop_runs_three_nodes() {
    let folders: Vec<_> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let nodes: Nodes = Arc::default();
    let (sender, receiver) = mpsc::channel::<(u64, Vec<u8>)>();
    let postman = Arc::clone(&nodes);
    std::thread::spawn(move || {
        for (to, message) in receiver {
            let node = postman.lock().unwrap().get(to as usize - 1).cloned().flatten();
            if let Some(node) = node {
                node.deliver(message);
            }
        }
    });
    let settings = NodeSettings { snapshot_entries: 8, ..quick() };
    let start = |number: u64| {
        let store = Database::open(folders[number as usize - 1].path()).unwrap();
        let log = match Log::open(store).unwrap() {
            Ok(log) => log,
            Err(empty) => Log::found(empty, identity(number), &[1, 2, 3], b"").unwrap(),
        };
        let (events, _) = tokio_mpsc::unbounded_channel();
        Node::start(log, Notebook::default(), Wire(sender.clone()), &settings, events).unwrap()
    };
    let mut ended = Vec::new();
    // The third comes late, after the others have thrown away the entries it lacks.
    for number in 1..=2 {
        let (node, end) = start(number);
        nodes.lock().unwrap().push(Some(Arc::new(node)));
        ended.push(end);
    }
    let all = |nodes: &Nodes| nodes.lock().unwrap().iter().flatten().cloned().collect::<Vec<_>>();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut said = 0;
    while said < 30 {
        assert!(Instant::now() < deadline, "no leader took the commands");
        let mut taken = false;
        for node in all(&nodes) {
            if node.propose(format!("{said}").into_bytes()).await.is_ok() {
                said += 1;
                taken = true;
                break;
            }
        }
        if !taken {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let (node, end) = start(3);
    nodes.lock().unwrap().push(Some(Arc::new(node)));
    ended.push(end);
    let third = all(&nodes)[2].clone();
    while third.read(|notebook| notebook.0.len()) < 30 {
        assert!(Instant::now() < deadline, "the third node never caught up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let states: Vec<_> = all(&nodes).iter().map(|n| n.read(Clone::clone)).collect();
    assert!(states.iter().all(|state| *state == states[0]));
    for node in all(&nodes) {
        node.stop();
    }
    for mut end in ended {
        end.wait().await.unwrap();
    }
}
