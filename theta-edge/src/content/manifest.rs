//! A clip as it is published: renditions of one film, cut into segments at the same times (edge.md 6.2), and the playlists
//! that players read.

use m3u8_rs::{
    AlternativeMedia, AlternativeMediaType, MasterPlaylist, MediaPlaylist, MediaPlaylistType, MediaSegment,
    Resolution, VariantStream,
};
use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;

/// Largest manifest in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Renditions of pictures.
const MAX_RENDITIONS: usize = 12;
/// Segments of a rendition.
const MAX_SEGMENTS: usize = 90_000;
/// Longest segment in milliseconds; those of a source are as long as its key frames are apart.
const MAX_MS: u64 = 120_000;
/// Bytes of a segment.
const MAX_SEGMENT: u64 = 64 << 20;
const MAX_TITLE: usize = 200;
/// The name of the sound.
pub const SOUND: &str = "sound";
/// Version of the form.
const VERSION: u32 = 1;

/// A piece of a rendition that can be played by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// How long it is.
    pub ms: u64,
    /// Its bytes.
    pub blob: BlobRef,
}

/// One way to see or hear the film.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rendition {
    /// Its name, such as `360p`, which is part of its URL.
    pub name: String,
    /// Of the pictures, 0 for sound.
    pub width: u32,
    /// The same.
    pub height: u32,
    /// Pictures in a thousand seconds, 0 for sound.
    pub rate: u32,
    /// Its codec as players name it, such as `avc1.4d4028`.
    pub codec: String,
    /// In the order in which they are played.
    pub segments: Vec<Segment>,
}

/// A published clip. Its name is the hash of its bytes in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub version: u32,
    /// What it is called.
    pub title: String,
    /// Ways to see it, the smallest first.
    pub pictures: Vec<Rendition>,
    /// What is heard with any of them.
    pub sound: Option<Rendition>,
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Too many bytes.
    #[error("a manifest has {MAX_BYTES} bytes at most")]
    TooLarge,
    /// Not one in JSON.
    #[error("it is no manifest: {0}")]
    Form(#[from] serde_json::Error),
    /// It says what cannot be.
    #[error("the manifest's {0}")]
    Field(&'static str),
}

/// Bits in a second: of the busiest segment, and over all.
fn bits(segments: &[Segment]) -> (u64, u64) {
    let rate = |len: u64, ms: u64| {
        u64::try_from(u128::from(len) * 8_000 / u128::from(ms.max(1))).unwrap_or(u64::MAX)
    };
    let peak = segments.iter().map(|segment| rate(segment.blob.len, segment.ms)).max().unwrap_or(0);
    let (len, ms) = segments.iter().fold((0, 0), |(len, ms), one| (len + one.blob.len, ms + one.ms));
    (peak, rate(len, ms))
}

impl Rendition {
    fn check(&self) -> Result<(), ManifestError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if self.name.is_empty() || self.name.len() > 16 || !self.name.chars().all(plain) {
            return Err(ManifestError::Field("renditions have names of 16 small letters and digits at most"));
        }
        let codec = |c: char| c.is_ascii_alphanumeric() || c == '.';
        if self.codec.is_empty() || self.codec.len() > 32 || !self.codec.chars().all(codec) {
            return Err(ManifestError::Field("codecs are such as avc1.4d4028"));
        }
        if self.segments.is_empty() || self.segments.len() > MAX_SEGMENTS {
            return Err(ManifestError::Field("renditions have 1 to 90,000 segments"));
        }
        let good = |segment: &Segment| {
            (1..=MAX_MS).contains(&segment.ms) && (1..=MAX_SEGMENT).contains(&segment.blob.len)
        };
        if !self.segments.iter().all(good) {
            return Err(ManifestError::Field("segments last 1 to 120,000 ms and have 1 to 67,108,864 bytes"));
        }
        if self.width > 16_384 || self.height > 16_384 || self.rate > 1_000_000 {
            return Err(ManifestError::Field("pictures are larger or faster than any screen"));
        }
        Ok(())
    }

    fn playlist(&self) -> MediaPlaylist {
        let segment = |(number, segment): (usize, &Segment)| MediaSegment {
            uri: format!("{number}.ts"),
            duration: segment.ms as f32 / 1_000.0,
            ..MediaSegment::default()
        };
        let target = self.segments.iter().map(|segment| (segment.ms + 500) / 1_000).max().unwrap_or(1).max(1);
        MediaPlaylist {
            version: Some(6),
            target_duration: target,
            segments: self.segments.iter().enumerate().map(segment).collect(),
            end_list: true,
            playlist_type: Some(MediaPlaylistType::Vod),
            independent_segments: true,
            ..MediaPlaylist::default()
        }
    }
}

