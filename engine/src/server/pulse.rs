//! When a connection is no longer worth having: what has happened on it, and until when something must happen.
//!
//! Pure: time comes in as an argument.

use std::time::Duration;

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

/// What has happened on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    protocol: Protocol,
    /// Requests whose answers are not yet handed to the system.
    open: usize,
    /// Whether there was a request at all.
    begun: bool,
    /// Since when no request is open.
    quiet_since: Instant,
    /// Since when the head of a request arrives.
    head_since: Option<Instant>,
    /// Since when the system takes no more bytes for the client.
    blocked_since: Option<Instant>,
    /// Answers with more to give for which nobody asks.
    unasked: usize,
    /// When somebody last asked for more of an answer.
    asked_at: Instant,
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
            open: 0,
            begun: false,
            quiet_since: now,
            head_since: None,
            blocked_since: None,
            unasked: 0,
            asked_at: now,
        }
    }

    /// Bytes came from the client.
    pub(super) fn read(&mut self, now: Instant) {
        if self.open == 0 && self.head_since.is_none() {
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

    /// A request begins.
    pub(super) fn opened(&mut self) {
        (self.open, self.begun, self.head_since) = (self.open + 1, true, None);
    }

    /// A request is answered, or nobody waits for its answer any more.
    pub(super) fn ended(&mut self, now: Instant) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            (self.quiet_since, self.head_since) = (now, None);
        }
    }

    /// There is an answer that nobody has asked for, or of which there is more now.
    pub(super) fn offered(&mut self, now: Instant) {
        (self.unasked, self.asked_at) = (self.unasked + 1, now);
    }

    /// Somebody asked for more of an answer, or it is gone.
    pub(super) fn asked(&mut self, now: Instant) {
        (self.unasked, self.asked_at) = (self.unasked.saturating_sub(1), now);
    }

    /// What is to be done at `now`.
    pub(super) fn verdict(&self, now: Instant, limits: &Limits) -> Verdict {
        let due = |since: Instant, limit: Duration, verdict| (since + limit, verdict);
        let mut due_next = Vec::with_capacity(2);
        if let Some(since) = self.blocked_since {
            due_next.push(due(since, limits.write_timeout, Verdict::Cut("unread")));
        }
        match (self.open, self.protocol, self.head_since, self.begun) {
            (0, Protocol::One, Some(since), _) => {
                due_next.push(due(since, limits.header_timeout, Verdict::Cut("head")));
            }
            // Whoever connects has something to say.
            (0, Protocol::One, None, false) => {
                due_next.push(due(self.quiet_since, limits.header_timeout, Verdict::Close));
            }
            (0, ..) => due_next.push(due(self.quiet_since, limits.idle_timeout, Verdict::Close)),
            // On HTTP/2 the client also holds up answers by not asking for more of them.
            _ if self.unasked > 0 => due_next.push(due(self.asked_at, limits.write_timeout, Verdict::Cut("unread"))),
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
        idle_timeout: Duration::from_secs(75),
        write_timeout: Duration::from_secs(30),
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
        s.0.opened();
        s.0.ended(s.at(14));
        assert!(s.waits(14, 89) && s.verdict(89) == Verdict::Close, "between requests it may pause for longer");
        s.0.read(s.at(80));
        assert!(s.waits(80, 90) && s.verdict(90) == Verdict::Cut("head"));
    }

    #[test]
    fn a_request_may_take_as_long_as_it_takes_and_its_reader_may_not() {
        let mut s = story(Protocol::One);
        s.0.read(s.at(1));
        s.0.opened();
        assert!(matches!(s.verdict(1_000), Verdict::Wait(_)));
        s.0.blocked(s.at(1_000));
        s.0.blocked(s.at(1_020));
        assert!(s.waits(1_020, 1_030) && s.verdict(1_030) == Verdict::Cut("unread"));
        s.0.wrote();
        assert!(matches!(s.verdict(1_030), Verdict::Wait(_)), "a little is enough");
        s.0.ended(s.at(1_030));
        s.0.blocked(s.at(1_040));
        assert_eq!(s.verdict(1_070), Verdict::Cut("unread"), "also after all of it was handed over");
    }

    #[test]
    fn streams_that_nobody_reads_count_and_frames_of_no_request_do_not() {
        let mut s = story(Protocol::Two);
        s.0.read(s.at(60));
        assert!(s.waits(60, 75) && s.verdict(75) == Verdict::Close, "pings keep nothing alive");
        s.0.opened();
        s.0.opened();
        s.0.offered(s.at(100));
        assert!(s.waits(100, 130) && s.verdict(130) == Verdict::Cut("unread"));
        s.0.asked(s.at(120));
        assert!(matches!(s.verdict(200), Verdict::Wait(_)), "it waits for us, not we for it");
        s.0.offered(s.at(150));
        s.0.asked(s.at(155)); // gone
        s.0.ended(s.at(155));
        assert!(matches!(s.verdict(300), Verdict::Wait(_)), "the other one is still worked on");
        s.0.ended(s.at(300));
        assert!(s.waits(300, 375));
    }
}
