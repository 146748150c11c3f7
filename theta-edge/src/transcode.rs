//! Video: a clip becomes a ladder of renditions, cut into segments that begin with a key frame (edge.md 2.2, 2.3).
//!
//! Segments lie on one grid of frames for all renditions, counted from the clip's beginning, and a group of them is
//! encoded by itself. So groups go to different nodes, and what they give, one after another, is what one node alone would
//! have given.
//!
//! What is done to a clip has four steps, each a task: [`Step::Prepare`] looks at it and copies it with its clock set to
//! zero; then [`Step::Video`] for each group of each rung, [`Step::Sound`] for the whole sound, and [`Step::Source`] for
//! the pictures as they came.

use serde::{Deserialize, Serialize};
use theta_core::codec::rlp::{Encode, encode_list};

use crate::blob::BlobRef;
use crate::job::JobError;

/// Rungs by name: height, and bits of pictures in a second. The heights of the public video service and those between.
const LADDER: [(&str, u32, u32); 6] = [
    ("160p", 160, 200_000),
    ("240p", 240, 400_000),
    ("360p", 360, 800_000),
    ("480p", 480, 1_400_000),
    ("720p", 720, 2_800_000),
    ("1080p", 1080, 5_000_000),
];
/// The name of the pictures as they came.
pub const SOURCE: &str = "source";
/// Rungs of a ladder that nobody asked for by name: the highest that the clip has pictures for.
const DEFAULT_RUNGS: usize = 3;
/// Smallest and largest side of a picture.
const SIDES: (u32, u32) = (16, 8_192);
/// Pictures in a second that are encoded at most.
const MAX_RATE: u32 = 60;
/// Least length of a group of segments, in milliseconds (edge.md 2.3).
const GROUP_MS: u64 = 4_000;
/// Longest clip.
const MAX_SECONDS: u64 = 24 * 3600;
/// Name of the file with what was found out about a clip, and of the prepared copy.
pub const FACTS: &str = "clip.json";
/// The copy with its clock at zero.
pub const COPY: &str = "clip.mkv";

/// Pictures in a second, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Pictures.
    pub num: u32,
    /// In so many seconds.
    pub den: u32,
}

theta_core::rlp_list!(Rate { num, den });

impl Rate {
    /// How many fit into so many milliseconds, to the nearest.
    pub fn frames(self, ms: u64) -> u64 {
        let thousand = 1_000 * u128::from(self.den);
        u64::try_from((u128::from(ms) * u128::from(self.num) + thousand / 2) / thousand).unwrap_or(u64::MAX)
    }

    /// How many milliseconds so many take, to the nearest.
    pub fn ms(self, frames: u64) -> u64 {
        let num = u128::from(self.num);
        u64::try_from((u128::from(frames) * 1_000 * u128::from(self.den) + num / 2) / num).unwrap_or(u64::MAX)
    }

    /// Seconds at which a picture is shown, with microseconds.
    pub fn seconds(self, frame: u64) -> f64 {
        frame as f64 * f64::from(self.den) / f64::from(self.num)
    }

    /// Within what is encoded; anything else is 30 in a second.
    #[must_use]
    pub fn sane(self) -> Self {
        let good = self.num > 0 && self.den > 0 && u64::from(self.num) >= u64::from(self.den);
        if !good || self.num > 1_000_000 || self.den > 1_000_000 {
            return Self { num: 30, den: 1 };
        }
        if u64::from(self.num) > u64::from(MAX_RATE) * u64::from(self.den) {
            return Self { num: MAX_RATE, den: 1 };
        }
        self
    }
}

/// What was found out about a clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Clip {
    /// Of the pictures as they are shown: with square pixels, upright.
    pub width: u32,
    /// The same.
    pub height: u32,
    /// Pictures in a second.
    pub rate: Rate,
    /// Pictures in all, at that rate.
    pub frames: u64,
    /// When the first one is shown in the copy, in microseconds: sound may begin before it.
    pub begin_us: u64,
    /// Whether there is sound.
    pub sound: bool,
    /// Whether the pictures can be shown as they came: H.264 in 8-bit 4:2:0.
    pub plain: bool,
}

