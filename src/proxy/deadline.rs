//! What a connection, or a stream of one, is doing, and the one timer that ends it when it does nothing for too long.
//!
//! The deadlines cost nothing while all is well. Bytes that move only leave a mark ([`Activity`]); a single timer looks
//! for it now and then, and a deadline has passed when it has found none four times in a row, at quarters of the time
//! allowed. Only what must not be stretched by a dripping client (a request's head) has a deadline of its own, which is
//! set when the head does not arrive in one piece, that is, hardly ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};

/// For the whole head of a request, from its first byte on; long enough for a person with telnet.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Without a byte, for an exchange that has reached no route, which would set its own limit: a refusal, that is.
const BEFORE_ROUTE: Duration = Duration::from_secs(10);

/// For the next request; as long as common servers allow, so that clients' pools, which know them, rarely lose a race.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// After this time without a byte between requests, hyper and its buffers are let go.
const REST_AFTER: Duration = Duration::from_secs(2);

/// After our last word, for the client to read it and to hang up: closing at once would reset the connection if the
/// client is still sending, and the reset would overtake what we said (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// Looks that a timeout is divided into: when so many in a row have found no mark, it has passed.
const CHECKS_PER_TIMEOUT: u8 = 4;

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Between requests.
    Idle,
    /// Between requests, for some time already.
    Resting,
    /// A head has begun.
    Head,
    /// A request is being carried out; nothing has been answered.
    Waiting,
    /// The response is on its way.
    Answering,
    /// All is said; the client may read it.
    Lingering,
    /// What passes is another protocol's.
    Tunnel,
}

/// How far the last request's body has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Upload {
    /// It has been read to its end, or there was none.
    Over,
    /// Nobody has begun to read it.
    Owed,
    /// It is on its way upstream, maybe for longer than its response.
    Streaming,
    /// Nobody reads the rest. hyper looks whether that has come already, and otherwise reads nothing more.
    Abandoned,
    /// hyper has read on since: it is done with the body.
    Skipped,
}

/// All phases, each at the place of its number: what an atomic holds is read back by it.
const PHASES: [Phase; 7] =
    [Phase::Idle, Phase::Resting, Phase::Head, Phase::Waiting, Phase::Answering, Phase::Lingering, Phase::Tunnel];

/// The same for [`Upload`].
const UPLOADS: [Upload; 5] = [Upload::Over, Upload::Owed, Upload::Streaming, Upload::Abandoned, Upload::Skipped];

