//! Files of this machine, past the page cache (`O_DIRECT` of open(2)).
//!
//! What a backup writes and reads once would push out of the cache what the database beside it works with, and to copy it
//! there costs more than the disk does. And what is read back so is what the disk holds. Over a network each block would
//! wait for the one before it, and some file systems refuse: there the cache is used after all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use bytes::Bytes;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::libc;
use nix::sys::statfs::fstatfs;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::Reader;

/// What addresses, places and lengths are a multiple of, in bytes. Disks ask for 4096 at most. Pages of memory have up to
/// this: none is read into that somebody else writes to, which a fork meanwhile would make two of (open(2), NOTES).
const ALIGNMENT: usize = 64 * 1024;

/// How much is written or read at a time, in bytes.
const BLOCK_BYTES: usize = 1024 * 1024;

/// File systems of another machine, or of a program in between: NFS, SMB in both its versions, Ceph and FUSE (statfs(2)).
const FAR: [u32; 5] = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x00c3_6400, 0x6573_5546];

/// How many blocks that go by way of the cache are sent to the disk at a time, so that the last fsync has little left to
/// wait for.
const BLOCKS_BEHIND: u64 = 8;

/// Whether each request takes its time.
#[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "the kernel's number has 32 bits")]
fn is_far(file: &File) -> bool {
    fstatfs(file).is_ok_and(|about| FAR.contains(&(about.filesystem_type().0 as u32)))
}

/// Lets it go past the cache from now on, where that is worth it. Whether it does.
fn go_past_the_cache(file: &File) -> bool {
    !is_far(file) && set_direct(file, true)
}

