//! The last moment at which something held: a binary search over the transactions of a window, each probe a
//! cluster as of one of them.

use std::time::Instant;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::catalog::Wanted;
use crate::config::Plan;
use crate::error::{Error, Kind, Result};
use crate::job::physical::check::{Answer, COMES_AND_GOES, NO_BOUNDS, holds};
use crate::job::physical::commits;
use crate::job::physical::moment;
use crate::job::physical::place::Place;
use crate::job::physical::restore::{self as cluster, Looked};
use crate::job::progress::Progress;
use crate::physical::bisect::{Next, Search};
use crate::physical::commits::{Commit, Within};
use crate::physical::plan::Stop;
use crate::physical::target::{Target, in_utc};
use crate::wal::Lsn;

/// What somebody asks for.
pub struct Asked {
    pub from: DateTime<Utc>,
    /// `None`: the end of the log.
    pub to: Option<DateTime<Utc>>,
    /// A query of one value, true or not.
    pub check: String,
    pub database: Option<String>,
    /// Its target and `data` are chosen here.
    pub cluster: cluster::Asked,
}

/// A look at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// The last transaction that is in it; null: none behind the base backup is.
    pub after: Option<Commit>,
    pub lsn: Lsn,
    pub holds: bool,
    /// What was not there yet, or no more.
    pub missing: Option<String>,
    pub base: String,
    pub seconds: f64,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    pub database: String,
    /// How many were committed in the window.
    pub transactions: usize,
    /// The last transaction at which it held; null: none behind the base backup is.
    pub last_good: Option<Commit>,
    /// Up to here it held.
    pub good_lsn: Lsn,
    /// The first at which it did not.
    pub first_bad: Commit,
    pub timeline: u32,
    pub probes: Vec<Probe>,
    pub seconds: f64,
}

/// Searches. Of the clusters nothing is left, whatever comes of it.
///
/// # Errors
/// It does not hold at the beginning, or holds at the end; the window cannot be restored; the check fails.
pub async fn bisect(plan: &Plan, wanted: &Wanted, asked: &mut Asked, progress: &Progress, cancel: &CancellationToken) -> Result<Found> {
    let place = Place::take(plan).await?;
    let found = tokio::select! {
        found = search(plan, wanted, asked, &place, progress) => found,
        () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
    };
    place.leave().await;
    found
}

async fn search(plan: &Plan, wanted: &Wanted, asked: &mut Asked, place: &Place, progress: &Progress) -> Result<Found> {
    let began = Instant::now();
    asked.cluster.target = Target::Time(asked.from);
    let mut looked = cluster::look(plan, wanted, &asked.cluster).await?;
    if let Some(reach) = &mut looked.way.reach {
        // Nobody knows where in it the log ends.
        reach.leave_open_one(looked.seen.archive.segment_bytes);
    }
    let mut database = moment::database(asked.database.as_deref(), &looked.manifest.databases, &looked.manifest.id)?;
    let base_end = looked.physical()?.stop_lsn;
    let within = window(plan, &looked, asked, place, progress, base_end).await?;
    let before = within.before.map_or(base_end, |commit| commit.lsn);
    let commits = within.commits;
    // Whatever promotes meanwhile, the way stays the same.
    asked.cluster.timeline = Some(looked.way.timeline);
    let mut search = Search::new(commits.len());
    let mut probes = Vec::new();
    let after = |number: usize| if number == 0 { within.before } else { Some(commits[number - 1]) };
    loop {
        let number = match search.next() {
            Next::Probe(number) => number,
            Next::Found { holds, fails } => {
                progress.head("");
                return Ok(Found {
                    database: database.unwrap_or_default(),
                    transactions: commits.len(),
                    last_good: after(holds),
                    good_lsn: after(holds).map_or(before, |commit| commit.lsn),
                    first_bad: commits[fails - 1],
                    timeline: looked.way.timeline,
                    probes,
                    seconds: began.elapsed().as_secs_f64(),
                });
            }
            Next::NeverHeld => return Err(never_held(asked, probes.last())),
            Next::StillHolds => return Err(still_holds(asked, commits.last())),
        };
        progress.head(format!("probe {} of at most {}: ", probes.len() + 1, search.probes_max()));
        let after = after(number);
        asked.cluster.target = Target::Lsn(after.map_or(before, |commit| commit.lsn));
        let probe = probe(plan, wanted, asked, &mut database, after, place, progress).await?;
        tracing::info!(lsn = %probe.lsn, holds = probe.holds, seconds = probe.seconds, "probed a moment");
        search.hear(number, probe.holds);
        probes.push(probe);
    }
}

