//! What PostgreSQL is told for a recovery, and what its log says of how it ended.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::plan::Stop;
use super::target::Target;
use crate::catalog::Tablespace;
use crate::wal::Lsn;

/// How recovery gets its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source<'a> {
    /// By `pgvigil wal fetch`, which knows the file and the backup, and the last segment if there is one.
    Fetch {
        program: &'a Path,
        config: &'a Path,
        backup: &'a str,
        store: Option<&'a str>,
        identity: Option<&'a Path>,
        until: Option<&'a str>,
        /// What is in no store lies in [`BESIDE`].
        is_beside: bool,
    },
    /// Out of a folder of the cluster itself, where all of it lies.
    Beside,
    /// Out of the same folder, where somebody lays each file who is asked for it by `NAME.wanted`, or
    /// `NAME.absent` if there is none.
    Fed,
}

/// The folder of [`Source::Beside`] and [`Source::Fed`] in the data directory.
pub const BESIDE: &str = "pgvigil_wal";

/// The folder of what `wal fetch` has fetched ahead, beside the place where recovery wants it: in `pg_wal`.
pub const AHEAD: &str = "pgvigil-ahead";

/// What is behind the name of a file that recovery waits for, and of one that there is not.
pub const WANTED: &str = ".wanted";
pub const ABSENT: &str = ".absent";

/// What a recovery is told.
#[derive(Debug)]
pub struct Recovery<'a> {
    pub source: &'a Source<'a>,
    pub stop: &'a Stop,
    /// The one that it follows. `None`: that of the base backup, whose history is not there to be fetched.
    pub timeline: Option<u32>,
    /// Of the server.
    pub major: u32,
}

/// `postgresql.auto.conf` of a restored cluster. `before`: what was in the base backup's. `recovery`: `None` where there
/// is nothing to recover.
pub fn auto_conf(before: &str, recovery: Option<&Recovery<'_>>) -> String {
    let mut text = without_recovery(before);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(NEVER_ARCHIVES);
    text.push_str(&recovery.map(settings).unwrap_or_default());
    text
}

fn settings(recovery: &Recovery<'_>) -> String {
    let mut text = String::from("# Recovery, by pgvigil. What concerns it has no effect once recovery.signal is gone.\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} = {}", quoted(value));
    };
    line("restore_command", &restore_command(recovery.source));
    line("recovery_target_timeline", &recovery.timeline.map_or("current".to_owned(), |timeline| timeline.to_string()));
    // The default is to pause, and to wait for somebody.
    line("recovery_target_action", "promote");
    // What stands in postgresql.conf would end it elsewhere. PostgreSQL forgets a target at an empty one: ours comes last.
    let setting = if let Stop::At(target) = recovery.stop { target.setting() } else { None };
    for name in TARGETS.iter().filter(|name| setting.as_ref().is_none_or(|(ours, _)| ours != *name)) {
        line(name, "");
    }
    line("recovery_target_inclusive", "on");
    if let Some((name, value)) = setting {
        line(name, &value);
    }
    if recovery.major >= 15 && !matches!(recovery.stop, Stop::At(Target::Latest)) {
        // To read ahead would ask for log behind the target, and a damaged segment there would stop what does not need it.
        line("recovery_prefetch", "off");
    }
    line("recovery_end_command", &format!("rm -rf pg_wal/{AHEAD} {BESIDE}"));
    text
}

/// Where a recovery can be told to end. At most one of them is not empty.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_name", "recovery_target_time", "recovery_target_xid", "recovery_target_lsn"];

/// Lines for every restored cluster.
const NEVER_ARCHIVES: &str = "# It must not write into the archive of the cluster that it comes of. Before it takes that one's place,
# give it an archive of its own, and make a base backup.
archive_mode = 'off'
primary_conninfo = ''
primary_slot_name = ''
";

/// `postgresql.auto.conf` of a base backup without what an earlier recovery was told: it would end this one.
fn without_recovery(text: &str) -> String {
    let names = ["recovery_target", "recovery_prefetch", "restore_command", "recovery_end_command"];
    let is_of_recovery = |line: &&str| names.iter().any(|name| line.trim_start().starts_with(name));
    text.split_inclusive('\n').filter(|line| !is_of_recovery(line)).collect()
}

