//! Folders that are removed while somebody who was broken off may still write into them.

use std::io;
use std::path::Path;
use std::time::Duration;

/// How long one who was broken off may go on: he notices with the next block.
const GRACE: Duration = Duration::from_secs(10);

/// Removes a folder and all that is in it; one that is not there is gone already. What appears in it meanwhile is
/// removed as well.
///
/// # Errors
/// Something of it stays.
pub async fn remove_folder(path: &Path) -> io::Result<()> {
    let began = tokio::time::Instant::now();
    loop {
        let gone = path.to_owned();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(gone)).await;
        match removed.map_err(io::Error::other).flatten() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && began.elapsed() < GRACE => {
                tokio::time::sleep(GRACE / 1000).await;
            }
            removed => return removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_appears_meanwhile_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        std::fs::create_dir(&path).unwrap();
        let (writes, until) = (path.clone(), std::time::Instant::now() + GRACE / 50);
        let writer = std::thread::spawn(move || {
            let mut written = 0;
            while std::time::Instant::now() < until {
                written += u32::from(std::fs::write(writes.join(written.to_string()), "").is_ok());
            }
        });
        remove_folder(&path).await.unwrap();
        assert!(!path.exists());
        writer.join().unwrap();
        remove_folder(&path).await.unwrap();
    }
}
