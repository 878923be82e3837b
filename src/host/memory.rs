//! How the allocator keeps the memory that is free.

/// Lets glibc's allocator keep its free memory in one place instead of one for each thread that was
/// ever busy: after a dump a daemon at rest is half as large, a dump at the highest level takes a sixth less, and is as
/// fast.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate of ours wraps mallopt")]
pub fn keep_together() {
    // SAFETY: the call sets a number of the allocator; it is made before any thread starts.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Lets glibc's allocator use again what was given back, however large it is, instead of fetching it anew from the system:
/// for programs that are over in a moment, of which the new pages would be half the work.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate of ours wraps mallopt")]
pub fn keep_all() {
    const BYTES: nix::libc::c_int = 1 << 30;
    // SAFETY: the calls set numbers of the allocator.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, BYTES);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, BYTES);
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

/// Other allocators have no such bounds.
#[cfg(not(target_env = "gnu"))]
pub fn keep_all() {}

/// Other allocators do it by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
