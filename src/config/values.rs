//! The forms of single values in the file. Each refuses what is not its form with words that say
//! what would be right.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

/// A value that stands in the file as a string: `Deserialize` by `FromStr`, and its JSON Schema.
macro_rules! string_value {
    ($type:ident, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// The name of a server, a store or a backup: `[a-z0-9_-]{1,63}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if (1..=63).contains(&text.len()) && text.chars().all(fits) {
            Ok(Name(text.to_owned()))
        } else {
            Err(format!("bad name {text:?}: expected 1 to 63 of a-z, 0-9, _ and -, such as \"main\""))
        }
    }
}

string_value!(Name, { "type": "string", "pattern": "^[a-z0-9_-]{1,63}$" });

/// A duration: an integer and `s`, `m`, `h`, `d` or `w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("bad duration {text:?}: expected an integer and s, m, h, d or w, such as \"90s\" or \"26h\"");
        let unit = text.chars().next_back().ok_or_else(wrong)?;
        let digits = &text[..text.len() - unit.len_utf8()];
        let unit_secs: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(wrong()),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let secs = digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_secs))
            // Past a thousand years it is a slip of the hand, and the arithmetic of dates ends.
            .filter(|secs| *secs <= 31_557_600_000)
            .ok_or_else(|| format!("bad duration {text:?}: longer than a thousand years"))?;
        Ok(Span(Duration::from_secs(secs)))
    }
}

string_value!(Span, { "type": "string", "pattern": "^[0-9]+[smhdw]$" });

/// A time zone by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(pub chrono_tz::Tz);

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Zone).map_err(|_| {
            let near = chrono_tz::TZ_VARIANTS
                .iter()
                .map(|zone| (strsim::damerau_levenshtein(zone.name(), text), zone.name()))
                .min()
                .filter(|(distance, _)| *distance <= 4)
                .map_or("Europe/Vienna", |(_, name)| name);
            format!("unknown time zone {text:?}: expected an IANA name, such as {near:?}")
        })
    }
}

string_value!(Zone, { "type": "string", "description": "IANA time zone, such as \"Europe/Vienna\"" });

/// A schedule: cron of five fields, of six with seconds first, or `@daily` and its kin; and another beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub text: String,
    pub cron: croner::Cron,
    /// Another one, whose slots are this one's too.
    pub also: Option<Box<Schedule>>,
}

impl Schedule {
    /// One that fires whenever either of the two does.
    #[must_use]
    pub fn with(self, other: &Schedule) -> Self {
        Schedule { also: Some(Box::new(other.clone())), ..self }
    }

    /// All of it, as the file has it.
    pub fn spelled(&self) -> String {
        match &self.also {
            Some(also) => format!("{}, {}", self.text, also.spelled()),
            None => self.text.clone(),
        }
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &dyn fmt::Display| {
            format!(
                "bad schedule {text:?}: {why}; expected five fields (minute hour day month weekday), six with seconds first, or @hourly, @daily, @weekly, @monthly, @yearly, such as \"0 2 * * *\""
            )
        };
        let fields = text.split_whitespace().count();
        if !(text.starts_with('@') || (5..=6).contains(&fields)) {
            return Err(wrong(&format_args!("{fields} fields")));
        }
        let cron = parse_cron(text).map_err(|error| wrong(&error))?;
        // Only a schedule that fires is one; croner looks thousands of years ahead to find out.
        if cron.iter_after(chrono::DateTime::UNIX_EPOCH.naive_utc()).next().is_none() {
            return Err(wrong(&"it never fires"));
        }
        Ok(Schedule { text: text.to_owned(), cron, also: None })
    }
}

/// Parses as Vixie's cron does: a day field that begins with `*` restricts nothing by itself, so the
/// other one must hold too.
fn parse_cron(text: &str) -> Result<croner::Cron, croner::errors::CronError> {
    if text == "@midnight" {
        return croner::parser::CronParser::new().parse("@daily");
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let begins =
        |from_end: usize| fields.len().checked_sub(from_end).and_then(|n| fields.get(n)).is_some_and(|field| field.starts_with('*'));
    croner::parser::CronParser::builder().dom_and_dow(!text.starts_with('@') && (begins(3) || begins(1))).build().parse(text)
}

string_value!(Schedule, { "type": "string", "examples": ["0 2 * * *", "@daily"] });

/// How a plain dump is packed, or what `pg_dump` is told where it packs by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// A level of 1 to 9, or the default that weighs speed against size.
    Gzip(Option<u8>),
    /// A level of 1 to 19.
    Zstd(Option<u8>),
    None,
}

impl Default for Compression {
    fn default() -> Self {
        Compression::Gzip(None)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::Gzip(None) => f.write_str("gzip"),
            Compression::Gzip(Some(level)) => write!(f, "gzip:{level}"),
            Compression::Zstd(None) => f.write_str("zstd"),
            Compression::Zstd(Some(level)) => write!(f, "zstd:{level}"),
            Compression::None => f.write_str("none"),
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "bad compression {text:?}: expected \"gzip\" or \"gzip:1\" to \"gzip:9\", \"zstd\" or \"zstd:1\" to \"zstd:19\", or \"none\""
            )
        };
        let (codec, level) = match text.split_once(':') {
            Some((codec, level)) => {
                let plain = level.bytes().all(|b| b.is_ascii_digit()) && !level.starts_with('0');
                let level = level.parse::<u8>().ok().filter(|_| plain);
                (codec, Some(level.ok_or_else(wrong)?))
            }
            None => (text, None),
        };
        match (codec, level) {
            ("gzip", None | Some(1..=9)) => Ok(Compression::Gzip(level)),
            ("zstd", None | Some(1..=19)) => Ok(Compression::Zstd(level)),
            ("none", None) => Ok(Compression::None),
            _ => Err(wrong()),
        }
    }
}

