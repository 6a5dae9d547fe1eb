//! How many connections the process can have: each needs a file descriptor, and so do the log, the store and the lake.

/// Descriptors kept for everything that is no connection of a client.
const KEPT: usize = 256;

/// Where Linux says what the process may have.
const LIMITS_FILE: &str = "/proc/self/limits";

/// `wanted` connections, or as many as the process has descriptors for.
pub fn connections_within(wanted: usize) -> usize {
    let open_max = std::fs::read_to_string(LIMITS_FILE).ok().and_then(|text| soft_limit(&text));
    within(wanted, open_max)
}

fn within(wanted: usize, open_max: Option<usize>) -> usize {
    open_max.map_or(wanted, |max| wanted.min(max.saturating_sub(KEPT).max(max / 2)).max(1))
}

/// The soft limit of open files in the text of [`LIMITS_FILE`].
fn soft_limit(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_keeps_descriptors_for_the_store() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             95990                95990                processes \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(soft_limit(text), Some(1024));
        assert_eq!(soft_limit("Max open files            unlimited            unlimited            files"), None);
        assert_eq!(within(10_000, Some(1024)), 768);
        assert_eq!(within(10_000, Some(64)), 32);
        assert_eq!((within(100, Some(1024)), within(10_000, None), within(5, Some(0))), (100, 10_000, 1));
    }
}