impl Clip {
    /// Whether it can be worked on.
    pub fn check(&self) -> Result<(), JobError> {
        let side = |side: u32| (SIDES.0..=SIDES.1).contains(&side);
        if !side(self.width) || !side(self.height) {
            return Err(JobError::field("source", "has pictures with a side outside 16 to 8192"));
        }
        if self.rate != self.rate.sane() {
            return Err(JobError::field("source", "has a rate that no picture is shown at"));
        }
        if self.frames == 0 {
            return Err(JobError::field("source", "has no pictures"));
        }
        if self.rate.ms(self.frames) > MAX_SECONDS * 1000 || self.begin_us > MAX_SECONDS * 1_000_000 {
            return Err(JobError::field("source", "is longer than a day"));
        }
        Ok(())
    }
}

/// One rendition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// Its name, such as `360p`.
    pub name: String,
    /// Even.
    pub width: u32,
    /// Even.
    pub height: u32,
    /// Bits of pictures in a second, at most.
    pub bits: u32,
}

theta_core::rlp_list!(Rung { name, width, height, bits });

const fn even(side: u64) -> u32 {
    let side = side / 2 * 2;
    if side < 2 { 2 } else { side as u32 }
}

/// The rung of a height, its width by the clip's proportions. Both are even, as 4:2:0 needs.
fn rung(clip: &Clip, name: &str, height: u32, bits: u32) -> Rung {
    let (width, of) = (u64::from(clip.width), u64::from(clip.height));
    let height = even(u64::from(height));
    let exact = width * u64::from(height);
    // To the nearest even number.
    let width = even((exact + of) / of);
    Rung { name: name.to_owned(), width, height, bits }
}

/// The renditions of a clip. No names: the three highest that it has pictures for, or its own size where it is lower than
/// every rung. Named ones above its height are left out; [`SOURCE`] is no rung and passed over.
pub fn ladder(clip: &Clip, names: &[String]) -> Result<Vec<Rung>, JobError> {
    clip.check()?;
    for name in names {
        if name != SOURCE && !LADDER.iter().any(|(known, ..)| known == name) {
            let problem = "names a rung that is none of 160p, 240p, 360p, 480p, 720p, 1080p and source";
            return Err(JobError::field("ladder", problem));
        }
    }
    let fits = LADDER.iter().filter(|(_, height, _)| *height <= clip.height);
    let mut rungs: Vec<Rung> = if names.is_empty() {
        let fits: Vec<_> = fits.collect();
        let highest = fits.len().saturating_sub(DEFAULT_RUNGS);
        fits[highest..].iter().map(|(name, height, bits)| rung(clip, name, *height, *bits)).collect()
    } else {
        let named = fits.filter(|(name, ..)| names.iter().any(|asked| asked == name));
        named.map(|(name, height, bits)| rung(clip, name, *height, *bits)).collect()
    };
    let source_only = names.iter().all(|name| name == SOURCE) && !names.is_empty();
    if rungs.is_empty() && !source_only {
        let own = rung(clip, &format!("{}p", clip.height), clip.height, LADDER[0].2);
        rungs.push(own);
    }
    rungs.retain(|rung| (2..=SIDES.1).contains(&rung.width));
    Ok(rungs)
}

/// Where a clip is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// Pictures in a second.
    pub rate: Rate,
    /// Pictures in the clip.
    pub frames: u64,
    /// Pictures in a segment; the last may have fewer.
    pub per_segment: u64,
    /// When the first picture is shown in the copy, in microseconds.
    pub begin_us: u64,
}

theta_core::rlp_list!(Grid { rate, frames, per_segment, begin_us });

impl Grid {
    /// The grid of a clip for segments of so many milliseconds, 1,000 to 10,000.
    pub fn new(clip: &Clip, segment_ms: u64) -> Result<Self, JobError> {
        if !(1_000..=10_000).contains(&segment_ms) {
            return Err(JobError::field("segmentSeconds", "is a number from 1 to 10"));
        }
        let per_segment = clip.rate.frames(segment_ms).max(1);
        Ok(Self { rate: clip.rate, frames: clip.frames, per_segment, begin_us: clip.begin_us })
    }

    /// Segments in all.
    pub const fn segments(&self) -> u64 {
        self.frames.div_ceil(self.per_segment)
    }

    /// Pictures in a group of segments that begins with this one.
    pub fn frames_in(&self, first: u64, count: u64) -> u64 {
        let begin = first.saturating_mul(self.per_segment).min(self.frames);
        let end = first.saturating_add(count).saturating_mul(self.per_segment).min(self.frames);
        end - begin
    }

    /// How long a segment is, in milliseconds.
    pub fn segment_ms(&self, segment: u64) -> u64 {
        let begin = self.rate.ms(segment * self.per_segment);
        self.rate.ms(((segment + 1) * self.per_segment).min(self.frames)).saturating_sub(begin)
    }

