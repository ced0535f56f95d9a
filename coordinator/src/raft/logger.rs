//! raft speaks slog, the house speaks tracing.

use std::fmt::Write as _;

use slog::{Drain, KV as _, Logger, Never, OwnedKVList, Record, Serializer, o};

/// A logger whose records become tracing events.
pub(super) fn bridge() -> Logger {
    Logger::root(Bridge.fuse(), o!())
}

struct Bridge;

impl Drain for Bridge {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        let mut text = Text(record.msg().to_string());
        // Cannot fail: it only appends to a string.
        let _ = record.kv().serialize(record, &mut text);
        let text = text.0;
        match record.level() {
            slog::Level::Critical | slog::Level::Error => tracing::error!(target: "raft", "{text}"),
            slog::Level::Warning => tracing::warn!(target: "raft", "{text}"),
            slog::Level::Info | slog::Level::Debug => tracing::debug!(target: "raft", "{text}"),
            slog::Level::Trace => tracing::trace!(target: "raft", "{text}"),
        }
        Ok(())
    }
}

struct Text(String);

impl Serializer for Text {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(Into::into)
    }
}
