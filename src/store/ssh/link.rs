//! The one connection of a store: made when it is needed, made again when it broke.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::login::Account;
use super::session::{Failure, Refused, Session};
use crate::error::{Error, Kind, Result};
use crate::host::disk::Usage;
use crate::host::printable;

/// How long is waited before each new attempt to connect after a connection broke: a minute and a half
/// in all, in which a host can have restarted its sshd, or a router its line.
const PAUSES: [Duration; 9] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(30),
];

/// How often the connection may break under one request.
pub const LOSSES_MAX: usize = 4;

/// A file system with less than this available is full: a portion finds no room. In bytes.
const FULL_BYTES: u64 = 1024 * 1024;

/// `f_flag` of a file system that is read-only.
const READ_ONLY: u64 = 1;

pub struct Link {
    account: Account,
    current: Mutex<Option<Arc<Session>>>,
}

/// What a server answered, be it a refusal.
pub type Answer<T> = std::result::Result<T, Refused>;

impl Link {
    pub fn new(account: Account) -> Self {
        Link { account, current: Mutex::new(None) }
    }

    /// The session, a new one where there is none.
    ///
    /// # Errors
    /// There is no way to the host, or it does not let us in.
    pub async fn session(&self) -> Result<Arc<Session>> {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_ref().filter(|session| session.is_open()) {
            return Ok(session.clone());
        }
        // One that broke while nobody asked is as any other that broke.
        let session = if current.take().is_some() {
            self.log_in_again("it was closed").await?
        } else {
            Arc::new(self.account.log_in().await.map_err(|trouble| trouble.error)?)
        };
        *current = Some(session.clone());
        Ok(session)
    }

    /// Another session in the place of one that broke, after several attempts.
    ///
    /// # Errors
    /// There is no way to the host any more.
    pub async fn again(&self, broken: &Arc<Session>, why: &str) -> Result<Arc<Session>> {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_ref().filter(|session| !Arc::ptr_eq(session, broken) && session.is_open()) {
            return Ok(session.clone());
        }
        *current = None;
        let session = self.log_in_again(why).await?;
        *current = Some(session.clone());
        Ok(session)
    }

    /// A new session after one that broke, in several attempts.
    async fn log_in_again(&self, why: &str) -> Result<Arc<Session>> {
        let host = &self.account.host;
        tracing::info!(host, why, "the connection broke; connecting again");
        let mut pauses = PAUSES.into_iter();
        loop {
            let pause = pauses.next();
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            match self.account.log_in().await {
                Ok(session) => return Ok(Arc::new(session)),
                Err(trouble) if !trouble.may_pass || pauses.as_slice().is_empty() => {
                    return Err(trouble.error.context(format_args!("the connection to {host} broke ({why})")));
                }
                Err(_) => {}
            }
        }
    }

    /// Asks something that may be asked again when the connection breaks under it. `op` is told
    /// whether it may have been done already.
    ///
    /// # Errors
    /// There is no way to the host. A refusal is an answer.
    pub async fn ask<T, F>(&self, op: impl Fn(Arc<Session>, bool) -> F) -> Result<Answer<T>>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut session = self.session().await?;
        let mut losses = 0;
        loop {
            match op(session.clone(), losses > 0).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(Failure::Refused(refused)) => return Ok(Err(refused)),
                Err(Failure::Lost(why)) => {
                    losses += 1;
                    if losses > LOSSES_MAX {
                        return Err(self.lost(&why));
                    }
                    session = self.again(&session, &why).await?;
                }
            }
        }
    }

    /// A connection that breaks again and again.
    pub fn lost(&self, why: &str) -> Error {
        Error::new(Kind::Store, format!("the connection to {} broke again and again: {why}", self.account.host))
            .hint("look at the line between, and at sshd's log on that host")
    }

    /// `host:path`, as scp writes it.
    pub fn place(&self, path: &str) -> String {
        format!("{}:{path}", self.account.host)
    }

    /// A refusal in words. The protocol has four of them; the reason is looked for where it lies.
    pub async fn failed(&self, doing: &str, path: &str, refused: &Refused) -> Error {
        use russh_sftp::protocol::StatusCode;
        let failed = |why: &str| Error::new(Kind::Store, format!("cannot {doing} {}: {why}", self.place(path)));
        match refused.code {
            StatusCode::NoSuchFile => failed("there is no such file or folder")
                .hint("look at path in ssh of the store, and whether its disk is mounted on that host"),
            StatusCode::PermissionDenied => failed("permission denied")
                .hint("let the account there own the folder: chown, mode 0700; of a chroot the top belongs to root"),
            StatusCode::OpUnsupported => failed("the server there does not do that").hint("docs/stores-ssh.md says what is needed"),
            _ => self.why_failed(path).await.map_or_else(
                || {
                    failed(&format!("the server there says only {:?}", printable(&refused.message)))
                        .hint("look at the folder, its disk and its quota on that host")
                },
                |(why, hint)| failed(why).hint(hint),
            ),
        }
    }

    async fn why_failed(&self, path: &str) -> Option<(&'static str, &'static str)> {
        let session = self.session().await.ok().filter(|session| session.can.statvfs)?;
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let disk = session.file_system(if folder.is_empty() { "/" } else { folder }).await.ok()?;
        if disk.flags & READ_ONLY != 0 {
            Some(("the file system there is read-only", "mount it writable, and look into the kernel's log of that host why it is not"))
        } else if disk.blocks_avail.saturating_mul(disk.fragment_size) < FULL_BYTES {
            Some(("the disk there is full", "free space on that host, or move the store to a larger disk; nothing that was stored is lost"))
        } else if disk.inodes > 0 && disk.inodes_avail == 0 {
            Some(("the file system there has no inodes left", "remove what is not needed on that host"))
        } else {
            None
        }
    }

    /// The file system that holds a folder, which need not be there yet. `None`: the server does not tell.
    ///
    /// # Errors
    /// There is no way to the host, or none of the folders above it is there.
    pub async fn usage(&self, path: &str) -> Result<Option<Usage>> {
        let told = self.ask(|session, _| async move {
            if !session.can.statvfs {
                return Ok(None);
            }
            let mut at = std::path::Path::new(path);
            loop {
                match (session.file_system(&at.to_string_lossy()).await, at.parent()) {
                    (Err(Failure::Refused(refused)), Some(above)) if refused.is_missing() && !above.as_os_str().is_empty() => at = above,
                    (told, _) => return told.map(Some),
                }
            }
        });
        match told.await? {
            Ok(told) => Ok(told.map(|disk| Usage {
                total: disk.blocks.saturating_mul(disk.fragment_size),
                used: disk.blocks.saturating_sub(disk.blocks_free).saturating_mul(disk.fragment_size),
                available: disk.blocks_avail.saturating_mul(disk.fragment_size),
                mount: None,
            })),
            Err(refused) => Err(self.failed("look at", path, &refused).await),
        }
    }
}
