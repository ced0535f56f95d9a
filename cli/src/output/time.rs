//! Times: ISO-8601 in UTC for scripts, ages and spans for people.

use jiff::Timestamp;

/// `2026-03-01T10:20:30.5Z`.
pub(crate) fn iso(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}

/// Now, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// `0.4s`, `12s`, `3m 20s`, `5h 02m`, `3d 4h`.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{:.1}s", seconds.max(0.0)),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// How long ago something was.
pub(crate) fn since(ms: u64, now_ms: u64) -> String {
    seconds(now_ms.saturating_sub(ms) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_iso_in_utc() {
        assert_eq!(iso(1_772_360_430_500), "2026-03-01T10:20:30.5Z");
    }

    #[test]
    fn spans_read_as_people_say_them() {
        let told = [0.42, 12.9, 200.0, 18_120.0, 273_600.0].map(seconds);
        assert_eq!(told, ["0.4s", "12s", "3m 20s", "5h 02m", "3d 4h"]);
    }
}