    /// Groups of segments that are encoded together: the first of each, and how many.
    pub fn groups(&self) -> Vec<(u64, u64)> {
        let each = GROUP_MS.div_ceil(self.rate.ms(self.per_segment).max(1)).max(1);
        let count = self.segments();
        (0..count).step_by(each as usize).map(|first| (first, each.min(count - first))).collect()
    }

    fn check(&self) -> Result<(), JobError> {
        if self.rate != self.rate.sane() || self.frames == 0 || self.per_segment == 0 {
            return Err(JobError::field("step", "has a grid without pictures"));
        }
        if self.rate.ms(self.frames) > MAX_SECONDS * 1000 || self.begin_us > MAX_SECONDS * 1_000_000 {
            return Err(JobError::field("step", "is longer than a day"));
        }
        Ok(())
    }
}

/// What is done to a clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Leaves [`FACTS`] and [`COPY`].
    Prepare,
    /// A group of segments of one rung, as `<segment>.ts`.
    Video {
        /// Which rendition.
        rung: Rung,
        /// Where the clip is cut.
        grid: Grid,
        /// The first segment.
        first: u64,
        /// How many.
        count: u64,
    },
    /// All sound, cut at the times of the grid, as `<segment>.ts` with the lengths in `list.csv`.
    Sound {
        /// Where the clip is cut.
        grid: Grid,
        /// Bits in a second.
        bits: u32,
    },
    /// The pictures as they came, cut at key frames no earlier than the grid says, as `<segment>.ts` with the lengths in
    /// `list.csv`.
    Source {
        /// Where the clip is cut.
        grid: Grid,
    },
}

/// A step of work on a clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscodeWork {
    /// The clip: as it came for [`Step::Prepare`], else the prepared copy.
    pub source: BlobRef,
    /// What to do.
    pub step: Step,
}

impl TranscodeWork {
    /// What the work is measured by, in the units that a job's fuel counts: pictures' points that come out, samples of
    /// sound, or bytes that are copied.
    pub fn units(&self) -> u64 {
        match &self.step {
            Step::Prepare | Step::Source { .. } => self.source.len.max(1),
            Step::Video { rung, grid, first, count } => {
                let points = u64::from(rung.width) * u64::from(rung.height);
                points.saturating_mul(grid.frames_in(*first, *count))
            }
            Step::Sound { grid, .. } => grid.rate.ms(grid.frames).saturating_mul(48),
        }
    }

    pub(crate) fn check(&self) -> Result<(), JobError> {
        match &self.step {
            Step::Prepare => Ok(()),
            Step::Source { grid } => grid.check(),
            Step::Sound { grid, bits } => {
                grid.check()?;
                if (8_000..=512_000).contains(bits) {
                    Ok(())
                } else {
                    Err(JobError::field("step", "has a rate of sound outside 8,000 to 512,000"))
                }
            }
            Step::Video { rung, grid, first, count } => {
                grid.check()?;
                let side = |side: u32| (2..=SIDES.1).contains(&side) && side.is_multiple_of(2);
                if !side(rung.width) || !side(rung.height) || !(10_000..=100_000_000).contains(&rung.bits) {
                    return Err(JobError::field("step", "has a rung that cannot be encoded"));
                }
                if *count == 0 || *count > 64 || first.saturating_add(*count) > grid.segments() {
                    return Err(JobError::field("step", "has segments that the clip has not"));
                }
                Ok(())
            }
        }
    }
}

