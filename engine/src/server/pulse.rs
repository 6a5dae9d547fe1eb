//! When a connection is no longer worth having: what has happened on it, and until when something must happen.
//!
//! Pure: time comes in as an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::Limits;

/// What a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// HTTP/1: one request after the other.
    One,
    /// HTTP/2: many at once, and frames that belong to none.
    Two,
}

/// Bytes of an answer that its client has to take for the answer to count as read: who takes fewer in its time, and not
/// all that there is, could make an answer last for ever.
const PROGRESS_BYTES: usize = 16 << 10;

/// What has happened on a connection.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    protocol: Protocol,
    /// The number of the last request.
    last: u64,
    /// Requests that keep the connection, by number, until their answers are handed over.
    open: BTreeSet<u64>,
    /// Whether there was a request at all.
    begun: bool,
    /// Since when no request is open.
    quiet_since: Instant,
    /// Since when the head of a request arrives.
    head_since: Option<Instant>,
    /// Since when the system takes no more bytes for the client.
    blocked_since: Option<Instant>,
    /// Answers of which bytes wait for the client, by the number of the request.
    unread: BTreeMap<u64, Unread>,
}

/// Bytes of one answer wait.
#[derive(Clone, Copy, Debug)]
struct Unread {
    /// In so many pieces.
    pieces: usize,
    /// Since when the client has not taken enough.
    since: Instant,
    /// How many it has taken since then.
    taken: usize,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing before this time.
    Wait(Instant),
    /// Nobody uses it: close it in good order.
    Close,
    /// Its client makes us wait: cut it off, and count it under this reason.
    Cut(&'static str),
}

impl Pulse {
    pub(super) fn new(protocol: Protocol, now: Instant) -> Self {
        Self {
            protocol,
            last: 0,
            open: BTreeSet::new(),
            begun: false,
            quiet_since: now,
            head_since: None,
            blocked_since: None,
            unread: BTreeMap::new(),
        }
    }

    /// Bytes came from the client.
    pub(super) fn read(&mut self, now: Instant) {
        if self.open.is_empty() && self.head_since.is_none() {
            self.head_since = Some(now);
        }
    }

    /// The system took bytes for the client.
    pub(super) fn wrote(&mut self) {
        self.blocked_since = None;
    }

    /// The system took nothing.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.blocked_since.get_or_insert(now);
    }

    /// A request begins; its number.
    pub(super) fn opened(&mut self) -> u64 {
        (self.last, self.begun, self.head_since) = (self.last + 1, true, None);
        self.open.insert(self.last);
        self.last
    }

    /// A request is answered, or nobody waits for its answer any more, or it does not keep the connection.
    pub(super) fn ended(&mut self, number: u64, now: Instant) {
        if self.open.remove(&number) && self.open.is_empty() {
            (self.quiet_since, self.head_since) = (now, None);
        }
    }

    /// A piece of an answer waits for the client.
    pub(super) fn held(&mut self, number: u64, now: Instant) {
        self.unread.entry(number).or_insert(Unread { pieces: 0, since: now, taken: 0 }).pieces += 1;
    }

    /// The client took bytes of an answer.
    pub(super) fn took(&mut self, number: u64, bytes: usize, now: Instant) {
        let Some(unread) = self.unread.get_mut(&number) else { return };
        unread.taken = unread.taken.saturating_add(bytes);
        if unread.taken >= PROGRESS_BYTES {
            (unread.since, unread.taken) = (now, 0);
        }
    }

    /// The client took the last byte of a piece, or the piece is gone.
    pub(super) fn released(&mut self, number: u64, now: Instant) {
        let Some(unread) = self.unread.get_mut(&number) else { return };
        *unread = Unread { pieces: unread.pieces.saturating_sub(1), since: now, taken: 0 };
        if unread.pieces == 0 {
            self.unread.remove(&number);
        }
    }