string_value!(Compression, { "type": "string", "pattern": "^(gzip(:[1-9])?|zstd(:(1[0-9]|[1-9]))?|none)$" });

/// Where a value comes from: the file itself, the environment, a file, or a systemd credential.
#[derive(Clone, PartialEq, Eq)]
pub enum Given {
    Literal(String),
    Env(String),
    File(std::path::PathBuf),
    Credential(String),
}

/// The literal may be a secret: it is never shown.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Literal(_) => f.write_str("Literal(***)"),
            Given::Env(name) => write!(f, "Env({name})"),
            Given::File(path) => write!(f, "File({})", path.display()),
            Given::Credential(name) => write!(f, "Credential({name})"),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenTable {
    env: Option<String>,
    file: Option<std::path::PathBuf>,
    credential: Option<String>,
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const FORM: &str = "a string, { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }";

        fn wrong<E: de::Error>() -> E {
            E::custom(format!("expected {FORM}"))
        }

        struct GivenVisitor;

        impl<'de> Visitor<'de> for GivenVisitor {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(FORM)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Given, E> {
                Ok(Given::Literal(text.to_owned()))
            }

            // serde's own words for a wrong type show the value, which may be the secret.
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Given, E> {
                Err(wrong())
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Given, E> {
                Err(wrong())
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Given, E> {
                Err(wrong())
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Given, E> {
                Err(wrong())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Given, A::Error> {
                let table = GivenTable::deserialize(MapAccessDeserializer::new(map))?;
                match (table.env, table.file, table.credential) {
                    (Some(name), None, None) => Ok(Given::Env(name)),
                    (None, Some(path), None) => Ok(Given::File(path)),
                    (None, None, Some(name)) => Ok(Given::Credential(name)),
                    _ => Err(wrong()),
                }
            }
        }

        deserializer.deserialize_any(GivenVisitor)
    }
}

impl JsonSchema for Given {
    fn schema_name() -> Cow<'static, str> {
        "Given".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = |key: &str| {
            json_schema!({
                "type": "object",
                "properties": { (key): { "type": "string" } },
                "required": [key],
                "additionalProperties": false
            })
        };
        json_schema!({
            "description": "the value itself, or where it comes from",
            "anyOf": [{ "type": "string" }, one("env"), one("file"), one("credential")]
        })
    }
}

/// Which databases: a list of names, or `"all"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Databases {
    All,
    Named(Vec<String>),
}

impl<'de> Deserialize<'de> for Databases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DatabasesVisitor;

        impl<'de> Visitor<'de> for DatabasesVisitor {
            type Value = Databases;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\" or a list of names, such as [\"a\", \"b\"]")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Databases, E> {
                match text {
                    "all" => Ok(Databases::All),
                    _ => Err(de::Error::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Databases, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Databases::Named(names))
            }
        }

        deserializer.deserialize_any(DatabasesVisitor)
    }
}

impl JsonSchema for Databases {
    fn schema_name() -> Cow<'static, str> {
        "Databases".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "all" }, { "type": "array", "items": { "type": "string" } }] })
    }
}

/// How many periods of a tier are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Number(u32),
    Forever,
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;

        impl Visitor<'_> for CountVisitor {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 0 or more, or \"forever\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Count, E> {
                u32::try_from(number).map(Count::Number).map_err(|_| de::Error::invalid_value(de::Unexpected::Signed(number), &self))
            }

            // What a file of the state says, which is JSON.
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                u32::try_from(number).map(Count::Number).map_err(|_| de::Error::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
                match text {
                    "forever" => Ok(Count::Forever),
                    _ => Err(de::Error::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(CountVisitor)
    }
}

impl serde::Serialize for Count {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Count::Number(number) => serializer.serialize_u32(*number),
            Count::Forever => serializer.serialize_str("forever"),
        }
    }
}

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "const": "forever" }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, secs) in [("0s", 0), ("90s", 90), ("5m", 300), ("26h", 93_600), ("3d", 259_200), ("2w", 1_209_600)] {
            assert_eq!(text.parse::<Span>(), Ok(Span(Duration::from_secs(secs))), "{text}");
        }
        for text in ["", "s", "5", "5x", "-5s", "1.5h", "5 m", "5ms", "99999999999999999999d", "9999999999w", "5é", "+5s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        for text in ["a", "euem_db", "x-1", &"a".repeat(63)] {
            assert!(text.parse::<Name>().is_ok(), "{text}");
        }
        for text in ["", "A", "a b", "a/b", "..", "ä", &"a".repeat(64)] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn compressions() {
        for text in ["gzip", "gzip:1", "gzip:9", "zstd", "zstd:3", "zstd:19", "none"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        for text in ["", "gzip:", "gzip:0", "gzip:10", "zstd:20", "zstd:03", "none:1", "lz4", "gzip:-1", "gzip:+1"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }

    #[test]
    fn schedules() {
        for text in ["0 2 * * *", "*/5 * * * * *", "@daily", "@hourly", "0 4 * * 0", "0 4 * * 7", "15 3 1 * MON", "@midnight", "0 0 29 2 *"]
        {
            assert!(text.parse::<Schedule>().is_ok(), "{text}");
        }
        for text in ["", "daily", "0 2 * *", "0 25 * * *", "61 2 * * *", "@nightly", "* * * * * * *", "0 0 30 2 *", "0 , * * *"] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_literal_is_not_shown() {
        assert_eq!(format!("{:?}", Given::Literal("hunter2".into())), "Literal(***)");
    }
}
