//! The log: one calm line an event, on standard error for a person or as JSON for a machine; to the journal with its
//! fields (`journal`) where the service manager has connected us to it.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, reload};

use super::clock::wall;
use super::environment;
pub(crate) use super::journal::is_treacherous;
use super::journal::{Journal, priority, tame};
use crate::names::{did_you_mean, nearest};

/// What the command line says about the log.
#[derive(Clone, Default, Debug)]
pub(crate) struct Options {
    /// `--log`; without it `RUST_LOG` counts, then `info`. Either a level or directives like `info,valetd::proxy=debug`.
    pub filter: Option<String>,
    /// Lines for people or for machines.
    pub format: Format,
}

/// What a line looks like.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Format {
    /// `10:15:02 warn  renewal failed account=gbdx`. In the journal, a priority (`<4>`) instead of time and level.
    #[default]
    Text,
    /// One JSON object a line, with the time in UTC.
    Json,
}

/// Changes the running log.
#[derive(Clone, Debug)]
pub(crate) struct LogHandle(reload::Handle<Targets, Registry>);

/// A filter that cannot be read, or a log that has been started already; one sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LogError(String);

/// Libraries that tell more than anyone wants to know: warnings at most, unless the filter names them; and not that answers
/// come to PINGs that are not h2's own, but ours.
const QUIET: &str =
    "hyper=warn,hyper_util=warn,h2=warn,h2::proto::ping_pong=error,rustls=warn,tokio_rustls=warn,notify=warn";

/// How much is logged, from nothing to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl LogHandle {
    /// The filter, as it was written.
    pub(crate) fn filter(&self) -> String {
        let shown = self.0.with_current(|filter| filter.to_string()).unwrap_or_default();
        let quiet: Vec<&str> = QUIET.split(',').collect();
        let told: Vec<&str> = shown.split(',').filter(|part| !quiet.contains(part)).collect();
        told.join(",")
    }

    /// Replaces the filter from the next event on.
    ///
    /// # Errors
    ///
    /// If it cannot be read; the old one stays.
    pub(crate) fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let filter = read_filter(filter)?;
        self.0.reload(filter).map_err(|error| LogError(format!("the log's filter cannot be replaced: {error}")))
    }
}

/// Starts the log of this process, on standard error.
///
/// # Errors
///
/// If the filter cannot be read, or if there is a log already.
pub(crate) fn init(options: Options) -> Result<LogHandle, LogError> {
    let filter = match (options.filter, chosen(None)) {
        (Some(filter), _) => read_filter(&filter)?,
        (None, Some(filter)) => read_filter(&filter).map_err(|error| LogError(format!("RUST_LOG: {error}")))?,
        (None, None) => read_filter("info")?,
    };
    let (filter, handle) = reload::Layer::new(filter);
    let style = Style::of_standard_error();
    let lines = match (style, options.format, Journal::connect()) {
        (Style::Journal, Format::Text, Ok(journal)) => journal.boxed(),
        // a journal that cannot be reached directly still takes lines
        (_, format, _) => lines(format, style, io::stderr),
    };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(lines))
        .map_err(|_| LogError("this process has a log already".to_owned()))?;
    Ok(LogHandle(handle))
}

/// A filter as it was written, if it can be read.
///
/// # Errors
///
/// As [`init`].
pub(crate) fn checked_filter(filter: &str) -> Result<String, LogError> {
    read_filter(filter).map(|_| filter.to_owned())
}

/// The filter that is in force at the start if the command line says this of it, if either it or the environment says one.
pub(crate) fn chosen(filter: Option<&str>) -> Option<String> {
    filter.map(str::to_owned).or_else(|| environment::text("RUST_LOG").filter(|filter| !filter.is_empty()))
}

