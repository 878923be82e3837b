//! The file is read again: what it changes is said in words, and what is faulty changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Daemon, Load};
use crate::alert::problems::time;
use crate::config::Plan;
use crate::config::changes::changes;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::job::prune;
use crate::schedule::slots;

/// When a faulty file is read again without an edit: what it lacked, as the file of a secret, may be
/// there by then.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The fault of the file as it is.
pub(super) struct Faulty {
    told: String,
    again_at: Instant,
}

impl Daemon {
    /// Reads a faulty file again, when it is time to.
    pub(super) fn try_file_again(&mut self, load: Load<'_>) {
        if self.faulty.as_ref().is_some_and(|faulty| Instant::now() >= faulty.again_at) {
            self.reload(load);
        }
    }

    /// Takes the file as it is now, or goes on with what it had and says so.
    pub(super) fn reload(&mut self, load: Load<'_>) {
        match load().and_then(|plan| self.suits(plan)) {
            Ok(plan) => self.take(plan),
            Err(error) => self.go_on(&error),
        }
        self.next_due = clock::now();
        self.look_at = Instant::now();
        self.disks.clear();
    }

    /// Whether it can be obeyed; the listener does so already.
    fn suits(&mut self, plan: Plan) -> Result<Arc<Plan>> {
        if plan.state_dir != self.plan.state_dir {
            return Err(Error::new(Kind::Config, "state_dir cannot change while the daemon runs").hint("restart the daemon"));
        }
        let plan = Arc::new(plan);
        self.listener.follow(&plan)?;
        Ok(plan)
    }

    fn take(&mut self, plan: Arc<Plan>) {
        let now = clock::now();
        let changes = changes(&self.plan, &plan, &|backup| {
            let next = slots::next(backup.schedule.as_ref()?, backup.timezone, now)?;
            Some(time(next, backup.timezone))
        });
        tracing::info!(backups = plan.backups.len(), changes = changes.len(), "the file was read again");
        for change in &changes {
            tracing::info!("changed: {change}");
        }
        let noted = self
            .alerts
            .set_loaded(Ok(()), now)
            .and_then(|()| if changes.is_empty() { Ok(()) } else { self.alerts.set_changes(&changes, now) });
        // What was obeyed so far is noted first: an edit that would delete more waits for a person.
        let noted = noted.and_then(|()| prune::note_terms(&plan, &self.alerts));
        if let Err(error) = noted {
            tracing::error!(%error, "cannot note what became of the file");
        }
        self.faulty = None;
        self.plan = plan;
        self.tell_by_new_plan();
        self.follow();
        self.receive();
    }

    fn go_on(&mut self, error: &Error) {
        let told = match &error.hint {
            Some(hint) => format!("{}\nHINT: {hint}", error.message),
            None => error.message.clone(),
        };
        if let Err(error) = self.alerts.set_loaded(Err(&told), clock::now()) {
            tracing::error!(%error, "cannot note what became of the file");
        }
        if self.faulty.as_ref().is_none_or(|before| before.told != told) {
            tracing::error!(%error, "the file is faulty; the daemon goes on with what it had");
        }
        self.faulty = Some(Faulty { told, again_at: Instant::now() + TRY_AGAIN_AFTER });
    }
}
