//! When a card is lent: `Mon-Fri 19:00-08:00, Sat-Sun`, by the clock on the owner's wall.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Time};
use jiff::{ToSpan, ZonedDateTime};
use thiserror::Error;

/// Hours that say nothing sensible.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{part}` {why}; write them as \"Mon-Fri 19:00-08:00, Sat-Sun\"")]
pub struct HoursError {
    part: String,
    why: String,
}

/// Windows of the week. One that ends before it begins goes on past midnight and belongs to the day it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// As its owner wrote it.
    text: String,
    windows: Vec<Window>,
}

/// A window: the days it begins on, and from when to when.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    /// From Monday.
    days: [bool; 7],
    begin: Time,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// On the same day.
    At(Time),
    /// On the day after.
    NextDay(Time),
}

/// What hours say of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The card is lent.
    Now,
    /// It is not; from when on it is.
    From(ZonedDateTime),
}

impl Hours {
    /// Long enough for any week; what is longer would not travel.
    const CHARS_MAX: usize = 200;

    /// What they say of a moment, by the clock of its time zone. A time that is skipped there (clocks go forward)
    /// comes as much later; of one that comes twice (they go back) the first counts.
    #[must_use]
    pub fn at(&self, now: &ZonedDateTime) -> Opening {
        let mut next: Option<ZonedDateTime> = None;
        let days = now.date().yesterday().into_iter().flat_map(|day| day.series(1.day()).take(9));
        for day in days {
            for window in self.windows.iter().filter(|window| window.begins_on(day)) {
                let Some((begin, end)) = window.on(day, now) else { continue };
                if begin <= *now && *now < end {
                    return Opening::Now;
                }
                if begin > *now && next.as_ref().is_none_or(|next| begin < *next) {
                    next = Some(begin);
                }
            }
        }
        // Every window begins again within a week; only at the end of the calendar is there no other day.
        Opening::From(next.unwrap_or_else(|| now.clone()))
    }
}

impl Window {
    fn begins_on(&self, day: Date) -> bool {
        self.days[day.weekday().to_monday_zero_offset().unsigned_abs() as usize]
    }

    fn on(&self, day: Date, now: &ZonedDateTime) -> Option<(ZonedDateTime, ZonedDateTime)> {
        let zone = now.time_zone();
        let (end_day, end) = match self.end {
            End::At(end) => (day, end),
            End::NextDay(end) => (day.tomorrow().ok()?, end),
        };
        let moment = |day: Date, time| day.to_datetime(time).to_zoned_datetime(zone.clone()).ok();
        Some((moment(day, self.begin)?, moment(end_day, end)?))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Hours {
    type Err = HoursError;
    fn from_str(text: &str) -> Result<Self, HoursError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = words.join(" ");
        if text.chars().count() > Self::CHARS_MAX {
            let part = text.chars().take(20).collect();
            let why = format!("… is longer than {} characters", Self::CHARS_MAX);
            return Err(HoursError { part, why });
        }
        let windows = text.split(',').map(|part| window(part.trim())).collect::<Result<_, _>>()?;
        Ok(Self { text, windows })
    }
}

fn window(part: &str) -> Result<Window, HoursError> {
    let wrong = |why: &str| HoursError { part: part.to_owned(), why: why.to_owned() };
    let is_time = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let (days, times) = match part.split(' ').collect::<Vec<_>>()[..] {
        [times] if is_time(&times) => ([true; 7], Some(times)),
        [days] => (days_of(days).ok_or_else(|| wrong("names no days"))?, None),
        [days, times] => (days_of(days).ok_or_else(|| wrong("names no days"))?, Some(times)),
        _ => return Err(wrong("is more than days and times")),
    };
    let Some(times) = times else {
        return Ok(Window { days, begin: Time::midnight(), end: End::NextDay(Time::midnight()) });
    };
    let (begin, end) = times.split_once('-').ok_or_else(|| wrong("names no end"))?;
    let begin = time(begin).ok_or_else(|| wrong("begins at no time of day"))?;
    let end = match end {
        "24:00" => End::NextDay(Time::midnight()),
        end => match time(end).ok_or_else(|| wrong("ends at no time of day"))? {
            same if same == begin => return Err(wrong("ends as it begins")),
            later if later > begin => End::At(later),
            earlier => End::NextDay(earlier),
        },
    };
    Ok(Window { days, begin, end })
}

/// `HH:MM`, to the second if need be.
fn time(text: &str) -> Option<Time> {
    let shaped = matches!(text.len(), 5 | 8) && text.as_bytes()[2] == b':';
    shaped.then(|| text.parse().ok())?
}

/// `Mon`, `Fri-Mon`, `Saturday`.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (day(first)?, day(last)?);
    let mut days = [false; 7];
    let mut at = first;
    loop {
        days[at] = true;
        if at == last {
            return Some(days);
        }
        at = (at + 1) % 7;
    }
}

