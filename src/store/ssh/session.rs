//! One sftp session and what it is asked: small requests, each with a time in which it must be
//! answered. Whoever asks learns whether the server refused or the connection broke.

use std::sync::Arc;
use std::time::Duration;

use russh::client;
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::extensions::Statvfs;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::login::Pinned;

/// How long an answer may take. As many bytes as may be under way pass in it also over a slow line.
const ANSWER: Duration = Duration::from_secs(120);

/// How long a disk may take to take over what the memory of that host still holds.
const FSYNC: Duration = Duration::from_secs(30 * 60);

/// What a server that tells no limits takes in one request, in bytes.
/// <https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02#section-3>
const PORTION_BYTES: u64 = 32 * 1024;

/// More in one request spares nothing.
const PORTION_BYTES_MAX: u64 = 128 * 1024;

/// Handles that are open at a time. OpenSSH counts them in four bytes, and the library takes a handle
/// for text: from the 128th on it would not be.
const HANDLES_MAX: usize = 64;

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The connection broke or was silent for too long; what became of the request is not known.
    Lost(String),
    Refused(Refused),
}

/// What a server answered in the place of what was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub code: StatusCode,
    /// Its own words, which are few.
    pub message: String,
}

impl Eq for Refused {}

impl Refused {
    pub fn is_missing(&self) -> bool {
        self.code == StatusCode::NoSuchFile
    }
}

impl From<SftpError> for Failure {
    fn from(error: SftpError) -> Self {
        match error {
            SftpError::Status(status) => Failure::Refused(Refused { code: status.status_code, message: status.error_message }),
            other => Failure::Lost(other.to_string()),
        }
    }
}

/// What this server can do beyond version 3 of the protocol.
/// <https://github.com/openssh/openssh-portable/blob/master/PROTOCOL>
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one extension")]
pub struct Extensions {
    pub fsync: bool,
    pub hardlink: bool,
    pub posix_rename: bool,
    pub statvfs: bool,
}

/// A session that is open.
pub struct Session {
    sftp: RawSftpSession,
    /// The connection ends with it.
    ssh: client::Handle<Pinned>,
    pub can: Extensions,
    /// What one request may read and write, in bytes.
    pub read_bytes: u32,
    pub write_bytes: u32,
    handles: Arc<Semaphore>,
}

