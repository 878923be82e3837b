//! Names on the other host: folders and small files, made, placed, listed and removed.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};

use super::link::{Answer, Link};
use super::session::{Failure, Session};
use super::write::SshFile;
use crate::error::{Error, Kind, Result};
use crate::store::{Added, FileWriter};

/// Requests of one kind that are under way at a time.
const REQUESTS_MAX: usize = 16;

pub fn join(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

impl Link {
    async fn done<T>(&self, doing: &str, path: &str, answer: Answer<T>) -> Result<T> {
        match answer {
            Ok(answer) => Ok(answer),
            Err(refused) => Err(self.failed(doing, path, &refused).await),
        }
    }

    /// What stands in a folder; nothing where there is no folder.
    pub async fn names(&self, folder: &str) -> Result<Vec<(String, FileAttributes)>> {
        let answer = self.ask(|session, _| async move { none_if_missing(session.list(folder).await) }).await?;
        Ok(self.done("list", folder, answer).await?.unwrap_or_default())
    }

    /// What a name is. `None`: it is not there.
    pub async fn look(&self, path: &str) -> Result<Option<FileAttributes>> {
        let answer = self.ask(|session, _| async move { none_if_missing(session.lstat(path).await) }).await?;
        self.done("look at", path, answer).await
    }

    /// Makes the folders from `root` on down to one in it, each durable. `root` itself is made with
    /// all above it.
    pub async fn make_folders(&self, root: &str, folder: &str) -> Result<()> {
        let answer = self.ask(|session, _| async move { make_folders(&session, root, folder).await }).await?;
        self.done("make", folder, answer).await
    }

    /// A new folder, which must not be there.
    pub async fn make_new_folder(&self, path: &str) -> Result<()> {
        let answer = self.ask(|session, is_again| async move {
            match session.make_folder(path).await {
                // Of the attempt before, whose answer was lost.
                Err(Failure::Refused(_)) if is_again && is_there(&session, path).await? && session.list(path).await?.is_empty() => Ok(()),
                made => made,
            }
        });
        match answer.await? {
            Ok(()) => Ok(()),
            Err(_) if self.look(path).await?.is_some() => Err(self.taken(path)),
            Err(refused) => Err(self.failed("make", path, &refused).await),
        }
    }

    pub fn taken(&self, path: &str) -> Error {
        Error::new(Kind::Store, format!("{} is there already", self.place(path)))
            .hint("somebody else made it in this very moment; run again")
    }

    /// A rename that replaces nothing.
    pub async fn rename_new(&self, doing: &str, from: &str, to: &str) -> Result<()> {
        let answer = self.ask(|session, is_again| async move {
            match session.rename(from, to).await {
                Err(Failure::Refused(_)) if is_again && !is_there(&session, from).await? && is_there(&session, to).await? => Ok(()),
                renamed => renamed,
            }
        });
        match answer.await? {
            Ok(()) => Ok(()),
            Err(refused) if !refused.is_missing() && self.look(to).await?.is_some() => Err(self.taken(to)),
            Err(refused) => Err(self.failed(doing, from, &refused).await),
        }
    }

    pub async fn sync_folder(&self, path: &str) -> Result<()> {
        let answer = self.ask(|session, _| async move { session.sync_folder(path).await }).await?;
        self.done("make durable", path, answer).await
    }

    /// A whole file. `None`: it is not there.
    pub async fn whole(&self, path: &str) -> Result<Option<Bytes>> {
        let answer = self.ask(|session, _| async move { none_if_missing(whole(&session, path).await) }).await?;
        self.done("read", path, answer).await
    }

    /// Writes a small file aside and puts it in its place, which must be free.
    pub async fn place_new(self: &Arc<Self>, partial: &str, target: &str, bytes: Bytes) -> Result<Added> {
        let placed = self.place_through(partial, target, bytes).await;
        if !matches!(placed, Ok(Added::Done)) {
            let _ = self.remove_file(partial).await;
        }
        placed
    }

    async fn place_through(self: &Arc<Self>, partial: &str, target: &str, bytes: Bytes) -> Result<Added> {
        let mut file = Box::new(SshFile::create(self.clone(), partial.to_owned()).await?);
        file.write(bytes).await?;
        file.finish().await?;
        let answer = self.ask(|session, is_again| async move {
            let placed =
                if session.can.hardlink { session.hard_link(partial, target).await } else { session.rename(partial, target).await };
            match placed {
                // What we are not sure of: is it ours that is there? With a link both names are one file.
                Err(Failure::Refused(_)) if is_again && is_same(&session, partial, target).await? => Ok(Added::Done),
                Err(Failure::Refused(refused)) if !refused.is_missing() && is_there(&session, target).await? => Ok(Added::AlreadyThere),
                Err(failure) => Err(failure),
                Ok(()) => Ok(Added::Done),
            }
        });
        let added = match answer.await? {
            Ok(added) => added,
            Err(refused) => return Err(self.failed("create", target, &refused).await),
        };
        if added == Added::Done {
            self.remove_file(partial).await?;
        }
        // Whoever put it there may have died before this.
        self.sync_folder(target.rsplit_once('/').map_or(".", |(folder, _)| folder)).await?;
        Ok(added)
    }

    /// Removes a file; one that is not there is no error.
    pub async fn remove_file(&self, path: &str) -> Result<()> {
        let answer = self.ask(|session, _| async move { none_if_missing(session.remove_file(path).await) }).await?;
        self.done("remove", path, answer).await.map(drop)
    }

    /// Removes a folder with all that is in it, or a file; what is not there is no error.
    pub async fn remove_all(&self, path: &str) -> Result<()> {
        let answer = self.ask(|session, _| async move { none_if_missing(remove_all(&session, path).await) }).await?;
        self.done("remove", path, answer).await.map(drop)
    }

    /// Lets a link point to a name beside it; `None` takes it away. A server that has no links stays
    /// without.
    pub async fn point(&self, link: &str, partial: &str, to: Option<String>) -> Result<()> {
        let to = to.as_deref();
        let answer = self.ask(|session, _| async move {
            let now = none_if_missing(session.read_link(link).await)?.flatten();
            if now.as_deref() == to {
                return Ok(());
            }
            let Some(to) = to else { return session.remove_file(link).await };
            none_if_missing(session.remove_file(partial).await)?;
            match session.symlink(to, partial).await {
                Err(Failure::Refused(refused)) if refused.code == StatusCode::OpUnsupported => return Ok(()),
                made => made?,
            }
            if session.can.posix_rename {
                return session.replace(partial, link).await;
            }
            none_if_missing(session.remove_file(link).await)?;
            session.rename(partial, link).await
        });
        let answer = answer.await?;
        self.done("link", link, answer).await
    }

    /// The JSON documents of a folder.
    pub async fn documents(&self, folder: &str) -> Result<Vec<(String, Bytes)>> {
        let answer = self.ask(|session, _| async move {
            let names = none_if_missing(session.list(folder).await)?.unwrap_or_default();
            let names = names.into_iter().map(|(name, _)| name).filter(|name| name.strip_suffix(".json").is_some());
            let session = &session;
            let reads = names.map(|name| async move {
                let bytes = none_if_missing(whole(session, &join(folder, &name)).await)?;
                // One that is not there any more was pruned in this moment.
                Ok::<_, Failure>(bytes.map(|bytes| (name, bytes)))
            });
            let read: Vec<_> = futures_util::stream::iter(reads).buffered(REQUESTS_MAX).try_collect().await?;
            Ok(read.into_iter().flatten().collect())
        });
        let answer = answer.await?;
        self.done("read", folder, answer).await
    }
}

/// `None` in the place of "no such file".
fn none_if_missing<T>(asked: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match asked {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Refused(refused)) if refused.is_missing() => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn is_there(session: &Session, path: &str) -> Result<bool, Failure> {
    Ok(none_if_missing(session.lstat(path).await)?.is_some())
}

async fn is_same(session: &Arc<Session>, a: &str, b: &str) -> Result<bool, Failure> {
    let (a, b) = (none_if_missing(whole(session, a).await)?, none_if_missing(whole(session, b).await)?);
    // A rename that was done leaves no first name.
    Ok(b.is_some() && (a.is_none() || a == b))
}

async fn whole(session: &Arc<Session>, path: &str) -> Result<Bytes, Failure> {
    let open = session.open(path, OpenFlags::READ).await?;
    let mut read = Vec::new();
    loop {
        let portion = open.read(read.len() as u64, session.read_bytes).await?;
        let is_last = portion.len() < session.read_bytes as usize;
        read.extend(portion);
        if is_last {
            return Ok(Bytes::from(read));
        }
    }
}

async fn make_folders(session: &Arc<Session>, root: &str, folder: &str) -> Result<(), Failure> {
    let refused = match session.make_folder(folder).await {
        Ok(()) => None,
        Err(Failure::Refused(refused)) => Some(refused),
        Err(lost) => return Err(lost),
    };
    let parent = folder.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty());
    match (refused, parent) {
        (None, Some(parent)) if folder != root => session.sync_folder(parent).await,
        (None, _) => Ok(()),
        (Some(refused), Some(parent)) if refused.is_missing() => {
            Box::pin(make_folders(session, root, parent)).await?;
            session.make_folder(folder).await?;
            session.sync_folder(parent).await
        }
        // Mostly it is there, and the protocol has no word for that.
        (Some(_), _) if is_folder(session, folder).await? => Ok(()),
        (Some(refused), _) => Err(Failure::Refused(refused)),
    }
}

/// Whether a folder is there, be it by a link.
async fn is_folder(session: &Session, path: &str) -> Result<bool, Failure> {
    Ok(none_if_missing(session.stat(path).await)?.is_some_and(|attributes| attributes.is_dir()))
}

async fn remove_all(session: &Arc<Session>, path: &str) -> Result<(), Failure> {
    if !session.lstat(path).await?.is_dir() {
        return session.remove_file(path).await;
    }
    let found = session.list(path).await?;
    let removals = found.into_iter().map(|(name, attributes)| {
        let path = join(path, &name);
        async move {
            let removed = if attributes.is_dir() { Box::pin(remove_all(session, &path)).await } else { session.remove_file(&path).await };
            none_if_missing(removed)
        }
    });
    futures_util::stream::iter(removals).buffer_unordered(REQUESTS_MAX).try_for_each(|_| async { Ok(()) }).await?;
    session.remove_folder(path).await
}
