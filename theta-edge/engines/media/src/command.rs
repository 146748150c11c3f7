//! What ffmpeg is told.

use theta_edge::transcode::{COPY, Grid, Rung};

/// Containers that clips come in. None of them names other files.
const CONTAINERS: &str =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,avi,flv,ogg,asf,ivf,h264,hevc,mxf,gif";
/// Where segments' clocks begin, in seconds: pictures that are decoded before they are shown need some room.
const BEGIN: f64 = 1.0;
/// Seconds before a group from which on pictures are decoded.
const LEAD: f64 = 1.0;
/// Seconds of sound that an encoder adds at the end: two frames of 1,024 samples, less what fills one up.
const TAIL: f64 = 0.032;
/// The clip as it came.
pub(crate) const CLIP: &str = "clip";
/// Where the lengths of segments are written.
pub(crate) const LIST: &str = "list.csv";

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn begin(containers: &str) -> Vec<String> {
    strings([
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "error",
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        containers,
        "-threads",
        "1",
    ])
}

/// Copies the first pictures and the first sound with the clock set to zero.
pub(crate) fn prepare() -> Vec<String> {
    let mut args = begin(CONTAINERS);
    args.extend(strings([
        "-fflags",
        "+genpts+discardcorrupt",
        "-i",
        CLIP,
        "-map",
        "0:v:0",
        "-map",
        "0:a:0?",
        "-c",
        "copy",
        "-map_metadata",
        "-1",
        "-map_chapters",
        "-1",
        "-fflags",
        "+bitexact",
        "-avoid_negative_ts",
        "make_zero",
        "-f",
        "matroska",
        COPY,
    ]));
    args
}

/// Asks what the copy holds.
pub(crate) fn probe() -> Vec<String> {
    strings([
        "-v",
        "error",
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        "matroska",
        "-show_entries",
        "stream=codec_type,codec_name,start_time,pix_fmt,width,height,sample_aspect_ratio,avg_frame_rate,r_frame_rate:\
         stream_tags=DURATION:stream_side_data=rotation",
        "-of",
        "json",
        COPY,
    ])
}

/// Seconds in the copy at which the first picture is shown.
fn begins(grid: &Grid) -> f64 {
    grid.begin_us as f64 / 1e6
}

/// Cuts what is written; `shown` is when the first picture would be shown otherwise.
fn segments(first: u64, seconds: &str, shown: f64) -> Vec<String> {
    let offset = format!("{:.6}", BEGIN - shown);
    let mut args = strings([
        "-map_metadata",
        "-1",
        "-fflags",
        "+bitexact",
        "-muxdelay",
        "0",
        "-muxpreload",
        "0",
        "-initial_offset",
        &offset,
        "-f",
        "segment",
        "-segment_format",
        "mpegts",
        "-segment_time",
        seconds,
        "-segment_list",
        LIST,
        "-segment_list_type",
        "csv",
        "-segment_start_number",
    ]);
    args.extend([first.to_string(), "%d.ts".to_owned()]);
    args
}

/// Encodes a group of segments. Every picture of the grid is chosen by its own time, so groups neither share nor lose any.
pub(crate) fn video(rung: &Rung, grid: &Grid, first: u64, count: u64) -> Vec<String> {
    let mut args = begin("matroska");
    let (begin, start) = (begins(grid), grid.rate.seconds(first * grid.per_segment));
    if begin + start > LEAD {
        args.extend(["-ss".to_owned(), format!("{:.6}", begin + start - LEAD)]);
    }
    args.extend(strings(["-copyts", "-i", COPY, "-map", "0:v:0", "-an", "-sn", "-dn", "-vf"]));
    let (num, den) = (grid.rate.num, grid.rate.den);
    args.push(format!(
        "setpts=PTS-{begin:.6}/TB,fps={num}/{den}:start_time={start:.6}:round=near,scale={}:{}:flags=bicubic,setsar=1,format=yuv420p",
        rung.width, rung.height
    ));
    let frames = grid.frames_in(first, count).to_string();
    let (gop, bits, buffer) =
        (grid.per_segment.to_string(), rung.bits.to_string(), rung.bits.saturating_mul(2).to_string());
    args.extend(strings([
        "-frames:v",
        &frames,
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-profile:v",
        "main",
        "-threads",
        "1",
        // Without pictures that refer to later ones every segment stands for itself and its clocks are one.
        "-bf",
        "0",
        "-g",
        &gop,
        "-keyint_min",
        &gop,
        "-sc_threshold",
        "0",
        "-crf",
        "23",
        "-maxrate",
        &bits,
        "-bufsize",
        &buffer,
        "-flags:v",
        "+bitexact",
    ]));
    // A segment begins at every key frame.
    args.extend(segments(first, "0.001", 0.0));
    args
}

/// Encodes all sound, as long as the pictures.
pub(crate) fn sound(grid: &Grid, bits: u32) -> Vec<String> {
    let mut args = begin("matroska");
    args.extend(strings(["-i", COPY, "-map", "0:a:0", "-vn", "-sn", "-dn", "-af"]));
    // What the encoder adds at the end would be a segment of its own where the pictures end with one.
    let end = (grid.rate.seconds(grid.frames) - TAIL).max(TAIL);
    let begin = begins(grid);
    args.push(format!(
        "asetpts=PTS-{begin:.6}/TB,aresample=48000:async=1:first_pts=0,apad,atrim=end={end:.6}"
    ));
    let bits = bits.to_string();
    args.extend(strings(["-c:a", "aac", "-b:a", &bits, "-ac", "2", "-ar", "48000", "-flags:a", "+bitexact"]));
    args.extend(segments(0, &format!("{:.6}", grid.rate.seconds(grid.per_segment)), 0.0));
    args
}

/// Cuts the pictures as they came.
pub(crate) fn source(grid: &Grid) -> Vec<String> {
    let mut args = begin("matroska");
    args.extend(strings(["-i", COPY, "-map", "0:v:0", "-an", "-sn", "-dn", "-c", "copy"]));
    args.extend(segments(0, &format!("{:.6}", grid.rate.seconds(grid.per_segment)), begins(grid)));
    args
}
