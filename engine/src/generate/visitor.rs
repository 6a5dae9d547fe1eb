//! One synthetic user: who they are (a function of the seed and their rank), and what they do next.
//!
//! Pure. Knows nothing of how an event looks as text.

use keyloom_actors::timestamp::{SECOND, Timestamp};

use super::{
    catalogue::{self, ACCOUNT, CART, CATEGORY_COUNT, FIRST_CATEGORY, FIRST_PRODUCT, HOME, PRODUCTS, PageKind},
    random::{Random, falls_in, mix},
};

/// A pause longer than this begins a new session: the usual definition of one.
pub(super) const SESSION_GAP: i64 = 30 * 60 * SECOND;
/// A user is present or away for periods of this length; longer than [`SESSION_GAP`], so that being away ends a session.
const PERIOD: i64 = 50 * 60 * SECOND;
/// Share of a user's periods in which they are present.
const PRESENT: f64 = 0.75;
/// Share of users with an account, so that they may log in.
const WITH_ACCOUNT: f64 = 0.4;
/// Share of users with an account who share it with another device of the same person.
const SECOND_DEVICE: f64 = 0.25;
/// Share of users whose browser keeps the third-party cookie.
const WITH_NETWORK_ID: f64 = 0.2;
/// A device clock is off by up to this much.
const SKEW_MAX: i64 = 2 * 3_600 * SECOND;

/// What does not change about a user. Made anew for each event: a few multiplications, against a cache miss to keep it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    /// First-party cookie: the key. Different for every rank, because it comes from a bijection.
    pub domain_userid: u64,
    /// Third-party cookie, if the browser keeps one.
    pub network_userid: Option<(u64, u64)>,
    /// The number of the account, if there is one.
    pub account: Option<u64>,
    /// Index into the catalogue's devices.
    pub device: usize,
    /// The last three bytes of the address.
    pub address: [u8; 3],
    /// What brought them, an index into the catalogue's referrers.
    pub referrer: usize,
    /// How far the device clock is ahead, in microseconds.
    pub skew: i64,
    presence: u64,
}

/// What a user remembers between events. 16 bytes, because there may be a hundred million of them.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Memory {
    /// Seconds since the epoch; 0 before the first event.
    seen: u32,
    page: u32,
    sessions: u32,
    cart: u16,
    logged_in: bool,
}

/// What a user does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deed {
    /// The name of the event.
    pub event: &'static str,
    /// Where.
    pub page: u32,
    /// Which of the user's sessions this belongs to, from 1.
    pub session: u32,
    /// Things in the cart.
    pub cart: u16,
    /// Whether the shop knows who they are.
    pub logged_in: bool,
    /// Whether this begins a session.
    pub arrives: bool,
}

impl Identity {
    pub(super) fn of(seed: u64, rank: u64, skewed_clocks: f64) -> Self {
        // The seed is mixed first, so that neighbouring seeds do not share users.
        let domain_userid = mix(mix(seed) ^ rank);
        let part = |n: u64| mix(domain_userid ^ (n << 56));
        let kept = falls_in(part(1), WITH_NETWORK_ID);
        let account =
            falls_in(part(3), WITH_ACCOUNT).then(|| if falls_in(part(4), SECOND_DEVICE) { rank / 2 } else { rank });
        let skew = (part(6) % (2 * SKEW_MAX as u64 + 1)) as i64 - SKEW_MAX;
        let traits = part(7);
        let [a, b, c, device, referrer, ..] = traits.to_le_bytes();
        Self {
            domain_userid,
            network_userid: kept.then(|| (part(2), traits)),
            account,
            device: usize::from(device) % catalogue::DEVICES.len(),
            address: [a, b, c],
            referrer: usize::from(referrer) % catalogue::REFERRERS.len(),
            skew: if falls_in(part(5), skewed_clocks) { skew } else { 0 },
            presence: part(8),
        }
    }

