//! What lies in a folder of the log -> what is put into the stores, in which order, what stays, and what is told.

use chrono::{DateTime, TimeDelta, Utc};

use crate::physical::lag::PATIENCE;
use crate::wal::WalName;
use crate::wal::name::PARTIAL;

/// What lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lying {
    pub name: String,
    pub is_file: bool,
    pub modified: DateTime<Utc>,
}

/// A file of the log that nobody writes any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub name: String,
    pub parsed: WalName,
    pub modified: DateTime<Utc>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sorted {
    /// In the order of the log.
    pub whole: Vec<Whole>,
    /// What is no file of the log.
    pub foreign: Vec<String>,
}

/// A file may be copied to its place under its own name: what is not as it should be is told when it was left
/// alone for so long.
const SETTLES: TimeDelta = TimeDelta::minutes(1);

/// Log that waits on a disk as full as this will soon have no room.
const FULL_PERCENT: u8 = 80;

/// Names so many of a sort.
const NAMED_MAX: usize = 5;

/// Tells what is whole from what is being written, and from what has no place there.
pub fn sort(lying: Vec<Lying>, stays: Stays) -> Sorted {
    let mut sorted = Sorted::default();
    for Lying { name, is_file, modified } in lying {
        match WalName::parse(&name) {
            Some(parsed @ WalName::Partial(_)) if stays == Stays::Left && is_file => sorted.whole.push(Whole { name, parsed, modified }),
            _ if name.starts_with('.') || [".tmp", PARTIAL].iter().any(|ending| name.ends_with(ending)) => {}
            Some(parsed) if is_file => sorted.whole.push(Whole { name, parsed, modified }),
            _ => sorted.foreign.push(name),
        }
    }
    // A history comes before the segments of its timeline.
    sorted.whole.sort_by(|a, b| a.name.cmp(&b.name));
    sorted.foreign.sort();
    sorted
}

impl Whole {
    /// Whether it is there as it will stay.
    pub fn is_settled(&self, now: DateTime<Utc>) -> bool {
        now - self.modified >= SETTLES
    }
}

/// What stays in a folder although every store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    Nothing,
    /// pg_receivewal goes on behind the newest segment, and asks for no history that is there.
    ForReceiver,
    /// Nothing, and nobody writes any more: what there is of a segment is all that will ever come of it.
    Left,
}

impl Stays {
    /// Whether a file stays.
    pub fn keeps(self, whole: &Whole, among: &Sorted) -> bool {
        let newest = || among.whole.iter().rev().find(|whole| whole.parsed.is_log());
        self == Stays::ForReceiver && (!whole.parsed.is_log() || newest() == Some(whole))
    }

    /// What has yet to be removed.
    pub fn without_kept(self, sorted: Sorted) -> Sorted {
        let left = sorted.whole.iter().filter(|whole| !self.keeps(whole, &sorted)).cloned().collect();
        Sorted { whole: left, foreign: sorted.foreign }
    }
}

/// What is told of what has no place in a folder.
pub fn foreign(folder: &str, sorted: &Sorted) -> Option<String> {
    let more = sorted.foreign.len().saturating_sub(NAMED_MAX);
    let named = sorted.foreign[..sorted.foreign.len() - more].join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| format!("{folder} holds what is no file of the log, and is left alone: {named}{more}"))
}

