//! What is written, on its way to the disk.

use std::fs::File;

/// Lets the kernel begin to write what a file has got so far, without waiting: what is made durable at the end is there
/// for the most part then, and whoever else waits for the disk meanwhile waits for little at a time. It is a matter of
/// speed only. <https://man7.org/linux/man-pages/man2/sync_file_range.2.html>
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "nix does not wrap sync_file_range")]
pub fn begin(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: the call takes an open file and numbers.
    unsafe {
        nix::libc::sync_file_range(file.as_raw_fd(), 0, 0, nix::libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Others begin when they think it right.
#[cfg(not(target_os = "linux"))]
pub fn begin(_file: &File) {}