/// What the parts of a connection tell each other. Written and read by one thread; atomics only because what hyper
/// upgrades has to be `Send`, so no order is asked of them.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Bytes have moved since the timer last looked.
    moved: AtomicBool,
    phase: AtomicU8,
    /// Numbers the requests.
    serial: AtomicU32,
    /// The running exchange's limit.
    idle_timeout_millis: AtomicU32,
    /// The running exchange has passed its limit.
    timed_out: AtomicBool,
    /// Bytes of the request's body that have been read.
    received: AtomicU64,
    upload: AtomicU8,
    /// Where in memory the last byte of the request's body ended, if that was a body of announced length.
    body_end: AtomicUsize,
    /// The client has closed its sending side.
    half_closed: AtomicBool,
    /// The client takes no more just now of what is to be sent.
    congested: AtomicBool,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            moved: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Head as u8), // the first request is due, not just possible
            serial: AtomicU32::new(0),
            idle_timeout_millis: AtomicU32::new(BEFORE_ROUTE.as_millis() as u32),
            timed_out: AtomicBool::new(false),
            received: AtomicU64::new(0),
            upload: AtomicU8::new(Upload::Over as u8),
            body_end: AtomicUsize::new(0),
            half_closed: AtomicBool::new(false),
            congested: AtomicBool::new(false),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Bytes have moved.
    pub(crate) fn mark(&self) {
        self.moved.store(true, Relaxed);
    }

    /// The exchange has passed its limit, and hears of it the next time it is asked; false if it has been told before.
    pub(crate) fn time_out(&self) -> bool {
        !self.timed_out.swap(true, Relaxed)
    }

    /// Whether the running exchange has passed its limit.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.timed_out.load(Relaxed)
    }

    /// The client has closed its sending side.
    pub(crate) fn half_close(&self) {
        self.half_closed.store(true, Relaxed);
    }

    pub(crate) fn is_half_closed(&self) -> bool {
        self.half_closed.load(Relaxed)
    }

    /// Whether the client takes no more just now of what is to be sent.
    pub(crate) fn set_congested(&self, is_congested: bool) {
        self.congested.store(is_congested, Relaxed);
    }

    /// Begins the present phase anew.
    pub(crate) fn renew(&self) {
        self.serial.store(self.serial.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// A request's head is whole; `uploading` says whether it has a body.
    pub(crate) fn begin(&self, uploading: bool) {
        self.renew();
        self.limit(BEFORE_ROUTE);
        self.timed_out.store(false, Relaxed);
        self.received.store(0, Relaxed);
        self.set_upload(if uploading { Upload::Owed } else { Upload::Over });
        self.body_end.store(0, Relaxed);
        self.enter(Phase::Waiting);
    }

    /// From here on, the exchange may be without a byte for at most `limit`.
    pub(crate) fn limit(&self, limit: Duration) {
        self.idle_timeout_millis.store(limit.as_millis().try_into().unwrap_or(u32::MAX), Relaxed);
    }

    /// The response's head is there.
    pub(crate) fn answer(&self) {
        if self.phase() == Phase::Waiting {
            self.enter(Phase::Answering);
        }
    }

    /// The response is a switch to another protocol.
    pub(crate) fn switch(&self) {
        self.enter(Phase::Tunnel);
    }

    /// The response is handed out to its end, or to nobody.
    pub(crate) fn end(&self) {
        if matches!(self.phase(), Phase::Waiting | Phase::Answering) {
            self.enter(Phase::Idle);
        }
    }

    /// Which request is the last one.
    pub(crate) fn serial(&self) -> u32 {
        self.serial.load(Relaxed)
    }

    pub(crate) fn upload(&self) -> Upload {
        UPLOADS[usize::from(self.upload.load(Relaxed))]
    }

    pub(crate) fn set_upload(&self, upload: Upload) {
        self.upload.store(upload as u8, Relaxed);
    }

    /// A part of the body of request `serial` has been read. A body can be read after its response has ended and the next
    /// request has begun: that must not be told of the next one's.
    pub(crate) fn received(&self, serial: u32, bytes: usize) {
        if serial == self.serial() {
            self.mark();
            self.received.store(self.received.load(Relaxed) + bytes as u64, Relaxed);
        }
    }

    /// Bytes of the request's body so far.
    pub(crate) fn bytes_received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// The body of the last request goes upstream from now on.
    pub(crate) fn uploads(&self) {
        self.set_upload(Upload::Streaming);
    }

    /// The body of request `serial` has been read to its end; `last` was the last of it.
    pub(crate) fn uploaded(&self, serial: u32, last: Option<&Bytes>) {
        if serial == self.serial() {
            self.set_upload(Upload::Over);
            self.body_end.store(last.map_or(0, |last| last.as_ptr_range().end.addr()), Relaxed);
        }
    }

    /// Where the last request's body ended, said once: whatever is read later may lie at the same place.
    pub(crate) fn take_body_end(&self) -> usize {
        let end = self.body_end.load(Relaxed);
        self.body_end.store(0, Relaxed);
        end
    }

    /// Nobody will read what is left of the body of request `serial`, if anything is.
    pub(crate) fn abandoned(&self, serial: u32) {
        if serial == self.serial() && self.upload() == Upload::Streaming {
            self.set_upload(Upload::Abandoned);
        }
    }

    /// The last request was answered without its body having been looked at, if it had one.
    pub(crate) fn refused(&self) {
        if self.upload() == Upload::Owed {
            self.set_upload(Upload::Abandoned);
        }
    }

    /// Whether no whole request has come yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.serial.load(Relaxed) == 0
    }

    /// Whether nothing is left of the last exchange that hyper would have to send or to read.
    pub(crate) fn is_all_done(&self) -> bool {
        !self.congested.load(Relaxed) && !self.is_uploading()
    }

    /// Whether the client may still owe a part of the request's body.
    pub(crate) fn is_uploading(&self) -> bool {
        self.upload() != Upload::Over
    }

    pub(crate) fn exchange_runs(&self) -> bool {
        matches!(self.phase(), Phase::Waiting | Phase::Answering)
    }

    /// What the timer should look for.
    pub(crate) fn deadline(&self) -> Deadline {
        let phase = self.phase();
        let span = match phase {
            Phase::Idle => REST_AFTER / u32::from(CHECKS_PER_TIMEOUT),
            Phase::Resting | Phase::Tunnel => KEEP_ALIVE / u32::from(CHECKS_PER_TIMEOUT),
            Phase::Head => HEAD_TIMEOUT,
            Phase::Waiting | Phase::Answering => {
                Duration::from_millis(self.idle_timeout_millis.load(Relaxed).into()) / u32::from(CHECKS_PER_TIMEOUT)
            }
            Phase::Lingering => LINGER,
        };
        Deadline { phase, serial: self.serial.load(Relaxed), span }
    }
}

/// What a timer was set for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Deadline {
    phase: Phase,
    serial: u32,
    span: Duration,
}

impl Deadline {
    /// Whether moving bytes extend it.
    fn can_be_extended(&self) -> bool {
        match self.phase {
            Phase::Idle | Phase::Resting | Phase::Waiting | Phase::Answering | Phase::Tunnel => true,
            Phase::Head | Phase::Lingering => false,
        }
    }

