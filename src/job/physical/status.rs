//! How the log of a cluster stands: its windows, its gaps, and what the server has that the archive has not.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::Plan;
use crate::config::file::Wal;
use crate::config::plan::Backup;
use crate::config::values::Name;
use crate::error::Result;
use crate::host::{Tag, clock};
use crate::job::physical::folder;
use crate::job::physical::look::{self, Seen};
use crate::job::physical::stream::slot_name;
use crate::physical::lag::{self, Figures, ServerLog, Standing};
use crate::physical::plan::{Base, Way, Window, way};
use crate::postgres::Server;
use crate::postgres::quote::literal;
use crate::wal::{Archive, Lsn, Segment};

#[derive(Debug, Serialize)]
pub struct Status {
    pub backup: String,
    pub windows: Vec<Window>,
    pub gaps: Vec<GapRow>,
    /// The newest segment in the archive. When it came is the age of what a loss of the server would leave.
    pub last: Option<Last>,
    /// `None`: the server did not answer, see `error`.
    pub server: Option<ServerLog>,
    pub standing: Option<Standing>,
    /// Log that is on the server only.
    pub bytes_behind: Option<u64>,
    pub problems: Vec<String>,
    pub error: Option<String>,
    /// There is a gap behind the newest base backup: only another one leads over it.
    #[serde(skip)]
    pub wants_base: bool,
}

#[derive(Debug, Serialize)]
pub struct GapRow {
    pub base: String,
    pub first: String,
    pub last: String,
    pub segments: u64,
    /// The store that lacks them; `None`: no store has them.
    pub store: Option<String>,
}

impl GapRow {
    fn in_words(&self) -> String {
        let place = self.store.as_ref().map(|store| format!(" in store {store} (another has them)")).unwrap_or_default();
        format!("gap of {} segments{place}, from {} to {}", self.segments, self.first, self.last)
    }
}

#[derive(Debug, Serialize)]
pub struct Last {
    pub name: String,
    pub at: DateTime<Utc>,
    pub age_seconds: i64,
    pub end_lsn: Lsn,
}

impl Status {
    /// What is shown beside the other backups.
    pub fn figures(&self) -> Figures {
        let held = self.server.iter().flat_map(|server| &server.slots).filter_map(|slot| slot.retained_bytes?.try_into().ok());
        Figures {
            restorable_from: self.windows.first().map(|window| window.from),
            restorable_to: self.windows.first().map(|window| window.to),
            last_segment_at: self.last.as_ref().map(|last| last.at),
            bytes_behind: self.bytes_behind,
            slot_holds_bytes: held.max(),
            gaps: self.gaps.len(),
        }
    }
}

/// Looks at stores and server.
///
/// # Errors
/// No store answers.
pub async fn status(plan: &Plan, backup: &Backup) -> Result<Status> {
    let seen = look::look(plan, backup, None).await?;
    let name = backup.name.as_str();
    let now = clock::now();
    let last = last(&seen, name, now).await?;
    let mut status = Status {
        backup: name.to_owned(),
        windows: seen.windows(name).await?,
        gaps: gaps(&seen),
        last,
        server: None,
        standing: None,
        bytes_behind: None,
        problems: Vec::new(),
        error: None,
        wants_base: false,
    };
    let ways: Vec<_> = seen.bases(None).iter().map(|base| way(base, Some(&seen.archive), None)).collect();
    // A store that is away may have what is missing.
    let all_seen = seen.stores.len() == backup.stores.len();
    if all_seen {
        let has_gap = |way: &Way| way.reach.as_ref().is_some_and(|reach| !reach.gaps.is_empty());
        status.wants_base = ways.first().is_some_and(|newest| newest.as_ref().map_or(true, has_gap));
        status.problems.extend(ways.into_iter().filter_map(Result::err));
    }
    status.problems.extend(status.gaps.iter().map(GapRow::in_words));
    for (store, archive) in &seen.archives {
        status.problems.extend(lacks(&seen, name, store, archive, now).await?);
    }
    let folders = folder::all(plan, backup);
    let owner = if folders.is_empty() { None } else { seen.owner(name).await? };
    for (folder, stays) in folders {
        status.problems.extend(folder::problems(&folder, stays, owner.as_ref(), now));
    }
    if backup.physical.as_ref().is_some_and(|physical| physical.wal.is_none()) {
        return Ok(status);
    }
    match ask(plan, backup).await {
        Ok(server) => {
            let archived_to = status.last.as_ref().map(|last| last.end_lsn);
            let standing = lag::standing(archived_to, server.lsn, seen.archive.segment_bytes);
            let last_at = status.last.as_ref().map(|last| last.at);
            status.problems.extend(lag::problems(&server, archived_to, seen.archive.segment_bytes, last_at, now));
            status.bytes_behind =
                (!archived_to.is_some_and(|end| lag::is_left(end, &server))).then(|| lag::bytes_behind(archived_to, server.lsn));
            (status.standing, status.server) = (Some(standing), Some(server));
        }
        Err(error) => status.error = Some(error.message),
    }
    Ok(status)
}

