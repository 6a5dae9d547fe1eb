//! What the actors rely on, whatever stands behind a port: one suite per port, written once against the trait, that both
//! of its homes pass. What a home does beyond that is tested beside it.

/// Makes each case a test of each home: `log::nats::<case>` runs the case `<case>` of `log` against a fresh NATS home.
macro_rules! contract {
    ($home:ident: $first:ident, $second:ident; $($case:ident),+ $(,)?) => {
        mod $first {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    super::$case(super::$home::$first()).await;
                }
            )+
        }
        mod $second {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    super::$case(super::$home::$second()).await;
                }
            )+
        }
    };
}

#[path = "contract/backend.rs"]
mod backend;
#[path = "contract/lake.rs"]
mod lake;
#[path = "contract/log.rs"]
mod log;
#[path = "contract/store.rs"]
mod store;

/// Bytes that look like nothing and do not compress; the same for the same `seed`.
fn noise(seed: u64, len: usize) -> bytes::Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}
