//! The pages that a browser is shown on this machine at the end of a sign-in. Pure.
//!
//! No script and nothing from elsewhere; light and dark as the browser is; whatever a server has said is text in it.

/// How far a sign-in has come, as its page tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// The code came; what becomes of it is not known yet.
    Redeeming,
    /// The server has given tokens for it, and they are kept.
    SignedIn {
        /// Who, as far as the server told.
        who: Option<String>,
    },
    /// It came to nothing, in a sentence.
    Failed(String),
}

/// What goes with each page: nothing of it is kept, framed, or told to others.
pub(super) const FIELDS: [(&str, &str); 6] = [
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The page of a sign-in to an account, which is titled so.
pub(super) fn ending(account: &str, ending: &Ending) -> String {
    let account = escaped(account);
    match ending {
        Ending::Redeeming => page(
            Tone::Neutral,
            "Almost there",
            &[
                &format!("The authorization server has answered, and valetd is signing in to <b>{account}</b>."),
                "Your terminal says how it ends. You can close this page.",
            ],
        ),
        Ending::SignedIn { who } => {
            let who = who.as_deref().map(|who| format!(" as <b>{}</b>", escaped(who))).unwrap_or_default();
            page(
                Tone::Good,
                "Signed in",
                &[&format!("You are signed in to <b>{account}</b>{who}."), "You can close this page."],
            )
        }
        Ending::Failed(why) => page(
            Tone::Bad,
            "Not signed in",
            &[
                &format!("The sign-in to <b>{account}</b> did not succeed: {}.", escaped(why.trim_end_matches('.'))),
                "Your terminal says what can be done. You can close this page.",
            ],
        ),
    }
}

/// What is shown to a response that is not the one that is waited for.
pub(super) fn foreign() -> String {
    page(
        Tone::Bad,
        "Another sign-in",
        &[
            "This is not the sign-in that is waiting in your terminal.",
            "Open the address that the terminal shows; an older page, or one that somebody sent you, does not count.",
        ],
    )
}

/// What is shown to everything else.
pub(super) fn nothing_here(words: &str) -> String {
    page(Tone::Neutral, "Nothing here", &[&escaped(words)])
}

#[derive(Clone, Copy)]
enum Tone {
    Good,
    Bad,
    Neutral,
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2024;--paper:#f6f7f9;--card:#fff;--line:#d9dde3;--good:#1a7f37;--bad:#b42318;\
--neutral:#57606a}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--paper:#101214;--card:#191c20;--line:#33383f;--good:#4ac26b;\
--bad:#ff7b72;--neutral:#9aa4af}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1rem;background:var(--paper);color:var(--ink);\
font:1rem/1.5 system-ui,sans-serif}\
main{width:100%;max-width:32rem;padding:1.5rem;background:var(--card);border:1px solid var(--line);\
border-radius:.75rem;border-top:.3rem solid var(--tone);overflow-wrap:anywhere}\
h1{margin:0 0 .5rem;font-size:1.4rem;color:var(--tone)}\
p{margin:.5rem 0 0;text-wrap:pretty}\
footer{margin-top:1.25rem;font-size:.85rem;color:var(--neutral)}\
.good{--tone:var(--good)}.bad{--tone:var(--bad)}.neutral{--tone:var(--neutral)}";

fn page(tone: Tone, title: &str, paragraphs: &[&str]) -> String {
    let tone = match tone {
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Neutral => "neutral",
    };
    let paragraphs: String = paragraphs.iter().map(|text| format!("<p>{text}</p>\n")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n\
         <title>{title} – valetd</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main class=\"{tone}\">\n\
         <h1>{title}</h1>\n{paragraphs}<footer>valetd, on this computer</footer>\n</main>\n</body>\n</html>\n"
    )
}

/// A text as it may stand in a page.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_how_it_ended_and_nothing_of_it_is_anothers_markup() {
        let evil = "<script>alert(1)</script>&\"'\u{1b}[2J";
        let rows = [
            ("redeeming", ending(evil, &Ending::Redeeming), "Almost there"),
            ("signed in", ending(evil, &Ending::SignedIn { who: Some(evil.to_owned()) }), "Signed in"),
            ("signed in, by whom is not known", ending(evil, &Ending::SignedIn { who: None }), "Signed in"),
            ("failed", ending(evil, &Ending::Failed(evil.to_owned())), "Not signed in"),
            ("another's", foreign(), "Another sign-in"),
            ("nothing", nothing_here(evil), "Nothing here"),
        ];
        for (case, page, title) in rows {
            assert!(page.contains(&format!("<h1>{title}</h1>")), "{case}: {page}");
            assert!(!page.contains("<script") && !page.contains('\u{1b}'), "{case}: {page}");
            for from_elsewhere in ["http:", "https:", "src=", "url(", "@import"] {
                assert!(!page.contains(from_elsewhere), "{case}: {from_elsewhere}");
            }
        }
    }

    #[test]
    fn a_servers_words_are_shown_as_they_are() {
        let page = ending("lab", &Ending::Failed("access_denied (a < b & c)".to_owned()));
        assert!(page.contains("did not succeed: access_denied (a &lt; b &amp; c).</p>"), "{page}");
    }
}
