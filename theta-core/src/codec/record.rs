//! Rows that never leave the node that wrote them: journals and marks. The only file that names bincode.
//!
//! A record is one version byte and the bincode form of the value. A version that is not known is refused, so that an
//! older program never misreads what a newer one wrote.

use serde::{Serialize, de::DeserializeOwned};

/// A record is never larger; blocks that a node voted for are the largest ones.
pub const MAX_RECORD: usize = 64 * 1024 * 1024;

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Written by another version of the program.
    #[error("record version {found} where {expected} is understood")]
    Version {
        /// What the record says.
        found: u8,
        /// What this program reads.
        expected: u8,
    },
    /// Empty, cut, too long, or with bytes behind the value.
    #[error("damaged record")]
    Damaged,
    /// Larger than [`MAX_RECORD`].
    #[error("record is larger than {MAX_RECORD} bytes")]
    TooLarge,
}

const fn config() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_RECORD>,
> {
    bincode::config::standard().with_limit::<MAX_RECORD>()
}

/// Encodes a value behind its version byte.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![version];
    bincode::serde::encode_into_std_write(value, &mut bytes, config()).map_err(|_| RecordError::TooLarge)?;
    if bytes.len() > MAX_RECORD {
        return Err(RecordError::TooLarge);
    }
    Ok(bytes)
}

/// Decodes what [`encode`] wrote; every byte has to be used.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, RecordError> {
    let (found, body) = bytes.split_first().ok_or(RecordError::Damaged)?;
    if *found != version {
        return Err(RecordError::Version { found: *found, expected: version });
    }
    let (value, used) =
        bincode::serde::decode_from_slice(body, config()).map_err(|_| RecordError::Damaged)?;
    if used == body.len() { Ok(value) } else { Err(RecordError::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        let bytes = encode(1, &(7_u64, "lock")).expect("small");
        assert_eq!(decode::<(u64, String)>(1, &bytes).expect("whole"), (7, "lock".to_owned()));
        assert!(matches!(
            decode::<(u64, String)>(2, &bytes),
            Err(RecordError::Version { found: 1, expected: 2 })
        ));
        for cut in 0..bytes.len() {
            assert!(decode::<(u64, String)>(1, &bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(decode::<(u64, String)>(1, &longer), Err(RecordError::Damaged)));
    }
}
