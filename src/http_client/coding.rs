//! Content codings that nobody asked for (RFC 9110 section 8.4): some CDNs and corporate proxies compress all the same.
//!
//! gzip and deflate are undone. The decoder writes into the wiped buffer itself, without a window of its own in which
//! tokens would stay.

use hyper::header::{CONTENT_ENCODING, HeaderMap};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use zeroize::Zeroizing;

/// A coding within a coding is undone as well, but no deeper.
const DEEPEST: usize = 3;

/// The body without its codings, at most as long as `limit`; `None` if it cannot be had. gzip is known by its first bytes,
/// with which no text begins, as it is not always said; and what is said is not always so, or not in that order.
pub(super) fn undo(fields: &HeaderMap, mut body: Zeroizing<Vec<u8>>, limit: usize) -> Option<Zeroizing<Vec<u8>>> {
    let codings = fields.get_all(CONTENT_ENCODING).iter();
    let codings = codings.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let mut deflated = codings.filter(|coding| coding.eq_ignore_ascii_case(b"deflate")).count();
    for _ in 0..DEEPEST {
        body = if body.starts_with(&GZIP) {
            unzip(&body, limit)?
        } else if deflated > 0 && !is_text(&body) {
            deflated -= 1;
            // RFC 9110 section 8.4.1.2: with zlib's head; some servers leave it out
            inflate(&body, true, limit).or_else(|| inflate(&body, false, limit))?.0
        } else {
            break;
        };
    }
    Some(body)
}

/// Whether nothing has been done to a body: tokens and what is around them are text, and nothing that is deflated is.
fn is_text(body: &[u8]) -> bool {
    str::from_utf8(body).is_ok_and(|text| text.chars().all(|c| !c.is_control() || c.is_ascii_whitespace()))
}

/// The members of a gzip file, one after the other (RFC 1952 section 2.2). What follows them and is none is left out.
fn unzip(mut file: &[u8], limit: usize) -> Option<Zeroizing<Vec<u8>>> {
    /// The checksum and the length, which are left unread: TLS has its own, and what is cut or garbled is no whole stream,
    /// or no JSON.
    const TRAILER: usize = 8;
    let mut whole = Zeroizing::new(Vec::new());
    while file.starts_with(&GZIP) {
        let member = deflated(file)?;
        let (text, length) = inflate(member, false, limit - whole.len())?;
        whole = Zeroizing::new([&whole[..], &text].concat());
        file = member.get(length + TRAILER..).unwrap_or_default();
    }
    Some(whole)
}

/// RFC 1952 section 2.3: the two magic bytes and the one method that there is.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// What follows the header of a gzip member.
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

/// What is deflated, inflated, and how long it was.
fn inflate(deflated: &[u8], has_zlib_head: bool, limit: usize) -> Option<(Zeroizing<Vec<u8>>, usize)> {
    let head = if has_zlib_head { TINFL_FLAG_PARSE_ZLIB_HEADER } else { 0 };
    let flags = head | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut room = ROOM.min(limit);
    loop {
        let mut whole = Zeroizing::new(vec![0; room]);
        let (status, taken, length) = decompress(&mut DecompressorOxide::new(), deflated, &mut whole, 0, flags);
        match status {
            TINFLStatus::Done => {
                whole.truncate(length);
                return Some((whole, taken));
            }
            // from the beginning: growing would leave copies of tokens behind
            TINFLStatus::HasMoreOutput if room < limit => room = limit.min(room * 4),
            _ => return None,
        }
    }
}

/// Room for nearly every response.
const ROOM: usize = 64 * 1024;

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
        let zlib = |text: &[u8]| miniz_oxide::deflate::compress_to_vec_zlib(text, 6);
        let without_checksum = gzip(TEXT)[..gzip(TEXT).len() - 8].to_vec();
        let raw = miniz_oxide::deflate::compress_to_vec(TEXT, 6);
        let long = gzip(&[b'a'; 2000]);
        let cut = gzip(TEXT)[..30].to_vec();
        type Row = (&'static str, &'static str, Vec<u8>, Option<&'static [u8]>);
        let table: [Row; 28] = [
            ("plain", "", TEXT.to_vec(), Some(TEXT)),
            ("nothing", "", Vec::new(), Some(b"")),
            ("nothing, said to be deflated", "deflate", Vec::new(), Some(b"")),
            ("gzip", "gzip", gzip(TEXT), Some(TEXT)),
            ("gzip that is not said", "", gzip(TEXT), Some(TEXT)),
            ("said, and not so", "gzip", TEXT.to_vec(), Some(TEXT)),
            ("with a name", "gzip", member(8, b"token.json\0", TEXT), Some(TEXT)),
            ("with all there is", "x-gzip", member(30, b"\x02\0xxname\0comment\0cc", TEXT), Some(TEXT)),
            ("twice", "gzip, gzip", gzip(&gzip(TEXT)), Some(TEXT)),
            ("in two members", "gzip", [gzip(&TEXT[..20]), gzip(&TEXT[20..])].concat(), Some(TEXT)),
            ("in three, one of them empty", "", [gzip(&TEXT[..20]), gzip(b""), gzip(&TEXT[20..])].concat(), Some(TEXT)),
            ("with zeros behind it", "gzip", [gzip(TEXT), vec![0; 9]].concat(), Some(TEXT)),
            ("without its checksum", "gzip", without_checksum, Some(TEXT)),
            ("the second member cut", "gzip", [gzip(TEXT), cut.clone()].concat(), None),
            ("members longer than the limit", "gzip", [gzip(&[b'a'; 600]), gzip(&[b'a'; 600])].concat(), None),
            ("deflate with zlib's head", "deflate", zlib(TEXT), Some(TEXT)),
            ("deflate without", "Deflate", raw.clone(), Some(TEXT)),
            ("gzip, then deflate", "gzip, deflate", zlib(&gzip(TEXT)), Some(TEXT)),
            ("deflate, then gzip", "deflate,gzip", gzip(&raw), Some(TEXT)),
            ("in the other order than is said", "gzip, deflate", gzip(&zlib(TEXT)), Some(TEXT)),
            ("deflate twice", "deflate, deflate", zlib(&raw), Some(TEXT)),
            ("plain, said to be deflated", "deflate", TEXT.to_vec(), Some(TEXT)),
            ("plain, said to be both", "deflate, gzip", TEXT.to_vec(), Some(TEXT)),
            ("deflate, cut", "deflate", zlib(TEXT)[..30].to_vec(), None),
            ("deflate, longer than the limit", "deflate", zlib(&[b'a'; 2000]), None),
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
