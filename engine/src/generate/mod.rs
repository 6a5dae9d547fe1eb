//! A synthetic click stream: reproducible, realistic enough to try, test and measure with. Where the events go (a file,
//! HTTP, NATS) is not decided here.
//!
//! Pure. Equal options give equal bytes on one machine; on another, the last bit of a logarithm may differ.
//!
//! Costs about half a microsecond per event of default size; nothing is allocated per event.

mod catalogue;
mod random;
mod text;
mod visitor;

use keyloom_actors::timestamp::{SECOND, Timestamp};

use random::{Random, Zipf};
use text::TimeText;
use visitor::{Identity, Memory};

/// Most users: each touched one costs 16 bytes.
pub const USERS_MAX: u64 = 100_000_000;
/// Most bytes that one event can be padded to.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Largest Zipf exponent; above it nearly all events belong to one user.
pub const ZIPF_MAX: f64 = 10.0;
/// Largest share of duplicates: the rest must come from somewhere.
pub const DUPLICATES_MAX: f64 = 0.9;
/// Lines remembered as sources of duplicates, at most.
const REMEMBERED_LINES: usize = 1_024;
/// Bytes remembered as sources of duplicates, about.
const REMEMBERED_BYTES: usize = 4 * 1024 * 1024;
/// Every so many-th line is remembered, so that the window reaches back over 8 × 1,024 lines.
const REMEMBER_EVERY: u64 = 8;
/// How often another user is drawn when one is away, before the last one drawn comes back early.
const DRAWS_MAX: usize = 8;
/// A late event is behind by this much at least, and by [`LATE_MAX`] at most.
const LATE_MIN: f64 = 60.0 * SECOND as f64;
const LATE_MAX: f64 = 6.0 * 3_600.0 * SECOND as f64;
/// An event needs this long from the device to the collector at least; on average a tenth of a second more.
const TRANSIT_MIN: i64 = 15_000;
const TRANSIT_MORE: f64 = 100_000.0;
/// Length of the text that padding is cut from, in bytes.
const PADDING_BYTES: usize = 8 * 1024;

/// What to generate. Values out of range are refused by [`GeneratorOptions::check`].
#[derive(Clone, PartialEq, Debug)]
pub struct GeneratorOptions {
    /// Where the randomness starts: another seed, other users and other events.
    pub seed: u64,
    /// How many different users there are. At any time a quarter of them is away, for 50 minutes or a multiple of that.
    pub users: u64,
    /// How many lines to write, duplicates included; `None` for no end.
    pub events: Option<u64>,
    /// How unevenly events fall on users: exponent of Zipf's law, 0 for evenly.
    pub zipf: f64,
    /// Share of lines that repeat an earlier line exactly.
    pub duplicates: f64,
    /// Share of new events whose collector time is minutes to hours behind.
    pub late: f64,
    /// Share of users whose device clock is off, by up to two hours.
    pub skewed_clocks: f64,
    /// Event time of the first event.
    pub start: Timestamp,
    /// New events per second of event time.
    pub rate: f64,
    /// About how many bytes one event has; what is shorter is padded, what is longer stays.
    pub event_bytes: usize,
}

impl Default for GeneratorOptions {
    /// 100,000 users, no end, 390 bytes per event, 250 events per second of event time from 2025-06-02 08:00 UTC.
    fn default() -> Self {
        Self {
            seed: 1,
            users: 100_000,
            events: None,
            zipf: 1.0,
            duplicates: 0.01,
            late: 0.02,
            skewed_clocks: 0.05,
            start: Timestamp(1_748_851_200 * SECOND),
            rate: 250.0,
            event_bytes: 390,
        }
    }
}

/// An option is out of range.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("--{option} is {given}; give a value from {min} to {max}")]
pub struct OptionError {
    /// Its name.
    pub option: &'static str,
    /// What was given.
    pub given: f64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
}

