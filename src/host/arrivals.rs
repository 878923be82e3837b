//! Whether something comes into a folder: an event, so that nobody has to look again and again.
//! <https://man7.org/linux/man-pages/man7/inotify.7.html>

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Files that are written into a folder, or moved there.
pub struct Arrivals(Option<AsyncFd<OwnedFd>>);

impl Arrivals {
    /// From now on. Where the machine or the folder has no events none will come: whoever waits should look now and
    /// then as well.
    pub fn of(folder: &Path) -> Self {
        let watch = || {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
            let events = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ONLYDIR;
            inotify.add_watch(folder, events).ok()?;
            #[expect(deprecated, reason = "what came in its place is unsafe code; an OwnedFd keeps its descriptor open and the same")]
            AsyncFd::new(OwnedFd::from(inotify)).ok()
        };
        Arrivals(watch())
    }

    /// Waits for the next one.
    pub async fn next(&self) {
        match &self.0 {
            Some(watch) if watch.readable().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_moved_into_a_folder_is_seen_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, aside) = (dir.path().join("inside"), dir.path().join("aside"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(&aside, "x").unwrap();
        let arrivals = Arrivals::of(&inside);
        std::fs::rename(&aside, inside.join("there")).unwrap();
        arrivals.next().await;
    }

    #[tokio::test]
    async fn where_there_is_no_folder_nothing_comes() {
        let dir = tempfile::tempdir().unwrap();
        let arrivals = Arrivals::of(&dir.path().join("none"));
        tokio::select! {
            biased;
            () = arrivals.next() => panic!("something came"),
            () = std::future::ready(()) => {}
        }
    }
}
