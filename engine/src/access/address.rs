//! Where a request comes from: behind proxies that are trusted, and how much of the address is kept.
//!
//! Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Bits of an IPv4 address that truncation keeps: the network of 256 addresses.
const V4_BITS: u32 = 24;
/// Bits of an IPv6 address that truncation keeps: what a provider gives to one site.
const V6_BITS: u32 = 48;

/// How much of a client's address is kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum IpPolicy {
    /// All of it.
    Keep,
    /// The network: `/24` of IPv4, `/48` of IPv6; the other bits are 0.
    #[default]
    Truncate,
    /// Nothing.
    Drop,
}

impl IpPolicy {
    /// As topologies have them.
    pub const NAMES: [&'static str; 3] = ["keep", "truncate", "drop"];

    /// The policy of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Keep, Self::Truncate, Self::Drop].into_iter().zip(Self::NAMES).find(|(_, n)| *n == name).map(|(p, _)| p)
    }

    /// What is kept of `address`.
    pub fn apply(self, address: IpAddr) -> Option<IpAddr> {
        match (self, address.to_canonical()) {
            (Self::Drop, _) => None,
            (Self::Keep, address) => Some(address),
            (Self::Truncate, IpAddr::V4(v4)) => {
                Some(Ipv4Addr::from_bits(v4.to_bits() & (u32::MAX << (32 - V4_BITS))).into())
            }
            (Self::Truncate, IpAddr::V6(v6)) => {
                Some(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - V6_BITS))).into())
            }
        }
    }

    /// What is kept of a text that should be an address. What is none is not kept, unless everything is.
    pub fn apply_text(self, text: &str) -> Option<String> {
        match self {
            Self::Keep => Some(text.to_owned()),
            policy => Some(policy.apply(hop(text)?)?.to_string()),
        }
    }
}

/// The client's address: the peer's, or, where the peer is a trusted proxy, the last one in `forwarded` (the values of
/// `X-Forwarded-For`, in their order) that is no trusted proxy itself. What stands before that is the client's own claim.
pub fn client<'a>(peer: IpAddr, forwarded: impl DoubleEndedIterator<Item = &'a str>, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let mut client = peer.to_canonical();
    for text in forwarded.rev().flat_map(|value| value.rsplit(',')) {
        if !is_trusted(client) {
            break;
        }
        match hop(text) {
            Some(address) => client = address,
            None => break, // nobody knows what stands before what cannot be read
        }
    }
    client
}

/// `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    bare().or_else(with_port).or_else(in_brackets).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_are_kept_cut_or_dropped() {
        for (full, cut) in [
            ("203.0.113.77", "203.0.113.0"),
            ("2001:db8:1234:5678::9", "2001:db8:1234::"),
            ("::ffff:203.0.113.77", "203.0.113.0"),
        ] {
            assert_eq!(IpPolicy::Truncate.apply(ip(full)), Some(ip(cut)));
            assert_eq!(IpPolicy::Keep.apply(ip(full)), Some(ip(full).to_canonical()));
            assert_eq!(IpPolicy::Drop.apply(ip(full)), None);
        }
        assert_eq!(IpPolicy::Truncate.apply_text("[2001:db8:1:2::3]:80").as_deref(), Some("2001:db8:1::"));
        assert_eq!(IpPolicy::Truncate.apply_text("alice"), None);
        assert_eq!(IpPolicy::Keep.apply_text("alice").as_deref(), Some("alice"));
        assert!(IpPolicy::NAMES.iter().all(|name| IpPolicy::of_name(name).is_some()));
    }

    #[test]
    fn the_last_hop_that_is_no_trusted_proxy_is_the_client() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].iter().map(|n| n.parse().expect("a network")).collect();
        for (peer, forwarded, client_is) in [
            ("203.0.113.1", &["1.1.1.1"][..], "203.0.113.1"), // not a proxy of ours: its claim counts for nothing
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.7, 10.1.1.1"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("fd00::1", &["[2001:db8::7]:443"], "2001:db8::7"),
            ("10.0.0.1", &["198.51.100.7, nonsense"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["", " "], "10.0.0.1"),
        ] {
            assert_eq!(client(ip(peer), forwarded.iter().copied(), &trusted), ip(client_is), "{peer} {forwarded:?}");
        }
    }

    proptest! {
        #[test]
        fn truncation_is_idempotent_and_forgets_the_host(bits in any::<u32>(), wide in any::<u128>()) {
            for address in [IpAddr::from(bits.to_be_bytes()), IpAddr::from(wide.to_be_bytes())] {
                let cut = IpPolicy::Truncate.apply(address).expect("not dropped");
                prop_assert_eq!(IpPolicy::Truncate.apply(cut), Some(cut));
                match cut {
                    IpAddr::V4(v4) => prop_assert_eq!(v4.octets()[3], 0),
                    IpAddr::V6(v6) => prop_assert!(v6.octets()[6..].iter().all(|b| *b == 0)),
                }
            }
        }

        /// Whatever a client claims, with no proxy between, it is its peer address.
        #[test]
        fn nobody_speaks_for_another_without_a_trusted_proxy(claims in prop::collection::vec("[0-9a-f.:, \\[\\]]{0,40}", 0..4)) {
            let trusted = ["10.0.0.0/8".parse::<IpNet>().expect("a network")];
            let peer = ip("203.0.113.9");
            prop_assert_eq!(client(peer, claims.iter().map(String::as_str), &trusted), peer);
            // And behind one, what the proxy itself saw counts, not what came before it.
            let seen = claims.iter().map(String::as_str).chain(["198.51.100.1"]);
            prop_assert_eq!(client(ip("10.0.0.1"), seen.collect::<Vec<_>>().into_iter(), &trusted), ip("198.51.100.1"));
        }
    }
}
