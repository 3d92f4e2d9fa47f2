//! Calls to services of systemd's: one JSON message there, one back, each ended by a NUL (varlink.org).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// More than any response that we ask for.
const LONGEST: usize = 64 * 1024;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody listens there, or the response did not come in time, or not whole.
    #[error("{0}")]
    Unreachable(#[from] io::Error),
    /// The service says no, by this name; with the number of the system's own error where it is of one.
    #[error("it answers {name}{}", errno.map(|errno| format!(" (errno {errno})")).unwrap_or_default())]
    Refused {
        /// What went wrong: `io.example.Reason`.
        name: String,
        /// `io.systemd.System` has one.
        errno: Option<i64>,
    },
    /// The response makes no sense.
    #[error("its answer makes no sense")]
    Garbled,
}

/// Calls a method; blocks for no longer than `patience`. What it sends and reads may be secret, and is wiped.
pub(crate) fn call(
    socket: &Path,
    method: &str,
    parameters: &Value,
    patience: Duration,
) -> Result<Map<String, Value>, CallError> {
    let deadline = super::clock::instant() + patience;
    let mut stream = connect(socket, patience)?;
    let message = json!({ "method": method, "parameters": parameters });
    let mut bytes = Zeroizing::new(serde_json::to_vec(&message).expect("names and texts become JSON"));
    bytes.push(0);
    stream.write_all(&bytes)?;
    let mut answer = Zeroizing::new(vec![0; LONGEST]);
    let mut filled = 0;
    let end = loop {
        let left = deadline.saturating_duration_since(super::clock::instant());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut answer[filled..]) {
            Ok(0) => return Err(CallError::Garbled),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(end) = answer[..filled].iter().position(|byte| *byte == 0) {
            break end;
        }
    };
    let mut answer: Map<String, Value> = serde_json::from_slice(&answer[..end]).map_err(|_| CallError::Garbled)?;
    if let Some(name) = answer.get("error").filter(|error| !error.is_null()) {
        let name = name.as_str().unwrap_or_default().to_owned();
        let errno = answer.get("parameters").and_then(|parameters| parameters.get("errno")?.as_i64());
        return Err(CallError::Refused { name, errno });
    }
    match answer.remove("parameters") {
        Some(Value::Object(parameters)) => Ok(parameters),
        Some(_) | None => Err(CallError::Garbled),
    }
}

/// A connection that takes so long at most to come about, and each write over it. A service that takes on nobody keeps those
/// waiting who are one too many for its queue.
fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let stream = UnixStream::from(net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?);
    stream.set_write_timeout(Some(patience))?;
    let address = SocketAddrUnix::new(socket)?;
    match rustix::io::retry_on_intr(|| net::connect(&stream, &address)) {
        Ok(()) => Ok(stream),
        Err(Errno::AGAIN) => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Calls a service that answers with these bytes. Returns what it was sent, too.
    fn called(answer: &'static [u8], patience: Duration) -> (Result<Map<String, Value>, CallError>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("service");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = Vec::new();
            while !sent.ends_with(b"\0") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                sent.extend(byte);
            }
            for part in answer.chunks(7) {
                let _ = stream.write_all(part);
            }
            if answer.is_empty() {
                thread::sleep(patience * 4); // it says nothing, and hangs up later
            }
            sent
        });
        let outcome = call(&socket, "io.example.Do", &json!({"a": 1}), patience);
        (outcome, serving.join().unwrap())
    }

    #[test]
    fn an_answer_is_its_parameters_or_the_name_of_an_error() {
        let patience = Duration::from_secs(5);
        let (outcome, sent) = called(b"{\"parameters\":{\"b\":\"x\"}}\0", patience);
        assert_eq!(Value::Object(outcome.unwrap()), json!({"b": "x"}));
        assert_eq!(sent, b"{\"method\":\"io.example.Do\",\"parameters\":{\"a\":1}}\0");
        let (outcome, _) = called(b"{\"error\":\"io.example.No\",\"parameters\":{}}\0", patience);
        assert_eq!(outcome.unwrap_err().to_string(), "it answers io.example.No");
        let (outcome, _) = called(b"{\"error\":\"io.systemd.System\",\"parameters\":{\"errno\":2}}\0", patience);
        assert!(matches!(&outcome, Err(CallError::Refused { name: _, errno: Some(2) })), "{outcome:?}");
        assert_eq!(outcome.unwrap_err().to_string(), "it answers io.systemd.System (errno 2)");
        let (outcome, _) = called(b"{\"error\":null,\"parameters\":{\"b\":1}}\0", patience);
        assert_eq!(Value::Object(outcome.unwrap()), json!({"b": 1}));
        for garbled in [&b"hello\0"[..], b"{\"parameters\":3}\0", b"{}\0", b"{\"parameters\":{}}"] {
            assert!(matches!(called(garbled, patience).0, Err(CallError::Garbled)), "{garbled:?}");
        }
    }

    #[test]
    fn who_is_not_there_or_says_nothing_is_unreachable_in_time() {
        let nobody = call(Path::new("/nowhere/at/all"), "m", &json!({}), Duration::from_secs(1));
        assert!(matches!(nobody, Err(CallError::Unreachable(error)) if error.kind() == io::ErrorKind::NotFound));
        let (silent, _) = called(b"", Duration::from_millis(50));
        assert!(matches!(silent, Err(CallError::Unreachable(error)) if error.kind() == io::ErrorKind::TimedOut));
    }

    #[test]
    fn a_service_that_takes_on_nobody_is_unreachable_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("service");
        let queue = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).unwrap();
        net::bind(&queue, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        net::listen(&queue, 0).unwrap();
        let _waits = UnixStream::connect(&socket).unwrap();
        let (told, tells) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let called = call(&socket, "io.example.Do", &json!({}), Duration::from_millis(50));
            told.send(called)
        });
        let called = tells.recv_timeout(Duration::from_secs(20)).expect("it does not wait for ever");
        assert!(matches!(called, Err(CallError::Unreachable(error)) if error.kind() == io::ErrorKind::TimedOut));
    }
}