impl Session {
    /// Begins to speak on a channel.
    ///
    /// # Errors
    /// Nobody there speaks sftp.
    pub async fn begin(sftp: RawSftpSession, ssh: client::Handle<Pinned>) -> Result<Self, Failure> {
        let version = answered(ANSWER, sftp.init()).await?;
        let has = |name: &str| version.extensions.contains_key(name);
        let can = Extensions {
            fsync: has("fsync@openssh.com"),
            hardlink: has("hardlink@openssh.com"),
            posix_rename: has("posix-rename@openssh.com"),
            statvfs: has("statvfs@openssh.com"),
        };
        let limits = if has("limits@openssh.com") { answered(ANSWER, sftp.limits()).await.ok() } else { None };
        let portion = |limit: Option<u64>| {
            let bytes = limit.filter(|limit| *limit > 0).unwrap_or(PORTION_BYTES).min(PORTION_BYTES_MAX);
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let read_bytes = portion(limits.as_ref().map(|limits| limits.max_read_len));
        let write_bytes = portion(limits.as_ref().map(|limits| limits.max_write_len));
        Ok(Session { sftp, ssh, can, read_bytes, write_bytes, handles: Arc::new(Semaphore::new(HANDLES_MAX)) })
    }

    pub fn is_open(&self) -> bool {
        !self.ssh.is_closed()
    }

    /// Opens a file; `self` as an `Arc`, since the open file holds on to its session.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn open(self: &Arc<Self>, path: &str, flags: OpenFlags) -> Result<Open, Failure> {
        let place = self.place().await?;
        let private = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };
        let attributes = if flags.contains(OpenFlags::CREATE) { private } else { FileAttributes::empty() };
        let handle = answered(ANSWER, self.sftp.open(path, flags, attributes)).await?.handle;
        Ok(Open { session: self.clone(), handle, place: Some(place) })
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.handles.clone().acquire_owned().await.map_err(|_| Failure::Lost("the session has ended".to_owned()))
    }

    /// The names in a folder, with what they are.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn list(self: &Arc<Self>, path: &str) -> Result<Vec<(String, FileAttributes)>, Failure> {
        let place = self.place().await?;
        let handle = answered(ANSWER, self.sftp.opendir(path)).await?.handle;
        let open = Open { session: self.clone(), handle, place: Some(place) };
        let mut found = Vec::new();
        loop {
            match answered(ANSWER, self.sftp.readdir(open.handle.as_str())).await {
                Ok(names) => found.extend(names.files.into_iter().map(|file| (file.filename, file.attrs))),
                Err(Failure::Refused(refused)) if refused.code == StatusCode::Eof => break,
                Err(failure) => return Err(failure),
            }
        }
        found.retain(|(name, _)| name != "." && name != "..");
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// What a name is, itself and not what a link points to.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn lstat(&self, path: &str) -> Result<FileAttributes, Failure> {
        Ok(answered(ANSWER, self.sftp.lstat(path)).await?.attrs)
    }

    /// What a name leads to.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn stat(&self, path: &str) -> Result<FileAttributes, Failure> {
        Ok(answered(ANSWER, self.sftp.stat(path)).await?.attrs)
    }

    /// # Errors
    /// [`Failure`].
    pub async fn make_folder(&self, path: &str) -> Result<(), Failure> {
        let private = FileAttributes { permissions: Some(0o700), ..FileAttributes::empty() };
        answered(ANSWER, self.sftp.mkdir(path, private)).await.map(drop)
    }

    /// # Errors
    /// [`Failure`].
    pub async fn remove_file(&self, path: &str) -> Result<(), Failure> {
        answered(ANSWER, self.sftp.remove(path)).await.map(drop)
    }

    /// # Errors
    /// [`Failure`].
    pub async fn remove_folder(&self, path: &str) -> Result<(), Failure> {
        answered(ANSWER, self.sftp.rmdir(path)).await.map(drop)
    }

    /// A rename that replaces nothing: so version 3 of the protocol says, and OpenSSH does.
    ///
    /// # Errors
    /// [`Failure`]; that something is there already is only one of the reasons to refuse.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        answered(ANSWER, self.sftp.rename(from, to)).await.map(drop)
    }

    /// A rename in one step, over what is there.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn replace(&self, from: &str, to: &str) -> Result<(), Failure> {
        let mut data = Vec::new();
        for path in [from, to] {
            data.extend(u32::try_from(path.len()).unwrap_or(u32::MAX).to_be_bytes());
            data.extend(path.as_bytes());
        }
        match answered(ANSWER, self.sftp.extended("posix-rename@openssh.com", data)).await? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(SftpError::Status(status).into()),
            _ => Err(SftpError::UnexpectedPacket.into()),
        }
    }

    /// A second name of a file, which must be free.
    ///
    /// # Errors
    /// [`Failure`]; that something is there already is only one of the reasons to refuse.
    pub async fn hard_link(&self, from: &str, to: &str) -> Result<(), Failure> {
        answered(ANSWER, self.sftp.hardlink(from, to)).await.map(drop)
    }

    /// # Errors
    /// [`Failure`].
    pub async fn symlink(&self, target: &str, link: &str) -> Result<(), Failure> {
        // OpenSSH takes both in the other order than the draft of the protocol has them.
        answered(ANSWER, self.sftp.symlink(target, link)).await.map(drop)
    }

    /// Where a link points to.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn read_link(&self, path: &str) -> Result<Option<String>, Failure> {
        let names = answered(ANSWER, self.sftp.readlink(path)).await?;
        Ok(names.files.into_iter().next().map(|file| file.filename))
    }

    /// The file system that holds a path.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn file_system(&self, path: &str) -> Result<Statvfs, Failure> {
        answered(ANSWER, self.sftp.statvfs(path)).await
    }

    /// Makes the names in a folder durable, where the server can: that a folder may be opened like a
    /// file and given to fsync is the way of Unix.
    ///
    /// # Errors
    /// [`Failure`]: the names may be lost with the power.
    pub async fn sync_folder(self: &Arc<Self>, path: &str) -> Result<(), Failure> {
        if !self.can.fsync {
            return Ok(());
        }
        match self.open(path, OpenFlags::READ).await {
            Ok(folder) => folder.sync().await,
            Err(Failure::Refused(refused)) if !refused.is_missing() => {
                tracing::debug!(path, "the server opens no folders, so their names are as durable as its file system makes them");
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }
}

/// A file or folder that is open. What is not closed is closed when this goes.
pub struct Open {
    session: Arc<Session>,
    handle: String,
    place: Option<OwnedSemaphorePermit>,
}

impl Open {
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Reads from a place on, fewer bytes than asked for only at the end of the file.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>, Failure> {
        let mut read = Vec::new();
        loop {
            let have = u32::try_from(read.len()).unwrap_or(len).min(len);
            if have == len {
                return Ok(read);
            }
            match answered(ANSWER, self.session.sftp.read(self.handle.as_str(), offset + u64::from(have), len - have)).await {
                Ok(data) if data.data.is_empty() => return Ok(read),
                // The whole answer at once is the rule; then nothing is copied.
                Ok(data) if read.is_empty() => read = data.data,
                Ok(data) => read.extend(data.data),
                Err(Failure::Refused(refused)) if refused.code == StatusCode::Eof => return Ok(read),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// # Errors
    /// [`Failure`].
    pub async fn write(&self, offset: u64, bytes: Vec<u8>) -> Result<(), Failure> {
        answered(ANSWER, self.session.sftp.write(self.handle.as_str(), offset, bytes)).await.map(drop)
    }

    /// How long the file is, in bytes.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn size(&self) -> Result<u64, Failure> {
        let attributes = answered(ANSWER, self.session.sftp.fstat(self.handle.as_str())).await?.attrs;
        Ok(attributes.size.unwrap_or(0))
    }

    /// Makes it durable, where the server can.
    ///
    /// # Errors
    /// [`Failure`]: it is not durable.
    pub async fn sync(&self) -> Result<(), Failure> {
        if !self.session.can.fsync {
            return Ok(());
        }
        answered(FSYNC, self.session.sftp.fsync(self.handle.as_str())).await.map(drop)
    }

    /// # Errors
    /// [`Failure`]: what was written may not be there; some file systems say so only now.
    pub async fn close(mut self) -> Result<(), Failure> {
        let place = self.place.take();
        let closed = answered(ANSWER, self.session.sftp.close(self.handle.as_str())).await.map(drop);
        drop(place);
        closed
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Else it would stay open there, and with it the space of a file that was removed.
        if let (Some(place), Ok(runtime)) = (self.place.take(), tokio::runtime::Handle::try_current()) {
            let (session, handle) = (self.session.clone(), std::mem::take(&mut self.handle));
            runtime.spawn(async move {
                let _ = answered(ANSWER, session.sftp.close(handle)).await;
                drop(place);
            });
        }
    }
}

async fn answered<T>(within: Duration, asked: impl Future<Output = Result<T, SftpError>>) -> Result<T, Failure> {
    match tokio::time::timeout(within, asked).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::Lost(format!("no answer for {} s", within.as_secs()))),
    }
}
