//! Where the key of the store comes from: a file, a command, a credential of the service's unit, systemd, the keyring of
//! the desktop.
//!
//! What a source gives is a text of high entropy, under which the store's own key is wrapped; it is read once, at the start,
//! and again where the key is changed. Nobody is asked anything: what needs a person is away until that person comes.
//!
//! Two responses are told apart. A source that is *away* (a locked keyring, a stick that is not plugged in, a command that
//! fails) is asked again later. One that is *gone* says that it will never have this key again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::debug;
use zeroize::Zeroizing;

use crate::advice::advised;
use crate::config::{MachineSetting, SealSetting, SecretSource, StoreSettings};
use crate::platform::bus::Bus;
use crate::platform::{environment, random, secret_source, users};
use crate::secret::Secret;
use crate::shutdown::Shutdown;

mod keyring;
mod no_secret;
mod systemd;

pub(crate) use keyring::KeyringWatch;
pub(crate) use no_secret::NoSecret;

/// Where logind notes whose services run without a login.
const LINGERS: &str = "/var/lib/systemd/linger";

/// The name of the unit's credential that `auto` looks for.
const UNIT_CREDENTIAL: &str = "valetd-store-key";

/// In base64, 24 random bytes; in hex, 16, which is what the cipher's key is worth.
const SHORTEST: usize = 32;

/// What a slot of the ring was wrapped by, as it stands there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A file that the configuration names.
    File,
    /// A command that the configuration names.
    Command,
    /// A credential of the service's unit.
    Unit,
    /// systemd wraps it for this user on this machine.
    Systemd,
    /// The keyring of the desktop has it.
    SecretService,
    /// A person types it.
    Passphrase,
    /// A code that a person has written down.
    Recovery,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::File, Self::Command, Self::Unit, Self::Systemd, Self::SecretService, Self::Passphrase, Self::Recovery];

    /// In one word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Command => "command",
            Self::Unit => "unit",
            Self::Systemd => "systemd",
            Self::SecretService => "secret-service",
            Self::Passphrase => "passphrase",
            Self::Recovery => "recovery",
        }
    }

    /// The kind of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a source gives to wrap a new key by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Offer {
    /// Which source.
    pub kind: Kind,
    /// What it wants back, if it keeps nothing itself.
    pub blob: Option<String>,
    /// What to wrap by.
    pub secret: Secret,
    /// Why it was chosen, where the user has not named it, in sentences.
    pub because: Vec<String>,
}

/// The sources of a machine, as the configuration has them.
#[derive(Clone, Debug)]
pub(crate) struct KeySources {
    setting: SealSetting,
    /// Which machines are to open the store.
    machine: MachineSetting,
    /// Nothing that lies beside the records keeps anybody from them.
    state_dir: PathBuf,
    /// Where systemd's credential service listens.
    systemd: PathBuf,
    /// Where the keyring is.
    bus: Bus,
    /// Where it is noted whose services run without a login.
    lingers: PathBuf,
    /// What a person has typed just now, if one has.
    passphrase: Option<Secret>,
    /// The recovery code that a person has before them, if one has.
    recovery_code: Option<Secret>,
    /// From when on nobody is asked any more: the stop, and where somebody has asked, when that one has gone.
    stop: Option<Shutdown>,
    asker: Option<Shutdown>,
    /// Whether the configuration cannot be used, so that nobody knows what the user has named.
    is_unknown: bool,
}

/// What stands for `store.seal` where it cannot be read: `auto` would be weaker than what was named.
const UNKNOWN: &str = "the configuration cannot be used, and where it has the key kept is not known";

/// Below that, a passphrase is a matter of minutes, however each guess is stretched.
const SHORTEST_PASSPHRASE: usize = 8;

impl KeySources {
    pub(crate) fn new(settings: &StoreSettings, state_dir: &Path) -> Self {
        Self {
            setting: settings.seal.clone(),
            machine: settings.machine,
            state_dir: state_dir.to_owned(),
            systemd: systemd::SOCKET.into(),
            bus: Bus::Session,
            lingers: LINGERS.into(),
            passphrase: None,
            recovery_code: None,
            stop: None,
            asker: None,
            is_unknown: false,
        }
    }

