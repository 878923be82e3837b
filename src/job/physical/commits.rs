//! The transactions of a way along the log, read by `pg_waldump`.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::error::{Error, Kind, Result};
use crate::host::local::LocalHost;
use crate::host::{Call, Host, Tag, failed};
use crate::job::physical::restore::Looked;
use crate::physical::commits::{Commit, Ended, ended};
use crate::wal::{Lsn, Segment};

/// So many segments lie in the folder at a time, and one more: a record may go on in it.
const AT_A_TIME: usize = 8;

/// A piece of the log that is read in one go.
struct Piece {
    timeline: u32,
    from: Lsn,
    /// What begins behind it is of the next piece.
    boundary: Lsn,
    /// So far there are bytes.
    end: Lsn,
    /// Behind its last record there need be none.
    is_last: bool,
}

/// Reads the log behind the base backup and tells every commit, in the order of the log, for as long as more
/// is wanted. `folder` is emptied.
///
/// # Errors
/// A segment is missing or damaged, a store does not answer, or `pg_waldump` cannot read it.
pub async fn read(looked: &Looked<'_>, bin_dir: &Path, folder: &Path, mut heard: impl FnMut(Commit) -> bool) -> Result<()> {
    let Some(reach) = &looked.way.reach else { return Ok(()) };
    let bytes = looked.seen.archive.segment_bytes;
    let start = looked.physical()?.stop_lsn;
    let segments: Vec<Segment> = reach.segments.iter().copied().filter(|segment| segment.end(bytes) > start).collect();
    let mut at = 0;
    while at < segments.len() {
        let timeline = segments[at].timeline;
        let count = segments[at..].iter().take(AT_A_TIME).take_while(|segment| segment.timeline == timeline).count();
        let next = at + count;
        renew(folder)?;
        for segment in &segments[at..segments.len().min(next + 1)] {
            // Where a timeline begins its file has what came before, too: it goes under the name of that one.
            let name = Segment { timeline, ..*segment }.name(bytes);
            lay(looked, &segment.name(bytes), &folder.join(name)).await?;
        }
        let boundary = segments[next - 1].end(bytes);
        let piece = Piece {
            timeline,
            from: start.max(segments[at].start(bytes)),
            boundary,
            end: segments.get(next).map_or(boundary, |segment| segment.end(bytes)),
            is_last: next == segments.len(),
        };
        if !dumped(&piece, bin_dir, folder, &mut heard).await? {
            break;
        }
        at = next;
    }
    renew(folder)
}

fn renew(folder: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).map_err(|error| Error::system(format_args!("cannot make {}", folder.display()), &error))
}

async fn lay(looked: &Looked<'_>, name: &str, path: &Path) -> Result<()> {
    let gone = || Error::new(Kind::Damaged, format!("{name} is not in the archive")).hint("pgvigil wal status names gaps of the archive");
    let raw = looked.seen.read(looked.backup.name.as_str(), name).await?.ok_or_else(gone)?;
    std::fs::write(path, raw).map_err(|error| Error::system(format_args!("cannot write {}", path.display()), &error))
}

/// Tells the commits of a piece. False: no more are wanted.
async fn dumped(piece: &Piece, bin_dir: &Path, folder: &Path, heard: &mut impl FnMut(Commit) -> bool) -> Result<bool> {
    let option = |name: &str, value: String| format!("--{name}={value}");
    let call = Call {
        program: "pg_waldump",
        args: vec![
            option("rmgr", "Transaction".to_owned()),
            option("path", folder.display().to_string()),
            option("timeline", piece.timeline.to_string()),
            option("start", piece.from.to_string()),
            option("end", piece.end.to_string()),
        ],
        env: vec![("TZ".to_owned(), "UTC".to_owned())],
        password: None,
        tag: Tag::random(),
        stdin: false,
        input: None,
    };
    let mut process = LocalHost::new(Some(bin_dir.to_owned())).start(call).await?;
    let mut lines = BufReader::new(&mut process.stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(Ended::Committed(commit)) = ended(&line) else { continue };
        if commit.lsn >= piece.boundary {
            break;
        }
        if !heard(commit) {
            process.running.stop().await?;
            return Ok(false);
        }
    }
    // What begins behind the boundary may still come, and is not waited for.
    let _ = tokio::io::copy(&mut process.stdout, &mut tokio::io::sink()).await;
    let exit = process.running.wait().await?;
    let said = process.stderr.text();
    // A piece may hold nothing but the middle of a long record.
    if exit.is_success() || piece.is_last || said.contains("could not find a valid record") {
        return Ok(true);
    }
    Err(failed(Kind::Postgres, "pg_waldump", exit, &said).context("cannot read the log"))
}