    /// What is to be done at `now`.
    pub(super) fn verdict(&self, now: Instant, limits: &Limits) -> Verdict {
        let due = |since: Instant, limit: Duration, verdict| (since + limit, verdict);
        let mut due_next = Vec::with_capacity(3);
        if let Some(since) = self.blocked_since {
            due_next.push(due(since, limits.write_timeout, Verdict::Cut("unread")));
        }
        // On HTTP/2 the client also holds up answers by giving them no room, each by itself.
        if let Some(since) = self.unread.values().map(|unread| unread.since).min() {
            due_next.push(due(since, limits.write_timeout, Verdict::Cut("unread")));
        }
        match (self.open.len(), self.protocol, self.head_since, self.begun) {
            (0, Protocol::One, Some(since), _) => {
                due_next.push(due(since, limits.header_timeout, Verdict::Cut("head")));
            }
            // Whoever connects has something to say.
            (0, Protocol::One, None, false) => {
                due_next.push(due(self.quiet_since, limits.header_timeout, Verdict::Close));
            }
            (0, ..) => due_next.push(due(self.quiet_since, limits.idle_timeout, Verdict::Close)),
            _ => {}
        }
        match due_next.into_iter().min_by_key(|(at, _)| *at) {
            Some((at, verdict)) if at <= now => verdict,
            Some((at, _)) => Verdict::Wait(at),
            None => Verdict::Wait(now + limits.write_timeout), // a request is being worked on
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections_max: 1,
        header_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(30),
        linger_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(75),
        write_timeout: Duration::from_secs(30),
        ping_interval: Duration::from_secs(30),
        ping_timeout: Duration::from_secs(20),
        answer_bytes_max: 1,
    };

    struct Story(Pulse, Instant);

    impl Story {
        fn at(&self, seconds: u64) -> Instant {
            self.1 + Duration::from_secs(seconds)
        }
        fn verdict(&self, seconds: u64) -> Verdict {
            self.0.verdict(self.at(seconds), &LIMITS)
        }
        fn waits(&self, from: u64, until: u64) -> bool {
            self.verdict(from) == Verdict::Wait(self.at(until))
        }
    }

    fn story(protocol: Protocol) -> Story {
        let now = Instant::now();
        Story(Pulse::new(protocol, now), now)
    }

    #[test]
    fn who_says_nothing_or_says_it_slowly_is_let_go() {
        let mut s = story(Protocol::One);
        assert!(s.waits(0, 10) && s.verdict(10) == Verdict::Close);
        for second in 3..20 {
            s.0.read(s.at(second)); // one byte each: the limit is for the whole head
        }
        assert!(s.waits(12, 13) && s.verdict(13) == Verdict::Cut("head"));
        let request = s.0.opened();
        s.0.ended(request, s.at(14));
        assert!(s.waits(14, 89) && s.verdict(89) == Verdict::Close, "between requests it may pause for longer");
        s.0.read(s.at(80));
        assert!(s.waits(80, 90) && s.verdict(90) == Verdict::Cut("head"));
    }

    #[test]
    fn a_request_may_take_as_long_as_it_takes_and_its_reader_may_not() {
        let mut s = story(Protocol::One);
        s.0.read(s.at(1));
        let request = s.0.opened();
        assert!(matches!(s.verdict(1_000), Verdict::Wait(_)));
        s.0.blocked(s.at(1_000));
        s.0.blocked(s.at(1_020));
        assert!(s.waits(1_020, 1_030) && s.verdict(1_030) == Verdict::Cut("unread"));
        s.0.wrote();
        assert!(matches!(s.verdict(1_030), Verdict::Wait(_)), "a little is enough");
        s.0.ended(request, s.at(1_030));
        s.0.blocked(s.at(1_040));
        assert_eq!(s.verdict(1_070), Verdict::Cut("unread"), "also after all of it was handed over");
    }

    #[test]
    fn streams_that_nobody_reads_count_and_frames_of_no_request_do_not() {
        let mut s = story(Protocol::Two);
        s.0.read(s.at(60));
        assert!(s.waits(60, 75) && s.verdict(75) == Verdict::Close, "pings keep nothing alive");
        let (one, two) = (s.0.opened(), s.0.opened());
        s.0.held(one, s.at(100));
        s.0.held(one, s.at(101));
        assert!(s.waits(101, 130) && s.verdict(130) == Verdict::Cut("unread"));
        s.0.took(one, PROGRESS_BYTES, s.at(110));
        assert!(s.waits(110, 140));
        s.0.held(two, s.at(120));
        for second in 110..140 {
            s.0.took(two, PROGRESS_BYTES, s.at(second));
            s.0.took(one, PROGRESS_BYTES / 32, s.at(second));
        }
        assert_eq!(s.verdict(140), Verdict::Cut("unread"), "neither another's reader nor a few bytes count");
        s.0.released(one, s.at(140));
        s.0.ended(one, s.at(140));
        assert!(s.waits(150, 169), "the rest of the first waits a little longer, but so does the second");
        s.0.released(two, s.at(150));
        assert!(s.waits(150, 170), "also after all of it was handed over");
        s.0.released(one, s.at(155));
        assert!(matches!(s.verdict(300), Verdict::Wait(_)), "the other one is still worked on");
        s.0.ended(two, s.at(300));
        assert!(s.waits(300, 375));
        let waived = s.0.opened();
        s.0.ended(waived, s.at(310));
        s.0.ended(waived, s.at(380));
        assert!(s.waits(310, 385) && s.verdict(385) == Verdict::Close, "it ends once");
    }
}