impl Encode for TranscodeWork {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            "transcode".to_owned().encode(out);
            self.source.hash.0.encode(out);
            self.source.len.encode(out);
            match &self.step {
                Step::Prepare => 0_u8.encode(out),
                Step::Video { rung, grid, first, count } => {
                    1_u8.encode(out);
                    rung.encode(out);
                    grid.encode(out);
                    first.encode(out);
                    count.encode(out);
                }
                Step::Sound { grid, bits } => {
                    2_u8.encode(out);
                    grid.encode(out);
                    bits.encode(out);
                }
                Step::Source { grid } => {
                    3_u8.encode(out);
                    grid.encode(out);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(width: u32, height: u32, frames: u64) -> Clip {
        Clip { width, height, rate: Rate { num: 30, den: 1 }, frames, begin_us: 0, sound: true, plain: true }
    }

    fn sizes(clip: &Clip, names: &[&str]) -> Vec<(u32, u32)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        ladder(clip, &names).unwrap().iter().map(|rung| (rung.width, rung.height)).collect()
    }

    #[test]
    fn sizes_are_even_and_keep_their_proportions() {
        assert_eq!(sizes(&clip(1366, 768, 60), &["240p", "360p"]), [(426, 240), (640, 360)]);
        assert_eq!(sizes(&clip(641, 361, 60), &[]), [(284, 160), (426, 240), (640, 360)]);
        assert_eq!(sizes(&clip(1920, 1080, 60), &[]), [(854, 480), (1280, 720), (1920, 1080)]);
        assert_eq!(sizes(&clip(4096, 16, 60), &[]), [(4096, 16)]);
        assert_eq!(sizes(&clip(320, 180, 60), &["720p"]), [(320, 180)]);
        assert_eq!(sizes(&clip(320, 180, 60), &["source"]), []);
        assert!(ladder(&clip(2, 2, 60), &[]).is_err());
        assert!(ladder(&clip(320, 180, 60), &["361p".into()]).is_err());
        for (width, height) in [(1435, 771), (641, 361), (1366, 768), (720, 1280)] {
            for rung in ladder(&clip(width, height, 60), &[]).unwrap() {
                let (ours, theirs) = (rung.width as f64 / rung.height as f64, width as f64 / height as f64);
                assert!((ours / theirs - 1.0).abs() < 0.01, "{rung:?}");
            }
        }
    }

    #[test]
    fn the_grid_has_every_picture_once() {
        for (rate, frames, ms) in [
            (Rate { num: 30, den: 1 }, 630, 4_000),
            (Rate { num: 30_000, den: 1_001 }, 1_000, 2_000),
            (Rate { num: 25, den: 1 }, 1, 2_000),
        ] {
            let clip = Clip { rate, ..clip(640, 360, frames) };
            let grid = Grid::new(&clip, ms).unwrap();
            let groups = grid.groups();
            let mut next = 0;
            let mut all = 0;
            for (first, count) in groups {
                assert_eq!(first, next);
                next += count;
                all += grid.frames_in(first, count);
            }
            assert_eq!((next, all), (grid.segments(), frames));
            let long: u64 = (0..grid.segments()).map(|segment| grid.segment_ms(segment)).sum();
            assert_eq!(long, rate.ms(frames));
        }
        let grid = Grid::new(&clip(640, 360, 630), 4_000).unwrap();
        let lengths: Vec<_> = (0..grid.segments()).map(|segment| grid.segment_ms(segment)).collect();
        assert_eq!(lengths, [4_000, 4_000, 4_000, 4_000, 4_000, 1_000]);
        assert!(Grid::new(&clip(640, 360, 630), 500).is_err());
    }

    #[test]
    fn a_rate_that_is_none_becomes_one() {
        assert_eq!(Rate { num: 0, den: 0 }.sane(), Rate { num: 30, den: 1 });
        assert_eq!(Rate { num: 90_000, den: 1 }.sane(), Rate { num: 60, den: 1 });
        assert_eq!(Rate { num: 1, den: 2 }.sane(), Rate { num: 30, den: 1 });
        assert_eq!(Rate { num: 24_000, den: 1_001 }.sane(), Rate { num: 24_000, den: 1_001 });
    }

    #[test]
    fn steps_that_cannot_be_done_are_refused() {
        let grid = Grid::new(&clip(640, 360, 630), 4_000).unwrap();
        let rung = Rung { name: "360p".into(), width: 640, height: 360, bits: 800_000 };
        let work = |step| TranscodeWork { source: BlobRef::of(b"clip"), step };
        assert!(work(Step::Video { rung: rung.clone(), grid, first: 4, count: 2 }).check().is_ok());
        assert!(work(Step::Video { rung: rung.clone(), grid, first: 5, count: 2 }).check().is_err());
        assert!(work(Step::Video { rung: rung.clone(), grid, first: 0, count: 0 }).check().is_err());
        let odd = Rung { width: 641, ..rung };
        assert!(work(Step::Video { rung: odd, grid, first: 0, count: 1 }).check().is_err());
        let none = Grid { per_segment: 0, ..grid };
        assert!(work(Step::Sound { grid: none, bits: 128_000 }).check().is_err());
        let endless = Grid { frames: u64::MAX, ..grid };
        assert!(work(Step::Source { grid: endless }).check().is_err());
    }
}