    fn is_same_wait(&self, other: &Deadline) -> bool {
        self.phase == other.phase && self.serial == other.serial
    }
}

/// The one timer of a connection.
pub(crate) struct IdleTimer {
    sleep: Pin<Box<Sleep>>,
    deadline: Deadline,
    checks: u8,
}

impl IdleTimer {
    pub(crate) fn new(deadline: Deadline) -> Self {
        Self { sleep: Box::pin(sleep(deadline.span)), deadline, checks: 0 }
    }

    fn set(&mut self, deadline: Deadline) {
        let at = Instant::now() + deadline.span;
        self.sleep.as_mut().reset(at);
        self.deadline = deadline;
    }

    /// Follows a change of phase, where the new one cannot wait for the next look. Not on a usual request's path.
    pub(crate) fn follow(&mut self, activity: &Activity) {
        let now = activity.deadline();
        let is_new_deadline = !now.can_be_extended() && !now.is_same_wait(&self.deadline);
        if is_new_deadline || now.span < self.deadline.span {
            self.set(now);
            self.checks = 0;
        }
    }

    /// Whether the deadline of what goes on has passed. Looks, and sets itself again.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>, activity: &Activity) -> Poll<Phase> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = activity.deadline();
            let moved = activity.moved.swap(false, Relaxed);
            let same = now.is_same_wait(&self.deadline);
            if !same || (now.can_be_extended() && moved) {
                self.checks = 0;
            } else if now.can_be_extended() && self.checks + 1 < CHECKS_PER_TIMEOUT {
                self.checks += 1;
            } else {
                self.checks = 0;
                self.set(now);
                return Poll::Ready(now.phase);
            }
            self.set(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_exchange_times_out_after_four_quarters_without_a_byte_and_not_before() {
        let activity = Activity::new();
        activity.begin(false);
        activity.limit(Duration::from_secs(8));
        let mut timer = IdleTimer::new(activity.deadline());
        let start = Instant::now();
        for second in [1, 3, 5, 7, 9, 11] {
            let until = start + Duration::from_secs(second);
            let early = tokio::time::timeout_at(until, poll_fn(|cx| timer.poll_expired(cx, &activity))).await;
            assert!(early.is_err(), "{second}");
            activity.mark();
        }
        assert_eq!(poll_fn(|cx| timer.poll_expired(cx, &activity)).await, Phase::Waiting);
        assert_eq!(start.elapsed().as_secs(), 20); // the look at 12 s found a mark; 14, 16, 18, 20 did not
    }

    #[tokio::test(start_paused = true)]
    async fn a_dripping_head_is_not_extended_and_a_new_deadline_is_followed_at_once() {
        let activity = Activity::new();
        activity.begin(false);
        activity.end();
        let mut timer = IdleTimer::new(activity.deadline());
        let start = Instant::now();
        activity.enter(Phase::Head);
        timer.follow(&activity);
        activity.mark();
        assert_eq!(poll_fn(|cx| timer.poll_expired(cx, &activity)).await, Phase::Head);
        assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
    }

    #[test]
    fn what_an_atomic_holds_is_read_back_as_what_was_put_in() {
        let next_phase = |phase| match phase {
            Phase::Idle => Some(Phase::Resting),
            Phase::Resting => Some(Phase::Head),
            Phase::Head => Some(Phase::Waiting),
            Phase::Waiting => Some(Phase::Answering),
            Phase::Answering => Some(Phase::Lingering),
            Phase::Lingering => Some(Phase::Tunnel),
            Phase::Tunnel => None,
        };
        let next_upload = |upload| match upload {
            Upload::Over => Some(Upload::Owed),
            Upload::Owed => Some(Upload::Streaming),
            Upload::Streaming => Some(Upload::Abandoned),
            Upload::Abandoned => Some(Upload::Skipped),
            Upload::Skipped => None,
        };
        let activity = Activity::new();
        for phase in std::iter::successors(Some(Phase::Idle), |phase| next_phase(*phase)) {
            activity.enter(phase);
            assert_eq!(activity.phase(), phase);
        }
        for upload in std::iter::successors(Some(Upload::Over), |upload| next_upload(*upload)) {
            activity.set_upload(upload);
            assert_eq!(activity.upload(), upload);
        }
    }

    #[test]
    fn a_body_that_is_read_after_the_next_request_has_begun_says_nothing_of_that_ones() {
        let activity = Activity::new();
        activity.begin(true);
        let first = activity.serial();
        activity.uploads();
        activity.end();
        activity.begin(true);
        activity.uploads();
        activity.received(first, 5);
        activity.uploaded(first, None);
        activity.abandoned(first);
        assert_eq!((activity.upload(), activity.bytes_received()), (Upload::Streaming, 0));
        activity.received(activity.serial(), 5);
        activity.uploaded(activity.serial(), None);
        assert_eq!((activity.upload(), activity.bytes_received()), (Upload::Over, 5));
    }
}