/// Whether it is set.
fn set_direct(file: &File, direct: bool) -> bool {
    let flags = fcntl(file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    let set = flags.and_then(|mut flags| {
        flags.set(OFlag::O_DIRECT, direct);
        fcntl(file, FcntlArg::F_SETFL(flags))
    });
    set.is_ok()
}

/// Whether a file system says by this that it does not take what goes past the cache.
fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Room for a block that begins at an address which a disk takes, and where in it that is.
fn room() -> (Vec<u8>, usize) {
    let room: Vec<u8> = Vec::with_capacity(BLOCK_BYTES + ALIGNMENT);
    let begin = room.as_ptr().align_offset(ALIGNMENT);
    (room, begin)
}

/// Writes a new file from its beginning to its end.
pub(super) struct Writer {
    file: File,
    /// Of the block that is not full yet; its allocation stays where it is.
    block: Vec<u8>,
    begin: usize,
    /// `None`: nothing is written yet.
    direct: Option<bool>,
    /// How many blocks.
    written: u64,
}

impl Writer {
    pub(super) fn new(file: File) -> Self {
        let (mut block, begin) = room();
        block.resize(begin, 0);
        Writer { file, block, begin, direct: None, written: 0 }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// They cannot be written; what is in the file then cannot be trusted.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let now = (self.begin + BLOCK_BYTES - self.block.len()).min(bytes.len());
            self.block.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if self.block.len() == self.begin + BLOCK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write_rest(&mut self) -> io::Result<()> {
        self.cached();
        self.flush()
    }

    /// Makes durable what is written.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn sync(self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// From here on by way of the cache.
    fn cached(&mut self) {
        if self.direct == Some(true) {
            set_direct(&self.file, false);
        }
        self.direct = Some(false);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.direct.get_or_insert_with(|| go_past_the_cache(&self.file));
        let mut at = self.begin;
        while at < self.block.len() {
            match self.file.write(&self.block[at..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => at += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Also what is left of a write that ended at no multiple, as on a disk that is full.
                Err(error) if self.direct == Some(true) && is_refusal(&error) => self.cached(),
                Err(error) => return Err(error),
            }
        }
        self.block.truncate(self.begin);
        self.written += 1;
        if self.direct == Some(false) && self.written.is_multiple_of(BLOCKS_BEHIND) {
            let bytes = BLOCKS_BEHIND * BLOCK_BYTES as u64;
            start_writeback(&self.file, self.written * BLOCK_BYTES as u64 - bytes, bytes);
        }
        Ok(())
    }
}

/// Starts the disk on a range without waiting for it. Only speed depends on it.
#[expect(unsafe_code, reason = "no crate of ours wraps sync_file_range")]
fn start_writeback(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return;
    };
    // SAFETY: the descriptor is open, and the call touches no memory of ours.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Reads a file from its beginning, ahead of whoever takes its bytes.
pub(super) fn read_ahead(file: File) -> Reader {
    // Where it is read by way of the cache after all: what is proven is the disk. Only a wish, too.
    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
    let (out, blocks) = mpsc::channel::<io::Result<Bytes>>(2);
    tokio::task::spawn_blocking(move || {
        let mut blocks = Blocks::new(file);
        loop {
            let block = blocks.next();
            let last = block.as_ref().map_or(true, Bytes::is_empty);
            if out.blocking_send(block).is_err() || last {
                return;
            }
        }
    });
    let stream = futures_util::stream::unfold(blocks, |mut blocks| async move { Some((blocks.recv().await?, blocks)) });
    Box::new(StreamReader::new(Box::pin(stream)))
}

struct Blocks {
    file: File,
    direct: bool,
}

impl Blocks {
    fn new(file: File) -> Self {
        let direct = go_past_the_cache(&file);
        Blocks { file, direct }
    }

    /// The next bytes; none at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        let (mut block, begin) = room();
        block.resize(begin + BLOCK_BYTES, 0);
        let read = loop {
            match self.file.read(&mut block[begin..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.direct && is_refusal(&error) => self.cached(),
                read => break read?,
            }
        };
        if read < BLOCK_BYTES && self.direct {
            // The end; or what follows is at no multiple.
            self.cached();
        }
        Ok(Bytes::from(block).slice(begin..begin + read))
    }

    fn cached(&mut self) {
        set_direct(&self.file, false);
        self.direct = false;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A file on the disk of the tests, and one in memory, whose file systems take it each in its own way.
    fn files() -> [File; 2] {
        [tempfile::tempfile().unwrap(), tempfile::tempfile_in("/dev/shm").unwrap()]
    }

    fn bytes(len: usize) -> Vec<u8> {
        // Of no length that a block is a multiple of.
        (0..=250).cycle().take(len).collect()
    }

    fn write(file: &File, parts: &[Vec<u8>]) {
        let mut writer = Writer::new(file.try_clone().unwrap());
        for part in parts {
            writer.write(part).unwrap();
        }
        writer.write_rest().unwrap();
        writer.sync().unwrap();
    }

    fn read_from(file: &File, at: u64) -> Vec<u8> {
        let mut file = file.try_clone().unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut all = Vec::new();
        runtime.block_on(async { read_ahead(file).read_to_end(&mut all).await }).unwrap();
        all
    }

    #[test]
    fn lengths_at_the_bounds() {
        for len in
            [0, 1, ALIGNMENT - 1, ALIGNMENT, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + ALIGNMENT]
        {
            for file in files() {
                write(&file, &[bytes(len)]);
                assert!(read_from(&file, 0) == bytes(len), "{len}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_in_parts_is_read(lens in vec(0..700_000usize, 0..8)) {
            let parts: Vec<Vec<u8>> = lens.into_iter().map(bytes).collect();
            for file in files() {
                write(&file, &parts);
                prop_assert!(read_from(&file, 0) == parts.concat());
            }
        }
    }

    #[test]
    fn full_blocks_go_past_the_cache_and_the_rest_does_not() {
        let [file, _] = files();
        let is_direct = || OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_DIRECT);
        // Where the file system of the tests has none, its own answer stands.
        let takes_it = go_past_the_cache(&file) && is_direct();
        set_direct(&file, false);
        let mut writer = Writer::new(file.try_clone().unwrap());
        writer.write(&bytes(BLOCK_BYTES - 1)).unwrap();
        assert!(!is_direct(), "nothing is written yet");
        writer.write(&bytes(2)).unwrap();
        assert_eq!(is_direct(), takes_it);
        writer.write_rest().unwrap();
        assert!(!is_direct());
        assert_eq!(file.metadata().unwrap().len(), BLOCK_BYTES as u64 + 1);
    }

    #[test]
    fn a_refusal_is_no_failure() {
        let [file, _] = files();
        // Disks take no odd address, and no odd place. (File systems that take any go by way of the cache.)
        let mut writer = Writer::new(file.try_clone().unwrap());
        writer.begin += 1;
        writer.block.push(0);
        let all = bytes(BLOCK_BYTES * 2 + 10);
        writer.write(&all).unwrap();
        writer.write_rest().unwrap();
        writer.sync().unwrap();
        assert!(read_from(&file, 0) == all);
        assert!(read_from(&file, 1) == all[1..]);
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = Writer::new(full.try_clone().unwrap());
        let error = writer.write(&bytes(BLOCK_BYTES)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        let mut writer = Writer::new(full);
        writer.write(b"x").unwrap();
        assert_eq!(writer.write_rest().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
}
