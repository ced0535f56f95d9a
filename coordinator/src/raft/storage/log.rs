//! Log, votes and snapshot as raft asks for them.
//!
//! Entries since the last snapshot are mirrored in memory, so reading them costs nothing; the snapshot itself stays on
//! disk. Everything that belongs together goes into one batch.

use std::collections::VecDeque;

use protobuf::Message as _;
use raft::prelude::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, util};
use serde::{Deserialize, Serialize};

use super::{KeyValue, StorageError, Write, record};

const IDENTITY: &[u8] = b"m/identity";
const HARD_STATE: &[u8] = b"m/hard-state";
const CONF_STATE: &[u8] = b"m/conf-state";
const SNAPSHOT: &[u8] = b"m/snapshot";

fn entry_key(index: u64) -> Vec<u8> {
    [b"e", &index.to_be_bytes()[..]].concat()
}

fn snapshot_key(index: u64) -> Vec<u8> {
    [b"s", &index.to_be_bytes()[..]].concat()
}

/// Who a node is. Made once per folder: a wiped node is another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Shared by all nodes of a cluster.
    pub(crate) cluster: String,
    /// Never 0.
    pub(crate) node: u64,
}

#[derive(Debug)]
pub(crate) struct Log<S> {
    store: S,
    identity: Identity,
    /// Its commit index may run ahead of the disk: it goes along with the next batch.
    hard_state: HardState,
    conf_state: ConfState,
    snapshot: SnapshotMetadata,
    snapshot_bytes: usize,
    /// From `snapshot.index + 1` on, without gaps.
    entries: VecDeque<Entry>,
    entry_bytes: usize,
}

impl<S: KeyValue> Log<S> {
    /// Reads what is there; `None` in an empty store.
    pub(crate) fn open(store: S) -> Result<Result<Self, S>, StorageError> {
        let Some(identity) = record::get(&store, IDENTITY)? else {
            return Ok(Err(store));
        };
        let identity: Identity = serde_json::from_slice(&identity)
            .map_err(|error| store.damaged(format!("its identity: {error}")))?;
        let hard_state: HardState = message(&store, HARD_STATE)?;
        let conf_state: ConfState = message(&store, CONF_STATE)?;
        let snapshot: SnapshotMetadata = message(&store, SNAPSHOT)?;
        let snapshot_bytes = record::get(&store, &snapshot_key(snapshot.index))?
            .ok_or_else(|| store.damaged(format!("snapshot {} is missing", snapshot.index)))?
            .len();
        let mut entries = VecDeque::new();
        let mut entry_bytes = 0;
        for (key, bytes) in record::scan(&store, b"e")? {
            let entry = Entry::parse_from_bytes(&bytes)
                .map_err(|error| store.damaged(format!("entry: {error}")))?;
            let expected = snapshot.index + 1 + entries.len() as u64;
            if key != entry_key(expected) || entry.index != expected {
                return Err(
                    store.damaged(format!("entry {} where {expected} belongs", entry.index))
                );
            }
            entry_bytes += bytes.len();
            entries.push_back(entry);
        }
        let last = snapshot.index + entries.len() as u64;
        if !(snapshot.index..=last).contains(&hard_state.commit) {
            return Err(store.damaged(format!(
                "committed up to {}, but the log holds {} to {last}",
                hard_state.commit,
                snapshot.index + 1
            )));
        }
        Ok(Ok(Self {
            store,
            identity,
            hard_state,
            conf_state,
            snapshot,
            snapshot_bytes,
            entries,
            entry_bytes,
        }))
    }

    /// Founds a cluster of `voters` in an empty store. Its first entry is a snapshot of the empty state, so that whoever
    /// joins later starts from a snapshot too.
    pub(crate) fn found(
        mut store: S,
        identity: Identity,
        voters: &[u64],
        state: &[u8],
    ) -> Result<Self, StorageError> {
        let conf_state = ConfState::from((voters.to_vec(), Vec::new()));
        let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
        let mut snapshot = SnapshotMetadata { index: 1, term: 1, ..SnapshotMetadata::default() };
        snapshot.set_conf_state(conf_state.clone());

        let mut batch = Vec::new();
        let text = serde_json::to_vec(&identity).map_err(|e| store.damaged(e.to_string()))?;
        record::put(&mut batch, IDENTITY, &text);
        put_message(&mut batch, HARD_STATE, &hard_state);
        put_message(&mut batch, CONF_STATE, &conf_state);
        put_message(&mut batch, SNAPSHOT, &snapshot);
        record::put(&mut batch, &snapshot_key(1), state);
        store.write(batch)?;
        Ok(Self {
            store,
            identity,
            hard_state,
            conf_state,
            snapshot,
            snapshot_bytes: state.len(),
            entries: VecDeque::new(),
            entry_bytes: 0,
        })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.index
    }

    /// Bytes of all entries since the snapshot.
    pub(crate) fn entry_bytes(&self) -> usize {
        self.entry_bytes
    }

    /// Bytes of the last snapshot.
    pub(crate) fn snapshot_bytes(&self) -> usize {
        self.snapshot_bytes
    }

    /// The state as of the last snapshot.
    pub(crate) fn snapshot_data(&self) -> Result<Vec<u8>, StorageError> {
        let index = self.snapshot.index;
        record::get(&self.store, &snapshot_key(index))?
            .ok_or_else(|| self.store.damaged(format!("snapshot {index} is missing")))
    }

