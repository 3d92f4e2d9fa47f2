//! The `xn--` form of an international host name (RFC 5891), to be shown to a person who has written it in another one.
//!
//! It is an offer to be looked at and copied, and nothing is sent to it by itself: the mapping of what people type (RFC 5895) is
//! done for small letters alone, and where it would take more there is no offer.

/// The ASCII form of a host name; `None` where there is none that could be named for certain.
pub(super) fn to_ascii(host: &str) -> Option<String> {
    let labels: Option<Vec<String>> = host.split('.').map(label).collect();
    Some(labels?.join("."))
}

fn label(text: &str) -> Option<String> {
    let small = text.to_lowercase();
    if small.is_ascii() {
        return (!small.is_empty()).then_some(small);
    }
    // what NFKC could change (combining marks, compatibility forms), and what is no letter: not to be guessed
    let is_certain = |c: char| match u32::from(c) {
        0x0300..=0x036f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x2000..=0x2fff => false,
        0xf900..=0xffff | 0x1d400..=0x1d7ff | 0x1f100..=0x1f2ff | 0x2f800..=0x2fa1f => false,
        0xaa | 0xba | 0x017f => false,
        _ => c.is_ascii_digit() || c == '-' || c.is_alphabetic(),
    };
    let encoded = small.chars().all(is_certain).then(|| encode(&small))??;
    (encoded.len() <= 59).then(|| format!("xn--{encoded}"))
}

/// Punycode (RFC 3492 section 6.3). `None` for a label that is too long for numbers of 32 bits.
fn encode(text: &str) -> Option<String> {
    const BASE: u32 = 36;
    let points: Vec<u32> = text.chars().map(u32::from).collect();
    let mut out: String = text.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(out.len()).ok()?;
    if basic > 0 {
        out.push('-');
    }
    let (mut n, mut delta, mut bias, mut handled) = (128, 0u32, 72, basic);
    while (handled as usize) < points.len() {
        let next = points.iter().copied().filter(|point| *point >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(handled + 1)?)?;
        n = next;
        for point in &points {
            if *point < n {
                delta = delta.checked_add(1)?;
            }
            if *point != n {
                continue;
            }
            let (mut q, mut k) = (delta, BASE);
            loop {
                let threshold = k.saturating_sub(bias).clamp(1, 26);
                if q < threshold {
                    break;
                }
                out.push(digit(threshold + (q - threshold) % (BASE - threshold)));
                q = (q - threshold) / (BASE - threshold);
                k += BASE;
            }
            out.push(digit(q));
            bias = adapt(delta, handled + 1, handled == basic);
            delta = 0;
            handled += 1;
        }
        delta = delta.checked_add(1)?;
        n += 1;
    }
    Some(out)
}

fn digit(value: u32) -> char {
    let value = u8::try_from(value).expect("below 36");
    char::from(if value < 26 { b'a' + value } else { b'0' + value - 26 })
}

fn adapt(delta: u32, handled: u32, is_first: bool) -> u32 {
    let mut delta = if is_first { delta / 700 } else { delta / 2 };
    delta += delta / handled;
    let mut k = 0;
    while delta > 455 {
        delta /= 35;
        k += 36;
    }
    k + 36 * delta / (delta + 38)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_international_name_has_its_registered_form() {
        for (name, expected) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example", "xn--bcher-kva.example"),
            ("straße.de", "xn--strae-oqa.de"),
            ("münchen.de", "xn--mnchen-3ya.de"),
            ("api.köln.example", "api.xn--kln-sna.example"),
            ("президент.рф", "xn--d1abbgf6aiiy.xn--p1ai"),
            ("ελλάδα.gr", "xn--hxakic4aa.gr"),
            ("中文.tw", "xn--fiq228c.tw"),
            ("한국.kr", "xn--3e0b707e.kr"),
            // RFC 3492 section 7.1 (L)
            ("3年b組金八先生", "xn--3b-ww4c5e180e575a65lsy2b"),
        ] {
            assert_eq!(to_ascii(name).as_deref(), Some(expected), "{name}");
        }
        // what would have to be mapped first, or is no name at all
        for name in
            ["bu\u{308}cher.example", "ｅxample.com", "☃.net", "a..b\u{e9}", "ليهمابتكلموشعربي؟", "x\u{200b}y\u{e9}"]
        {
            assert_eq!(to_ascii(name), None, "{name}");
        }
    }
}