/// Counted from Monday.
fn day(text: &str) -> Option<usize> {
    let names = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let text = text.to_ascii_lowercase();
    names.iter().position(|name| text == *name || text == name[..3])
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::civil::DateTime;
    use jiff::tz::TimeZone;

    use super::*;

    /// Berlin's clock, whether or not this machine knows Berlin.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    /// `Opening::Now` as `now`, else when it opens. The moment is Berlin's, or universal with a `Z`.
    fn at(hours: &str, now: &str) -> String {
        let hours: Hours = hours.parse().unwrap();
        let now = match now.parse::<Timestamp>() {
            Ok(universal) => universal.to_zoned_datetime(berlin()),
            Err(_) => now.parse::<DateTime>().unwrap().to_zoned_datetime(berlin()).unwrap(),
        };
        match hours.at(&now) {
            Opening::Now => "now".into(),
            Opening::From(from) => from.strftime("%a %d %H:%M%:z").to_string(),
        }
    }

    #[test]
    fn a_week_of_evenings_and_weekends() {
        // 2026-03-02 is a Monday.
        let table = [
            ("2026-03-02T07:59", "Mon 02 19:00+01:00"),
            ("2026-03-02T18:59:59", "Mon 02 19:00+01:00"),
            ("2026-03-02T19:00", "now"),
            ("2026-03-03T00:00", "now"),
            ("2026-03-03T07:59:59", "now"),
            ("2026-03-03T08:00", "Tue 03 19:00+01:00"),
            // Friday's evening goes on into Saturday, which is lent anyway; Sunday ends at midnight.
            ("2026-03-07T07:30", "now"),
            ("2026-03-07T12:00", "now"),
            ("2026-03-08T23:59:59", "now"),
            ("2026-03-09T00:00", "Mon 09 19:00+01:00"),
        ];
        for (now, expected) in table {
            assert_eq!(at("Mon-Fri 19:00-08:00, Sat-Sun", now), expected, "{now}");
        }
    }

    #[test]
    fn windows_of_every_shape() {
        let table = [
            ("22:00-06:00", "2026-03-02T05:59", "now"),
            ("22:00-06:00", "2026-03-02T06:00", "Mon 02 22:00+01:00"),
            ("Mon", "2026-03-02T23:59", "now"),
            ("Mon", "2026-03-03T00:00", "Mon 09 00:00+01:00"),
            ("Mon 08:00-24:00", "2026-03-02T23:59:59", "now"),
            ("Mon 08:00-24:00", "2026-03-03T00:00", "Mon 09 08:00+01:00"),
            ("Fri-Mon 12:00-13:00", "2026-03-02T12:30", "now"),
            ("Fri-Mon 12:00-13:00", "2026-03-03T12:30", "Fri 06 12:00+01:00"),
            ("sat, SUNDAY", "2026-03-08T12:00", "now"),
            ("Mon-Sun", "2026-03-04T00:00", "now"),
            ("Wed 12:00-12:00:30", "2026-03-04T12:00:29", "now"),
            ("Wed 12:00-12:00:30", "2026-03-04T12:00:30", "Wed 11 12:00+01:00"),
        ];
        for (hours, now, expected) in table {
            assert_eq!(at(hours, now), expected, "{hours} at {now}");
        }
    }

    #[test]
    fn clocks_that_go_forward_and_back() {
        let table = [
            // 29 March 2026, 02:00 to 03:00 is skipped in Berlin: 02:30 comes as 03:30.
            ("Sun 02:30-05:00", "2026-03-29T01:59", "Sun 29 03:30+02:00"),
            ("Sun 02:30-05:00", "2026-03-29T03:29", "Sun 29 03:30+02:00"),
            ("Sun 02:30-05:00", "2026-03-29T03:30", "now"),
            ("Sat 22:00-04:00", "2026-03-29T03:59", "now"),
            ("Sat 22:00-04:00", "2026-03-29T04:00", "Sat 04 22:00+02:00"),
            // 25 October, 02:00 to 03:00 comes twice: the first 02:30 counts.
            ("Sun 01:00-02:30", "2026-10-25T00:29Z", "now"),
            ("Sun 01:00-02:30", "2026-10-25T01:29Z", "Sun 01 01:00+01:00"),
            // 01:59 of the summer is 2 h 1 min before 03:00 of the winter.
            ("Sun 03:00-04:00", "2026-10-24T23:59Z", "Sun 25 03:00+01:00"),
        ];
        for (hours, now, expected) in table {
            assert_eq!(at(hours, now), expected, "{hours} at {now}");
        }
    }

    #[test]
    fn what_is_no_window_says_which_part() {
        let error = |text: &str| text.parse::<Hours>().unwrap_err().to_string();
        let hint = "; write them as \"Mon-Fri 19:00-08:00, Sat-Sun\"";
        let table = [
            ("", "`` names no days"),
            ("Mon-Fri 19:00-08:00, Sud", "`Sud` names no days"),
            ("Mon 25:00-26:00", "`Mon 25:00-26:00` begins at no time of day"),
            ("Mon 8-10", "`Mon 8-10` begins at no time of day"),
            ("Mon 08:00", "`Mon 08:00` names no end"),
            ("08:00-08:00", "`08:00-08:00` ends as it begins"),
            ("Mon 08:00-9", "`Mon 08:00-9` ends at no time of day"),
            ("Mon 08:00 - 09:00", "`Mon 08:00 - 09:00` is more than days and times"),
        ];
        for (text, expected) in table {
            assert_eq!(error(text), format!("{expected}{hint}"));
        }
        assert!(error(&"Mon, ".repeat(60)).contains("longer than 200 characters"));
        assert_eq!(
            " Mon-Fri   19:00-08:00 ".parse::<Hours>().unwrap().to_string(),
            "Mon-Fri 19:00-08:00"
        );
    }
}
