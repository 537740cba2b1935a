//! Giving memory back to the system.
//!
//! The allocator keeps what is freed for later, which is right under load and wrong in a sidecar that has nothing to do: it looks after its
//! free pages only when it is called. So whoever has freed much says so.

/// Gives back what this thread has freed. For moments without load: it walks the thread's heap.
#[expect(unsafe_code, reason = "a call of the C library")]
pub fn give_back() {
    // SAFETY: may be called at any time, by any thread; where mimalloc is not the allocator it has nothing to do.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
