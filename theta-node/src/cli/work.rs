//! Work that takes a while: a line of progress each second, and an orderly end on Ctrl-C.

use std::{
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;

use super::interrupted;
use crate::clock::now_millis;

/// Milliseconds between two lines.
const EVERY: u64 = 1_000;
/// Bytes read or written at once.
const BUFFER: usize = 1 << 16;

/// What the work looks at while it runs. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stop: AtomicBool,
    said: AtomicU64,
}

impl Watch {
    /// Whether to go on; says where it is when a second has passed.
    pub(super) fn at(&self, place: impl FnOnce() -> String) -> bool {
        let now = now_millis();
        if now >= self.0.said.load(Ordering::Relaxed).saturating_add(EVERY) {
            self.0.said.store(now, Ordering::Relaxed);
            eprintln!("{}", place());
        }
        !self.0.stop.load(Ordering::Relaxed)
    }

    /// Opens a file; one whose name ends in `.gz` is unpacked while it is read.
    pub(super) fn open(&self, path: &Path) -> Result<Box<dyn io::BufRead + Send>> {
        let file = BufReader::with_capacity(BUFFER, self.plain(path)?.into_inner());
        Ok(match path.extension() {
            Some(end) if end == "gz" => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))),
            _ => Box::new(file),
        })
    }

    /// Opens a file as it is, to be read here and there.
    pub(super) fn plain(&self, path: &Path) -> Result<BufReader<Watched<std::fs::File>>> {
        let name = || path.display().to_string();
        let file = std::fs::File::open(path).with_context(name)?;
        let metadata = file.metadata().with_context(name)?;
        if metadata.is_dir() {
            bail!("{} is a folder; name a file", path.display());
        }
        let watched =
            Watched { inner: file, watch: self.clone(), name: name(), done: 0, all: Some(metadata.len()) };
        // A seek empties the buffer, so it is small.
        Ok(BufReader::with_capacity(1 << 12, watched))
    }

    /// Writes a file: under its name there is all of it or what was there before.
    pub(super) fn write<T>(&self, path: &Path, act: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
        use std::os::unix::fs::PermissionsExt;
        let name = || path.display().to_string();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let part = tempfile::Builder::new()
            .prefix(".theta-")
            .suffix(".part")
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .with_context(name)?;
        let watched = Watched { inner: part, watch: self.clone(), name: name(), done: 0, all: None };
        let mut out = BufWriter::with_capacity(BUFFER, watched);
        let result = act(&mut out)?;
        let part = out.into_inner().map_err(io::IntoInnerError::into_error).with_context(name)?.inner;
        part.as_file().sync_all().with_context(name)?;
        part.persist(path).with_context(name)?;
        Ok(result)
    }
}

/// A file whose reading or writing is told and can be stopped.
#[derive(Debug)]
pub(super) struct Watched<F> {
    inner: F,
    watch: Watch,
    name: String,
    done: u64,
    all: Option<u64>,
}

impl<F> Watched<F> {
    fn look(&mut self, done: usize) -> io::Result<()> {
        self.done += done as u64;
        let (done, all) = (self.done, self.all);
        let place = || match all {
            Some(all) => format!("{}: at byte {done} of {all}", self.name),
            None => format!("{}: {done} bytes written", self.name),
        };
        // `Interrupted` would be tried again.
        if self.watch.at(place) { Ok(()) } else { Err(io::Error::other("stopped")) }
    }
}

impl<F: Read> Read for Watched<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let done = self.inner.read(buffer)?;
        self.look(done)?;
        Ok(done)
    }
}

impl<F: Write> Write for Watched<F> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let done = self.inner.write(buffer)?;
        self.look(done)?;
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<F: Seek> Seek for Watched<F> {
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        self.done = self.inner.seek(place)?;
        Ok(self.done)
    }
}

/// Runs work on a thread of its own. On Ctrl-C the work is asked to stop and waited for; what it was about to do is done
/// whole or not at all.
pub(super) async fn long<T: Send + 'static>(
    act: impl FnOnce(&Watch) -> Result<T> + Send + 'static,
) -> Result<T> {
    let watch = Watch(Arc::new(Inner { stop: AtomicBool::new(false), said: AtomicU64::new(now_millis()) }));
    let seen = watch.clone();
    let mut work = tokio::task::spawn_blocking(move || act(&seen));
    tokio::select! {
        result = &mut work => result.context("the work broke off")?,
        signal = interrupted() => {
            signal?;
            watch.0.stop.store(true, Ordering::Relaxed);
            match work.await.context("the work broke off")? {
                Ok(result) => Ok(result),
                Err(error) => Err(error.context("stopped by a signal")),
            }
        }
    }
}
