//! A file that is read there: many requests under way, and on over another connection when one breaks.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use russh_sftp::protocol::OpenFlags;
use tokio_util::io::StreamReader;

use super::link::{LOSSES_MAX, Link};
use super::session::{Failure, Open};
use crate::error::{Error, Kind, Result};
use crate::store::Reader;

/// How much may be asked for ahead, in bytes.
const UNDER_WAY_BYTES: u64 = 8 * 1024 * 1024;

struct Reading {
    link: Arc<Link>,
    path: String,
    open: Arc<Open>,
    size: u64,
    under_way: FuturesOrdered<BoxFuture<'static, Result<Vec<u8>, Failure>>>,
    /// Where the first byte stands that was not given out, and the first that was not asked for.
    given: u64,
    asked: u64,
    /// Broken connections since the last byte that came.
    losses: usize,
}

/// The bytes of a file that is whole.
///
/// # Errors
/// It is not there, or cannot be read.
pub async fn reader(link: Arc<Link>, path: String) -> Result<Reader> {
    let path_of = path.as_str();
    let opened = link.ask(|session, _| async move {
        let open = session.open(path_of, OpenFlags::READ).await?;
        let size = open.size().await?;
        Ok((open, size))
    });
    let (open, size) = match opened.await? {
        Ok(opened) => opened,
        Err(refused) => return Err(link.failed("read", &path, &refused).await),
    };
    let reading = Reading { link, path, open: Arc::new(open), size, under_way: FuturesOrdered::new(), given: 0, asked: 0, losses: 0 };
    let stream = futures_util::stream::try_unfold(reading, |mut reading| async move {
        let bytes = reading.next().await.map_err(io::Error::other)?;
        Ok::<_, io::Error>(bytes.map(|bytes| (bytes, reading)))
    });
    Ok(Box::new(StreamReader::new(Box::pin(stream))))
}

impl Reading {
    /// The next bytes. `None`: the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.given == self.size {
                return Ok(None);
            }
            self.ask_ahead();
            match self.under_way.next().await {
                Some(Ok(bytes)) if !bytes.is_empty() => {
                    self.given += bytes.len() as u64;
                    self.losses = 0;
                    return Ok(Some(Bytes::from(bytes)));
                }
                Some(Ok(_)) | None => {
                    let place = self.link.place(&self.path);
                    return Err(Error::new(Kind::Store, format!("{place} ends after {} of {} bytes", self.given, self.size)));
                }
                Some(Err(Failure::Refused(refused))) => return Err(self.link.failed("read", &self.path, &refused).await),
                Some(Err(Failure::Lost(why))) => self.resume(why).await?,
            }
        }
    }

    fn ask_ahead(&mut self) {
        let portion = u64::from(self.open.session().read_bytes);
        while self.asked < self.size && self.asked - self.given < UNDER_WAY_BYTES {
            let (open, offset, len) = (self.open.clone(), self.asked, portion.min(self.size - self.asked));
            self.asked += len;
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            self.under_way.push_back(Box::pin(async move { open.read(offset, len).await }));
        }
    }

    /// Goes on over another connection where the bytes end that were given out.
    async fn resume(&mut self, mut why: String) -> Result<()> {
        loop {
            self.losses += 1;
            if self.losses > LOSSES_MAX {
                return Err(self.link.lost(&why));
            }
            self.under_way = FuturesOrdered::new();
            self.asked = self.given;
            let session = self.link.again(self.open.session(), &why).await?;
            match session.open(&self.path, OpenFlags::READ).await {
                Ok(open) => {
                    self.open = Arc::new(open);
                    return Ok(());
                }
                Err(Failure::Refused(refused)) => return Err(self.link.failed("go on reading", &self.path, &refused).await),
                Err(Failure::Lost(next)) => why = next,
            }
        }
    }
}
