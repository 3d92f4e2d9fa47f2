//! The log, in the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): the line that a person reads as
//! `MESSAGE`, and each field once more by itself, so that `journalctl --user -u valetd VALETD_ACCOUNT=gbdx` finds it.

use std::fmt::{self, Debug};
use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// What a datagram may surely carry: the kernel's usual limit is some 200 KiB. Longer values are cut.
const LONGEST_VALUE: usize = 16 * 1024;

/// Writes events to the journal. An event that the journal does not take is lost: the work goes on.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// Connects to this machine's journal.
    pub(super) fn connect() -> io::Result<Self> {
        Self::connect_to(SOCKET)
    }

    fn connect_to(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // a journal that has fallen behind costs us a line, never a moment
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }
}

/// A span's fields, kept with it.
struct SpanFields(Fields);

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(SpanFields(fields));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(of_span)) = span.extensions().get() {
                fields.shown.push_str(&of_span.shown);
                fields.named.extend(of_span.named.iter().cloned());
            }
        }
        let metadata = event.metadata();
        let _ = self.0.send(&datagram(priority(*metadata.level()), metadata.target(), &fields));
    }
}

/// What one event says.
#[derive(Clone, Default)]
struct Fields {
    message: String,
    /// ` name=value` of each other field, as in every other log.
    shown: String,
    named: Vec<(String, String)>,
}

impl Fields {
    fn take(&mut self, field: &Field, plain: &dyn fmt::Display, shown: &dyn fmt::Display) {
        let tamed = |value: &dyn fmt::Display| value.to_string().chars().flat_map(tame).collect::<String>();
        match field.name() {
            "message" => self.message = tamed(plain),
            name => {
                self.shown.push_str(&format!(" {name}={}", tamed(shown)));
                self.named.push((journal_name(name), plain.to_string()));
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, &value, &format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.take(field, &value, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        self.take(field, &value, &value);
    }
}

/// `retry_at` becomes `VALETD_RETRY_AT`: the journal takes `A-Z 0-9 _` alone, at most 64 of them.
fn journal_name(field: &str) -> String {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    "VALETD_".chars().chain(field.chars().map(upper)).take(64).collect()
}

fn datagram(priority: u8, target: &str, fields: &Fields) -> Vec<u8> {
    let mut datagram = Vec::new();
    let mut put = |name: &str, value: &str| {
        let value = &value.as_bytes()[..value.len().min(LONGEST_VALUE)];
        datagram.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            // with its length in front, so that no value can end the line and begin a field of its own
            datagram.push(b'\n');
            datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            datagram.push(b'=');
        }
        datagram.extend_from_slice(value);
        datagram.push(b'\n');
    };
    put("MESSAGE", &format!("{}{}", fields.message, fields.shown));
    put("PRIORITY", &priority.to_string());
    put("SYSLOG_IDENTIFIER", "valetd");
    put("VALETD_TARGET", target);
    for (name, value) in &fields.named {
        put(name, value);
    }
    datagram
}

/// syslog(3)'s numbers.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Whether a character gives orders to a terminal, turns text around, or cannot be seen: controls, separators of lines,
/// marks of direction (UAX 9), what has no width, tags.
pub(crate) fn is_treacherous(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A treacherous character as its escape, any other as it is.
pub(super) fn tame(letter: char) -> impl Iterator<Item = char> {
    let (escaped, plain) =
        if is_treacherous(letter) { (Some(letter.escape_default()), None) } else { (None, Some(letter)) };
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use tracing::{info, info_span, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn heard(events: impl FnOnce()) -> Vec<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::connect_to(path.to_str().unwrap()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), events);
        journald.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 1 << 18];
        std::iter::from_fn(|| journald.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
    }

    #[test]
    fn an_event_is_a_line_for_people_and_its_fields_for_searches() {
        let heard = heard(|| {
            info_span!("renewal", account = "gdh")
                .in_scope(|| warn!(error = %"refused", attempt = 2, "renewal failed"));
        });
        let text = String::from_utf8(heard[0].clone()).unwrap();
        assert_eq!(
            text,
            "MESSAGE=renewal failed error=refused attempt=2 account=\"gdh\"\nPRIORITY=4\nSYSLOG_IDENTIFIER=valetd\n\
             VALETD_TARGET=valetd::platform::journal::tests\nVALETD_ERROR=refused\nVALETD_ATTEMPT=2\n\
             VALETD_ACCOUNT=gdh\n"
        );
    }

    #[test]
    fn no_value_can_begin_a_field_of_its_own() {
        let heard = heard(|| info!(detail = "x\nPRIORITY=0\nMESSAGE=forged", "{}", "y\n_UID=0"));
        let text = String::from_utf8_lossy(&heard[0]).into_owned();
        assert!(text.starts_with("MESSAGE=y\\n_UID=0 detail=\"x\\nPRIORITY=0"), "{text}");
        let at = text.find("VALETD_DETAIL\n").unwrap() + "VALETD_DETAIL\n".len();
        assert_eq!(heard[0][at..at + 8], 27u64.to_le_bytes());
        assert_eq!(heard.len(), 1);
    }

    #[test]
    fn what_is_too_long_is_cut_and_not_lost() {
        let heard = heard(|| info!("{}", "x".repeat(1 << 20)));
        assert!(
            heard[0].len() < LONGEST_VALUE + 200
                && heard[0].ends_with(b"VALETD_TARGET=valetd::platform::journal::tests\n")
        );
    }
}