    /// The same, where the configuration cannot be used, if `is_so`: no key is wrapped by what the user may not want.
    #[must_use]
    pub(crate) fn unknown(self, is_so: bool) -> Self {
        Self { is_unknown: is_so, ..self }
    }

    /// The same, for as long as whoever asks is there.
    #[must_use]
    pub(crate) fn while_asked(self, asker: Shutdown) -> Self {
        Self { asker: Some(asker), ..self }
    }

    /// The same, until the stop: what is being asked then is given up, and a command that is running ended.
    #[must_use]
    pub(crate) fn until(self, stop: Shutdown) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// The same, with a passphrase that a person has typed.
    #[must_use]
    pub(crate) fn with_passphrase(self, passphrase: Option<Secret>) -> Self {
        Self { passphrase, ..self }
    }

    /// The same, with a recovery code that a person has before them.
    #[must_use]
    pub(crate) fn with_recovery_code(self, recovery_code: Option<Secret>) -> Self {
        Self { recovery_code, ..self }
    }

    /// What a slot was wrapped by. Blocks for as long as the source takes: for a command, up to half a minute.
    pub(crate) fn secret(&self, kind: Kind, blob: Option<&str>) -> Result<Secret, NoSecret> {
        let source = match (kind, &self.setting) {
            (Kind::Systemd, _) => {
                let blob = blob.ok_or_else(|| NoSecret::Gone("its blob is missing".to_owned()))?;
                return systemd::unwrap(&self.systemd, blob);
            }
            (Kind::SecretService, _) => {
                let id = blob.ok_or_else(|| NoSecret::Gone("what it is found by is missing".to_owned()))?;
                return keyring::read(&self.bus, id);
            }
            (Kind::Passphrase, _) => {
                let away = || NoSecret::Away(format!("a person must type it: {}", advised("unlock")));
                return self.passphrase.clone().ok_or_else(away);
            }
            (Kind::Recovery, _) => {
                let away = || NoSecret::Away("it is written down".to_owned());
                return self.recovery_code.as_ref().map(|code| recovery(code).secret).ok_or_else(away);
            }
            (kind, SealSetting::Held(source)) if held_kind(source) == Some(kind) => source.clone(),
            (Kind::Unit, _) => SecretSource::Credential(UNIT_CREDENTIAL.to_owned()),
            (Kind::File | Kind::Command, _) if self.is_unknown => {
                return Err(NoSecret::Away(UNKNOWN.to_owned()));
            }
            (kind @ (Kind::File | Kind::Command), _) => {
                let name = kind.name();
                let words =
                    format!("it is kept by a {name}, and the configuration names none: store.seal = {{ {name} }}");
                return Err(NoSecret::Away(words));
            }
        };
        self.read(&source).map_err(NoSecret::Away)
    }

    /// What to wrap a new key by: from the source that the configuration names, or from the best that there is.
    ///
    /// # Errors
    ///
    /// Why there is none, in sentences, one for each source that was looked at.
    pub(crate) fn offer(&self) -> Result<Offer, Vec<String>> {
        if self.is_unknown {
            return Err(vec![UNKNOWN.to_owned()]);
        }
        match &self.setting {
            SealSetting::Off => {
                Err(vec!["the configuration says that nothing is sealed: store.seal = \"off\"".to_owned()])
            }
            SealSetting::Held(source) => self.offer_of(source).map_err(|why| vec![why]),
            SealSetting::Passphrase => self.offer_of_passphrase().map_err(|why| vec![why]),
            SealSetting::SecretService => self.offer_of_keyring().map_err(|why| vec![why]),
            SealSetting::Systemd => self.offer_of_systemd(true).map_err(|why| vec![why]),
            SealSetting::Auto => self.best(),
        }
    }

