//! What is shown, looked up when somebody asks and kept for a moment: a hundred who ask at once make
//! one look. Nobody asks, nothing is read.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::Plan;
use crate::error::{Error, Kind, Result};
use crate::host::clock;
use crate::state::{Alerts, History, State};
use crate::status::forecast::{Forecast, of_stores};
use crate::status::{Gathered, gather};

/// How long a look is good for, at least. What a run or a drill changes is seen at once.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// A look is good for so many times as long as it took.
const GOOD_FOR_TIMES: u32 = 20;

/// How long who asks waits for a look. A disk that hangs must not hold up a probe; what is shown then is
/// older, and says so.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen, with the plan that it is of.
pub struct Seen {
    pub plan: Arc<Plan>,
    pub gathered: Gathered,
    /// By the store.
    pub forecasts: Vec<(String, Forecast)>,
}

#[derive(Clone)]
struct Kept {
    seen: Result<Arc<Seen>>,
    since: Instant,
    good_for: Duration,
    version: Option<i64>,
}

pub struct Board {
    /// Connections of its own: who asks waits for nobody who writes.
    history: History,
    alerts: Alerts,
    plan: RwLock<Arc<Plan>>,
    kept: watch::Sender<Option<Kept>>,
    looking: Mutex<bool>,
}

impl Board {
    pub fn new(state: &State, plan: &Arc<Plan>) -> Result<Self> {
        Ok(Board {
            history: state.history()?,
            alerts: state.alerts()?,
            plan: RwLock::new(Arc::clone(plan)),
            kept: watch::Sender::new(None),
            looking: Mutex::new(false),
        })
    }

    /// Shows another plan from now on.
    pub fn follow(&self, plan: &Arc<Plan>) {
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(plan);
    }

    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How everything stands: as it is kept, or by a new look.
    ///
    /// # Errors
    /// What is on record cannot be read, or nothing answers.
    pub async fn look(self: &Arc<Self>) -> Result<Arc<Seen>> {
        let mut kept = self.kept.subscribe();
        if let Some(kept) = &*kept.borrow_and_update()
            && self.is_good(kept)
        {
            return kept.seen.clone();
        }
        self.begin();
        let _ = tokio::time::timeout(PATIENCE, kept.changed()).await;
        let seen = kept.borrow().as_ref().map(|kept| kept.seen.clone());
        seen.unwrap_or_else(|| Err(Error::new(Kind::Store, "a store or state_dir does not answer").hint("pgvigil check names it")))
    }

    fn is_good(&self, kept: &Kept) -> bool {
        let is_of_the_plan = kept.seen.as_ref().is_ok_and(|seen| Arc::ptr_eq(&seen.plan, &self.plan()));
        is_of_the_plan && kept.since.elapsed() < kept.good_for && self.history.version().ok() == kept.version
    }

    /// Begins a look, unless one is under way. It goes on when nobody waits for it any more.
    fn begin(self: &Arc<Self>) {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *looking, true) {
            return;
        }
        let board = Arc::clone(self);
        tokio::spawn(async move {
            // A defect in a look must not be the last of all looks.
            let _done = Done(Arc::clone(&board));
            let started = Instant::now();
            let version = board.history.version().ok();
            let seen = board.seen().await.map(Arc::new);
            let good_for = GOOD_FOR.max(started.elapsed() * GOOD_FOR_TIMES);
            board.kept.send_replace(Some(Kept { seen, since: Instant::now(), good_for, version }));
        });
    }

    async fn seen(&self) -> Result<Seen> {
        let plan = self.plan();
        let gathered = gather(&plan, &self.history, &self.alerts, true, clock::now()).await?;
        let played = tokio::task::spawn_blocking(move || {
            let forecasts = of_stores(&plan, &gathered);
            Seen { plan, gathered, forecasts }
        });
        played.await.map_err(|error| Error::new(Kind::System, error.to_string()))
    }
}

struct Done(Arc<Board>);

impl Drop for Done {
    fn drop(&mut self) {
        *self.0.looking.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}
