//! WASI preview 1 over memory only, made so that every node answers alike (edge.md 2.4).
//!
//! No host clock: time starts at a fixed instant and advances by one nanosecond per unit of fuel, and sleeping moves
//! it at once. Random bytes come from a stream seeded by the task. Folders are those of [`crate::tree`]. There are no
//! sockets. Calls cost fuel by what they move, so fuel also bounds the work that a program makes the host do.

use wasmtime::{Caller, Extern, Linker, Trap};

use crate::errno::Errno;
use crate::tree::{OUT, Tree, is_writable, resolve};

/// Fuel for one call; about what its dispatch costs.
const CALL_FUEL: u64 = 100;
/// One unit of fuel per so many bytes moved.
const BYTES_PER_FUEL: u64 = 8;
/// Start of the virtual clock in nanoseconds since 1970: 9 September 2001, far enough from 0 that programs may
/// subtract from it.
const EPOCH: u64 = 1_000_000_000_000_000_000;
/// Most descriptors a program has open.
const MAX_OPEN: usize = 1024;

const DIRECTORY: u8 = 3;
const REGULAR: u8 = 4;
const CHARACTER: u8 = 2;

/// Why a program is stopped from inside a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    /// It ended itself.
    #[error("exit {0}")]
    Exit(i32),
    /// It wrote more than it may.
    #[error("output too large")]
    OutputTooLarge,
    /// It asked for more memory than it may have.
    #[error("out of memory")]
    OutOfMemory,
}

enum Fail {
    Errno(Errno),
    Stop(Stop),
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

#[derive(Clone, Debug)]
enum Open {
    Stdin,
    Stdout,
    Stderr,
    /// A folder at `path` inside the granted folder `root`.
    Folder {
        root: String,
        path: String,
    },
    File {
        path: String,
        at: u64,
        append: bool,
        read: bool,
        write: bool,
    },
}

/// All that a program can see and change.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) env: Vec<Vec<u8>>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) tree: Tree,
    stdin_at: usize,
    open: Vec<Option<Open>>,
    random: blake3::OutputReader,
    fuel: u64,
    slept: u64,
    output_left: u64,
}

impl World {
    /// A world with the granted folders of `tree`, `output_limit` bytes to write and `fuel` to use.
    pub(crate) fn new(
        mut tree: Tree,
        roots: &[String],
        seed: &[u8; 32],
        fuel: u64,
        output_limit: u64,
    ) -> Self {
        tree.add_folder(OUT);
        let mut open = vec![Some(Open::Stdin), Some(Open::Stdout), Some(Open::Stderr)];
        for root in roots.iter().map(String::as_str).chain([OUT]) {
            tree.add_folder(root);
            open.push(Some(Open::Folder { root: root.to_owned(), path: root.to_owned() }));
        }
        let mut random = blake3::Hasher::new_derive_key("theta-edge/wasm/random/v1");
        random.update(seed);
        Self {
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            tree,
            stdin_at: 0,
            open,
            random: random.finalize_xof(),
            fuel,
            slept: 0,
            output_left: output_limit,
        }
    }

    fn open(&mut self, fd: i32) -> Result<&mut Open, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::BADF)?;
        self.open.get_mut(index).and_then(Option::as_mut).ok_or(Errno::BADF)
    }

    fn folder(&mut self, fd: i32) -> Result<(&str, &str), Errno> {
        match self.open(fd)? {
            Open::Folder { root, path } => Ok((root, path)),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn file(&mut self, fd: i32) -> Result<String, Errno> {
        match self.open(fd)? {
            Open::File { path, .. } => Ok(path.clone()),
            Open::Folder { .. } => Err(Errno::ISDIR),
            _ => Err(Errno::SPIPE),
        }
    }

    fn spend_output(&mut self, bytes: u64) -> Result<(), Fail> {
        self.output_left = self.output_left.checked_sub(bytes).ok_or(Fail::Stop(Stop::OutputTooLarge))?;
        Ok(())
    }

    fn resize(&mut self, path: &str, size: u64) -> Result<(), Fail> {
        let old = self.tree.file_mut(path)?.len() as u64;
        if size > old {
            self.spend_output(size - old)?;
        } else {
            self.output_left += old - size;
        }
        let size = usize::try_from(size).map_err(|_| Fail::Stop(Stop::OutputTooLarge))?;
        self.tree.file_mut(path)?.resize(size, 0);
        Ok(())
    }

    fn write_file(&mut self, path: &str, at: u64, bytes: &[u8]) -> Result<(), Fail> {
        let end = at.checked_add(bytes.len() as u64).ok_or(Fail::Stop(Stop::OutputTooLarge))?;
        if end > self.tree.file_mut(path)?.len() as u64 {
            self.resize(path, end)?;
        }
        // `at + len <= file length`, and that fits a usize.
        self.tree.file_mut(path)?[at as usize..end as usize].copy_from_slice(bytes);
        Ok(())
    }
}

/// One call: the program's memory and its world.
struct Call<'a> {
    memory: &'a mut [u8],
    world: &'a mut World,
    now: u64,
    moved: u64,
}