    /// The best of what there is that asks nobody. What was passed over, and why, goes with it.
    fn best(&self) -> Result<Offer, Vec<String>> {
        let unit = SecretSource::Credential(UNIT_CREDENTIAL.to_owned());
        let mut passed_over = Vec::new();
        match self.offer_of(&unit) {
            Ok(offer) => {
                let because = vec![format!("chosen: the service's unit has a credential named {UNIT_CREDENTIAL}")];
                return Ok(Offer { because, ..offer });
            }
            Err(why) => passed_over.push(format!("passed over: {why}")),
        }
        match self.offer_of_systemd(false) {
            Ok(offer) => {
                let words = "chosen: systemd's credential service wraps a key for this user on this machine".to_owned();
                passed_over.insert(0, words);
                return Ok(Offer { because: passed_over, ..offer });
            }
            Err(why) => passed_over.push(format!("passed over: {why}")),
        }
        match self.offer_of_keyring_at_login() {
            Ok(offer) => {
                passed_over.insert(0, "chosen: the keyring of the desktop is open, and keeps a key".to_owned());
                return Ok(Offer { because: passed_over, ..offer });
            }
            Err(why) => passed_over.push(format!("passed over: {why}")),
        }
        passed_over
            .push("or name a source: store.seal = { file = ... }, { command = [...] } or \"passphrase\"".to_owned());
        Err(passed_over)
    }

    /// The keyring, for who is there when it is needed: who has services run without a login wants renewals before one.
    fn offer_of_keyring_at_login(&self) -> Result<Offer, String> {
        let user = users::name_of(rustix::process::geteuid().as_raw());
        if user.is_some_and(|user| self.lingers.join(user).exists()) {
            return Err(
                "secret-service: this user's services run without a login (linger), when the keyring is locked; \
                        store.seal = \"secret-service\" takes it all the same"
                    .to_owned(),
            );
        }
        self.offer_of_keyring()
    }

    fn offer_of_keyring(&self) -> Result<Offer, String> {
        let secret = random::secret::<32>().map_err(|error| error.to_string())?;
        let id = keyring::keep(&self.bus, &secret).map_err(|why| format!("secret-service: {why}"))?;
        Ok(Offer { kind: Kind::SecretService, blob: Some(id), secret, because: Vec::new() })
    }

    /// Has a source that is locked ask a person to open it. For the person's own process: a daemon asks nobody.
    pub(crate) fn ask_a_person(&self, kind: Kind) -> Result<(), NoSecret> {
        match kind {
            Kind::SecretService => keyring::unlock(&self.bus),
            Kind::File | Kind::Command | Kind::Unit | Kind::Systemd | Kind::Passphrase | Kind::Recovery => Ok(()),
        }
    }

    /// Has a source forget what a slot was wrapped by, where the source has kept it for us. What cannot be forgotten opens
    /// nothing any more.
    pub(crate) fn forget(&self, kind: Kind, blob: Option<&str>) {
        match (kind, blob) {
            (Kind::SecretService, Some(id)) => {
                if let Err(error) = keyring::forget(&self.bus, id) {
                    debug!(%error, "the keyring still has a key of this store that nothing is sealed by");
                }
            }
            (Kind::SecretService, None)
            | (Kind::File | Kind::Command | Kind::Unit | Kind::Systemd | Kind::Passphrase | Kind::Recovery, _) => {}
        }
    }

    fn offer_of_passphrase(&self) -> Result<Offer, String> {
        let secret = self.passphrase.clone().ok_or("passphrase: nobody has typed one")?;
        if secret.expose().chars().count() < SHORTEST_PASSPHRASE {
            return Err(format!("passphrase: it has fewer than {SHORTEST_PASSPHRASE} characters: take some words"));
        }
        if secret.expose().contains(char::is_control) {
            return Err("passphrase: it is of several lines, or has a character that is no text: nobody could type it"
                .to_owned());
        }
        Ok(Offer { kind: Kind::Passphrase, blob: None, secret, because: Vec::new() })
    }