/// What is said of a filter that can be read and names modules where nothing is logged, in a sentence each. Pure.
pub(crate) fn unknown_modules(filter: &str) -> Vec<String> {
    let known: Vec<String> =
        MODULES.iter().map(|module| format!("valetd::{module}")).chain(LIBRARIES.map(str::to_owned)).collect();
    // as directives are applied: each counts for all that begins as it says
    let is_known =
        |name: &str| known.iter().any(|known| known.starts_with(name) || name.starts_with(&format!("{known}::")));
    let named = filter.split(',').filter_map(|directive| directive.rsplit_once('='));
    let named =
        named.map(|(name, _)| name.split('[').next().unwrap_or_default().trim()).filter(|name| !name.is_empty());
    let unknown = named.filter(|name| !is_known(name)).map(|name| {
        let bare = name.rsplit("::").next().unwrap_or(name);
        let near = nearest(bare, MODULES).map(|module| format!("valetd::{module}"));
        let near = near.as_deref().or_else(|| nearest(name, known.iter().map(String::as_str)));
        let near = near.map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default();
        format!("the log filter names {name:?}, and no module of that name logs anything{near}")
    });
    unknown.collect()
}

/// The modules of this program, as `lib.rs` has them.
const MODULES: [&str; 37] = [
    "accounts",
    "advice",
    "audit",
    "bridge",
    "cli",
    "client_keys",
    "config",
    "config_files",
    "control",
    "daemon",
    "discovery",
    "fuzzing",
    "http_client",
    "intercept",
    "key_source",
    "lent",
    "mcp",
    "names",
    "notices",
    "oauth",
    "path_rules",
    "platform",
    "proxy",
    "renewal",
    "renewer",
    "secret",
    "shutdown",
    "sign_in",
    "span",
    "spelling",
    "split_mix",
    "stand_in",
    "stats",
    "store",
    "timestamp",
    "token_endpoint",
    "token_source",
];

/// The libraries that log.
const LIBRARIES: [&str; 9] =
    ["h2", "hyper", "hyper_util", "mio", "notify", "rustls", "rustls_platform_verifier", "tokio", "tokio_rustls"];

fn read_filter(filter: &str) -> Result<Targets, LogError> {
    let already_quiet = filter.trim().parse().is_ok_and(|level: LevelFilter| level <= LevelFilter::WARN);
    // the last directive for a target wins
    let directives = if already_quiet { filter.to_owned() } else { format!("{QUIET},{filter}") };
    let refused = |why: String| {
        LogError(format!(
            "the log filter {filter:?}: {why}; try a level ({}), or levels by module: info,valetd::proxy=debug",
            LEVELS.join(", ")
        ))
    };
    let said = || filter.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    // which would silence all but errors, as nobody has said
    if said().next().is_none() {
        return Err(refused("it names no level".to_owned()));
    }
    for directive in said() {
        // what is read below takes a word that is no level for a module, of which everything is logged
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            let near = did_you_mean(&level.to_ascii_lowercase(), LEVELS);
            let near = near.map(|question| format!(" ({question})")).unwrap_or_default();
            return Err(refused(format!("{level:?} is no level{near}")));
        }
    }
    let targets: Targets = directives.parse().map_err(|error| refused(format!("{error}")))?;
    let is_silent_elsewhere = targets.default_level().is_none();
    Ok(if is_silent_elsewhere { targets.with_default(LevelFilter::ERROR) } else { targets })
}

pub(super) type Filtered = tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>;

fn lines<W>(format: Format, style: Style, writer: W) -> Box<dyn Layer<Filtered> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        Format::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
        Format::Text => layer.event_format(style).fmt_fields(Fields).boxed(),
    }
}

/// How a line for people begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    /// The journal has its own clock and reads the priority from the line (sd-daemon(3)).
    Journal,
    /// On a terminal: the time of day is enough.
    Terminal { color: bool },
    /// In a file, which may be read on another day.
    File { color: bool },
}

