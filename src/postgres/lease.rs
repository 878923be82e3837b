//! The lease of a backup: an advisory lock of the server that is dumped, held by a session of ours for
//! as long as it gives signs of life. Of several installations that share a file and a store, the one
//! that holds it runs a slot; the server itself takes it back from one that is dead, cut off or paused.
//! <https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADVISORY-LOCKS>,
//! <https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-SESSION-TIMEOUT>

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::server::Server;
use super::session::Session;
use crate::error::{Error, Kind, Result};

/// How often one that waits asks again.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// A lease that is held. Dropped, it is given back when its psql has ended.
pub struct Lease {
    checks: mpsc::Sender<oneshot::Sender<bool>>,
    key: i64,
    takeover_after: Duration,
}

impl Lease {
    /// Waits until the lease of `what` is free, and takes it. `heard` is told once if somebody else
    /// holds it. A holder that gives no sign of life for `takeover_after` loses it.
    ///
    /// # Errors
    /// The server gives no answer, or refuses.
    pub async fn take(server: &Server, what: &str, takeover_after: Duration, heard: impl FnOnce()) -> Result<Self> {
        let key = key_of(what);
        let mut heard = Some(heard);
        loop {
            if let Some(session) = ask(server, key, takeover_after).await? {
                let (checks, asked) = mpsc::channel(1);
                tokio::spawn(keep(session, asked, takeover_after));
                return Ok(Lease { checks, key, takeover_after });
            }
            if let Some(heard) = heard.take() {
                heard();
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Whether it is held at this moment. One that was lost while nobody else wanted it is taken again.
    ///
    /// # Errors
    /// Somebody else may have it: what was done under it must not be finished.
    pub async fn assure(&mut self, server: &Server) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        if self.checks.send(answer).await.is_ok() && answered.await.unwrap_or(false) {
            return Ok(());
        }
        let lost = |why: &str| {
            Error::new(Kind::Postgres, format!("the lease of the slot was lost while the dump was under way: {why}"))
                .hint("another installation makes the backup of this slot now; if there is none: was this process stopped, or cut off from the server?")
        };
        match ask(server, self.key, self.takeover_after).await {
            Ok(Some(session)) => {
                let (checks, asked) = mpsc::channel(1);
                tokio::spawn(keep(session, asked, self.takeover_after));
                self.checks = checks;
                Ok(())
            }
            Ok(None) => Err(lost("another one holds it")),
            Err(error) => Err(lost(&error.message)),
        }
    }
}

/// One try. `None`: another session holds the lock.
async fn ask(server: &Server, key: i64, takeover_after: Duration) -> Result<Option<Session>> {
    let asked = async {
        let mut session = Session::open(server, server.maintenance_database()).await?;
        // PostgreSQL 14 and later; before, the end of the connection must do.
        let millis = takeover_after.as_millis();
        session
            .ask(&format!(
                "select set_config(name, '{millis}', false) from pg_catalog.pg_settings where name in ('idle_session_timeout', 'tcp_user_timeout')"
            ))
            .await?;
        let is_ours = session.ask(&format!("select pg_catalog.pg_try_advisory_lock({key})")).await?;
        if is_ours.trim() == "t" {
            return Ok(Some(session));
        }
        session.close().await?;
        Ok(None)
    };
    let patience = takeover_after.max(Duration::from_secs(10));
    tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "the server gave no answer")))
}

/// Gives signs of life until nobody wants the lease any more, or it is lost.
async fn keep(mut session: Session, mut asked: mpsc::Receiver<oneshot::Sender<bool>>, takeover_after: Duration) {
    let every = takeover_after / 4;
    loop {
        let answer = tokio::select! {
            answer = asked.recv() => match answer {
                Some(answer) => Some(answer),
                None => break,
            },
            () = tokio::time::sleep(every) => None,
        };
        let lives = matches!(tokio::time::timeout(takeover_after, session.ask("select 1")).await, Ok(Ok(_)));
        if let Some(answer) = answer {
            let _ = answer.send(lives);
        }
        if !lives {
            let _ = session.stop().await;
            return;
        }
    }
    let _ = session.close().await;
}

/// The number under which the server knows a lease.
fn key_of(what: &str) -> i64 {
    let hash = Sha256::digest(format!("pgvigil lease: {what}"));
    hash.iter().take(8).fold(0i64, |key, byte| key << 8 | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backup_has_its_number() {
        let keys = ["", "a", "b", "/srv/x a"].map(key_of);
        let mut unique = keys.to_vec();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), keys.len());
        // Written down: another version beside this one must agree.
        assert_eq!(key_of("/srv/backups euem_db"), -4_632_137_693_211_697_208);
    }
}
