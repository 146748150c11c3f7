//! Cutting an input into chunks for parallel work (edge.md 2.3).
//!
//! A line ends at the byte 0x0a and nothing else: carriage returns and quotes are not looked at. Chunks in their order are
//! the input, byte for byte, so the identity as mapper and concatenation as merge give back what went in.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Where an input is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// After so many lines. The last chunk may have fewer, and its last line no end.
    Lines(u64),
    /// At the first end of a line after so many bytes.
    Bytes(u64),
}

/// Cuts an input that comes piece by piece, so that none of it has to be kept.
#[derive(Clone, Debug)]
pub struct Cutter {
    split: Split,
    at: u64,
    start: u64,
    lines: u64,
}

impl Cutter {
    /// At the beginning of an input. A count of nothing counts as one.
    pub const fn new(split: Split) -> Self {
        Self { split, at: 0, start: 0, lines: 0 }
    }

    /// Takes the next bytes and adds the chunks that end in them.
    pub fn push(&mut self, bytes: &[u8], chunks: &mut Vec<Range<u64>>) {
        for byte in bytes {
            self.at += 1;
            if *byte != b'\n' {
                continue;
            }
            self.lines += 1;
            let full = match self.split {
                Split::Lines(lines) => self.lines >= lines.max(1),
                Split::Bytes(bytes) => self.at - self.start >= bytes,
            };
            if full {
                chunks.push(self.start..self.at);
                (self.start, self.lines) = (self.at, 0);
            }
        }
    }

    /// The last chunk, unless the input ended with one.
    pub fn finish(self) -> Option<Range<u64>> {
        (self.start < self.at).then_some(self.start..self.at)
    }
}

/// The chunks of an input that is here as a whole.
///
/// ```
/// use theta_edge::split::{Split, cut};
/// assert_eq!(cut(b"a\nb\nlast", Split::Lines(2)), [0..4, 4..8]);
/// assert!(cut(b"", Split::Lines(2)).is_empty());
/// ```
pub fn cut(input: &[u8], split: Split) -> Vec<Range<u64>> {
    let (mut cutter, mut chunks) = (Cutter::new(split), Vec::new());
    cutter.push(input, &mut chunks);
    chunks.extend(cutter.finish());
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(input: &[u8], split: Split) -> Vec<&[u8]> {
        cut(input, split).into_iter().map(|range| &input[range.start as usize..range.end as usize]).collect()
    }

    fn lines(input: &[u8]) -> usize {
        input.iter().filter(|byte| **byte == b'\n').count()
            + usize::from(!matches!(input.last(), None | Some(b'\n')))
    }

    #[test]
    fn cutting_text_by_lines_loses_doubles_and_changes_nothing() {
        let long = vec![b'x'; 5 << 20];
        let every_byte: Vec<u8> = (0..=255).cycle().take(2_000).collect();
        let inputs: [&[u8]; 6] =
            [b"a,1\r\nb,2\r\n\r\n\"c\nd\",3\r\nlast", b"", &long, b"\n\n\n", &every_byte, b"one\n"];
        for input in inputs {
            for count in [1, 2, 3, 1_000] {
                let pieces = pieces(input, Split::Lines(count));
                assert_eq!(pieces.concat(), input);
                assert_eq!(
                    pieces.len(),
                    lines(input).div_ceil(count as usize),
                    "{count} of {}",
                    lines(input)
                );
            }
        }
        assert_eq!(pieces(b"a\n\"b\nc\"\n", Split::Lines(1)), [b"a\n".as_slice(), b"\"b\n", b"c\"\n"]);
        assert_eq!(cut(b"a\nb", Split::Lines(0)).len(), 2, "nothing counts as one");
    }

    #[test]
    fn chunks_by_bytes_end_with_a_line() {
        assert_eq!(pieces(b"aaaa\nbb\ncc\ndddd", Split::Bytes(6)), [b"aaaa\nbb\n".as_slice(), b"cc\ndddd"]);
        assert_eq!(pieces(b"no line at all", Split::Bytes(3)), [b"no line at all".as_slice()]);
    }

    proptest! {
        #[test]
        fn what_comes_in_pieces_is_cut_as_a_whole(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            piece in 1..40_usize, count in 1..9_u64, by_lines: bool
        ) {
            let split = if by_lines { Split::Lines(count) } else { Split::Bytes(count * 7) };
            let (mut cutter, mut chunks) = (Cutter::new(split), Vec::new());
            input.chunks(piece).for_each(|piece| cutter.push(piece, &mut chunks));
            chunks.extend(cutter.finish());
            prop_assert_eq!(&chunks, &cut(&input, split));
            let mut end = 0;
            for chunk in chunks {
                prop_assert_eq!(chunk.start, end);
                prop_assert!(chunk.end > chunk.start);
                end = chunk.end;
            }
            prop_assert_eq!(end, input.len() as u64);
        }
    }
}
