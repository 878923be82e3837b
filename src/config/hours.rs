//! Quiet hours: a span of the day, in some zone.

use std::borrow::Cow;
use std::str::FromStr;

use chrono::{DateTime, Days, NaiveTime, Utc};
use chrono_tz::Tz;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::schedule::slots::first_reached;

/// From one time of the day to another, over midnight where the first is the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from: NaiveTime,
    to: NaiveTime,
}

/// As it is written: hours, or that there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    None,
    Between(Hours),
}

impl Quiet {
    pub fn hours(self) -> Option<Hours> {
        match self {
            Quiet::None => None,
            Quiet::Between(hours) => Some(hours),
        }
    }
}

impl Hours {
    /// When they end, if they last at that moment. Where a change of the clocks leaves that time out,
    /// they end with the gap; where it comes twice, at the first.
    pub fn end(self, zone: Tz, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = now.with_timezone(&zone).naive_local();
        let (time, over_midnight) = (local.time(), self.from > self.to);
        let within = if over_midnight { time >= self.from || time < self.to } else { time >= self.from && time < self.to };
        if !within {
            return None;
        }
        let day = if over_midnight && time >= self.from { local.date().checked_add_days(Days::new(1))? } else { local.date() };
        first_reached(zone, day.and_time(self.to)).filter(|end| *end > now)
    }
}

impl FromStr for Quiet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("bad quiet hours {text:?}: expected HH:MM-HH:MM, such as \"22:00-07:00\", or \"none\"");
        if text == "none" {
            return Ok(Quiet::None);
        }
        let time = |text: &str| if text.len() == 5 { NaiveTime::parse_from_str(text, "%H:%M").ok() } else { None };
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (time(from).ok_or_else(wrong)?, time(to).ok_or_else(wrong)?);
        if from == to {
            return Err(format!("bad quiet hours {text:?}: they begin when they end; \"none\" for none"));
        }
        Ok(Quiet::Between(Hours { from, to }))
    }
}

impl<'de> Deserialize<'de> for Quiet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Quiet {
    fn schema_name() -> Cow<'static, str> {
        "Quiet".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(none|[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9])$", "examples": ["22:00-07:00"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quiet_and_until_when() {
        let end = |hours: &str, zone: Tz, now: &str| {
            let now: DateTime<Utc> = now.parse().unwrap();
            let end = hours.parse::<Quiet>().unwrap().hours().unwrap().end(zone, now);
            end.map_or_else(|| "-".to_owned(), |end| end.format("%Y-%m-%dT%H:%MZ").to_string())
        };
        let (vienna, berlin, new_york, cairo) =
            (chrono_tz::Europe::Vienna, chrono_tz::Europe::Berlin, chrono_tz::America::New_York, chrono_tz::Africa::Cairo);
        for (hours, zone, now, expected) in [
            ("22:00-07:00", Tz::UTC, "2026-11-22T21:59:59Z", "-"),
            ("22:00-07:00", Tz::UTC, "2026-11-22T22:00:00Z", "2026-11-23T07:00Z"),
            ("22:00-07:00", Tz::UTC, "2026-11-22T03:00:00Z", "2026-11-22T07:00Z"),
            ("22:00-07:00", Tz::UTC, "2026-11-22T07:00:00Z", "-"),
            ("12:00-13:30", Tz::UTC, "2026-11-22T13:29:59Z", "2026-11-22T13:30Z"),
            ("12:00-13:30", Tz::UTC, "2026-11-22T11:00:00Z", "-"),
            // In its zone, not in ours.
            ("22:00-07:00", vienna, "2026-11-22T21:00:00Z", "2026-11-23T06:00Z"),
            ("22:00-07:00", new_york, "2026-11-22T21:00:00Z", "-"),
            ("22:00-07:00", new_york, "2026-11-23T04:00:00Z", "2026-11-23T12:00Z"),
            // The night of a change is an hour shorter or longer.
            ("22:00-07:00", berlin, "2026-03-28T22:00:00Z", "2026-03-29T05:00Z"),
            ("22:00-07:00", berlin, "2026-10-24T21:00:00Z", "2026-10-25T06:00Z"),
            // An end that does not come, or comes twice.
            ("22:00-02:30", berlin, "2026-03-29T00:30:00Z", "2026-03-29T01:00Z"),
            ("22:00-02:30", berlin, "2026-10-25T00:10:00Z", "2026-10-25T00:30Z"),
            ("22:00-02:30", berlin, "2026-10-25T01:10:00Z", "-"),
            ("22:00-00:15", cairo, "2026-04-23T21:59:00Z", "2026-04-23T22:00Z"),
            ("22:00-00:00", Tz::UTC, "2026-12-31T23:00:00Z", "2027-01-01T00:00Z"),
        ] {
            assert_eq!(end(hours, zone, now), expected, "{hours} {zone} {now}");
        }
        for text in ["", "22:00", "22-07", "22:00-24:00", "22:00-22:00", "2:00-07:00", "22:00 - 07:00", "always"] {
            assert!(text.parse::<Quiet>().is_err(), "{text}");
        }
    }
}
