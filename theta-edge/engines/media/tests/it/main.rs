//! Clips of every kind through ffmpeg. Without ffmpeg there is nothing to test: `THETA_NEED=ffmpeg,landlock` makes
//! that a failure, and the same for a kernel that confines nobody.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, process::Command, sync::Arc};

use theta_edge::{
    blob::{BlobRef, BlobStore, MemBlobs},
    executor::{Attempt, Ending, Executor, Output},
    job::{Limits, Task, Work},
    transcode::{COPY, Clip, FACTS, Grid, Rate, Step, TranscodeWork, ladder},
};
use theta_edge_media::Media;

struct Bench {
    media: Media,
    blobs: Arc<MemBlobs>,
    folder: tempfile::TempDir,
}

/// Whether the machine has to have something, so that a test of it may not be passed over.
fn needs(what: &str) -> bool {
    std::env::var("THETA_NEED").is_ok_and(|need| need.split(',').any(|needed| needed == what))
}

fn bench() -> Option<Bench> {
    match Media::with_worker(env!("CARGO_BIN_EXE_theta-media-worker").into()) {
        Ok(media) => Some(Bench { media, blobs: Arc::default(), folder: tempfile::tempdir().unwrap() }),
        Err(error) => {
            assert!(!needs("ffmpeg"), "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn limits() -> Limits {
    Limits { fuel: 1 << 40, memory_mib: 1024, wall_seconds: 60, output_mib: 64 }
}

impl Bench {
    /// A clip made by ffmpeg's own sources; the words are split at spaces.
    async fn make(&self, words: &str, name: &str) -> BlobRef {
        let path = self.folder.path().join(name);
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y"])
            .args(words.split_whitespace())
            .arg(&path)
            .status()
            .unwrap();
        assert!(done.success());
        self.blobs.add(std::fs::read(path).unwrap()).await.unwrap()
    }

    async fn run_within(&self, source: BlobRef, step: Step, limits: Limits) -> Output {
        let work = Work::Transcode(TranscodeWork { source, step });
        let task = Task { job: Default::default(), index: 0, work, limits };
        self.media.run(&task, Attempt::new(self.blobs.clone())).await.unwrap()
    }

    async fn run(&self, source: BlobRef, step: Step) -> Output {
        self.run_within(source, step, limits()).await
    }

    async fn read(&self, blob: BlobRef) -> Vec<u8> {
        self.blobs.read_all(&blob).await.unwrap()
    }

    async fn file(&self, output: &Output, path: &str) -> BlobRef {
        let why = String::from_utf8(self.read(output.stderr).await).unwrap();
        let file = output.files.iter().find(|file| file.path == path);
        file.unwrap_or_else(|| panic!("no {path}: {:?} {why}", output.ending)).blob
    }

    async fn prepare(&self, clip: BlobRef) -> (Clip, BlobRef) {
        let output = self.run(clip, Step::Prepare).await;
        let facts = self.file(&output, FACTS).await;
        (serde_json::from_slice(&self.read(facts).await).unwrap(), self.file(&output, COPY).await)
    }

    /// What ffprobe says of each packet of a segment.
    async fn probe(&self, segment: BlobRef, entries: &str) -> Vec<String> {
        let path = self.folder.path().join("probed.ts");
        std::fs::write(&path, self.read(segment).await).unwrap();
        let words = ["-v", "error", "-of", "csv=p=0", "-show_entries", entries];
        let said = Command::new("ffprobe").args(words).arg(&path).output().unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        let lines = text.lines().map(|line| line.trim_end_matches(',').to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }

    /// A checksum of each picture of a film.
    fn pictures(&self, film: &Path) -> Vec<String> {
        let said = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-i"])
            .arg(film)
            .args(["-map", "0:v:0", "-f", "framemd5", "-"])
            .output()
            .unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit(',').next().unwrap().to_owned())
            .collect()
    }
}

/// Twelve seconds of pictures that count and of sound.
const COUNTING: &str = "-f lavfi -i testsrc=d=12:s=320x180:r=30 -f lavfi -i sine=d=12 -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 300 -keyint_min 300 -sc_threshold 0 -c:a aac";

#[tokio::test]
async fn segments_have_every_picture_once_and_begin_with_a_key_frame() {
    let Some(bench) = bench() else { return };
    // One key frame in ten seconds, where segments of two are asked for.
    let clip = bench.make(COUNTING, "sparse.mp4").await;
    let (facts, copy) = bench.prepare(clip).await;
    assert_eq!(
        (facts.width, facts.height, facts.frames, facts.sound, facts.plain),
        (320, 180, 360, true, true)
    );
    let grid = Grid::new(&facts, 2_000).unwrap();
    let rung = ladder(&facts, &["160p".into()]).unwrap().remove(0);
    assert_eq!((rung.width, rung.height), (284, 160));
    let (mut film, mut keys, mut next) = (Vec::new(), 0, 1.0);
    for (first, count) in grid.groups() {
        let step = Step::Video { rung: rung.clone(), grid, first, count };
        let output = bench.run(copy, step.clone()).await;
        assert_eq!((&output.ending, output.files.len() as u64), (&Ending::Exit(0), count));
        // Whoever does it again gets the same bytes.
        assert_eq!(bench.run(copy, step).await.digest(), output.digest());
        for segment in first..first + count {
            let blob = bench.file(&output, &format!("{segment}.ts")).await;
            let packets = bench.probe(blob, "packet=pts_time,flags").await;
            assert_eq!(packets.len(), 60, "segment {segment}");
            assert!(packets[0].contains('K'), "{}", packets[0]);
            keys += packets.iter().filter(|packet| packet.contains('K')).count();
            for packet in packets {
                let at: f64 = packet.split(',').next().unwrap().parse().unwrap();
                assert!((at - next).abs() < 0.002, "a picture at {at}, not {next}");
                next += 1.0 / 30.0;
            }
            film.extend(bench.read(blob).await);
        }
    }
    assert_eq!(keys, 6);
    // Beside the same clip encoded in one piece: as many pictures, and each of them close to its own.
    let path = bench.folder.path().join("film.ts");
    std::fs::write(&path, film).unwrap();
    assert_eq!(bench.pictures(&path).len(), 360);
    let source = bench.folder.path().join("sparse.mp4");
    let filter =
        "[0:v]setpts=N/30/TB[a];[1:v]scale=284:160:flags=bicubic,setpts=N/30/TB[b];[a][b]psnr=stats_file=-";
    let said = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(&path)
        .arg("-i")
        .arg(source)
        .args(["-filter_complex", filter, "-f", "null", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let each: Vec<f64> = said
        .lines()
        .filter_map(|line| {
            line.split_whitespace().find_map(|word| word.strip_prefix("psnr_avg:"))?.parse().ok()
        })
        .collect();
    assert_eq!(each.len(), 360);
    let worst = each.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(worst > 28.0, "a picture is {worst} dB from its own");
}

#[tokio::test]
async fn sound_and_pictures_end_together_and_the_source_is_cut_at_its_own_key_frames() {
    let Some(bench) = bench() else { return };
    let clip = bench.make(COUNTING, "sparse.mp4").await;
    let (facts, copy) = bench.prepare(clip).await;
    let grid = Grid::new(&facts, 2_000).unwrap();
    let sound = bench.run(copy, Step::Sound { grid, bits: 96_000 }).await;
    let list = String::from_utf8(bench.read(bench.file(&sound, "list.csv").await).await).unwrap();
    let ends: Vec<f64> = list.lines().map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(ends.len(), 6, "{list}");
    assert!((ends[5] - ends[0] - 10.0).abs() < 0.05, "{list}");
    let first = bench.probe(bench.file(&sound, "0.ts").await, "packet=pts_time").await;
    let first: f64 = first[0].parse().unwrap();
    assert!((first - 1.0).abs() < 0.04, "sound begins at {first}, pictures at 1");
    let source = bench.run(copy, Step::Source { grid }).await;
    let list = String::from_utf8(bench.read(bench.file(&source, "list.csv").await).await).unwrap();
    let times: Vec<Vec<f64>> = list
        .lines()
        .map(|line| line.split(',').skip(1).map(|time| time.parse().unwrap()).collect())
        .collect();
    assert_eq!(times.len(), 2, "{list}");
    assert!(
        (times[0][1] - times[0][0] - 10.0).abs() < 0.1 && (times[1][1] - times[1][0] - 2.0).abs() < 0.1,
        "{list}"
    );
}

#[tokio::test]
async fn odd_sizes_colours_and_clocks_are_made_even_plain_and_to_begin_at_zero() {
    let Some(bench) = bench() else { return };
    for (words, name, frames) in [
        (
            "-f lavfi -i testsrc=d=2:s=641x361:r=30 -c:v libx264 -preset ultrafast -pix_fmt yuv444p",
            "odd.mp4",
            60,
        ),
        (
            "-f lavfi -i testsrc=d=2:s=1435x771:r=25 -c:v libx264 -preset ultrafast -pix_fmt yuv444p",
            "odder.mkv",
            50,
        ),
        (
            "-f lavfi -i testsrc=d=1:s=4096x16:r=30 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
            "flat.mp4",
            30,
        ),
        ("-f lavfi -i testsrc=d=2:s=352x288:r=30000/1001 -c:v mpeg4", "old.avi", 60),
        // The clock of MPEG-TS begins again 2.3 s after the first of these begins.
        (
            "-f lavfi -i testsrc=d=6:s=320x180:r=30 -f lavfi -i sine=d=6 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 60 -c:a aac -output_ts_offset 95440 -f mpegts",
            "wrap.ts",
            180,
        ),
        (
            "-f lavfi -i testsrc=d=4:s=320x180:r=30 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -output_ts_offset 7200 -f mpegts",
            "late.ts",
            120,
        ),
    ] {
        let clip = bench.make(words, name).await;
        let (facts, copy) = bench.prepare(clip).await;
        assert_eq!(facts.frames, frames, "{name}: {facts:?}");
        let grid = Grid::new(&facts, 2_000).unwrap();
        let rungs = ladder(&facts, &[]).unwrap();
        let rung = rungs[0].clone();
        let mut all = 0;
        for (first, count) in grid.groups() {
            let output = bench.run(copy, Step::Video { rung: rung.clone(), grid, first, count }).await;
            for segment in first..first + count {
                let blob = bench.file(&output, &format!("{segment}.ts")).await;
                let said = bench.probe(blob, "stream=width,height,pix_fmt").await;
                let expected = format!("{},{},yuv420p", rung.width, rung.height);
                assert!(said.contains(&expected), "{name}: {said:?}");
                let packets = bench.probe(blob, "packet=pts_time").await;
                let begin = 1.0 + grid.rate.seconds(segment * grid.per_segment);
                let at: f64 = packets[0].parse().unwrap();
                assert!((at - begin).abs() < 0.01, "{name}: segment {segment} begins at {at}");
                all += packets.len() as u64;
            }
        }
        assert_eq!(all, frames, "{name}");
        if facts.sound {
            let sound = bench.run(copy, Step::Sound { grid, bits: 96_000 }).await;
            let first = bench.probe(bench.file(&sound, "0.ts").await, "packet=pts_time").await;
            assert!((first[0].parse::<f64>().unwrap() - 1.0).abs() < 0.04, "{name}: sound at {}", first[0]);
        }
    }
}

#[tokio::test]
async fn what_is_no_clip_ends_with_a_reason_and_leaves_the_node_working() {
    let Some(bench) = bench() else { return };
    let tiny = bench.make("-f lavfi -i color=d=1:s=2x2:r=30 -c:v ffv1", "tiny.mkv").await;
    let deaf = bench.make("-f lavfi -i sine=d=1 -c:a aac", "sound.mp4").await;
    let good = bench.make(COUNTING, "good.mp4").await;
    let mut torn = bench.read(good).await;
    torn.truncate(torn.len() / 3);
    let torn = bench.blobs.add(torn).await.unwrap();
    let secret = bench.folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let list = format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{}\n#EXT-X-ENDLIST\n",
        secret.display()
    );
    let playlist = bench.blobs.add(list.into_bytes()).await.unwrap();
    let concat = format!("ffconcat version 1.0\nfile {}\n", secret.display());
    let concat = bench.blobs.add(concat.into_bytes()).await.unwrap();
    let noise = bench
        .blobs
        .add((0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect())
        .await;
    for (name, clip) in [
        ("two by two", tiny),
        ("sound alone", deaf),
        ("torn", torn),
        ("a playlist", playlist),
        ("a list of files", concat),
        ("noise", noise.unwrap()),
        ("nothing", bench.blobs.add(Vec::new()).await.unwrap()),
    ] {
        let output = bench.run(clip, Step::Prepare).await;
        assert!(!output.ending.is_success(), "{name}");
        assert!(output.files.is_empty() && output.stderr.len > 0, "{name}: {output:?}");
        assert_eq!(bench.run(clip, Step::Prepare).await.digest(), output.digest(), "{name}");
    }
    let (facts, copy) = bench.prepare(good).await;
    // A copy that is none of ours.
    let grid = Grid::new(&facts, 2_000).unwrap();
    let rung = ladder(&facts, &[]).unwrap().remove(0);
    let step = Step::Video { rung, grid, first: 0, count: 1 };
    assert!(!bench.run(playlist, step.clone()).await.ending.is_success());
    let few = Limits { fuel: 1_000, ..limits() };
    assert_eq!(bench.run_within(copy, step.clone(), few).await.ending, Ending::OutOfFuel);
    let small = Limits { memory_mib: 8, ..limits() };
    assert!(!bench.run_within(copy, step.clone(), small).await.ending.is_success());
    assert_eq!(bench.run(copy, step).await.ending, Ending::Exit(0));
}

#[tokio::test]
async fn a_step_that_takes_too_long_is_ended_with_its_process() {
    let Some(bench) = bench() else { return };
    let rate = Rate { num: 30, den: 1 };
    let big = bench.make("-f lavfi -i testsrc2=d=20:s=1920x1080:r=30 -c:v mpeg4 -q:v 20", "big.mkv").await;
    let (facts, copy) = bench.prepare(big).await;
    assert_eq!(facts.rate, rate);
    let grid = Grid::new(&facts, 10_000).unwrap();
    let rung = ladder(&facts, &["1080p".into()]).unwrap().remove(0);
    let short = Limits { wall_seconds: 1, ..limits() };
    let begun = std::time::Instant::now();
    let output = bench.run_within(copy, Step::Video { rung, grid, first: 0, count: 2 }, short).await;
    assert_eq!(output.ending, Ending::TimeLimit);
    assert!(begun.elapsed().as_secs() < 20);
    let still = Command::new("pgrep").args(["-f", "1920:1080:flags=bicubic"]).output().unwrap();
    assert!(still.stdout.is_empty(), "ffmpeg goes on");
}

#[test]
fn a_child_reads_and_writes_nothing_but_its_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_theta-media-worker"));
        command.args(["worker", "media", "1000000000", "1000000", "10"]).args(words);
        command.current_dir(folder.path()).output().unwrap()
    };
    std::fs::write(folder.path().join("own"), "own").unwrap();
    assert_eq!(run(&["/bin/cat", "own"]).stdout, b"own");
    assert!(run(&["/usr/bin/touch", "made"]).status.success());
    if run(&["/bin/cat", "/etc/passwd"]).status.success() {
        assert!(!needs("landlock"), "the child is not confined");
        eprintln!("skipped: this kernel has no Landlock");
        return;
    }
    for words in [
        ["/bin/cat", secret.to_str().unwrap()],
        ["/bin/cat", "/etc/passwd"],
        ["/bin/cat", "/proc/self/environ"],
        ["/bin/ls", "/home"],
        ["/usr/bin/touch", outside.path().join("made").to_str().unwrap()],
    ] {
        let said = run(&words);
        assert!(!said.status.success() && said.stdout.is_empty(), "{words:?}: {said:?}");
    }
    // More than it may write.
    let grown = run(&["/bin/dd", "if=/dev/urandom", "of=big", "bs=100000", "count=20"]);
    assert!(!grown.status.success());
    assert!(std::fs::metadata(folder.path().join("big")).unwrap().len() <= 1_000_000);
}
