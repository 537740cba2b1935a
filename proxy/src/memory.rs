//! Giving memory back to the system.
//!
//! The allocator keeps what is freed for later, which is right under load and wrong in a sidecar that has nothing to do: it looks after its
//! free pages only when it is called. So whoever has freed much says so. The same goes for the program itself: most of what is resident of it
//! was run once, to start and to read configuration.

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Gives back what this thread has freed. For moments without load: it walks the thread's heap.
#[expect(unsafe_code, reason = "a call of the C library")]
pub fn give_back() {
    // SAFETY: may be called at any time, by any thread; where mimalloc is not the allocator it has nothing to do.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Takes the program's own code out of the process; what runs again comes back from the page cache, 64 KiB at a fault.
///
/// Of 7 MiB resident code a sidecar that is idle runs less than 2 MiB.
#[expect(unsafe_code, reason = "a call of the kernel")]
pub fn forget_program() {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, length) in maps.lines().filter_map(|line| code_of(line, &program.to_string_lossy())) {
        let Some(start) = NonNull::new(std::ptr::without_provenance_mut::<c_void>(start)) else { continue };
        // SAFETY: the mapping is of a file, private, and cannot be written to, so the kernel reads the same bytes again; other threads that
        // run in it only take a fault.
        if let Err(error) = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) } {
            tracing::debug!(%error, "the program stays resident");
        }
    }
}

/// Start and length of a mapping of the program's code; `None` for another line of `/proc/self/maps`, or one that could be written to.
fn code_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    if rights != "r-xp" || fields.nth(3)? != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    Some((start, usize::from_str_radix(end, 16).ok()?.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_programs_own_code_is_forgotten() {
        let code = "5581f3400000-5581f3f10000 r-xp 003d9000 fe:00 12345 /usr/bin/mesh-proxy";
        assert_eq!(code_of(code, "/usr/bin/mesh-proxy"), Some((0x5581_f340_0000, 0xb1_0000)));
        for other in [
            "5581f3400000-5581f3f10000 r--p 003d9000 fe:00 12345 /usr/bin/mesh-proxy",
            "5581f3400000-5581f3f10000 rwxp 003d9000 fe:00 12345 /usr/bin/mesh-proxy",
            "7f0000000000-7f0000001000 r-xp 00000000 fe:00 1 /usr/lib/libc.so.6",
            "7f0000000000-7f0000001000 r-xp 00000000 00:00 0",
        ] {
            assert_eq!(code_of(other, "/usr/bin/mesh-proxy"), None, "{other}");
        }
        forget_program();
        // What was run before runs again.
        assert_eq!(code_of(code, "/else"), None);
    }
}