impl Style {
    /// Levels are coloured on a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    fn of_standard_error() -> Self {
        let terminal = io::stderr().is_terminal();
        let color = terminal
            && !environment::is_set("NO_COLOR")
            && environment::value("TERM").is_none_or(|term| term != "dumb");
        match terminal {
            _ if is_journal() => Self::Journal,
            true => Self::Terminal { color },
            false => Self::File { color },
        }
    }
}

/// Whether standard error is the journal's: it may be redirected while the variable stays (systemd.exec(5)).
fn is_journal() -> bool {
    let Some(stream) = environment::text("JOURNAL_STREAM") else { return false };
    let Ok(found) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", found.dev(), found.ino())
}

impl<S, N> FormatEvent<S, N> for Style
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        match self {
            Style::Journal => write!(line, "<{}>", priority(level))?,
            Style::Terminal { color } => {
                write!(line, "{} ", local_time().strftime("%H:%M:%S"))?;
                write_level(&mut line, level, *color)?;
            }
            Style::File { color } => {
                write!(line, "{} ", local_time().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z"))?;
                write_level(&mut line, level, *color)?;
            }
        }
        // where it comes from is of use to the one who looks for a fault
        if level >= Level::DEBUG {
            write!(line, "{}: ", event.metadata().target())?;
        }
        context.format_fields(line.by_ref(), event)?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                write!(line, " {fields}")?;
            }
        }
        writeln!(line)
    }
}

/// For people and for files; the journal has a clock of its own.
fn local_time() -> jiff::Zoned {
    let now = jiff::Timestamp::try_from(wall()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    now.to_zoned(jiff::tz::TimeZone::system())
}

fn write_level(line: &mut Writer<'_>, level: Level, color: bool) -> fmt::Result {
    let (name, paint) = match level {
        Level::ERROR => ("error", "\x1b[31m"),
        Level::WARN => ("warn ", "\x1b[33m"),
        Level::INFO => ("info ", "\x1b[32m"),
        Level::DEBUG => ("debug", "\x1b[34m"),
        Level::TRACE => ("trace", "\x1b[35m"),
    };
    if color { write!(line, "{paint}{name}\x1b[0m ") } else { write!(line, "{name} ") }
}

/// Fields as `name=value`, the message bare and first. Nothing in a value can end the line or speak to the terminal:
/// an error may quote what a server sent.
#[derive(Clone, Copy, Debug)]
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut visitor = FieldWriter { writer, first: true, outcome: Ok(()) };
        fields.record(&mut visitor);
        visitor.outcome
    }
}

struct FieldWriter<'writer> {
    writer: Writer<'writer>,
    first: bool,
    outcome: fmt::Result,
}