async fn last(seen: &Seen, name: &str, now: DateTime<Utc>) -> Result<Option<Last>> {
    // That of the way that the newest base backup leads: one that was left may have gone on further.
    let ways = seen.bases(None).into_iter().find_map(|base| way(&base, Some(&seen.archive), None).ok());
    let timeline = ways.map(|way| way.timeline).or(seen.archive.segments.keys().next_back().copied());
    let of = |timeline: u32| Some(Segment { timeline, number: *seen.archive.segments.get(&timeline)?.last()? });
    // Right behind a promotion there is none of it yet.
    let newest = seen.archive.segments.keys().rev().find_map(|timeline| of(*timeline));
    let Some(segment) = timeline.and_then(of).or(newest) else { return Ok(None) };
    let bytes = seen.archive.segment_bytes;
    let header = seen.header(name, segment).await?;
    Ok(header.map(|header| Last {
        name: segment.name(bytes),
        at: header.at,
        age_seconds: (now - header.at).num_seconds().max(0),
        end_lsn: segment.end(bytes),
    }))
}

/// Every gap behind a good base backup, once: those of all stores together, and those that a store alone has.
fn gaps(seen: &Seen) -> Vec<GapRow> {
    let mut found: Vec<GapRow> = Vec::new();
    let stores = seen.archives.iter().filter(|_| seen.archives.len() > 1);
    let each = stores.map(|(store, archive)| (Some(store), archive, seen.bases_in(store)));
    for (store, archive, bases) in std::iter::once((None, &seen.archive, seen.bases(None))).chain(each) {
        for base in bases.iter().rev() {
            let Ok(way) = way(base, Some(archive), None) else { continue };
            for gap in way.reach.iter().flat_map(|reach| &reach.gaps) {
                let first = gap.first.name(archive.segment_bytes);
                let is_told =
                    |known: &GapRow| known.first == first && (known.store.is_none() || known.store.as_deref() == store.map(Name::as_str));
                if !found.iter().any(is_told) {
                    let (base, last) = (base.id.to_string(), gap.last.name(archive.segment_bytes));
                    found.push(GapRow { base, first, last, segments: gap.count(), store: store.map(ToString::to_string) });
                }
            }
        }
    }
    found
}

/// What a store lacks of the log that another has, but gaps: what makes a base backup whole, or all behind a place.
async fn lacks(seen: &Seen, name: &str, store: &Name, archive: &Archive, now: DateTime<Utc>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let bases = seen.bases_in(store);
    let not_whole = |base: &&Base| way(base, Some(archive), None).is_err() && way(base, Some(&seen.archive), None).is_ok();
    found
        .extend(bases.iter().filter(not_whole).map(|base| format!("store {store} lacks log that makes {} whole; another has it", base.id)));
    let Some(newest) = bases.first().filter(|base| !not_whole(base)) else { return Ok(found) };
    let (Ok(here), Ok(everywhere)) = (way(newest, Some(archive), None), way(newest, Some(&seen.archive), None)) else { return Ok(found) };
    let (Some(here), Some(everywhere)) = (here.reach, everywhere.reach) else { return Ok(found) };
    let next = everywhere.segments.iter().find(|segment| here.gaps.is_empty() && segment.start(archive.segment_bytes) >= here.end);
    if let Some(next) = next
        && let Some(header) = seen.header(name, *next).await?
        && now - header.at > lag::PATIENCE
    {
        let at = header.at.format("%Y-%m-%d %H:%M:%S UTC");
        found.push(format!("store {store} lacks all log from {} on, which came into another at {at}", header.name));
    }
    Ok(found)
}

async fn ask(plan: &Plan, backup: &Backup) -> Result<ServerLog> {
    let server = Server::connect(&plan.servers[&backup.server], Tag::random()).await?;
    let wal = backup.physical.as_ref().and_then(|physical| physical.wal);
    let streams = wal == Some(Wal::Stream);
    let archives = if streams { "null" } else { "case when not pg_is_in_recovery() then current_setting('archive_mode') <> 'off' end" };
    let slot = if streams { literal(&slot_name(backup.name.as_str())) } else { "null".to_owned() };
    // What a role may not look at is no reason to say nothing.
    let may_look = "(select rolsuper or pg_has_role(oid, 'pg_monitor', 'usage') from pg_roles where rolname = current_user)";
    let sql = format!(
        "select json_build_object(
    'lsn', case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
    'now', clock_timestamp(),
    'last_archived', a.last_archived_wal, 'last_archived_at', a.last_archived_time,
    'failed_count', a.failed_count,
    'last_failed', case when a.last_failed_time > coalesce(a.last_archived_time, '-infinity') then a.last_failed_wal end,
    'last_failed_at', a.last_failed_time,
    'archives', {archives}, 'in_recovery', pg_is_in_recovery(),
    'archive_timeout', (select setting::bigint from pg_settings where name = 'archive_timeout'),
    'pg_wal_bytes', case when {may_look} then (select sum(size) from pg_ls_waldir()) end,
    'waiting', case when {may_look} then (select count(*) from pg_ls_archive_statusdir() where name like '%.ready') end,
    'waiting_since', case when {may_look} then (select min(modification) from pg_ls_archive_statusdir() where name like '%.ready') end,
    'slots', (select coalesce(json_agg(json_build_object('name', slot_name, 'active', active, 'restart_lsn', restart_lsn,
        'retained_bytes', case when pg_is_in_recovery() then null else pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint end,
        'wal_status', wal_status, 'safe_bytes', safe_wal_size)), '[]')
        from pg_replication_slots where slot_name = {slot}))
from pg_stat_archiver a"
    );
    server.query(server.maintenance_database(), &sql).await
}