impl Call<'_> {
    fn slice(&mut self, at: i32, len: u32) -> Result<&mut [u8], Errno> {
        self.moved += u64::from(len);
        let at = at as u32 as usize;
        let end = at.checked_add(len as usize).ok_or(Errno::FAULT)?;
        self.memory.get_mut(at..end).ok_or(Errno::FAULT)
    }

    fn put(&mut self, at: i32, bytes: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::FAULT)?;
        self.slice(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    fn u32_at(&mut self, at: i32) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.slice(at, 4)?);
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64_at(&mut self, at: i32) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.slice(at, 8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn path(&mut self, fd: i32, at: i32, len: i32) -> Result<String, Errno> {
        let bytes = self.slice(at, len as u32)?.to_vec();
        let relative = String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)?;
        let (root, base) = self.world.folder(fd)?;
        resolve(root, base, &relative)
    }

    fn vectors(&mut self, at: i32, count: i32) -> Result<Vec<(i32, u32)>, Errno> {
        if !(0..=1024).contains(&count) {
            return Err(Errno::INVAL);
        }
        (0..count)
            .map(|index| {
                let at = at.wrapping_add(index * 8);
                Ok((self.u32_at(at)? as i32, self.u32_at(at.wrapping_add(4))?))
            })
            .collect()
    }

    /// Fills vectors from a source that is read from `from` on; says how much that was.
    fn scatter(&mut self, at: i32, count: i32, source: &[u8], from: u64) -> Result<u32, Errno> {
        let mut rest = source.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
        let mut total = 0_u32;
        for (at, len) in self.vectors(at, count)? {
            let take = len.min(u32::try_from(rest.len()).unwrap_or(u32::MAX));
            let (now, later) = rest.split_at(take as usize);
            self.put(at, now)?;
            rest = later;
            total = total.checked_add(take).ok_or(Errno::INVAL)?;
        }
        Ok(total)
    }

    /// Collects what vectors point at, at most what may still be written and one byte more.
    fn gather(&mut self, at: i32, count: i32) -> Result<Vec<u8>, Fail> {
        let mut all = Vec::new();
        for (at, len) in self.vectors(at, count)? {
            let left = self.world.output_left.saturating_add(1).saturating_sub(all.len() as u64);
            let piece = self.slice(at, len)?;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            all.extend_from_slice(&piece[..take]);
        }
        Ok(all)
    }

    fn strings(&mut self, pointers: i32, buffer: i32, strings: &[Vec<u8>]) -> Result<(), Fail> {
        let (mut pointer, mut at) = (pointers, buffer);
        for string in strings {
            self.put(pointer, &at.to_le_bytes())?;
            self.put(at, string)?;
            at = at.wrapping_add(i32::try_from(string.len()).map_err(|_| Errno::FAULT)?);
            self.put(at, &[0])?;
            at = at.wrapping_add(1);
            pointer = pointer.wrapping_add(4);
        }
        Ok(())
    }

    fn string_sizes(&mut self, count_at: i32, bytes_at: i32, strings: &[Vec<u8>]) -> Result<(), Fail> {
        let bytes: usize = strings.iter().map(|string| string.len() + 1).sum();
        self.put(count_at, &u32::try_from(strings.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.put(bytes_at, &u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes())?;
        Ok(())
    }

    fn filestat(&mut self, at: i32, number: u64, kind: u8, size: u64) -> Result<(), Fail> {
        let mut stat = [0; 64];
        stat[8..16].copy_from_slice(&number.to_le_bytes());
        stat[16] = kind;
        stat[24..32].copy_from_slice(&1_u64.to_le_bytes());
        stat[32..40].copy_from_slice(&size.to_le_bytes());
        Ok(self.put(at, &stat)?)
    }

    fn stat_path(&mut self, path: &str, at: i32) -> Result<(), Fail> {
        let entry = self.world.tree.get(path)?;
        let number = entry.number;
        match &entry.bytes {
            Some(bytes) => {
                let size = bytes.len() as u64;
                self.filestat(at, number, REGULAR, size)
            }
            None => self.filestat(at, number, DIRECTORY, 0),
        }
    }
}

fn fd_read(
    call: &mut Call<'_>,
    fd: i32,
    vectors: i32,
    count: i32,
    at: Option<u64>,
    out: i32,
) -> Result<(), Fail> {
    let total = match (call.world.open(fd)?.clone(), at) {
        (Open::Stdin, None) => {
            let source = std::mem::take(&mut call.world.stdin);
            let total = call.scatter(vectors, count, &source, call.world.stdin_at as u64);
            call.world.stdin = source;
            let total = total?;
            call.world.stdin_at += total as usize;
            total
        }
        (Open::File { read: false, .. }, _) => return Err(Errno::NOTCAPABLE.into()),
        (Open::File { path, at: cursor, .. }, at) => {
            let source = std::mem::take(call.world.tree.bytes_mut(&path)?);
            let total = call.scatter(vectors, count, &source, at.unwrap_or(cursor));
            *call.world.tree.bytes_mut(&path)? = source;
            let total = total?;
            if let (None, Open::File { at: cursor, .. }) = (at, call.world.open(fd)?) {
                *cursor += u64::from(total);
            }
            total
        }
        (Open::Folder { .. }, _) => return Err(Errno::ISDIR.into()),
        (Open::Stdin, Some(_)) => return Err(Errno::SPIPE.into()),
        (Open::Stdout | Open::Stderr, _) => return Err(Errno::BADF.into()),
    };
    Ok(call.put(out, &total.to_le_bytes())?)
}

fn fd_write(
    call: &mut Call<'_>,
    fd: i32,
    vectors: i32,
    count: i32,
    at: Option<u64>,
    out: i32,
) -> Result<(), Fail> {
    let bytes = call.gather(vectors, count)?;
    let total = bytes.len() as u64;
    match (call.world.open(fd)?.clone(), at) {
        (Open::Stdout, None) => {
            call.world.spend_output(total)?;
            call.world.stdout.extend_from_slice(&bytes);
        }
        (Open::Stderr, None) => {
            call.world.spend_output(total)?;
            call.world.stderr.extend_from_slice(&bytes);
        }
        (Open::File { write: false, .. }, _) => return Err(Errno::NOTCAPABLE.into()),
        (Open::File { path, at: cursor, append, .. }, at) => {
            let end = call.world.tree.file(&path)?.len() as u64;
            let start = at.unwrap_or(if append { end } else { cursor });
            call.world.write_file(&path, start, &bytes)?;
            if let (None, Open::File { at: cursor, .. }) = (at, call.world.open(fd)?) {
                *cursor = start + total;
            }
        }
        (Open::Folder { .. }, _) => return Err(Errno::ISDIR.into()),
        (Open::Stdout | Open::Stderr, Some(_)) => return Err(Errno::SPIPE.into()),
        (Open::Stdin, _) => return Err(Errno::BADF.into()),
    }
    Ok(call.put(out, &(total as u32).to_le_bytes())?)
}

fn fd_fdstat_get(call: &mut Call<'_>, fd: i32, out: i32) -> Result<(), Fail> {
    let (kind, flags, rights) = match call.world.open(fd)? {
        Open::Stdin => (CHARACTER, 0, 1 << 1),
        Open::Stdout | Open::Stderr => (CHARACTER, 1, 1 << 6),
        // Rights are not what decides here; the folder a path lies in does.
        Open::Folder { .. } => (DIRECTORY, 0, !0_u64 >> 34 & !(1 << 1 | 1 << 6 | 1 << 2)),
        Open::File { append, read, write, .. } => {
            let rights = 1 << 2 | 1 << 5 | 1 << 21 | u64::from(*read) << 1 | u64::from(*write) << 6;
            (REGULAR, u8::from(*append), rights)
        }
    };
    let mut stat = [0; 24];
    stat[0] = kind;
    stat[2] = flags;
    stat[8..16].copy_from_slice(&rights.to_le_bytes());
    stat[16..24].copy_from_slice(&(!0_u64 >> 34).to_le_bytes());
    Ok(call.put(out, &stat)?)
}

fn fd_seek(call: &mut Call<'_>, fd: i32, offset: i64, whence: i32, out: i32) -> Result<(), Fail> {
    let path = call.world.file(fd)?;
    let end = call.world.tree.file(&path)?.len() as u64;
    let Open::File { at, .. } = call.world.open(fd)? else { return Err(Errno::SPIPE.into()) };
    let base = match whence {
        0 => 0,
        1 => *at,
        2 => end,
        _ => return Err(Errno::INVAL.into()),
    };
    *at = base.checked_add_signed(offset).ok_or(Errno::INVAL)?;
    let at = *at;
    Ok(call.put(out, &at.to_le_bytes())?)
}

fn fd_readdir(
    call: &mut Call<'_>,
    fd: i32,
    buffer: i32,
    len: i32,
    cookie: i64,
    out: i32,
) -> Result<(), Fail> {
    let path = call.world.folder(fd)?.1.to_owned();
    let this = call.world.tree.get(&path)?.number;
    let mut names = vec![(".".to_owned(), this, DIRECTORY), ("..".to_owned(), 0, DIRECTORY)];
    names.extend(call.world.tree.children(&path).map(|(name, entry)| {
        (name.to_owned(), entry.number, if entry.bytes.is_some() { REGULAR } else { DIRECTORY })
    }));
    call.moved += names.len() as u64 * 32;
    let len = len as u32 as usize;
    let mut bytes = Vec::new();
    let skip = usize::try_from(cookie).map_err(|_| Errno::INVAL)?;
    for (index, (name, number, kind)) in names.iter().enumerate().skip(skip) {
        if bytes.len() >= len {
            break;
        }
        bytes.extend_from_slice(&(index as u64 + 1).to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[*kind, 0, 0, 0]);
        bytes.extend_from_slice(name.as_bytes());
    }
    // A buffer that is full tells the program to ask again; the cut entry comes whole then.
    bytes.truncate(len);
    call.put(buffer, &bytes)?;
    Ok(call.put(out, &(bytes.len() as u32).to_le_bytes())?)
}

fn path_open(
    call: &mut Call<'_>,
    fd: i32,
    path: (i32, i32),
    oflags: i32,
    rights: i64,
    fdflags: i32,
    out: i32,
) -> Result<(), Fail> {
    let (create, folder, exclusive, truncate) =
        (oflags & 1 != 0, oflags & 2 != 0, oflags & 4 != 0, oflags & 8 != 0);
    let root = call.world.folder(fd)?.0.to_owned();
    let path = call.path(fd, path.0, path.1)?;
    let world = &mut *call.world;
    let write = rights & (1 << 6) != 0;
    match world.tree.get(&path) {
        Err(_) if create && !folder => world.tree.create(&path, Some(Vec::new()))?,
        Err(errno) => return Err(errno.into()),
        Ok(_) if create && exclusive => return Err(Errno::EXIST.into()),
        Ok(entry) if entry.bytes.is_none() && (write || truncate) => return Err(Errno::ISDIR.into()),
        Ok(entry) if entry.bytes.is_some() && folder => return Err(Errno::NOTDIR.into()),
        Ok(_) if (write || truncate) && !is_writable(&path) => return Err(Errno::ROFS.into()),
        Ok(_) => {}
    }
    if truncate {
        world.resize(&path, 0)?;
    }
    let open = if world.tree.get(&path)?.bytes.is_some() {
        Open::File { path, at: 0, append: fdflags & 1 != 0, read: rights & (1 << 1) != 0, write }
    } else {
        Open::Folder { root, path }
    };
    let free = world.open.iter().position(Option::is_none).unwrap_or(world.open.len());
    if free >= MAX_OPEN {
        return Err(Errno::MFILE.into());
    }
    if free == world.open.len() {
        world.open.push(Some(open));
    } else {
        world.open[free] = Some(open);
    }
    Ok(call.put(out, &(free as u32).to_le_bytes())?)
}

/// Waiting: descriptors are always ready, and the nearest clock rings at once because sleeping moves the clock.
fn poll_oneoff(
    call: &mut Call<'_>,
    subscriptions: i32,
    events: i32,
    count: i32,
    out: i32,
) -> Result<(), Fail> {
    if !(1..=1024).contains(&count) {
        return Err(Errno::INVAL.into());
    }
    let mut ready = Vec::new();
    let mut clocks = Vec::new();
    for index in 0..count {
        let at = subscriptions.wrapping_add(index * 48);
        let user = call.u64_at(at)?;
        let tag = call.slice(at.wrapping_add(8), 1)?[0];
        if tag == 0 {
            let timeout = call.u64_at(at.wrapping_add(24))?;
            let absolute = call.slice(at.wrapping_add(40), 1)?[0] & 1 != 0;
            let wait = if absolute { timeout.saturating_sub(call.now) } else { timeout };
            clocks.push((wait, user));
        } else {
            let fd = call.u32_at(at.wrapping_add(16))? as i32;
            let errno = call.world.open(fd).err().map_or(0, |errno| errno.0);
            ready.push((user, errno, tag));
        }
    }
    if ready.is_empty() {
        let nearest = clocks.iter().map(|(wait, _)| *wait).min().unwrap_or(0);
        call.world.slept = call.world.slept.saturating_add(nearest);
        ready.extend(clocks.iter().filter(|(wait, _)| *wait == nearest).map(|(_, user)| (*user, 0, 0)));
    }
    for (index, (user, errno, tag)) in ready.iter().enumerate() {
        let mut event = [0; 32];
        event[..8].copy_from_slice(&user.to_le_bytes());
        event[8..10].copy_from_slice(&errno.to_le_bytes());
        event[10] = *tag;
        call.put(events.wrapping_add(index as i32 * 32), &event)?;
    }
    Ok(call.put(out, &(ready.len() as u32).to_le_bytes())?)
}

/// Runs one call with the memory and the world apart, and charges for it.
fn run(
    caller: &mut Caller<'_, crate::limits::Guest>,
    body: impl FnOnce(&mut Call<'_>) -> Result<(), Fail>,
) -> wasmtime::Result<i32> {
    let left = caller.get_fuel()?;
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Ok(i32::from(Errno::FAULT.0));
    };
    let (memory, guest) = memory.data_and_store_mut(&mut *caller);
    let world = &mut guest.world;
    let now = EPOCH + (world.fuel - left.min(world.fuel)).saturating_add(world.slept);
    let mut call = Call { memory, world, now, moved: 0 };
    let result = body(&mut call);
    let cost = CALL_FUEL + call.moved / BYTES_PER_FUEL;
    if let Err(Fail::Stop(stop)) = result {
        caller.set_fuel(left.saturating_sub(cost))?;
        return Err(wasmtime::Error::new(stop));
    }
    let Some(rest) = left.checked_sub(cost) else {
        caller.set_fuel(0)?;
        return Err(wasmtime::Error::new(Trap::OutOfFuel));
    };
    caller.set_fuel(rest)?;
    Ok(match result {
        Err(Fail::Errno(errno)) => i32::from(errno.0),
        _ => 0,
    })
}

type Ctx<'a> = Caller<'a, crate::limits::Guest>;

/// Defines every function of the preview; what no job is granted answers with an error number.
pub(crate) fn link(linker: &mut Linker<crate::limits::Guest>) -> wasmtime::Result<()> {
    let m = "wasi_snapshot_preview1";
    linker.func_wrap(m, "proc_exit", |_: Ctx<'_>, code: i32| -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(Stop::Exit(code)))
    })?;
    linker.func_wrap(m, "args_sizes_get", |mut c: Ctx<'_>, a: i32, b: i32| {
        run(&mut c, |call| {
            let strings = call.world.args.clone();
            call.string_sizes(a, b, &strings)
        })
    })?;
    linker.func_wrap(m, "args_get", |mut c: Ctx<'_>, a: i32, b: i32| {
        run(&mut c, |call| {
            let strings = call.world.args.clone();
            call.strings(a, b, &strings)
        })
    })?;
    linker.func_wrap(m, "environ_sizes_get", |mut c: Ctx<'_>, a: i32, b: i32| {
        run(&mut c, |call| {
            let strings = call.world.env.clone();
            call.string_sizes(a, b, &strings)
        })
    })?;
    linker.func_wrap(m, "environ_get", |mut c: Ctx<'_>, a: i32, b: i32| {
        run(&mut c, |call| {
            let strings = call.world.env.clone();
            call.strings(a, b, &strings)
        })
    })?;
    linker.func_wrap(m, "clock_res_get", |mut c: Ctx<'_>, _clock: i32, out: i32| {
        run(&mut c, |call| Ok(call.put(out, &1_u64.to_le_bytes())?))
    })?;
    linker.func_wrap(m, "clock_time_get", |mut c: Ctx<'_>, _clock: i32, _precision: i64, out: i32| {
        run(&mut c, |call| {
            let now = call.now;
            Ok(call.put(out, &now.to_le_bytes())?)
        })
    })?;
    linker.func_wrap(m, "random_get", |mut c: Ctx<'_>, at: i32, len: i32| {
        run(&mut c, |call| {
            let mut random = call.world.random.clone();
            random.fill(call.slice(at, len as u32)?);
            call.world.random = random;
            Ok(())
        })
    })?;
    linker.func_wrap(m, "sched_yield", |mut c: Ctx<'_>| run(&mut c, |_| Ok(())))?;
    linker.func_wrap(m, "poll_oneoff", |mut c: Ctx<'_>, a: i32, b: i32, n: i32, out: i32| {
        run(&mut c, |call| poll_oneoff(call, a, b, n, out))
    })?;
    linker.func_wrap(m, "proc_raise", |mut c: Ctx<'_>, _signal: i32| {
        run(&mut c, |_| Err(Errno::NOTSUP.into()))
    })?;
    link_descriptors(linker, m)?;
    link_paths(linker, m)?;
    linker.func_wrap(m, "sock_accept", |mut c: Ctx<'_>, _: i32, _: i32, _: i32| {
        run(&mut c, |_| Err(Errno::NOTSUP.into()))
    })?;
    linker.func_wrap(m, "sock_recv", |mut c: Ctx<'_>, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| {
        run(&mut c, |_| Err(Errno::NOTSUP.into()))
    })?;
    linker.func_wrap(m, "sock_send", |mut c: Ctx<'_>, _: i32, _: i32, _: i32, _: i32, _: i32| {
        run(&mut c, |_| Err(Errno::NOTSUP.into()))
    })?;
    linker.func_wrap(m, "sock_shutdown", |mut c: Ctx<'_>, _: i32, _: i32| {
        run(&mut c, |_| Err(Errno::NOTSUP.into()))
    })?;
    Ok(())
}