    /// A key that systemd wraps for this user on this machine. What else it is bound to must be wanted by name.
    fn offer_of_systemd(&self, is_named: bool) -> Result<Offer, String> {
        let is_for_any = self.machine == MachineSetting::Any;
        if is_for_any && !is_named {
            return Err("systemd: what it wraps opens on this machine alone, with the machine-id of today, and \
                        store.machine is \"any\""
                .to_owned());
        }
        let secret = random::secret::<32>().map_err(|error| error.to_string())?;
        let wrapped = systemd::wrap(&self.systemd, &secret).map_err(|why| format!("systemd: {why}"))?;
        let again = systemd::unwrap(&self.systemd, &wrapped.blob).map_err(|why| format!("systemd: {why}"))?;
        if again != secret {
            return Err("systemd: it gives back something else than it was given".to_owned());
        }
        if wrapped.is_bound_to_more && !is_named {
            return Err("systemd: it binds the key to the TPM, and an update of the firmware would lose it; with \
                        store.seal = \"systemd\" it is taken all the same: then make a recovery code at once"
                .to_owned());
        }
        let recovery = advised("seal recovery");
        let mut because = Vec::new();
        if wrapped.is_bound_to_more {
            because.push(format!("the key is bound to the TPM, and an update of the firmware may lose it: {recovery}"));
        }
        if is_for_any {
            because.push(format!("the key is of this machine alone, and store.machine is \"any\": {recovery}"));
        }
        Ok(Offer { kind: Kind::Systemd, blob: Some(wrapped.blob), secret, because })
    }

    fn offer_of(&self, source: &SecretSource) -> Result<Offer, String> {
        let kind = held_kind(source).ok_or("no key is kept in the configuration itself")?;
        let name = kind.name();
        let secret = self.read(source).map_err(|why| format!("{name}: {why}"))?;
        // what changes from one reading to the next opens nothing tomorrow
        let again = self.read(source).map_err(|why| format!("{name}, read again: {why}"))?;
        if secret != again {
            return Err(format!("{name}: it says something else each time"));
        }
        if secret.expose().len() < SHORTEST {
            let remedy = "head -c 32 /dev/urandom | base64";
            return Err(format!("{name}: it has fewer than {SHORTEST} characters: make it with {remedy}"));
        }
        Ok(Offer { kind, blob: None, secret, because: Vec::new() })
    }

    fn read(&self, source: &SecretSource) -> Result<Secret, String> {
        if let SecretSource::File(path) = source {
            self.judge(path)?;
        }
        if let SecretSource::Credential(name) = source
            && environment::value("CREDENTIALS_DIRECTORY").is_none()
        {
            return Err(format!(
                "no unit has handed over a credential named {name} ($CREDENTIALS_DIRECTORY is not set)"
            ));
        }
        let read = || {
            // a runtime of its own: who calls may be on one already
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            let secret = runtime.block_on(async {
                tokio::select! {
                    read = secret_source::read(source) => read.map_err(|error| error.to_string()),
                    () = started(self.stop.clone()) => Err("it was given up, as valetd stops".to_owned()),
                    () = started(self.asker.clone()) => {
                        Err("it was given up, as whoever has asked for it has gone".to_owned())
                    }
                }
            });
            runtime.shutdown_background(); // a pipe that nobody writes to is read by a thread of its own
            secret
        };
        std::thread::scope(|scope| scope.spawn(read).join()).map_err(|_| "reading it ended badly".to_owned())?
    }

    /// Whether a file is worth keeping a key in.
    fn judge(&self, path: &Path) -> Result<(), String> {
        let shown = path.display();
        let found = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
        let is_below = |folder: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(folder));
        if self.state_dir.canonicalize().is_ok_and(|folder| is_below(&folder)) {
            return Err(format!("{shown} lies beside what it would seal: keep it elsewhere"));
        }
        if found.is_file() && found.mode() & 0o077 != 0 {
            return Err(format!("{shown} is open to other users: chmod go= it"));
        }
        Ok(())
    }
}

/// Returns when it has started; never, if there is none.
async fn started(stop: Option<Shutdown>) {
    match stop {
        Some(mut stop) => stop.started().await,
        None => std::future::pending().await,
    }
}