fn text(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = write(&mut out);
    String::from_utf8(out).unwrap_or_default()
}

impl Manifest {
    /// One of version 1; fails where [`Self::parse`] does.
    pub fn new(
        title: &str,
        pictures: Vec<Rendition>,
        sound: Option<Rendition>,
    ) -> Result<Self, ManifestError> {
        let manifest = Self { version: VERSION, title: title.to_owned(), pictures, sound };
        manifest.check()?;
        Ok(manifest)
    }

    /// Its bytes, which name it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        let bytes = serde_json::to_vec(self)?;
        if bytes.len() > MAX_BYTES { Err(ManifestError::TooLarge) } else { Ok(bytes) }
    }

    /// Reads one that came from anybody.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.version != VERSION {
            return Err(ManifestError::Field("version is not 1"));
        }
        if self.title.len() > MAX_TITLE || self.title.chars().any(char::is_control) {
            return Err(ManifestError::Field("title has more than 200 bytes, or some that are no text"));
        }
        if self.pictures.is_empty() || self.pictures.len() > MAX_RENDITIONS {
            return Err(ManifestError::Field("pictures come in 1 to 12 renditions"));
        }
        let mut names = Vec::new();
        for rendition in self.pictures.iter().chain(&self.sound) {
            rendition.check()?;
            if names.contains(&&rendition.name) {
                return Err(ManifestError::Field("renditions have one name twice"));
            }
            names.push(&rendition.name);
        }
        if self.sound.as_ref().is_some_and(|sound| sound.name != SOUND) {
            return Err(ManifestError::Field("sound has another name than sound"));
        }
        Ok(())
    }

    /// A rendition by its name, the sound included.
    pub fn rendition(&self, name: &str) -> Option<&Rendition> {
        self.pictures.iter().chain(&self.sound).find(|rendition| rendition.name == name)
    }

    /// Every blob of it but its own bytes.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> + '_ {
        let renditions = self.pictures.iter().chain(&self.sound);
        renditions.flat_map(|rendition| &rendition.segments).map(|segment| segment.blob)
    }

    /// How long it plays, in milliseconds.
    pub fn ms(&self) -> u64 {
        self.pictures.iter().map(|one| one.segments.iter().map(|segment| segment.ms).sum()).max().unwrap_or(0)
    }

    /// The playlist of renditions, whose own are at `<name>/index.m3u8`.
    pub fn master(&self) -> String {
        let sound = self.sound.as_ref();
        let heard = sound.map_or((0, 0), |sound| bits(&sound.segments));
        let variant = |pictures: &Rendition| {
            let (peak, average) = bits(&pictures.segments);
            let codecs =
                sound.map_or(pictures.codec.clone(), |sound| format!("{},{}", pictures.codec, sound.codec));
            VariantStream {
                uri: format!("{}/index.m3u8", pictures.name),
                bandwidth: peak + heard.0,
                average_bandwidth: Some(average + heard.1),
                codecs: Some(codecs),
                resolution: Some(Resolution { width: pictures.width.into(), height: pictures.height.into() }),
                frame_rate: Some(f64::from(pictures.rate) / 1_000.0),
                audio: sound.map(|_| SOUND.to_owned()),
                ..VariantStream::default()
            }
        };
        let alternative = |sound: &Rendition| AlternativeMedia {
            media_type: AlternativeMediaType::Audio,
            uri: Some(format!("{}/index.m3u8", sound.name)),
            group_id: SOUND.to_owned(),
            name: SOUND.to_owned(),
            default: true,
            autoselect: true,
            channels: Some("2".to_owned()),
            ..AlternativeMedia::default()
        };
        let playlist = MasterPlaylist {
            version: Some(6),
            independent_segments: true,
            variants: self.pictures.iter().map(variant).collect(),
            alternatives: sound.map(alternative).into_iter().collect(),
            ..MasterPlaylist::default()
        };
        text(|out| playlist.write_to(out))
    }

    /// The playlist of a rendition, whose segments are at `<number>.ts` beside it.
    pub fn playlist(&self, name: &str) -> Option<String> {
        let playlist = self.rendition(name)?.playlist();
        Some(text(|out| playlist.write_to(out)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(ms: u64, bytes: &[u8]) -> Segment {
        Segment { ms, blob: BlobRef::of(bytes) }
    }

    fn manifest() -> Manifest {
        let rendition = |name: &str, width, height, codec: &str, bytes: &[u8]| Rendition {
            name: name.into(),
            width,
            height,
            rate: if width == 0 { 0 } else { 29_970 },
            codec: codec.into(),
            segments: vec![segment(2_002, bytes), segment(2_600, bytes), segment(900, bytes)],
        };
        let pictures = vec![
            rendition("160p", 284, 160, "avc1.4d4028", &[1; 50_000]),
            rendition("360p", 640, 360, "avc1.4d4028", &[1; 200_000]),
        ];
        let sound = rendition(SOUND, 0, 0, "mp4a.40.2", &[1; 16_000]);
        Manifest::new("A clip", pictures, Some(sound)).unwrap()
    }

    #[test]
    fn playlists_say_what_a_player_has_to_know() {
        let manifest = manifest();
        let master = m3u8_rs::parse_master_playlist_res(manifest.master().as_bytes()).unwrap();
        assert_eq!(master.variants.len(), 2);
        let big = &master.variants[1];
        assert_eq!(big.uri, "360p/index.m3u8");
        assert_eq!(big.codecs.as_deref(), Some("avc1.4d4028,mp4a.40.2"));
        assert_eq!(big.resolution, Some(Resolution { width: 640, height: 360 }));
        // The busiest segment is the last: all of its bytes in 0.9 s.
        assert_eq!(big.bandwidth, 200_000 * 8_000 / 900 + 16_000 * 8_000 / 900);
        assert!(big.average_bandwidth.unwrap() < big.bandwidth);
        assert_eq!(big.audio.as_deref(), Some(SOUND));
        assert_eq!(master.alternatives[0].uri.as_deref(), Some("sound/index.m3u8"));
        let playlist =
            m3u8_rs::parse_media_playlist_res(manifest.playlist("360p").unwrap().as_bytes()).unwrap();
        assert_eq!((playlist.target_duration, playlist.end_list), (3, true));
        for (number, segment) in playlist.segments.iter().enumerate() {
            assert_eq!(segment.uri, format!("{number}.ts"));
            assert!(segment.duration.round() as u64 <= playlist.target_duration);
        }
        assert!((playlist.segments.iter().map(|one| one.duration).sum::<f32>() - 5.502).abs() < 0.001);
        assert_eq!(manifest.playlist("720p"), None);
        assert_eq!(manifest.ms(), 5_502);
    }

    #[test]
    fn what_comes_from_strangers_is_looked_at() {
        let good = manifest();
        assert_eq!(Manifest::parse(&good.to_bytes().unwrap()).unwrap(), good);
        assert!(Manifest::parse(&vec![b' '; MAX_BYTES + 1]).is_err());
        assert!(Manifest::parse(b"{}").is_err());
        for change in [
            (|m: &mut Manifest| m.version = 2) as fn(&mut Manifest),
            |m| m.title = "x".repeat(201),
            |m| m.title = "a\nb".into(),
            |m| m.pictures.clear(),
            |m| m.pictures[0].name = "../x".into(),
            |m| m.pictures[0].name = "360p".into(),
            |m| m.pictures[0].name = String::new(),
            |m| m.pictures[0].codec = "a\"b".into(),
            |m| m.pictures[0].segments.clear(),
            |m| m.pictures[0].segments[0].ms = 0,
            |m| m.pictures[0].segments[0].ms = u64::MAX,
            |m| m.pictures[0].segments[0].blob.len = u64::MAX,
            |m| m.pictures[0].rate = u32::MAX,
            |m| m.pictures[0].width = u32::MAX,
            |m| m.sound.as_mut().unwrap().name = "noise".into(),
        ] {
            let mut bad = good.clone();
            change(&mut bad);
            let bytes = serde_json::to_vec(&bad).unwrap();
            assert!(Manifest::parse(&bytes).is_err(), "{bad:?}");
        }
    }
}
