//! Lines from a trainer, none of them endless, and not more of them than anybody reads.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The longest line kept; the rest of a longer one is left out.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Reads lines of at most [`LINE_BYTES_MAX`].
pub(super) struct Lines<R> {
    reader: BufReader<R>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader) }
    }

    /// The next line; `None` at the end, which includes a pipe that broke.
    pub(super) async fn next(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let mut cut = false;
        loop {
            let chunk = self.reader.fill_buf().await.ok()?;
            if chunk.is_empty() && line.is_empty() {
                return None;
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let room = LINE_BYTES_MAX - line.len();
            cut |= part.len() > room;
            line.extend_from_slice(&part[..part.len().min(room)]);
            let done = end.is_some() || chunk.is_empty();
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.reader.consume(used);
            if done {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches('\r');
                return Some(if cut { format!("{text}…") } else { text.to_owned() });
            }
        }
    }
}

/// Lets through a burst, then so many lines per second, and says how many it held back.
pub(super) struct Throttle {
    tokens: f64,
    since: Instant,
    held_back: u64,
}

impl Throttle {
    const BURST: f64 = 500.0;
    const PER_SECOND: f64 = 50.0;

    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: Self::BURST, since: now, held_back: 0 }
    }

    /// The line, if it may pass, after a word about those before it that might not.
    pub(super) fn admit(&mut self, line: String, now: Instant) -> Vec<String> {
        let elapsed = now.duration_since(self.since);
        self.since = now;
        self.tokens = (self.tokens + elapsed.as_secs_f64() * Self::PER_SECOND).min(Self::BURST);
        if self.tokens < 1.0 {
            self.held_back += 1;
            return Vec::new();
        }
        self.tokens -= 1.0;
        self.flush().into_iter().chain([line]).collect()
    }

    /// A word about lines held back, if there are any.
    pub(super) fn flush(&mut self) -> Option<String> {
        let lines = std::mem::take(&mut self.held_back);
        (lines > 0)
            .then(|| format!("({lines} lines left out: more than {} per second)", Self::PER_SECOND))
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endless_line_is_cut() {
        let text = format!("short\r\n{}\nlast", "x".repeat(10 * LINE_BYTES_MAX));
        let mut lines = Lines::new(text.as_bytes());
        assert_eq!(lines.next().await.as_deref(), Some("short"));
        let long = lines.next().await.unwrap();
        assert_eq!(long.len(), LINE_BYTES_MAX + "…".len());
        assert_eq!(lines.next().await.as_deref(), Some("last"));
        assert_eq!(lines.next().await, None);
    }

    #[tokio::test]
    async fn empty_lines_are_lines() {
        let mut lines = Lines::new(&b"\n\nx\n"[..]);
        for expected in [Some(""), Some(""), Some("x"), None] {
            assert_eq!(lines.next().await.as_deref(), expected);
        }
    }

    #[test]
    fn a_flood_is_held_back_and_counted() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        let passed: usize = (0..10_000).map(|i| throttle.admit(i.to_string(), start).len()).sum();
        assert_eq!(passed, 500);
        let later = throttle.admit("calm".into(), start + Duration::from_secs(1));
        assert_eq!(later, ["(9500 lines left out: more than 50 per second)", "calm"]);
        assert_eq!(throttle.flush(), None);
    }
}