    /// Remembers how far the log is committed; not durable before the next write.
    pub(crate) fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
    }

    /// What a ready must make durable before anyone hears of it, in one batch.
    pub(crate) fn persist(
        &mut self,
        snapshot: Option<&Snapshot>,
        entries: Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<(), StorageError> {
        let mut batch = Vec::new();
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(snapshot) = snapshot {
            let metadata = snapshot.get_metadata().clone();
            self.conf_state = metadata.get_conf_state().clone();
            self.hard_state.commit = self.hard_state.commit.max(metadata.index);
            put_message(&mut batch, CONF_STATE, &self.conf_state);
            self.replace_snapshot(&mut batch, metadata, &snapshot.data, usize::MAX);
        }
        if let Some(first) = entries.first() {
            let kept = first.index.saturating_sub(self.snapshot.index + 1);
            while self.entries.len() as u64 > kept {
                self.drop_entry(&mut batch, VecDeque::pop_back);
            }
            for entry in entries {
                let bytes = encode(&entry);
                record::put(&mut batch, &entry_key(entry.index), &bytes);
                self.entry_bytes += bytes.len();
                self.entries.push_back(entry);
            }
        }
        put_message(&mut batch, HARD_STATE, &self.hard_state);
        self.store.write(batch)
    }

    /// Replaces the log up to `index` by the state at `index`.
    pub(crate) fn compact(&mut self, index: u64, state: &[u8]) -> Result<(), StorageError> {
        let term = self.term(index).map_err(|error| {
            self.store.damaged(format!("cannot compact up to {index}: {error}"))
        })?;
        let mut metadata = SnapshotMetadata { index, term, ..SnapshotMetadata::default() };
        metadata.set_conf_state(self.conf_state.clone());
        let mut batch = Vec::new();
        let dropped = (index - self.snapshot.index) as usize;
        self.replace_snapshot(&mut batch, metadata, state, dropped);
        put_message(&mut batch, HARD_STATE, &self.hard_state);
        self.store.write(batch)
    }

    /// Remembers who takes part.
    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) -> Result<(), StorageError> {
        let mut batch = Vec::new();
        put_message(&mut batch, CONF_STATE, &conf_state);
        self.conf_state = conf_state;
        self.store.write(batch)
    }

    fn replace_snapshot(
        &mut self,
        batch: &mut Vec<Write>,
        metadata: SnapshotMetadata,
        state: &[u8],
        dropped: usize,
    ) {
        record::remove(batch, &snapshot_key(self.snapshot.index), self.snapshot_bytes);
        for _ in 0..dropped.min(self.entries.len()) {
            self.drop_entry(batch, VecDeque::pop_front);
        }
        put_message(batch, SNAPSHOT, &metadata);
        record::put(batch, &snapshot_key(metadata.index), state);
        self.snapshot_bytes = state.len();
        self.snapshot = metadata;
    }

    fn drop_entry(
        &mut self,
        batch: &mut Vec<Write>,
        pop: fn(&mut VecDeque<Entry>) -> Option<Entry>,
    ) {
        if let Some(entry) = pop(&mut self.entries) {
            let bytes = encode(&entry).len();
            self.entry_bytes -= bytes;
            record::remove(batch, &entry_key(entry.index), bytes);
        }
    }
}

fn encode(message: &impl protobuf::Message) -> Vec<u8> {
    // Cannot fail: protobuf 2 errs on a missing required field, and raft's messages (proto3) have none.
    message.write_to_bytes().unwrap_or_default()
}

fn put_message(batch: &mut Vec<Write>, key: &[u8], message: &impl protobuf::Message) {
    record::put(batch, key, &encode(message));
}

fn message<M: protobuf::Message>(store: &impl KeyValue, key: &[u8]) -> Result<M, StorageError> {
    let name = String::from_utf8_lossy(key);
    let bytes =
        record::get(store, key)?.ok_or_else(|| store.damaged(format!("`{name}` is missing")))?;
    M::parse_from_bytes(&bytes).map_err(|error| store.damaged(format!("`{name}`: {error}")))
}

impl<S: KeyValue> Storage for Log<S> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let first = self.snapshot.index + 1;
        if low < first {
            return Err(raft::StorageError::Compacted.into());
        }
        if high > first + self.entries.len() as u64 {
            return Err(raft::StorageError::Unavailable.into());
        }
        let range = (low - first) as usize..(high - first) as usize;
        let mut entries: Vec<Entry> = self.entries.range(range).cloned().collect();
        util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index.checked_sub(self.snapshot.index) {
            None => Err(raft::StorageError::Compacted.into()),
            Some(0) => Ok(self.snapshot.term),
            Some(ahead) => self
                .entries
                .get(ahead as usize - 1)
                .map(|entry| entry.term)
                .ok_or_else(|| raft::StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot.index + self.entries.len() as u64)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.index < request_index {
            return Err(raft::StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let data =
            self.snapshot_data().map_err(|error| raft::StorageError::Other(Box::new(error)))?;
        let mut snapshot = Snapshot { data: data.into(), ..Snapshot::default() };
        snapshot.set_metadata(self.snapshot.clone());
        Ok(snapshot)
    }
}