fn link_descriptors(linker: &mut Linker<crate::limits::Guest>, m: &str) -> wasmtime::Result<()> {
    linker.func_wrap(m, "fd_read", |mut c: Ctx<'_>, fd: i32, v: i32, n: i32, out: i32| {
        run(&mut c, |call| fd_read(call, fd, v, n, None, out))
    })?;
    linker.func_wrap(m, "fd_pread", |mut c: Ctx<'_>, fd: i32, v: i32, n: i32, at: i64, out: i32| {
        run(&mut c, |call| fd_read(call, fd, v, n, Some(at as u64), out))
    })?;
    linker.func_wrap(m, "fd_write", |mut c: Ctx<'_>, fd: i32, v: i32, n: i32, out: i32| {
        run(&mut c, |call| fd_write(call, fd, v, n, None, out))
    })?;
    linker.func_wrap(m, "fd_pwrite", |mut c: Ctx<'_>, fd: i32, v: i32, n: i32, at: i64, out: i32| {
        run(&mut c, |call| fd_write(call, fd, v, n, Some(at as u64), out))
    })?;
    linker.func_wrap(m, "fd_close", |mut c: Ctx<'_>, fd: i32| {
        run(&mut c, |call| {
            call.world.open(fd)?;
            call.world.open[fd as usize] = None;
            Ok(())
        })
    })?;
    linker.func_wrap(m, "fd_renumber", |mut c: Ctx<'_>, from: i32, to: i32| {
        run(&mut c, |call| {
            call.world.open(to)?;
            let open = call.world.open(from)?.clone();
            call.world.open[from as usize] = None;
            call.world.open[to as usize] = Some(open);
            Ok(())
        })
    })?;
    linker.func_wrap(m, "fd_seek", |mut c: Ctx<'_>, fd: i32, offset: i64, whence: i32, out: i32| {
        run(&mut c, |call| fd_seek(call, fd, offset, whence, out))
    })?;
    linker.func_wrap(m, "fd_tell", |mut c: Ctx<'_>, fd: i32, out: i32| {
        run(&mut c, |call| fd_seek(call, fd, 0, 1, out))
    })?;
    linker.func_wrap(m, "fd_fdstat_get", |mut c: Ctx<'_>, fd: i32, out: i32| {
        run(&mut c, |call| fd_fdstat_get(call, fd, out))
    })?;
    linker.func_wrap(m, "fd_fdstat_set_flags", |mut c: Ctx<'_>, fd: i32, flags: i32| {
        run(&mut c, |call| {
            if let Open::File { append, .. } = call.world.open(fd)? {
                *append = flags & 1 != 0;
            }
            Ok(())
        })
    })?;
    linker.func_wrap(m, "fd_fdstat_set_rights", |mut c: Ctx<'_>, fd: i32, _: i64, _: i64| {
        run(&mut c, |call| Ok(call.world.open(fd).map(|_| ())?))
    })?;
    linker.func_wrap(m, "fd_filestat_get", |mut c: Ctx<'_>, fd: i32, out: i32| {
        run(&mut c, |call| match call.world.open(fd)?.clone() {
            Open::Folder { path, .. } | Open::File { path, .. } => call.stat_path(&path, out),
            _ => call.filestat(out, 0, CHARACTER, 0),
        })
    })?;
    linker.func_wrap(m, "fd_filestat_set_size", |mut c: Ctx<'_>, fd: i32, size: i64| {
        run(&mut c, |call| {
            let path = call.world.file(fd)?;
            call.world.resize(&path, size as u64)
        })
    })?;
    linker.func_wrap(m, "fd_allocate", |mut c: Ctx<'_>, fd: i32, at: i64, len: i64| {
        run(&mut c, |call| {
            let path = call.world.file(fd)?;
            let end = (at as u64).checked_add(len as u64).ok_or(Errno::INVAL)?;
            let size = call.world.tree.file(&path)?.len() as u64;
            if end > size { call.world.resize(&path, end) } else { Ok(()) }
        })
    })?;
    linker.func_wrap(m, "fd_filestat_set_times", |mut c: Ctx<'_>, fd: i32, _: i64, _: i64, _: i32| {
        run(&mut c, |call| Ok(call.world.file(fd).map(|_| ())?))
    })?;
    linker.func_wrap(m, "fd_advise", |mut c: Ctx<'_>, fd: i32, _: i64, _: i64, _: i32| {
        run(&mut c, |call| Ok(call.world.file(fd).map(|_| ())?))
    })?;
    for name in ["fd_sync", "fd_datasync"] {
        linker.func_wrap(m, name, |mut c: Ctx<'_>, fd: i32| {
            run(&mut c, |call| Ok(call.world.open(fd).map(|_| ())?))
        })?;
    }
    linker.func_wrap(
        m,
        "fd_readdir",
        |mut c: Ctx<'_>, fd: i32, buffer: i32, len: i32, cookie: i64, out: i32| {
            run(&mut c, |call| fd_readdir(call, fd, buffer, len, cookie, out))
        },
    )?;
    linker.func_wrap(m, "fd_prestat_get", |mut c: Ctx<'_>, fd: i32, out: i32| {
        run(&mut c, |call| {
            // Only the granted folders themselves are announced.
            let name = granted(call.world, fd)?;
            let mut stat = [0; 8];
            stat[4..].copy_from_slice(&(name.len() as u32).to_le_bytes());
            Ok(call.put(out, &stat)?)
        })
    })?;
    linker.func_wrap(m, "fd_prestat_dir_name", |mut c: Ctx<'_>, fd: i32, at: i32, len: i32| {
        run(&mut c, |call| {
            let name = granted(call.world, fd)?;
            if name.len() > len as u32 as usize {
                return Err(Errno::NAMETOOLONG.into());
            }
            Ok(call.put(at, name.as_bytes())?)
        })
    })?;
    Ok(())
}

