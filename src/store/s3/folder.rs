//! Folders of this machine for programs that write files by themselves, in the spool: what they wrote
//! is sent when they are done.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::catalog::Id;
use crate::error::{Error, Kind, Result, plain_io};
use crate::store::FileWriter;
use crate::store::local::{PARTIAL, blocking, failed, read_ahead};

/// How much is sent at a time, in bytes.
const BLOCK_BYTES: usize = 1024 * 1024;

/// Where the folders of one upload lie: the name says whose it is.
fn parent(spool: &Path, id: &Id, owner: &str) -> PathBuf {
    spool.join(format!("{PARTIAL}{}.{}-{owner}", id.backup, id.label))
}

/// Makes a folder.
///
/// # Errors
/// The spool cannot be written.
pub async fn create(spool: &Path, id: &Id, owner: &str, name: &str) -> Result<PathBuf> {
    let path = parent(spool, id, owner).join(name);
    blocking(move || {
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| failed("make", &path, &error))?;
        Ok(path)
    })
    .await
}

/// The names of the files in it, in their order.
///
/// # Errors
/// It cannot be read.
pub async fn files(path: &Path) -> Result<Vec<String>> {
    let path = path.to_owned();
    blocking(move || crate::store::local::names(&path)).await
}

/// Sends a file.
///
/// # Errors
/// It cannot be read, or the store cannot be written.
pub async fn send(path: PathBuf, mut writer: Box<dyn FileWriter>) -> Result<()> {
    use tokio::io::AsyncReadExt;
    let shown = path.clone();
    let file = blocking(move || std::fs::File::open(&path).map_err(|error| failed("read", &path, &error))).await?;
    let mut reader = read_ahead(file);
    loop {
        let mut block = bytes::BytesMut::with_capacity(BLOCK_BYTES);
        while block.len() < BLOCK_BYTES {
            let read = reader.read_buf(&mut block).await;
            let read = read.map_err(|error| Error::new(Kind::Store, format!("cannot read {}: {}", shown.display(), plain_io(&error))))?;
            if read == 0 {
                break;
            }
        }
        if block.is_empty() {
            return writer.finish().await;
        }
        writer.write(block.freeze()).await?;
    }
}

/// Removes a folder, and what it lay in when that is empty.
pub fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), error = %plain_io(&error), "cannot remove a folder of the spool; the next run will");
    }
    if let Some(parent) = path.parent() {
        let _ = std::fs::remove_dir(parent);
    }
}

/// Removes what killed runs of a backup left, and returns how many there were.
///
/// # Errors
/// The spool cannot be written.
pub async fn sweep(spool: &Path, backup: &str, owner: &str) -> Result<usize> {
    let (spool, begin, end) = (spool.to_owned(), format!("{PARTIAL}{backup}."), format!("-{owner}"));
    blocking(move || {
        let mut swept = 0;
        for name in crate::store::local::names(&spool)?.iter().filter(|name| name.starts_with(&begin) && name.ends_with(&end)) {
            let path = spool.join(name);
            std::fs::remove_dir_all(&path).map_err(|error| failed("remove", &path, &error))?;
            swept += 1;
        }
        Ok(swept)
    })
    .await
}