/// What is told of a folder. `wrong`: files of the log that are not what they should be, and why. `full`: how full its
/// disk is, in percent.
pub fn problems(folder: &str, sorted: &Sorted, wrong: &[(String, String)], full: u8, now: DateTime<Utc>) -> Vec<String> {
    let mut found: Vec<String> = wrong.iter().map(|(name, why)| format!("{name} in {folder} is not taken in: {why}")).collect();
    found.extend(foreign(folder, sorted));
    let waits = |whole: &&Whole| now - whole.modified > PATIENCE && !wrong.iter().any(|(name, _)| *name == whole.name);
    let waiting: Vec<&Whole> = sorted.whole.iter().filter(waits).collect();
    if let Some(oldest) = waiting.iter().min_by_key(|whole| whole.modified) {
        let since = oldest.modified.format("%Y-%m-%d %H:%M:%S UTC");
        let count = waiting.len();
        let files = if count == 1 { "a file of the log waits".to_owned() } else { format!("{count} files of the log wait") };
        found.push(format!("{files} in {folder}, since {since}: nobody takes them into the stores"));
    }
    if full >= FULL_PERCENT && sorted.whole.iter().any(|whole| whole.is_settled(now)) {
        found.push(format!("the disk of {folder} is {full} % full, and log waits there"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lying(name: &str, minute: i64) -> Lying {
        Lying { name: name.to_owned(), is_file: true, modified: DateTime::UNIX_EPOCH + TimeDelta::minutes(minute) }
    }

    const FIRST: &str = "000000010000000000000001";

    #[test]
    fn whole_files_in_the_order_of_the_log_and_nothing_that_is_written() {
        let names = [
            "000000020000000000000002",
            "00000002.history",
            "000000010000000000000002",
            "000000010000000000000002.00000028.backup",
            FIRST,
            ".000000010000000000000003.tmp",
            "000000010000000000000004.tmp",
            "000000010000000000000005.partial",
            "notes.txt",
            "000000010000000000000006.gz",
        ];
        let mut lying: Vec<Lying> = names.iter().map(|name| lying(name, 0)).collect();
        lying.push(Lying { name: "000000010000000000000007".into(), is_file: false, modified: DateTime::UNIX_EPOCH });
        let sorted = sort(lying.clone(), Stays::Nothing);
        let whole: Vec<&str> = sorted.whole.iter().map(|whole| whole.name.as_str()).collect();
        assert_eq!(
            whole,
            [FIRST, "000000010000000000000002", "000000010000000000000002.00000028.backup", "00000002.history", "000000020000000000000002"]
        );
        let parts = sort(lying, Stays::Left).whole.into_iter().filter(|whole| whole.name.ends_with("partial")).count();
        assert_eq!(parts, 1, "nobody writes it any more");
        assert_eq!(sorted.foreign, ["000000010000000000000006.gz", "000000010000000000000007", "notes.txt"]);
    }

    #[test]
    fn pg_receivewal_goes_on_behind_the_newest() {
        let names = ["00000002.history", FIRST, "000000020000000000000002", "000000020000000000000003"];
        let sorted = sort(names.iter().map(|name| lying(name, 0)).collect(), Stays::Nothing);
        assert_eq!(Stays::Nothing.without_kept(sorted.clone()), sorted);
        let left: Vec<String> = Stays::ForReceiver.without_kept(sorted).whole.into_iter().map(|whole| whole.name).collect();
        assert_eq!(left, [FIRST, "000000020000000000000002"]);
    }

    #[test]
    fn what_is_told() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::minutes(60);
        let told = |lying: &[Lying], wrong: &[(String, String)]| problems("/a", &sort(lying.to_vec(), Stays::Nothing), wrong, 79, now);
        assert_eq!(told(&[lying(FIRST, 59)], &[]), [] as [String; 0]);
        assert!(
            sort(vec![lying(FIRST, 59)], Stays::Nothing).whole[0].is_settled(now)
                && !sort(vec![lying(FIRST, 60)], Stays::Nothing).whole[0].is_settled(now)
        );
        let two = [lying(FIRST, 30), lying("000000010000000000000002", 31), lying("000000010000000000000003", 60)];
        assert_eq!(told(&two, &[]), ["2 files of the log wait in /a, since 1970-01-01 00:30:00 UTC: nobody takes them into the stores"]);
        // What is wrong with it is why it waits.
        let wrong = [(FIRST.to_owned(), "it is empty".to_owned())];
        assert_eq!(told(&[lying(FIRST, 30)], &wrong), [format!("{FIRST} in /a is not taken in: it is empty")]);
        let full = |minute| problems("/a", &sort(vec![lying(FIRST, minute)], Stays::Nothing), &[], 80, now);
        assert_eq!(full(59), ["the disk of /a is 80 % full, and log waits there"]);
        assert_eq!(full(60), [] as [String; 0]);
        let many: Vec<Lying> = (0..7).map(|n| lying(&format!("x{n}"), 0)).collect();
        assert_eq!(told(&many, &[]), ["/a holds what is no file of the log, and is left alone: x0, x1, x2, x3, x4 and 2 more"]);
    }
}
