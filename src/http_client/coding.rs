//! Content codings that nobody asked for (RFC 9110 section 8.4): some CDNs and corporate proxies compress all the same.
//!
//! gzip and deflate are undone. The decoder writes into the wiped buffer itself, without a window of its own in which
//! tokens would stay.

use hyper::header::{CONTENT_ENCODING, HeaderMap};
use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use zeroize::Zeroizing;

/// A coding within a coding is undone as well, but no deeper.
const DEEPEST: usize = 2;

/// The body without its codings, at most as long as `limit`; `None` if it cannot be had. gzip is known by its first bytes,
/// with which no text begins, as it is not always said.
pub(super) fn undo(fields: &HeaderMap, mut body: Zeroizing<Vec<u8>>, limit: usize) -> Option<Zeroizing<Vec<u8>>> {
    for _ in 0..DEEPEST {
        if !body.starts_with(&GZIP) {
            break;
        }
        body = inflate(deflated(&body)?, false, limit)?;
    }
    let says_deflate =
        fields.get_all(CONTENT_ENCODING).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"deflate"));
    if says_deflate && !body.is_empty() {
        // RFC 9110 section 8.4.1.2: with zlib's head; some servers leave it out
        return inflate(&body, true, limit).or_else(|| inflate(&body, false, limit));
    }
    Some(body)
}

/// RFC 1952 section 2.3: the two magic bytes and the one method that there is.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// What follows the header of a gzip member. Its checksum is left unread: TLS has its own, and what is cut or garbled is
/// no whole stream, or no JSON.
fn deflated(member: &[u8]) -> Option<&[u8]> {
    const HEADER_CHECKSUM: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let flags = *member.get(3)?;
    let mut rest = member.get(10..)?;
    if flags & EXTRA != 0 {
        let length = u16::from_le_bytes([*rest.first()?, *rest.get(1)?]);
        rest = rest.get(2 + usize::from(length)..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & HEADER_CHECKSUM != 0 { rest.get(2..) } else { Some(rest) }
}

fn inflate(deflated: &[u8], has_zlib_head: bool, limit: usize) -> Option<Zeroizing<Vec<u8>>> {
    let mut whole = Zeroizing::new(vec![0; limit]);
    let length = decompress_slice_iter_to_slice(&mut whole, std::iter::once(deflated), has_zlib_head, true).ok()?;
    whole.truncate(length);
    Some(whole)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    use hyper::header::HeaderValue;

    const TEXT: &[u8] = br#"{"access_token":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","expires_in":3600}"#;

    fn member(flags: u8, optional: &[u8], text: &[u8]) -> Vec<u8> {
        let head = [0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
        let deflated = miniz_oxide::deflate::compress_to_vec(text, 6);
        [&head[..], optional, &deflated, &[0; 8]].concat()
    }

    pub(in crate::http_client) fn gzip(text: &[u8]) -> Vec<u8> {
        member(0, b"", text)
    }

    #[test]
    fn gzip_and_deflate_are_undone_in_every_form_and_within_the_limit() {
        let zlib = miniz_oxide::deflate::compress_to_vec_zlib(TEXT, 6);
        let raw = miniz_oxide::deflate::compress_to_vec(TEXT, 6);
        let long = gzip(&[b'a'; 2000]);
        let cut = gzip(TEXT)[..30].to_vec();
        type Row = (&'static str, &'static str, Vec<u8>, Option<&'static [u8]>);
        let table: [Row; 14] = [
            ("plain", "", TEXT.to_vec(), Some(TEXT)),
            ("nothing", "", Vec::new(), Some(b"")),
            ("nothing, said to be deflated", "deflate", Vec::new(), Some(b"")),
            ("gzip", "gzip", gzip(TEXT), Some(TEXT)),
            ("gzip that is not said", "", gzip(TEXT), Some(TEXT)),
            ("said, and not so", "gzip", TEXT.to_vec(), Some(TEXT)),
            ("with a name", "gzip", member(8, b"token.json\0", TEXT), Some(TEXT)),
            ("with all there is", "x-gzip", member(30, b"\x02\0xxname\0comment\0cc", TEXT), Some(TEXT)),
            ("twice", "gzip, gzip", gzip(&gzip(TEXT)), Some(TEXT)),
            ("deflate with zlib's head", "deflate", zlib, Some(TEXT)),
            ("deflate without", "Deflate", raw, Some(TEXT)),
            ("cut", "gzip", cut, None),
            ("a head alone", "gzip", vec![0x1f, 0x8b, 8], None),
            ("longer than the limit", "gzip", long, None),
        ];
        for (name, coding, body, expected) in table {
            let mut fields = HeaderMap::new();
            if !coding.is_empty() {
                fields.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            let undone = undo(&fields, Zeroizing::new(body), 1024);
            assert_eq!(undone.as_ref().map(|body| &body[..]), expected, "{name}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = member(30, b"\x02\0xxname\0comment\0cc", TEXT);
        for cut in 0..whole.len() {
            for byte in [0, 4, 0xff] {
                let mut garbled = whole.clone();
                garbled[cut] = byte;
                let _ = undo(&HeaderMap::new(), Zeroizing::new(garbled), 1024);
            }
            let _ = undo(&HeaderMap::new(), Zeroizing::new(whole[..cut].to_vec()), 1024);
        }
    }
}
