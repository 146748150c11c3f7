//! What ffprobe says of a clip.

use serde::Deserialize;
use theta_edge::transcode::{Clip, Rate};

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    streams: Vec<Stream>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Stream {
    codec_type: String,
    codec_name: String,
    pix_fmt: String,
    width: u32,
    height: u32,
    sample_aspect_ratio: String,
    start_time: String,
    avg_frame_rate: String,
    r_frame_rate: String,
    tags: Tags,
    side_data_list: Vec<SideData>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tags {
    #[serde(rename = "DURATION")]
    duration: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SideData {
    rotation: i64,
}

fn fraction(text: &str, between: char) -> Option<(u32, u32)> {
    let (num, den) = text.split_once(between)?;
    let (num, den) = (num.parse().ok()?, den.parse().ok()?);
    (num > 0 && den > 0).then_some((num, den))
}

/// `00:00:12.345000000` in milliseconds.
fn duration_ms(text: &str) -> Option<u64> {
    let mut parts = text.trim().splitn(3, ':');
    let (hours, minutes): (u64, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (seconds, rest) = parts.next()?.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let micros: u64 = rest.get(..6)?.parse().ok()?;
    let whole = hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?.checked_add(seconds)?;
    whole.checked_mul(1000)?.checked_add((micros + 500) / 1000)
}

/// What a player is shown of it; in words why it cannot be worked on.
pub(crate) fn read(json: &[u8]) -> Result<Clip, String> {
    let probe: Probe = serde_json::from_slice(json).map_err(|error| format!("ffprobe's answer: {error}"))?;
    let pictures = probe.streams.iter().find(|stream| stream.codec_type == "video");
    let pictures = pictures.ok_or("the clip has no pictures")?;
    let rate = |text| fraction(text, '/').map(|(num, den)| Rate { num, den });
    // The base rate is exact where the average, over a short clip, is not.
    let (average, base) = (rate(&pictures.avg_frame_rate), rate(&pictures.r_frame_rate));
    let close = |a: Rate, b: Rate| (a.seconds(1) / b.seconds(1) - 1.0).abs() < 0.02;
    let rate = match (average, base) {
        (Some(average), Some(base)) if close(average, base) => base,
        (Some(average), _) => average,
        (None, base) => base.unwrap_or(Rate { num: 30, den: 1 }),
    };
    let rate = rate.sane();
    let (mut width, height) = (u64::from(pictures.width), u64::from(pictures.height));
    if let Some((num, den)) = fraction(&pictures.sample_aspect_ratio, ':') {
        width = (width * u64::from(num) + u64::from(den) / 2) / u64::from(den);
    }
    let turned = pictures.side_data_list.iter().any(|data| data.rotation.rem_euclid(180) == 90);
    let (width, height) = if turned { (height, width) } else { (width, height) };
    let long = duration_ms(&pictures.tags.duration).ok_or("the clip does not say how long it is")?;
    let begin: f64 = pictures.start_time.parse().unwrap_or(0.0);
    let begin_us = (begin.clamp(0.0, 86_400.0) * 1e6).round() as u64;
    let long = long.saturating_sub(begin_us / 1_000);
    let side = |side: u64| u32::try_from(side).unwrap_or(u32::MAX);
    let clip = Clip {
        width: side(width),
        height: side(height),
        rate,
        frames: rate.frames(long),
        begin_us,
        sound: probe.streams.iter().any(|stream| stream.codec_type == "audio"),
        plain: pictures.codec_name == "h264"
            && matches!(&*pictures.pix_fmt, "yuv420p" | "yuvj420p")
            && !turned,
    };
    clip.check().map_err(|error| error.to_string())?;
    Ok(clip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ffprobe_says_becomes_what_a_player_is_shown() {
        let json = br#"{"streams":[
            {"codec_type":"video","codec_name":"h264","pix_fmt":"yuv420p","width":720,"height":576,"sample_aspect_ratio":"16:15","start_time":"0.023000",
             "avg_frame_rate":"359/12","r_frame_rate":"30000/1001","tags":{"DURATION":"00:00:12.035000000"},
             "side_data_list":[{"rotation":-90}]},
            {"codec_type":"audio","codec_name":"aac"}]}"#;
        let clip = read(json).expect("a clip");
        assert_eq!((clip.width, clip.height, clip.sound, clip.plain), (576, 768, true, false));
        assert_eq!((clip.rate, clip.frames, clip.begin_us), (Rate { num: 30_000, den: 1_001 }, 360, 23_000));
        for (bad, what) in [
            (&b"{}"[..], "no pictures"),
            (b"[", "ffprobe"),
            (br#"{"streams":[{"codec_type":"video","width":9,"height":9}]}"#, "how long"),
            (
                br#"{"streams":[{"codec_type":"video","width":9,"height":9,"tags":{"DURATION":"00:00:01.000000000"}}]}"#,
                "side",
            ),
        ] {
            assert!(read(bad).expect_err("not one").contains(what));
        }
    }

    #[test]
    fn lengths_are_read() {
        assert_eq!(duration_ms("01:02:03.004600000"), Some(3_723_005));
        for bad in
            ["", "1:2", "00:00:12", "00:00:1x.000000", "00:00:01.0", "99999999999999999999:00:00.000000"]
        {
            assert_eq!(duration_ms(bad), None, "{bad}");
        }
    }
}
