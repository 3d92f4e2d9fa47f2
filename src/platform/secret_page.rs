//! Memory for a key that is held for long: not swapped, not dumped, and, where the kernel has it, not even the kernel's own to
//! read (memfd_secret(2)).
//!
//! What passes through on its way, to a cipher or from a file, is wiped, and may have been swapped before that. A key that
//! everything hangs on, for as long as the daemon runs, is another matter.

use std::fmt;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};
use zeroize::{Zeroize, Zeroizing};

/// Some bytes in pages of their own. They never change, and are wiped when they are dropped.
pub(crate) struct SecretPage {
    place: Place,
    length: usize,
}

enum Place {
    /// Mapped, so many bytes.
    Mapped {
        start: NonNull<u8>,
        mapped: usize,
        #[cfg_attr(not(test), expect(dead_code, reason = "the tests look whether it is so"))]
        kind: Kind,
    },
    /// There was no memory to map.
    Heap(Zeroizing<Vec<u8>>),
}

/// What keeps the bytes where they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Nobody else can map or read it, the kernel included.
    OutOfReach,
    /// It is not swapped and in no dump.
    Locked,
    /// It is in no dump, and may be swapped: RLIMIT_MEMLOCK is used up.
    Ordinary,
}

// SAFETY: the bytes are written before the value exists, and are only read from then on
#[allow(unsafe_code)]
unsafe impl Send for SecretPage {}
// SAFETY: as above
#[allow(unsafe_code)]
unsafe impl Sync for SecretPage {}

impl SecretPage {
    /// Copies these bytes into pages of their own; the caller wipes its copy.
    pub(crate) fn holding(bytes: &[u8]) -> Self {
        let mapped = bytes.len().max(1).next_multiple_of(rustix::param::page_size());
        let place = match map(mapped) {
            Some((start, kind)) => {
                // SAFETY: `mapped` bytes from `start` on are ours alone, and writable; `bytes` has no more
                #[allow(unsafe_code)]
                unsafe {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len());
                }
                Place::Mapped { start, mapped, kind }
            }
            None => Place::Heap(Zeroizing::new(bytes.to_vec())),
        };
        Self { place, length: bytes.len() }
    }

    /// The bytes.
    pub(crate) fn expose(&self) -> &[u8] {
        match &self.place {
            // SAFETY: so many bytes were written there; they live as long as `self`, and nobody changes them
            #[allow(unsafe_code)]
            Place::Mapped { start, .. } => unsafe { std::slice::from_raw_parts(start.as_ptr(), self.length) },
            Place::Heap(bytes) => bytes,
        }
    }

    /// What keeps them where they are.
    #[cfg(test)]
    fn kind(&self) -> Kind {
        match &self.place {
            Place::Mapped { kind, .. } => *kind,
            Place::Heap(_) => Kind::Ordinary,
        }
    }
}

/// Maps zeroed pages in the best way that there is.
#[allow(unsafe_code)]
fn map(length: usize) -> Option<(NonNull<u8>, Kind)> {
    let writable = ProtFlags::READ | ProtFlags::WRITE;
    if let Some(pages) = out_of_reach(length) {
        // SAFETY: a new mapping at an address of the kernel's choice
        if let Ok(start) = unsafe { mmap(null_mut(), length, writable, MapFlags::SHARED, &pages, 0) } {
            return Some((NonNull::new(start.cast())?, Kind::OutOfReach));
        }
    }
    // SAFETY: as above
    let start = unsafe { mmap_anonymous(null_mut(), length, writable, MapFlags::PRIVATE) }.ok()?;
    // SAFETY: it was mapped just now, with that length
    let is_locked = unsafe { mlock(start, length) }.is_ok();
    // SAFETY: as above; neither advice changes what is read there in this process
    let _ = unsafe { madvise(start, length, Advice::LinuxDontDump) };
    // SAFETY: as above
    let _ = unsafe { madvise(start, length, Advice::LinuxDontFork) };
    Some((NonNull::new(start.cast())?, if is_locked { Kind::Locked } else { Kind::Ordinary }))
}

/// A file of such pages, where the kernel has them and the service's filter lets them through. They count as locked memory.
#[allow(unsafe_code)]
fn out_of_reach(length: usize) -> Option<OwnedFd> {
    // SAFETY: it takes a number and returns one; the flag is O_CLOEXEC, not FD_CLOEXEC
    let descriptor = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: the kernel has just opened it for us
    let pages = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::fs::ftruncate(&pages, length as u64).ok()?;
    Some(pages)
}

impl Drop for SecretPage {
    fn drop(&mut self) {
        let Place::Mapped { start, mapped, .. } = self.place else { return };
        // SAFETY: the mapping is ours alone, and nobody borrows from it any more
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(start.as_ptr(), self.length).zeroize();
            let _ = munmap(start.as_ptr().cast(), mapped);
        }
    }
}

impl fmt::Debug for SecretPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the pages around an address.
    fn flags(of: &SecretPage) -> String {
        let address = of.expose().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let begins = |line: &str| {
            let (start, rest) = line.split_once('-')?;
            let end = rest.split(' ').next()?;
            Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
        };
        let mut is_ours = false;
        let mut found = String::new();
        for line in maps.lines() {
            if let Some((start, end)) = begins(line) {
                is_ours = (start..end).contains(&address);
            }
            if is_ours {
                found.push_str(line);
                found.push('\n');
            }
        }
        found
    }

    #[test]
    fn what_is_held_is_read_back_and_lies_where_it_is_neither_swapped_nor_dumped() {
        for length in [0, 1, 32, 5000] {
            let bytes: Vec<u8> = (0..length).map(|number| number as u8).collect();
            let page = SecretPage::holding(&bytes);
            assert_eq!(page.expose(), bytes);
        }
        let page = SecretPage::holding(&[7; 32]);
        let (seen, kind) = (flags(&page), page.kind());
        let vm_flags = seen.lines().find(|line| line.starts_with("VmFlags:")).unwrap_or_default();
        let has = |flag: &str| vm_flags.split(' ').any(|found| found == flag);
        match kind {
            Kind::OutOfReach => assert!(seen.contains("secretmem"), "{seen}"),
            Kind::Locked => assert!(has("lo") && has("dd") && has("dc"), "{seen}"),
            Kind::Ordinary => assert!(has("dd") && !has("lo"), "{seen}"),
        }
        assert_eq!(format!("{page:?}"), "[secret]");
    }

    #[test]
    fn more_than_may_be_locked_is_held_all_the_same() {
        let many: Vec<SecretPage> = (0..4096_u32).map(|number| SecretPage::holding(&number.to_le_bytes())).collect();
        for (number, page) in many.iter().enumerate() {
            assert_eq!(page.expose(), (number as u32).to_le_bytes());
        }
    }
}