fn granted(world: &mut World, fd: i32) -> Result<String, Errno> {
    match world.open(fd)? {
        Open::Folder { root, path } if root == path => Ok(root.clone()),
        _ => Err(Errno::BADF),
    }
}

fn link_paths(linker: &mut Linker<crate::limits::Guest>, m: &str) -> wasmtime::Result<()> {
    linker.func_wrap(
        m,
        "path_open",
        |mut c: Ctx<'_>,
         fd: i32,
         _look: i32,
         p: i32,
         n: i32,
         oflags: i32,
         rights: i64,
         _inherit: i64,
         flags: i32,
         out: i32| { run(&mut c, |call| path_open(call, fd, (p, n), oflags, rights, flags, out)) },
    )?;
    linker.func_wrap(
        m,
        "path_filestat_get",
        |mut c: Ctx<'_>, fd: i32, _look: i32, p: i32, n: i32, out: i32| {
            run(&mut c, |call| {
                let path = call.path(fd, p, n)?;
                call.stat_path(&path, out)
            })
        },
    )?;
    linker.func_wrap(
        m,
        "path_filestat_set_times",
        |mut c: Ctx<'_>, fd: i32, _look: i32, p: i32, n: i32, _: i64, _: i64, _: i32| {
            run(&mut c, |call| {
                let path = call.path(fd, p, n)?;
                Ok(call.world.tree.get(&path).map(|_| ())?)
            })
        },
    )?;
    linker.func_wrap(m, "path_create_directory", |mut c: Ctx<'_>, fd: i32, p: i32, n: i32| {
        run(&mut c, |call| {
            let path = call.path(fd, p, n)?;
            Ok(call.world.tree.create(&path, None)?)
        })
    })?;
    for (name, folder) in [("path_unlink_file", false), ("path_remove_directory", true)] {
        linker.func_wrap(m, name, move |mut c: Ctx<'_>, fd: i32, p: i32, n: i32| {
            run(&mut c, |call| {
                let path = call.path(fd, p, n)?;
                call.world.output_left += call.world.tree.remove(&path, folder)?;
                Ok(())
            })
        })?;
    }
    linker.func_wrap(
        m,
        "path_rename",
        |mut c: Ctx<'_>, fd: i32, p: i32, n: i32, to_fd: i32, q: i32, k: i32| {
            run(&mut c, |call| {
                let from = call.path(fd, p, n)?;
                let to = call.path(to_fd, q, k)?;
                call.world.output_left += call.world.tree.rename(&from, &to)?;
                Ok(())
            })
        },
    )?;
    linker.func_wrap(
        m,
        "path_readlink",
        |mut c: Ctx<'_>, fd: i32, p: i32, n: i32, _: i32, _: i32, _: i32| {
            run(&mut c, |call| {
                let path = call.path(fd, p, n)?;
                call.world.tree.get(&path)?;
                Err(Errno::INVAL.into())
            })
        },
    )?;
    linker.func_wrap(m, "path_symlink", |mut c: Ctx<'_>, _: i32, _: i32, _: i32, _: i32, _: i32| {
        run(&mut c, |_| Err(Errno::PERM.into()))
    })?;
    linker.func_wrap(
        m,
        "path_link",
        |mut c: Ctx<'_>, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| {
            run(&mut c, |_| Err(Errno::PERM.into()))
        },
    )?;
    Ok(())
}
