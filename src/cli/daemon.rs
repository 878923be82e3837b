//! `daemon`

use super::Done;
use super::session::{Session, runtime};
use crate::daemon;
use crate::error::exit;

pub fn daemon(session: &Session) -> Done {
    let plan = session.open_daemon()?;
    let runtime = runtime()?;
    let ended = runtime.block_on(daemon::run(&session.config, plan, &|| session.load_whole()));
    // Nothing that matters runs any more; a read that hangs on a dead disk is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended.map(|()| exit::OK)
}