fn restore_command(source: &Source<'_>) -> String {
    match source {
        // A copy that fails is no end of the archive.
        Source::Beside => format!("test -f {BESIDE}/%f || exit 1; cp {BESIDE}/%f \"%p\" || exit 255"),
        // Who feeds it may be gone: then recovery must not take that for the end of the archive.
        Source::Fed => format!(
            "f={BESIDE}/%f; test -f $f || : > $f{WANTED}; until test -f $f || test -f $f{ABSENT}; do kill -0 $PPID || exit 255; sleep 0.05; done; test -f $f && mv $f \"%p\""
        ),
        Source::Fetch { program, config, backup, store, identity, until, is_beside } => {
            let mut command = if *is_beside {
                format!("if test -f {BESIDE}/%f; then cp {BESIDE}/%f \"%p\" || exit 255; exit 0; fi; ")
            } else {
                String::new()
            };
            let _ = write!(command, "{} --config {} wal fetch --backup {backup}", in_shell(program), in_shell(config));
            if let Some(store) = store {
                let _ = write!(command, " --store {store}");
            }
            if let Some(identity) = identity {
                let _ = write!(command, " --identity {}", in_shell(identity));
            }
            if let Some(until) = until {
                let _ = write!(command, " --until {until}");
            }
            command + " %f \"%p\""
        }
    }
}

/// A path in a command of PostgreSQL: for the shell, and `%` is PostgreSQL's.
fn in_shell(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''").replace('%', "%%"))
}

/// A value of `postgresql.conf`.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// `tablespace_map`, by which recovery makes the links.
pub fn tablespace_map(places: &[(u32, String)]) -> String {
    let escaped = |path: &str| path.replace('\\', "\\\\").replace('\n', "\\\n").replace('\r', "\\\r");
    let lines: Vec<String> = places.iter().map(|(oid, path)| format!("{oid} {}\n", escaped(path))).collect();
    lines.concat()
}

/// A `postgresql.conf` for a cluster whose own lies elsewhere, as Debian's do.
pub fn bare_conf(settings: &BTreeMap<String, String>) -> String {
    let mut text =
        String::from("# By pgvigil: the cluster that this comes of keeps its own elsewhere. These are what it must not have less of.\n");
    for line in bare_lines(settings) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// The settings in it.
pub fn bare_lines(settings: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    settings.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name} = {}", quoted(value)))
}

/// A `pg_hba.conf` for the same: only who is the superuser of this machine, by its socket.
pub const BARE_HBA: &str = "local all all peer\nlocal replication all peer\nhost all all 127.0.0.1/32 scram-sha-256\n";