impl GeneratorOptions {
    /// Whether every value is in range; the first one that is not, otherwise.
    pub fn check(&self) -> Result<(), OptionError> {
        let ranges = [
            ("users", self.users as f64, 1.0, USERS_MAX as f64),
            ("zipf", self.zipf, 0.0, ZIPF_MAX),
            ("duplicates", self.duplicates, 0.0, DUPLICATES_MAX),
            ("late", self.late, 0.0, 1.0),
            ("skewed-clocks", self.skewed_clocks, 0.0, 1.0),
            ("rate", self.rate, 1e-3, 1e9),
            ("event-bytes", self.event_bytes as f64, 0.0, EVENT_BYTES_MAX as f64),
        ];
        match ranges.into_iter().find(|(_, given, min, max)| !(min..=max).contains(&given)) {
            Some((option, given, min, max)) => Err(OptionError { option, given, min, max }),
            None => Ok(()),
        }
    }

    /// Every value moved to the nearest one in range.
    fn clamped(mut self) -> Self {
        let fit = |n: f64, min: f64, max: f64| if n.is_nan() { min } else { n.clamp(min, max) };
        self.users = self.users.clamp(1, USERS_MAX);
        self.zipf = fit(self.zipf, 0.0, ZIPF_MAX);
        self.duplicates = fit(self.duplicates, 0.0, DUPLICATES_MAX);
        self.late = fit(self.late, 0.0, 1.0);
        self.skewed_clocks = fit(self.skewed_clocks, 0.0, 1.0);
        self.rate = fit(self.rate, 1e-3, 1e9);
        self.event_bytes = self.event_bytes.min(EVENT_BYTES_MAX);
        self
    }
}

/// Writes the events one by one.
#[derive(Debug)]
pub struct Generator {
    options: GeneratorOptions,
    random: Random,
    zipf: Zipf,
    users: Vec<Memory>,
    /// Event time of the newest event, in microseconds.
    time: f64,
    written: u64,
    remembered: Vec<Vec<u8>>,
    remembered_max: usize,
    remember_next: usize,
    padding: Vec<u8>,
    collector_text: TimeText,
    device_text: TimeText,
}

impl Generator {
    /// Starts a click stream. Values that [`GeneratorOptions::check`] refuses are moved into range.
    pub fn new(options: GeneratorOptions) -> Self {
        let options = options.clamped();
        let mut random = Random::new(options.seed);
        let zipf = Zipf::new(options.users, options.zipf);
        let users = vec![Memory::default(); usize::try_from(options.users).unwrap_or(usize::MAX)];
        let mut padding = Vec::with_capacity(PADDING_BYTES + 16);
        while padding.len() < PADDING_BYTES {
            let word = catalogue::WORDS[random.below(catalogue::WORDS.len() as u64) as usize];
            padding.extend_from_slice(word.as_bytes());
            padding.push(b' ');
        }
        Self {
            time: options.start.0 as f64,
            remembered_max: (REMEMBERED_BYTES / options.event_bytes.max(256)).clamp(1, REMEMBERED_LINES),
            options,
            random,
            zipf,
            users,
            written: 0,
            remembered: Vec::new(),
            remember_next: 0,
            padding,
            collector_text: TimeText::new(),
            device_text: TimeText::new(),
        }
    }

    /// Appends one line of JSON with its line feed; `false`, and nothing appended, once all events are written.
    pub fn write_next(&mut self, out: &mut Vec<u8>) -> bool {
        if self.options.events.is_some_and(|events| self.written >= events) {
            return false;
        }
        self.written += 1;
        if !self.remembered.is_empty() && self.random.chance(self.options.duplicates) {
            let line = self.random.below(self.remembered.len() as u64) as usize;
            out.extend_from_slice(&self.remembered[line]);
            return true;
        }
        let start = out.len();
        self.write_event(out);
        if self.options.duplicates > 0.0 && self.written % REMEMBER_EVERY == 1 {
            self.remember(&out[start..]);
        }
        true
    }

    /// Lines written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Event time that the stream has reached.
    pub fn time(&self) -> Timestamp {
        Timestamp(self.time as i64)
    }

