//! The only reading of the clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970. A clock set before that reads as 0.
pub fn now_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