/// The digits of a recovery code: none is taken for another one (Crockford's base 32).
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A recovery code of 16 random bytes, in groups of four digits.
pub(crate) fn recovery_code(random: &[u8; 16]) -> Secret {
    let mut number = u128::from_be_bytes(*random);
    let mut digits = Zeroizing::new([0; 26]); // of five bits each, the first of three
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number & 31) as usize];
        number >>= 5;
    }
    let mut code = Zeroizing::new(String::with_capacity(32));
    for group in digits.chunks(4) {
        if !code.is_empty() {
            code.push('-');
        }
        code.extend(group.iter().map(|digit| char::from(*digit)));
    }
    Secret::new(code.as_str())
}

/// A way in by a recovery code, as a person has written it: small letters, other groups and look-alikes are fine, and what
/// a notebook or a word processor has made of the strokes between the groups.
pub(crate) fn recovery(code: &Secret) -> Offer {
    let digits = code.expose().chars().filter(|c| c.is_alphanumeric()).map(|c| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    });
    let mut plain = Zeroizing::new(String::with_capacity(code.expose().len()));
    plain.extend(digits);
    Offer { kind: Kind::Recovery, blob: None, secret: Secret::new(plain.as_str()), because: Vec::new() }
}

fn held_kind(source: &SecretSource) -> Option<Kind> {
    match source {
        SecretSource::File(_) => Some(Kind::File),
        SecretSource::Command(_) => Some(Kind::Command),
        SecretSource::Credential(_) => Some(Kind::Unit),
        SecretSource::Inline(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "an-ordinary-key-of-42-characters-in-base64";

    fn sources(setting: SealSetting, state_dir: &Path) -> KeySources {
        KeySources {
            setting,
            machine: MachineSetting::This,
            state_dir: state_dir.to_owned(),
            systemd: "/nowhere".into(),
            bus: Bus::At("unix:path=/nowhere".to_owned()),
            lingers: "/nowhere".into(),
            passphrase: None,
            recovery_code: None,
            stop: None,
            asker: None,
            is_unknown: false,
        }
    }

    fn command(script: &str) -> SealSetting {
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        SealSetting::Held(SecretSource::Command(words))
    }

    #[test]
    fn what_is_offered_is_what_opens_and_is_worth_something() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let file = |name: &str, text: &str, mode| {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
            fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
            SealSetting::Held(SecretSource::File(path(name)))
        };
        let counting = format!("echo x >> {0}; wc -l < {0}; echo {KEY}", path("count").display());
        let rows = [
            ("a file", file("key", &format!("{KEY}\n"), 0o600), Ok(Kind::File)),
            ("a short one", file("short", "hunter2\n", 0o600), Err("fewer than 32 characters")),
            ("an open one", file("open", KEY, 0o644), Err("open to other users")),
            ("one beside the records", file("state/key", KEY, 0o600), Err("lies beside what it would seal")),
            ("none", SealSetting::Held(SecretSource::File(path("none"))), Err("No such file")),
            ("a command", command(&format!("echo {KEY}")), Ok(Kind::Command)),
            ("one that fails", command("exit 7"), Err("exit status: 7")),
            ("one that says something else each time", command(&counting), Err("something else each time")),
            ("off", SealSetting::Off, Err("nothing is sealed")),
            ("nothing that could be chosen", SealSetting::Auto, Err("no unit has handed over")),
            ("nobody who types", SealSetting::Passphrase, Err("nobody has typed one")),
            ("no systemd that could", SealSetting::Systemd, Err("it comes with systemd 256")),
        ];
        for (case, setting, expected) in rows {
            let sources = sources(setting, &path("state"));
            match (sources.offer(), expected) {
                (Ok(offer), Ok(kind)) => {
                    assert_eq!((offer.kind, offer.secret.expose()), (kind, KEY), "{case}");
                    assert_eq!(sources.secret(kind, None).unwrap(), offer.secret, "{case}");
                }
                (Err(words), Err(expected)) => {
                    let words = words.join("; ");
                    assert!(words.contains(expected) && !words.contains("hunter2"), "{case}: {words}");
                }
                (found, _) => panic!("{case}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_recovery_code_is_read_however_it_was_written_down() {
        let code = recovery_code(&[0xff; 16]);
        assert_eq!(code.expose(), "7ZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZ");
        let code = recovery_code(&u128::to_be_bytes(0x0123_4567_89ab_cdef_0011_2233_4455_6677));
        let written = code.expose().to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
        assert_ne!(written, code.expose());
        let as_written =
            ["\u{2013}", "\u{2011}", "_", ".", "/", "\u{a0}", ""].map(|gap| code.expose().replace('-', gap));
        let copied = [format!("\u{feff}{}", code.expose()), format!("\"{}\"", code.expose()), format!("`{written}`")];
        for written in as_written.iter().chain(&copied).chain([&written]) {
            assert_eq!(recovery(&Secret::new(written.as_str())), recovery(&code), "{written:?}");
        }
        assert_ne!(recovery(&code).secret, recovery(&recovery_code(&[0; 16])).secret);
    }

    #[test]
    fn a_passphrase_is_what_a_person_types_if_it_is_long_enough() {
        let typed =
            |text: &str| sources(SealSetting::Passphrase, Path::new("/state")).with_passphrase(Some(Secret::new(text)));
        let offer = typed("four words of mine").offer().unwrap();
        assert_eq!((offer.kind, offer.secret.expose()), (Kind::Passphrase, "four words of mine"));
        assert_eq!(typed("x y z").secret(Kind::Passphrase, None).unwrap().expose(), "x y z", "for what is sealed so");
        assert!(typed("hunter2").offer().unwrap_err()[0].contains("fewer than 8 characters"));
        for untypable in
            ["four words\nof mine", "four words of mine\r", "four\u{0}words of mine", "four words \u{1b}[D"]
        {
            assert!(typed(untypable).offer().unwrap_err()[0].contains("nobody could type it"), "{untypable:?}");
        }
    }

    #[test]
    fn auto_takes_systemd_unless_that_binds_the_key_to_a_tpm() {
        for has_tpm in [false, true] {
            let service = systemd::tests::Service::start(has_tpm);
            let with = |setting| KeySources { systemd: service.socket(), ..sources(setting, Path::new("/state")) };
            match with(SealSetting::Auto).offer() {
                Ok(offer) if !has_tpm => {
                    assert_eq!(offer.kind, Kind::Systemd);
                    assert!(offer.because[0].contains("for this user on this machine"), "{:?}", offer.because);
                    assert!(offer.because[1].contains("no unit"), "{:?}", offer.because);
                    let secret = with(SealSetting::Off).secret(Kind::Systemd, offer.blob.as_deref());
                    assert_eq!(secret.unwrap(), offer.secret, "whatever the setting is by now");
                }
                Err(why) if has_tpm => assert!(why[1].contains("binds the key to the TPM"), "{why:?}"),
                found => panic!("{has_tpm}: {found:?}"),
            }
            // who asks for it by name gets it, and is told
            let offer = with(SealSetting::Systemd).offer().unwrap();
            assert_eq!(offer.because.is_empty(), !has_tpm);
        }
    }

    #[test]
    fn auto_takes_no_key_of_one_machine_for_a_store_that_any_machine_is_to_open() {
        let service = systemd::tests::Service::start(false);
        let with = |setting| KeySources {
            machine: MachineSetting::Any,
            systemd: service.socket(),
            ..sources(setting, Path::new("/state"))
        };
        let why = with(SealSetting::Auto).offer().unwrap_err();
        assert!(why[1].contains("opens on this machine alone"), "{why:?}");
        let offer = with(SealSetting::Systemd).offer().unwrap();
        assert!(offer.because[0].contains("seal recovery"), "who asks for it by name is told: {:?}", offer.because);
    }

    #[test]
    fn a_slot_whose_source_the_configuration_does_not_name_is_away() {
        let sources = sources(SealSetting::Auto, Path::new("/state"));
        for (kind, words) in [
            (Kind::File, "names none: store.seal = { file }"),
            (Kind::Command, "names none: store.seal = { command }"),
            (Kind::Unit, "no unit has handed over"),
            (Kind::Systemd, "its blob is missing"),
            (Kind::Passphrase, "valetd unlock"),
            (Kind::Recovery, "written down"),
        ] {
            let found = sources.secret(kind, None).unwrap_err().to_string();
            assert!(found.contains(words), "{kind:?}: {found}");
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
    }
}