    fn write_event(&mut self, out: &mut Vec<u8>) {
        self.time += self.random.exponential(SECOND as f64 / self.options.rate);
        let now = self.time();
        let (rank, who) = self.draw_user(now);
        let deed = self.users[rank as usize].act(&who, now, &mut self.random);
        let late = self.random.chance(self.options.late);
        let behind = if late { (LATE_MIN * (LATE_MAX / LATE_MIN).powf(self.random.unit())) as i64 } else { 0 };
        let collected = Timestamp(now.0 - behind);
        let transit = TRANSIT_MIN + self.random.exponential(TRANSIT_MORE) as i64;
        let created = Timestamp(collected.0 - transit + who.skew);

        let start = out.len();
        let [platform, app, agent, viewport] = catalogue::DEVICES[who.device];
        out.extend_from_slice(b"{\"app_id\":\"");
        out.extend_from_slice(app.as_bytes());
        out.push(b'"');
        text::field(out, "platform", platform);
        text::name(out, "collector_tstamp");
        self.collector_text.write(out, collected);
        out.extend_from_slice(b"\",\"dvce_created_tstamp\":\"");
        self.device_text.write(out, created);
        out.push(b'"');
        text::field(out, "event", deed.event);
        text::name(out, "event_id");
        text::uuid(out, self.random.next(), self.random.next());
        out.extend_from_slice(b"\",\"user_ipaddress\":\"10");
        for byte in who.address {
            out.push(b'.');
            text::decimal(out, u64::from(byte));
        }
        out.extend_from_slice(b"\",\"domain_userid\":\"");
        text::hex(out, who.domain_userid);
        out.extend_from_slice(b"\",\"session_id\":\"");
        text::hex(out, random::mix(who.domain_userid.wrapping_add(u64::from(deed.session))));
        out.extend_from_slice(b"\",\"page_url\":\"");
        catalogue::write_url(out, deed.page);
        out.push(b'"');
        if let Some(account) = who.account.filter(|_| deed.logged_in) {
            text::name(out, "user_id");
            out.extend_from_slice(b"u-");
            text::decimal(out, account + 1);
            out.push(b'"');
        }
        if let Some((high, low)) = who.network_userid {
            text::name(out, "network_userid");
            text::uuid(out, high, low);
            out.push(b'"');
        }
        if deed.arrives {
            text::field(out, "useragent", agent);
        }
        if deed.event == "page_view" {
            text::field(out, "viewport", viewport);
        }
        out.extend_from_slice(b",\"context\":{\"from\":\"");
        out.extend_from_slice(catalogue::REFERRERS[who.referrer].as_bytes());
        out.push(b'"');
        if deed.cart > 0 {
            out.extend_from_slice(b",\"cart\":");
            text::decimal(out, u64::from(deed.cart));
        }
        self.pad(out, start);
        out.extend_from_slice(b"}}\n");
    }

    /// A user in proportion to their weight, and present if one can be found.
    fn draw_user(&mut self, now: Timestamp) -> (u64, Identity) {
        let mut draw = || {
            let rank = self.zipf.sample(&mut self.random);
            (rank, Identity::of(self.options.seed, rank, self.options.skewed_clocks))
        };
        let mut drawn = draw();
        for _ in 1..DRAWS_MAX {
            if drawn.1.present(now) {
                break;
            }
            drawn = draw();
        }
        drawn
    }

    /// Adds a text that brings the event which begins at `start` to its size, if it is short of it.
    fn pad(&mut self, out: &mut Vec<u8>, start: usize) {
        const AROUND: usize = r#","text":"""#.len() + "}}\n".len();
        let mut missing = (start + self.options.event_bytes).saturating_sub(out.len() + AROUND);
        if missing == 0 {
            return;
        }
        text::name(out, "text");
        let mut from = self.random.below(self.padding.len() as u64) as usize;
        while missing > 0 {
            let piece = &self.padding[from..self.padding.len().min(from + missing)];
            out.extend_from_slice(piece);
            missing -= piece.len();
            from = 0;
        }
        out.push(b'"');
    }

    /// Keeps a line as a source of duplicates, in the place of the oldest one.
    fn remember(&mut self, line: &[u8]) {
        if self.remembered.len() < self.remembered_max {
            self.remembered.push(line.to_vec());
            return;
        }
        let place = &mut self.remembered[self.remember_next];
        place.clear();
        place.extend_from_slice(line);
        self.remember_next = (self.remember_next + 1) % self.remembered.len();
    }
}

#[cfg(test)]
mod tests;
