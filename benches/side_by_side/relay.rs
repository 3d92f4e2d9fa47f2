//! The floor: a relay that parses nothing. One thread, one epoll, read here and write there; what remains is what the
//! kernel charges for moving a request through a process at all. It is this program, started again with `--relay`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

/// The listener's place in epoll's books; every other number is an index of [`Relay::ends`].
const LISTENER: u64 = u64::MAX;

/// Relays connections from `listen` to `upstream`, one to one, until it is killed.
pub(crate) fn relay(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;

    let mut relay = Relay { epoll, ends: Vec::new(), free: Vec::new(), buffer: vec![0; 64 * 1024] };
    let mut events = Vec::with_capacity(512);
    loop {
        epoll::wait(&relay.epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let (flags, place) = (event.flags, event.data.u64());
            if place == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    relay.join(client, TcpStream::connect(upstream)?)?;
                }
                continue;
            }
            relay.move_bytes(place as usize, flags);
        }
    }
}

/// One end of a relayed connection.
struct End {
    stream: TcpStream,
    other: usize,
    /// What the other end said and this one could not take yet.
    unsent: Vec<u8>,
}

struct Relay {
    epoll: OwnedFd,
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

impl Relay {
    fn join(&mut self, client: TcpStream, upstream: TcpStream) -> anyhow::Result<()> {
        let (here, there) = (self.place(), self.place());
        for (stream, place, other) in [(client, here, there), (upstream, there, here)] {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let interest =
                epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(place as u64), interest)?;
            self.ends[place] = Some(End { stream, other, unsent: Vec::new() });
        }
        Ok(())
    }

    fn place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        })
    }

    fn move_bytes(&mut self, place: usize, flags: epoll::EventFlags) {
        // an event of a connection that an earlier event of the same batch has closed
        let Some(end) = &mut self.ends[place] else { return };
        let other = end.other;
        let mut open = true;
        if !end.unsent.is_empty() && flags.contains(epoll::EventFlags::OUT) {
            match end.stream.write(&end.unsent) {
                Ok(sent) => drop(end.unsent.drain(..sent)),
                Err(error) => open = error.kind() == ErrorKind::WouldBlock,
            }
            // the other end was left unread meanwhile, and its edge will not come again
            open = open && self.pump(other, place, true);
        }
        let last = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if open && (last || flags.contains(epoll::EventFlags::IN)) {
            open = self.pump(place, other, last);
        }
        if !open {
            for place in [place, other] {
                self.ends[place] = None;
                self.free.push(place);
            }
        }
    }

    /// Reads from one end and writes to the other while both are willing; false when the connection is over. A short read
    /// means that nothing is left for now, unless the end of the stream is known to be waiting behind it (`to_the_last`).
    fn pump(&mut self, from: usize, to: usize, to_the_last: bool) -> bool {
        let [Some(source), Some(sink)] = self.ends.get_disjoint_mut([from, to]).expect("two ends, two places") else {
            return true;
        };
        while sink.unsent.is_empty() {
            let read = match source.stream.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            let sent = match sink.stream.write(&self.buffer[..read]) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return false,
            };
            sink.unsent.extend_from_slice(&self.buffer[sent..read]);
            if read < self.buffer.len() && !to_the_last {
                break;
            }
        }
        true
    }
}