/// The transactions of the window.
async fn window(plan: &Plan, looked: &Looked<'_>, asked: &Asked, place: &Place, progress: &Progress, base_end: Lsn) -> Result<Within> {
    let nothing = || {
        Error::new(Kind::Refused, format!("nothing was committed behind {}", span(asked)))
            .hint("take an earlier --from or a later --to; pgvigil wal status shows what can be restored")
    };
    if matches!(looked.stop, Stop::WithTheLog(_)) {
        return Err(nothing());
    }
    let bin_dir = moment::programs(plan, looked)?;
    progress.begin("reading the log");
    let mut within = Within::new(asked.from, asked.to, base_end);
    commits::read(looked, &bin_dir, &place.folder().join("log"), |commit| within.hear(commit)).await?;
    let gap = looked.way.reach.iter().flat_map(|reach| &reach.gaps).next();
    if let Some(gap) = gap.filter(|_| !within.is_closed) {
        return Err(Error::new(
            Kind::Refused,
            format!("the log of the window is not whole: {}", gap.in_words(looked.seen.archive.segment_bytes)),
        )
        .hint("take a --to before the gap; pgvigil wal status names the gaps of the archive"));
    }
    if within.commits.is_empty() {
        return Err(nothing());
    }
    Ok(within)
}

fn span(asked: &Asked) -> String {
    let to = asked.to.map(|to| format!(" and up to {}", in_utc(to))).unwrap_or_default();
    format!("{}{to}", in_utc(asked.from))
}

fn never_held(asked: &Asked, probe: Option<&Probe>) -> Error {
    let missing = probe.and_then(|probe| probe.missing.as_deref()).map(|why| format!(": {why}")).unwrap_or_default();
    Error::new(Kind::Refused, format!("it does not hold at the beginning of the window, {}{missing}", in_utc(asked.from)))
        .hint("take an earlier --from; or turn the check around, if it looks for what came")
}

fn still_holds(asked: &Asked, last: Option<&Commit>) -> Error {
    let end = asked.to.or(last.map(|commit| commit.at)).map(|at| format!(", {}", in_utc(at))).unwrap_or_default();
    let hint = match asked.to {
        Some(_) => "take a later --to, or leave it out for all of the log",
        None => "what was committed later is not in the archive yet: pgvigil wal status; or the check asks for something else",
    };
    Error::new(Kind::Refused, format!("it holds at the end of the window as well{end}")).hint(hint)
}

async fn probe(
    plan: &Plan,
    wanted: &Wanted,
    asked: &mut Asked,
    database: &mut Option<String>,
    after: Option<Commit>,
    place: &Place,
    progress: &Progress,
) -> Result<Probe> {
    let began = Instant::now();
    let Target::Lsn(lsn) = asked.cluster.target else { return Err(Error::new(Kind::Usage, "a probe is of a place in the log")) };
    let mut looked = cluster::look(plan, wanted, &asked.cluster).await?;
    let moment = moment::open(plan, &mut looked, &mut asked.cluster, place, progress).await?;
    progress.begin("asking");
    let asked_it = async {
        let name = moment::database_there(database.as_deref(), moment.server())?;
        *database = Some(name.clone());
        holds(moment.server(), &name, &asked.check, COMES_AND_GOES, NO_BOUNDS).await
    };
    let answer = asked_it.await;
    moment.close().await;
    let (holds, missing) = match answer? {
        Answer::Holds(holds) => (holds, None),
        Answer::Missing(what) => (false, Some(what)),
    };
    let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    Ok(Probe { after, lsn, holds, missing, base: looked.way.base.to_string(), seconds })
}