/// Which folder each tablespace goes to: as it is asked for, else beside the data directory. Never where it
/// lay: there may be the live one.
///
/// # Errors
/// One is asked for that is not there.
pub fn places(tablespaces: &[Tablespace], asked: &[(String, String)], data: &str) -> Result<Vec<(u32, String)>, String> {
    let is_meant = |space: &Tablespace, name: &str| space.name == name || space.location == name || space.oid.to_string() == name;
    if let Some((name, _)) = asked.iter().find(|(name, _)| !tablespaces.iter().any(|space| is_meant(space, name))) {
        let names: Vec<&str> = tablespaces.iter().map(|space| space.name.as_str()).collect();
        return Err(format!(
            "there is no tablespace {name:?} in the base backup; it has {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        ));
    }
    let place = |space: &Tablespace| {
        let asked = asked.iter().find(|(name, _)| is_meant(space, name)).map(|(_, path)| path.clone());
        asked.unwrap_or_else(|| format!("{}_tablespaces/{}", data.trim_end_matches('/'), space.oid))
    };
    Ok(tablespaces.iter().map(|space| (space.oid, place(space))).collect())
}

/// What the log of a recovery says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reached {
    /// The end of the last record that was replayed.
    pub lsn: Option<Lsn>,
    /// The last transaction that is in it.
    pub last_transaction: Option<DateTime<Utc>>,
    /// The first that is not: recovery stopped before it. `None`: the log ended first.
    pub stopped_before: Option<DateTime<Utc>>,
    /// Whether it ended at its target.
    pub at_target: bool,
    /// The timeline that it goes on with.
    pub timeline: Option<u32>,
}

impl Reached {
    /// Reads the log of a server that was started for a recovery.
    pub fn parse(log: &str) -> Self {
        let mut reached = Reached::default();
        for line in log.lines() {
            let behind = |words: &str| line.split_once(words).map(|(_, rest)| rest);
            if let Some(rest) = behind("redo done at ") {
                reached.lsn = rest.split_whitespace().next().and_then(|word| word.parse().ok());
            }
            if let Some(rest) = behind("last completed transaction was at log time ") {
                reached.last_transaction = moment(rest);
            }
            if let Some(rest) = behind("recovery stopping before ") {
                reached.stopped_before = rest.split_once("time ").and_then(|(_, rest)| moment(rest));
            }
            reached.at_target |= line.contains("recovery stopping ");
            if let Some(rest) = behind("selected new timeline ID: ") {
                reached.timeline = rest.trim().parse().ok();
            }
        }
        reached
    }
}

/// A moment at the beginning of a text, as PostgreSQL writes it: `2026-01-15 13:30:00.25+00`.
fn moment(text: &str) -> Option<DateTime<Utc>> {
    let (date, rest) = text.split_once(' ')?;
    let time = rest.split(|c: char| c.is_whitespace() || c == ';').next()?;
    DateTime::parse_from_str(&format!("{date} {time}"), "%Y-%m-%d %H:%M:%S%.f%#z").ok().map(|at| at.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_every_odd_character() {
        let (program, config) = (Path::new("/opt/it's 100%/pgvigil"), Path::new("/etc/a\\b.toml"));
        let source = Source::Fetch {
            program,
            config,
            backup: "cluster",
            store: Some("local"),
            identity: None,
            until: Some("000000010000000000000007"),
            is_beside: false,
        };
        let stop = Stop::At(Target::Name("o'clock".into()));
        let text = auto_conf("work_mem = '8MB'", Some(&Recovery { source: &source, stop: &stop, timeline: Some(3), major: 15 }));
        assert!(text.starts_with("work_mem = '8MB'\n"), "{text}");
        // For the shell it is one word each, and then a value of PostgreSQL's file.
        let command = r#"'/opt/it'\''s 100%%/pgvigil' --config '/etc/a\b.toml' wal fetch --backup cluster --store local --until 000000010000000000000007 %f "%p""#;
        let line = format!("restore_command = '{}'", command.replace('\\', "\\\\").replace('\'', "''"));
        assert!(text.lines().any(|there| there == line), "{line}: {text}");
        for line in [
            "recovery_target_timeline = '3'",
            "recovery_target_action = 'promote'",
            "recovery_target_time = ''",
            "recovery_target_inclusive = 'on'",
            "recovery_target_name = 'o''clock'",
            "recovery_prefetch = 'off'",
            "archive_mode = 'off'",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}: {text}");
        }
        let all = Recovery { source: &Source::Beside, stop: &Stop::At(Target::Latest), timeline: Some(1), major: 15 };
        assert!(
            !settings(&all).contains("recovery_prefetch") && TARGETS.iter().all(|name| settings(&all).contains(&format!("{name} = ''")))
        );
        assert!(settings(&Recovery { timeline: None, ..all }).contains("recovery_target_timeline = 'current'"));
        assert!(!settings(&Recovery { stop: &stop, major: 14, ..all }).contains("recovery_prefetch"), "14 does not know it");
        assert_eq!(auto_conf("", None), NEVER_ARCHIVES);
        assert_eq!(tablespace_map(&[(16_400, "/a\\b\nc".into())]), "16400 /a\\\\b\\\nc\n");
    }

    #[test]
    fn what_an_earlier_recovery_was_told_is_left_out() {
        let text = "# ours\nwork_mem = '8MB'\nrestore_command = 'x'\nrecovery_target_time = '2026-01-15'\n recovery_target_lsn='0/1'\nrecovery_end_command = 'y'\nrecovery_prefetch = 'off'\nrecovery_min_apply_delay = '1h'";
        assert_eq!(without_recovery(text), "# ours\nwork_mem = '8MB'\nrecovery_min_apply_delay = '1h'");
    }

    #[test]
    fn tablespaces_go_beside_or_where_they_are_asked_to() {
        let space = Tablespace { oid: 16_400, name: "far".into(), location: "/old/far".into(), bytes: 0 };
        let of = |asked: &[(&str, &str)]| {
            let asked: Vec<_> = asked.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
            places(std::slice::from_ref(&space), &asked, "/srv/x/")
        };
        assert_eq!(of(&[]), Ok(vec![(16_400, "/srv/x_tablespaces/16400".to_owned())]));
        for name in ["far", "/old/far", "16400"] {
            assert_eq!(of(&[(name, "/new")]), Ok(vec![(16_400, "/new".to_owned())]));
        }
        assert!(of(&[("near", "/new")]).unwrap_err().contains("it has far"));
    }

    #[test]
    fn the_log_of_postgresql() {
        let log = "2026-01-15 13:31:00.1 UTC LOG:  recovery stopping before commit of transaction 745, time 2026-01-15 13:30:00.25+00\n\
            2026-01-15 13:31:00.1 UTC LOG:  redo done at 0/5000060 system usage: CPU: user: 0.00 s\n\
            2026-01-15 13:31:00.1 UTC LOG:  last completed transaction was at log time 2026-01-15 15:29:59.5+02\n\
            2026-01-15 13:31:00.1 UTC LOG:  selected new timeline ID: 2\n";
        let reached = Reached::parse(log);
        assert_eq!(reached.lsn, Some(Lsn(0x500_0060)));
        assert_eq!(reached.last_transaction, "2026-01-15T13:29:59.5Z".parse().ok());
        assert_eq!(reached.stopped_before, "2026-01-15T13:30:00.25Z".parse().ok());
        assert_eq!((reached.at_target, reached.timeline), (true, Some(2)));
        assert!(Reached::parse("LOG:  recovery stopping after WAL location (LSN) \"0/5000060\"").at_target);
        assert!(Reached::parse("LOG:  recovery stopping at restore point \"x\", time 2026-01-15 13:30:00+05:30").at_target);
        assert_eq!(Reached::parse("LOG:  database system is ready"), Reached::default());
    }
}
