//! A file that is written there: many requests under way, and what was not acknowledged is kept until
//! it is, so that a broken connection costs no more than that.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use russh_sftp::protocol::OpenFlags;

use super::link::{LOSSES_MAX, Link};
use super::session::{Failure, Open, Session};
use crate::error::{Error, Kind, Result};
use crate::store::FileWriter;

/// How much may be on the way, in bytes: sshd itself takes two MiB ahead.
const UNDER_WAY_BYTES: u64 = 4 * 1024 * 1024;

pub struct SshFile {
    link: Arc<Link>,
    path: String,
    /// `None` after a failure: what was written cannot be trusted any more.
    open: Option<Arc<Open>>,
    under_way: FuturesOrdered<BoxFuture<'static, Result<(), Failure>>>,
    /// What is under way, in its order.
    unacknowledged: VecDeque<Bytes>,
    /// Where the first byte belongs that is not acknowledged, and the first that was not sent.
    acknowledged: u64,
    sent: u64,
    /// Broken connections since the last byte that was acknowledged.
    losses: usize,
}

impl SshFile {
    /// A new file, which must not be there.
    ///
    /// # Errors
    /// It is there, or cannot be made.
    pub async fn create(link: Arc<Link>, path: String) -> Result<Self> {
        let new = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let path_of = path.as_str();
        let answer = link.ask(|session, is_again| async move {
            match session.open(path_of, new).await {
                // Of the attempt before, whose answer was lost: only that one is empty.
                Err(Failure::Refused(_)) if is_again && session.lstat(path_of).await?.size == Some(0) => {
                    session.open(path_of, OpenFlags::WRITE).await
                }
                opened => opened,
            }
        });
        let open = match answer.await? {
            Ok(open) => open,
            Err(refused) => return Err(link.failed("create", &path, &refused).await),
        };
        Ok(SshFile {
            link,
            path,
            open: Some(Arc::new(open)),
            under_way: FuturesOrdered::new(),
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            sent: 0,
            losses: 0,
        })
    }

    fn opened(&self) -> Result<Arc<Open>> {
        self.open.clone().ok_or_else(|| Error::new(Kind::Store, format!("{} failed before", self.link.place(&self.path))))
    }

    fn send(&mut self, open: Arc<Open>, offset: u64, bytes: &Bytes) {
        let bytes = bytes.to_vec();
        self.under_way.push_back(Box::pin(async move { open.write(offset, bytes).await }));
    }

    /// Waits for the first of what is under way.
    async fn settle(&mut self) -> Result<()> {
        match self.under_way.next().await {
            None => Ok(()),
            Some(Ok(())) => {
                self.acknowledged += self.unacknowledged.pop_front().map_or(0, |bytes| bytes.len() as u64);
                self.losses = 0;
                Ok(())
            }
            Some(Err(Failure::Refused(refused))) => {
                self.open = None;
                Err(self.link.failed("write", &self.path, &refused).await)
            }
            Some(Err(Failure::Lost(why))) => {
                let resumed = self.resume(why).await;
                if resumed.is_err() {
                    self.open = None;
                }
                resumed
            }
        }
    }

    /// Goes on over another connection where the acknowledged bytes end.
    async fn resume(&mut self, mut why: String) -> Result<()> {
        let mut session: Arc<Session> = self.opened()?.session().clone();
        loop {
            self.losses += 1;
            if self.losses > LOSSES_MAX {
                return Err(self.link.lost(&why));
            }
            self.under_way = FuturesOrdered::new();
            session = self.link.again(&session, &why).await?;
            let opened = async {
                let open = session.open(&self.path, OpenFlags::WRITE).await?;
                let size = open.size().await?;
                Ok((open, size))
            };
            match opened.await {
                Ok((_, size)) if size < self.acknowledged => {
                    let lost = format!("{} has lost what it had taken: {size} of {} bytes", self.link.place(&self.path), self.acknowledged);
                    return Err(Error::new(Kind::Store, lost).hint("that host was restarted in between; run again"));
                }
                Ok((open, _)) => {
                    let open = Arc::new(open);
                    self.open = Some(open.clone());
                    let mut offset = self.acknowledged;
                    for bytes in std::mem::take(&mut self.unacknowledged) {
                        self.send(open.clone(), offset, &bytes);
                        offset += bytes.len() as u64;
                        self.unacknowledged.push_back(bytes);
                    }
                    return Ok(());
                }
                Err(Failure::Refused(refused)) => return Err(self.link.failed("go on writing", &self.path, &refused).await),
                Err(Failure::Lost(next)) => why = next,
            }
        }
    }
}

#[async_trait]
impl FileWriter for SshFile {
    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let open = self.opened()?;
            let portion = bytes.split_to(bytes.len().min(open.session().write_bytes as usize));
            self.send(open, self.sent, &portion);
            self.sent += portion.len() as u64;
            self.unacknowledged.push_back(portion);
            while self.sent - self.acknowledged > UNDER_WAY_BYTES {
                self.settle().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        while self.acknowledged < self.sent {
            self.settle().await?;
        }
        let open = self.opened()?;
        self.open = None;
        let finished = async {
            open.sync().await?;
            let size = open.size().await?;
            // Nothing else holds it now: all requests have ended.
            if let Some(open) = Arc::into_inner(open) {
                open.close().await?;
            }
            Ok(size)
        };
        let place = self.link.place(&self.path);
        match finished.await {
            Ok(size) if size == self.sent => Ok(()),
            Ok(size) => Err(Error::new(Kind::Store, format!("{place} is {size} bytes long, and {} were written", self.sent))
                .hint("somebody else wrote into it; run again")),
            Err(Failure::Refused(refused)) => Err(self.link.failed("make durable", &self.path, &refused).await),
            // A second fsync may say that all is well after the first has failed unheard.
            Err(Failure::Lost(why)) => {
                Err(Error::new(Kind::Store, format!("cannot tell whether {place} is durable: {why}")).hint("run again"))
            }
        }
    }
}