    /// Whether the user is around at `time`.
    pub(super) fn present(&self, time: Timestamp) -> bool {
        let shift = (self.presence % PERIOD as u64) as i64;
        let period = time.0.wrapping_add(shift).div_euclid(PERIOD);
        falls_in(mix(self.presence ^ period as u64), PRESENT)
    }
}

impl Memory {
    /// What the user does at `time`.
    pub(super) fn act(&mut self, identity: &Identity, time: Timestamp, random: &mut Random) -> Deed {
        let now = u32::try_from(time.0 / SECOND).unwrap_or(u32::MAX).max(1);
        let arrives = self.seen == 0 || i64::from(now.saturating_sub(self.seen)) * SECOND > SESSION_GAP;
        self.seen = now;
        if arrives {
            self.sessions = self.sessions.saturating_add(1);
            self.logged_in = false;
        }
        let event = if arrives { self.view(landing(random)) } else { self.go_on(identity, random) };
        Deed { event, page: self.page, session: self.sessions, cart: self.cart, logged_in: self.logged_in, arrives }
    }

    fn view(&mut self, page: u32) -> &'static str {
        self.page = page;
        "page_view"
    }

    fn go_on(&mut self, identity: &Identity, random: &mut Random) -> &'static str {
        let here = catalogue::kind(self.page);
        match random.below(100) {
            0..40 => self.view(next_page(self.page, self.cart > 0, random)),
            40..66 => "page_ping",
            66..84 => "click",
            84..89 => "search",
            89..92 if identity.account.is_some() && !self.logged_in => {
                self.page = ACCOUNT;
                self.logged_in = true;
                "login"
            }
            92..98 if here == PageKind::Product => {
                self.cart = self.cart.saturating_add(1);
                "add_to_cart"
            }
            92..98 if here == PageKind::Cart && self.cart > 0 => {
                self.cart -= 1;
                "remove_from_cart"
            }
            98.. if self.cart > 0 => {
                self.page = CART;
                self.cart = 0;
                "purchase"
            }
            _ => "page_ping",
        }
    }
}

fn landing(random: &mut Random) -> u32 {
    match random.below(10) {
        0..5 => HOME,
        5..7 => category(random),
        _ => product(random),
    }
}

fn next_page(here: u32, cart: bool, random: &mut Random) -> u32 {
    match (catalogue::kind(here), random.below(10)) {
        (_, 0) if cart => CART,
        (PageKind::Category, 0..7) | (PageKind::Product, 0..4) => product(random),
        (_, 0..8) => category(random),
        _ => HOME,
    }
}

fn category(random: &mut Random) -> u32 {
    FIRST_CATEGORY + random.below(CATEGORY_COUNT) as u32
}

/// The smaller of two draws: some products are seen far more often than others.
fn product(random: &mut Random) -> u32 {
    FIRST_PRODUCT + random.below(PRODUCTS).min(random.below(PRODUCTS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_differ_and_stay_themselves() {
        let ids: std::collections::HashSet<_> =
            (0..50_000).map(|rank| Identity::of(1, rank, 0.0).domain_userid).collect();
        assert_eq!(ids.len(), 50_000);
        assert_eq!(Identity::of(1, 5, 0.5).skew, Identity::of(1, 5, 0.5).skew);
        assert_ne!(Identity::of(1, 5, 0.5).domain_userid, Identity::of(2, 5, 0.5).domain_userid);
    }

    #[test]
    fn a_pause_begins_a_session_and_a_session_begins_with_a_page_view() {
        let (identity, mut memory, mut random) = (Identity::of(1, 1, 0.0), Memory::default(), Random::new(1));
        let mut at = |seconds: i64| memory.act(&identity, Timestamp(seconds * SECOND), &mut random);
        assert_eq!((at(1_000).session, at(1_010).session, at(1_010 + 1_800).session), (1, 1, 1));
        let deed = at(1_010 + 1_800 + 1_801);
        assert_eq!((deed.session, deed.event, deed.logged_in), (2, "page_view", false));
    }
}
