//! Memory of a process that lives for months.

/// Lets glibc's allocator keep its free memory in one place instead of one for each thread that was
/// ever busy: after a dump a daemon at rest is half as large, and the dump is as fast.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate of ours wraps mallopt")]
pub fn keep_together() {
    // SAFETY: the call sets a number of the allocator; it is made before any thread starts.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Gives what is free in the middle of the allocator's memory back to the system; by itself it gives back only
/// what lies at its end. Takes a millisecond, and is for moments of rest.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate of ours wraps malloc_trim")]
pub fn give_back() {
    // SAFETY: the call takes the locks of the allocator, and touches nothing that is in use.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Other allocators have no such places.
#[cfg(not(target_env = "gnu"))]
pub fn keep_together() {}

/// Other allocators do it by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
