//! Writing few small pieces: what sending to a client and to an upstream have in common.

use std::io;

/// What is shorter is copied together and sent as one piece: send(2) costs less than writev(2), which imports a list of
/// pieces and goes through the file layer.
pub(crate) const SMALL_WRITE: usize = 2048;

/// The pieces as one, if they are short enough or only one.
pub(crate) fn joined<'a>(bufs: &'a [io::IoSlice<'_>], small: &'a mut [u8; SMALL_WRITE]) -> Option<&'a [u8]> {
    let mut length = 0;
    for buf in bufs {
        if bufs.len() == 1 {
            return Some(buf);
        }
        small.get_mut(length..length + buf.len())?.copy_from_slice(buf);
        length += buf.len();
    }
    Some(&small[..length])
}
