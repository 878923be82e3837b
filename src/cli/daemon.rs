//! `daemon`

use super::Done;
use super::session::{Session, runtime};
use crate::daemon;
use crate::error::exit;

/// The life of the process: the log and the plan, then a probe, the runs, the drain (all three in
/// [`daemon::run`]), and the end.
pub fn daemon(session: &Session) -> Done {
    // Before the file is read: no edit falls in between.
    let file = daemon::Watch::new(&session.config);
    let plan = session.open_daemon()?;
    let runtime = runtime()?;
    let ended = runtime.block_on(daemon::run(file, plan, &|| session.load_whole()));
    // Nothing that matters runs any more; a read that hangs on a dead disk is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended.map(|()| exit::OK)
}
