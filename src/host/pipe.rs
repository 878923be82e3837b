//! Named pipes, from which a server on this machine takes rows by itself: no program and no socket
//! stand in between.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use crate::error::{Error, Result};

/// How many bytes a pipe holds that nobody has read yet, at most. Whoever has written more than this
/// knows that the other side has opened it.
pub const HOLDS_BYTES_MAX: usize = 512 * 1024;

/// A folder of pipes. Only we can make something in it, and it is reached by its descriptor, so what
/// is opened is the pipe that was made, whatever the server does with the names above.
#[derive(Debug)]
pub struct Pipes {
    folder: OwnedFd,
    /// Its name for the server.
    name: String,
    made: AtomicU32,
}

/// A pipe that we write to. Dropped it has come to its end, and is gone.
pub struct Pipe {
    sender: pipe::Sender,
    pipes: Arc<Pipes>,
    file: String,
}

impl Pipes {
    pub fn new(folder: OwnedFd, name: String) -> Arc<Self> {
        Arc::new(Pipes { folder, name, made: AtomicU32::new(0) })
    }

    /// Makes a pipe that everybody may read who finds it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(self: &Arc<Self>) -> Result<Pipe> {
        let file = format!("rows_{}", self.made.fetch_add(1, Ordering::Relaxed));
        let path = format!("/proc/self/fd/{}/{file}", self.folder.as_raw_fd());
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
        let opened = nix::unistd::mkfifoat(&self.folder, file.as_str(), Mode::S_IRUSR | Mode::S_IWUSR)
            .and_then(|()| nix::sys::stat::fchmodat(&self.folder, file.as_str(), mode, nix::sys::stat::FchmodatFlags::FollowSymlink))
            .map_err(std::io::Error::from)
            // Only as a reader as well can it be opened before there is another one.
            .and_then(|()| pipe::OpenOptions::new().read_write(true).open_sender(path));
        let sender = opened.map_err(|error| Error::system("cannot make a pipe for the rows", &error))?;
        // Refused where the user's pipes are at their limit: then it is only slower.
        let bytes = i32::try_from(HOLDS_BYTES_MAX).unwrap_or(i32::MAX);
        let _ = nix::fcntl::fcntl(sender.as_fd(), nix::fcntl::FcntlArg::F_SETPIPE_SZ(bytes));
        Ok(Pipe { sender, pipes: Arc::clone(self), file })
    }
}

impl Pipe {
    /// Its name for the server.
    pub fn name(&self) -> String {
        format!("{}/{}", self.pipes.name, self.file)
    }

    /// Writes all of it. Where nobody reads this never ends.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sender.write_all(bytes).await
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Whoever has it open reads on to the end.
        let _ = nix::unistd::unlinkat(&self.pipes.folder, self.file.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pipes(folder: &std::path::Path) -> Arc<Pipes> {
        Pipes::new(std::fs::File::open(folder).unwrap().into(), folder.display().to_string())
    }

    /// A reader that comes late reads all of it, and then the end.
    #[tokio::test]
    async fn there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut pipe = pipes(folder.path()).open().unwrap();
        let name = pipe.name();
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            std::fs::File::open(name).unwrap().read_to_end(&mut all).unwrap();
            all
        });
        let bytes = vec![b'x'; 2 * HOLDS_BYTES_MAX];
        pipe.write(&bytes).await.unwrap();
        drop(pipe);
        assert!(reading.await.unwrap() == bytes);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Whoever owns the folder above cannot lead us elsewhere.
    #[tokio::test]
    async fn a_link_in_the_place_of_the_folder_is_not_followed() {
        let above = tempfile::tempdir().unwrap();
        let (folder, elsewhere) = (above.path().join("pipes"), above.path().join("elsewhere"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        let pipes = pipes(&folder);
        std::fs::rename(&folder, above.path().join("aside")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &folder).unwrap();
        let pipe = pipes.open().unwrap();
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(above.path().join("aside")).unwrap().count(), 1);
        drop(pipe);
        assert_eq!(std::fs::read_dir(above.path().join("aside")).unwrap().count(), 0);
    }
}