impl Visit for FieldWriter<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.record_debug(field, &format_args!("{value}"));
        }
        self.record_debug(field, &value) // in quotes: spaces do not end it
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if std::mem::take(&mut self.first) { "" } else { " " };
        let text: String = format!("{value:?}").chars().flat_map(tame).collect();
        let written = match field.name() {
            "message" => write!(self.writer, "{space}{text}"),
            name => write!(self.writer, "{space}{name}={text}"),
        };
        self.outcome = self.outcome.and(written);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, error, info, info_span, trace, warn};

    use super::*;
    use crate::platform::rerun;

    /// What was logged, and the handle, after `events` have happened under a filter.
    fn logged(filter: &str, format: Format, style: Style, events: impl FnOnce(&LogHandle)) -> String {
        let paper = Paper::default();
        let (filter, handle) = reload::Layer::new(read_filter(filter).unwrap());
        let to = paper.clone();
        let subscriber = tracing_subscriber::registry().with(filter).with(lines(format, style, move || to.clone()));
        tracing::subscriber::with_default(subscriber, || events(&LogHandle(handle)));
        let written = paper.0.lock().unwrap();
        String::from_utf8(written.clone()).unwrap()
    }

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_module_that_logs_nothing_is_said_with_the_one_that_was_probably_meant() {
        let rows = [
            ("info", ""),
            ("info,valetd::proxy=debug,h2=trace", ""),
            ("valetd=debug,valetd::proxy::exchange=trace,valetd::pro=info", ""),
            ("info,rustls::client=debug", ""),
            (
                "valetd=debug,reenwer=trace",
                "names \"reenwer\", and no module of that name logs anything (did you mean \"valetd::renewer\"?)",
            ),
            ("valetd::renewr=trace", "(did you mean \"valetd::renewer\"?)"),
            ("proxy=debug", "(did you mean \"valetd::proxy\"?)"),
            ("valted=debug", "no module of that name logs anything"),
            ("hyperr=debug", "(did you mean \"hyper\"?)"),
            ("something_else=debug", "names \"something_else\", and no module of that name logs anything"),
        ];
        for (filter, expected) in rows {
            let said = unknown_modules(filter).join("; ");
            assert!(read_filter(filter).is_ok(), "{filter}: it is taken all the same");
            assert_eq!(said.is_empty(), expected.is_empty(), "{filter}: {said}");
            assert!(said.contains(expected), "{filter}: {said}");
        }
        let lib = include_str!("../lib.rs").lines();
        let lib = lib.map(|line| line.trim_start_matches("pub ")).filter_map(|line| line.strip_prefix("mod "));
        let ours: Vec<&str> = lib.map(|line| line.trim_end_matches(';')).collect();
        assert!(MODULES.iter().copied().eq(ours.iter().copied()), "those of lib.rs: {ours:?}");
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time() {
        let said = logged("trace", Format::Text, Style::Journal, |_| {
            error!("one");
            warn!(attempt = 2, "two");
            info!(account = %"gbdx", path = "a b", "three");
            info_span!("renewal", account = "gdh").in_scope(|| info!("four"));
        });
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines,
            ["<3>one", "<4>two attempt=2", "<6>three account=gbdx path=\"a b\"", "<6>four account=\"gdh\""]
        );
        let said = logged("trace", Format::Text, Style::Journal, |_| {
            debug!("d");
            trace!("t");
        });
        assert_eq!(said, "<7>valetd::platform::log::tests: d\n<7>valetd::platform::log::tests: t\n");
    }

    #[test]
    fn a_person_gets_the_time_and_a_level_in_colour_only_where_it_is_wanted() {
        let plain = logged("info", Format::Text, Style::Terminal { color: false }, |_| warn!("careful"));
        let (time, rest) = plain.split_at(8);
        assert!(time.chars().all(|c| c.is_ascii_digit() || c == ':'), "{plain}");
        assert_eq!(rest, " warn  careful\n");
        let colored = logged("info", Format::Text, Style::Terminal { color: true }, |_| warn!("careful"));
        assert_eq!(&colored[8..], " \x1b[33mwarn \x1b[0m careful\n");
        let file = logged("info", Format::Text, Style::File { color: false }, |_| warn!("careful"));
        let (stamp, rest) = file.split_once(' ').unwrap();
        assert!(stamp.parse::<jiff::Timestamp>().is_ok(), "{file}");
        assert_eq!(rest, "warn  careful\n");
    }

    #[test]
    fn no_value_can_forge_a_line_or_speak_to_the_terminal() {
        let hostile = "x\n<3>forged\r\x1b[2J\u{9b}m\u{202e}\u{2066}\u{2028}\u{feff}\u{e0041}";
        let said = logged("info", Format::Text, Style::Journal, |_| {
            info!(display = %hostile, debug = ?hostile, text = hostile, "{hostile}");
            info_span!("span", %hostile).in_scope(|| info!("inside"));
        });
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.chars().all(|letter| letter == '\n' || !is_treacherous(letter)), "{said:?}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let said = logged("info", Format::Json, Style::Journal, |_| info!(account = "gbdx", "renewed"));
        let value: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (&value["message"], &value["account"], &value["level"]),
            (&"renewed".into(), &"gbdx".into(), &"INFO".into())
        );
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn libraries_are_quiet_unless_the_filter_names_them() {
        let events = |_: &LogHandle| {
            debug!(target: "hyper::client", "hyper");
            warn!(target: "hyper::client", "hyper warns");
            debug!(target: "rustls::conn", "rustls");
            debug!(target: "valetd::proxy", "ours");
        };
        let messages = |filter| {
            let said = logged(filter, Format::Text, Style::Journal, events);
            said.lines().map(|line| line.rsplit(": ").next().unwrap()[..].to_owned()).collect::<Vec<_>>()
        };
        for (filter, expected) in [
            ("info", &["<4>hyper warns"][..]),
            ("debug", &["<4>hyper warns", "ours"]),
            ("debug,hyper=debug", &["hyper", "<4>hyper warns", "ours"]),
            ("hyper=error", &[]),
            ("error", &[]),
            ("off", &[]),
            ("rustls=debug", &["<4>hyper warns", "rustls"]),
            ("info,valetd::proxy=debug", &["<4>hyper warns", "ours"]),
        ] {
            assert_eq!(messages(filter), expected, "{filter}");
        }
    }

    #[test]
    fn the_filter_can_be_replaced_while_running_and_a_bad_one_changes_nothing() {
        let said = logged("warn", Format::Text, Style::Journal, |handle| {
            info!("unheard");
            handle.set_filter("info").unwrap();
            info!("heard");
            let error = handle.set_filter("valetd=loud").unwrap_err().to_string();
            assert!(error.contains("valetd=loud") && error.contains("try a level"), "{error}");
            info!("still heard");
        });
        assert_eq!(said, "<6>heard\n<6>still heard\n");
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_and_the_levels_are_named() {
        for (filter, expected) in [
            ("loud", "\"loud\" is no level; try a level (off, error, warn, info, debug, trace)"),
            ("debgu", "(did you mean \"debug\"?)"),
            ("INFO,valetd::proxy=dbug", "\"dbug\" is no level (did you mean \"debug\"?)"),
            ("info,hyper", "\"hyper\" is no level"),
            ("info,hyper=", "\"\" is no level"),
        ] {
            let error = read_filter(filter).unwrap_err().to_string();
            assert!(error.contains(expected), "{filter}: {error}");
        }
        for filter in ["off", "Warn", "info,valetd::proxy=debug", "info,", "3"] {
            assert!(read_filter(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn the_journal_is_known_by_its_stream_and_not_by_the_variable_alone() {
        let Some(parent) =
            rerun::parent("platform::log::tests::the_journal_is_known_by_its_stream_and_not_by_the_variable_alone")
        else {
            assert_eq!(is_journal(), std::env::var("EXPECTED").unwrap() == "yes");
            let expected = if is_journal() { Style::Journal } else { Style::File { color: false } };
            assert_eq!(Style::of_standard_error(), expected);
            let handle = init(Options::default()).unwrap();
            info!("to standard error");
            handle.set_filter("debug").unwrap();
            assert_eq!(init(Options::default()).unwrap_err().to_string(), "this process has a log already");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        for (name, expected) in [("journal", "yes"), ("elsewhere", "no")] {
            let stderr = std::fs::File::create(folder.path().join(name)).unwrap();
            let journal = std::fs::File::create(folder.path().join("journal")).unwrap().metadata().unwrap();
            let status = parent
                .command()
                .env("JOURNAL_STREAM", format!("{}:{}", journal.dev(), journal.ino()))
                .env("EXPECTED", expected)
                .env_remove("RUST_LOG")
                .stderr(stderr)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            let said = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(status.success(), "{name}: {said}");
            let begins_with_priority = said.contains("<6>to standard error");
            assert_eq!(begins_with_priority, expected == "yes", "{name}: {said}");
            assert!(said.contains("to standard error"), "{name}: {said}");
        }
    }
}
