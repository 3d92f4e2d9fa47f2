//! The relay of an isolated command: what the command asks for at addresses inside, it carries to sockets of ours.
//!
//! It runs inside, in front of the command, and is no wall: the sockets are all that there is.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::LocalSet;

use super::{streams, supervise};
use crate::cli::failure::{Exit, Failure};
use crate::cli::runtime::block_on;
use crate::platform::child;

/// Carry what an isolated command asks for. Example: only 'valetd exec
/// --isolate' calls this
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// An address, a socket, and a target to ask for there
    #[arg(long, num_args = 3, value_names = ["ADDRESS", "SOCKET", "TARGET"])]
    carry: Vec<String>,
    /// Where signals come from; who is asked there knows that the command is
    /// about to run
    #[arg(long)]
    signals: PathBuf,
    /// The number of a signal that the command takes no notice of
    #[arg(long)]
    ignored: Vec<i32>,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// A target that needs no asking.
pub(super) const AS_IT_IS: &str = "-";

pub(in crate::cli) fn perform(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { carry, signals, ignored, command } = arguments;
    let (program, rest) = command.split_first().expect("clap requires a command");
    let mut child = std::process::Command::new(program);
    child.args(rest);
    child::ends_with_us(&mut child);
    let ignored: Vec<Signal> = ignored.into_iter().filter_map(supervise::signal_of).collect();
    let is_walled = !carry.is_empty();
    if is_walled {
        streams::hold()?; // before there is another thread, which would not be held
    }
    let ran = block_on(LocalSet::new().run_until(async move {
        for one in carry.chunks_exact(3) {
            let address: SocketAddr = one[0].parse().map_err(Failure::new)?;
            let opening = |error| Failure::new(error).while_doing(format!("opening {address} inside"));
            let listener = TcpListener::bind(address).await.map_err(opening)?;
            let (socket, target) = (PathBuf::from(&one[1]), one[2].clone());
            tokio::task::spawn_local(accept(listener, socket, target));
        }
        let orders = UnixStream::connect(&signals).await.map_err(Failure::new)?;
        Ok::<_, Failure>(supervise::run(child, &ignored, supervise::directly, Some(orders)).await)
    }))??;
    match ran {
        Ok(status) => std::process::exit(i32::from(supervise::code(status))),
        Err(error) => {
            let is_missing = error.kind() == std::io::ErrorKind::NotFound;
            let failure = supervise::cannot_be_run(error, program);
            Err(match is_missing && is_walled {
                true => failure.with_remedy(
                    "behind the wall there are the system and the working directory alone: what is installed elsewhere, as \
                     below the home folder, is named by --ro FOLDER",
                ),
                false => failure,
            })
        }
    }
}

async fn accept(listener: TcpListener, socket: PathBuf, target: String) {
    while let Ok((mut client, _)) = listener.accept().await {
        let (socket, target) = (socket.clone(), target.clone());
        tokio::task::spawn_local(async move {
            let _ = client.set_nodelay(true);
            if let Some(mut stream) = open(&socket, &target).await {
                let _ = copy_bidirectional(&mut client, &mut stream).await;
            }
        });
    }
}

async fn open(socket: &Path, target: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    if target == AS_IT_IS {
        return Some(stream);
    }
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    // a byte at a time: what follows is the tunnel's
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        head.push(stream.read_u8().await.ok()?);
    }
    head.starts_with(b"HTTP/1.1 200").then_some(stream)
}
