//! The child process: takes requests from stdin, compiles the module of the first, runs it for each, answers on stdout.

use std::io::{self, Read, Write};

use rustix::event::{PollFd, PollFlags, poll};
use theta_edge::executor::Ending;
use wasmtime::{Config, Engine, InstancePre, Linker, Module, Store, Trap, UnknownImportError};

use crate::frame::{Answer, MAX_BODY, MAX_HEAD, Request, VERSION, is_reusable, receive, send, send_head};
use crate::limits::{Guest, bound_process};
use crate::tree::Tree;
use crate::wasi::{self, Stop, World};

/// Exit status of a child whose parent spoke nonsense or has gone.
const NO_PARENT: i32 = 3;
/// Longest text about a fault, in characters.
const MAX_REASON: usize = 400;

/// The deterministic profile of edge.md 2.4. Every line of it can change results, so it is part of
/// [`crate::PROFILE`], and a change here is a change there.
fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.consume_fuel(true);
    config.cranelift_nan_canonicalization(true);
    config.wasm_relaxed_simd(true);
    config.relaxed_simd_deterministic(true);
    config.wasm_multi_memory(false);
    config.wasm_memory64(false);
    config.max_wasm_stack(512 << 10);
    // An image on a memory file would need the right to write files, which the child gives up.
    config.memory_init_cow(false);
    Engine::new(&config)
}

struct Job {
    request: Request,
    stdin: Vec<u8>,
    files: Vec<Vec<u8>>,
}

fn read_head(input: &mut impl Read) -> io::Result<Request> {
    let head = receive(input, MAX_HEAD)?;
    theta_core::codec::record::decode(VERSION, &head).map_err(io::Error::other)
}

fn read_job(request: Request, input: &mut impl Read) -> io::Result<Job> {
    let stdin = receive(input, MAX_BODY)?;
    let files = request.files.iter().map(|_| receive(input, MAX_BODY)).collect::<io::Result<_>>()?;
    Ok(Job { request, stdin, files })
}

/// Serves requests until one does not end well, the parent has had enough, or it is gone.
pub(crate) fn serve() -> ! {
    // The parent keeps this pipe open while it wants the child; its death closes it, whatever killed it.
    std::thread::spawn(|| {
        let pipe = io::stdin();
        // Asks for nothing, and so learns only of the other end's being closed.
        let mut closed = [PollFd::new(&pipe, PollFlags::empty())];
        while !matches!(poll(&mut closed, None), Ok(count) if count > 0) {}
        std::process::exit(NO_PARENT);
    });
    let status = match turns(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => 0,
        Err(_) => NO_PARENT,
    };
    std::process::exit(status)
}

/// The first task brings the module, which is compiled once; later ones are new worlds for it.
fn turns(input: &mut impl Read, out: &mut impl Write) -> io::Result<()> {
    let first = read_head(input)?;
    let bounds = (first.memory_bytes, first.wall_seconds);
    bound_process(bounds.0, bounds.1)?;
    let module = receive(input, MAX_BODY)?;
    let mut job = read_job(first, input)?;
    let program = match Program::compile(&module, out)? {
        Ok(program) => program,
        Err(ending) => {
            done(out, ending, 0, [Vec::new(), Vec::new()], Vec::new())?;
            return out.flush();
        }
    };
    drop(module);
    loop {
        let well = answer(&program, job, out)?;
        out.flush()?;
        if !well {
            return Ok(());
        }
        let next = read_head(input)?;
        if (next.memory_bytes, next.wall_seconds) != bounds {
            return Err(io::ErrorKind::InvalidData.into());
        }
        job = read_job(next, input)?;
    }
}

/// Runs one task. Only a program that came to its own end leaves a child that may serve another.
fn answer(program: &Program, job: Job, out: &mut impl Write) -> io::Result<bool> {
    match program.run(job) {
        Ok((ending, fuel_used, world)) => {
            let World { stdout, stderr, tree, .. } = world;
            let well = is_reusable(&ending);
            done(out, ending, fuel_used, [stdout, stderr], tree.take_out())?;
            Ok(well)
        }
        Err(error) => {
            send_head(out, &Answer::Failed(reason(&error)))?;
            Ok(false)
        }
    }
}

fn done(
    out: &mut impl Write,
    ending: Ending,
    fuel_used: u64,
    streams: [Vec<u8>; 2],
    files: Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    let (paths, bodies): (Vec<_>, Vec<_>) = files.into_iter().unzip();
    send_head(out, &Answer::Done { ending, fuel_used, files: paths })?;
    streams.iter().chain(&bodies).try_for_each(|body| send(out, body))
}

/// A module that is compiled and whose calls are all there. It holds nothing of a run.
struct Program {
    engine: Engine,
    ready: InstancePre<Guest>,
}

impl Program {
    /// Says when it is compiled. What is wrong with the module is how the task ends.
    fn compile(module: &[u8], out: &mut impl Write) -> io::Result<Result<Self, Ending>> {
        let compiled =
            engine().and_then(|engine| Module::new(&engine, module).map(|module| (engine, module)));
        let (engine, module) = match compiled {
            Ok(both) => both,
            Err(error) => return Ok(Err(Ending::InvalidModule(reason(&error)))),
        };
        send_head(out, &Answer::Compiled)?;
        out.flush()?;
        Ok(Self::link(engine, &module))
    }

    fn link(engine: Engine, module: &Module) -> Result<Self, Ending> {
        let mut linker = Linker::new(&engine);
        let invalid = |error: &wasmtime::Error| Ending::InvalidModule(reason(error));
        wasi::link(&mut linker).map_err(|error| invalid(&error))?;
        let ready = linker.instantiate_pre(module);
        if let Some(unknown) =
            ready.as_ref().err().and_then(|error| error.downcast_ref::<UnknownImportError>())
        {
            return Err(Ending::Denied(format!("{}.{}", unknown.module(), unknown.name())));
        }
        if module.get_export("memory").is_none_or(|export| export.memory().is_none()) {
            return Err(Ending::InvalidModule("it exports no `memory`".into()));
        }
        if module
            .get_export("_start")
            .and_then(|export| export.func().cloned())
            .is_none_or(|f| f.params().len() + f.results().len() > 0)
        {
            return Err(Ending::InvalidModule(
                "it exports no function `_start` without parameters and results".into(),
            ));
        }
        // A call of another form than ours is the module's fault and no machine's.
        let ready = ready.map_err(|error| invalid(&error))?;
        Ok(Self { engine, ready })
    }

    /// Runs it in a store, a memory and a world of its own.
    fn run(&self, job: Job) -> wasmtime::Result<(Ending, u64, World)> {
        let Job { request, stdin, files } = job;
        let mut tree = Tree::default();
        for (path, bytes) in request.files.iter().zip(files) {
            tree.add_file(path, bytes);
        }
        let mut world = World::new(tree, &request.folders, &request.seed, request.fuel, request.output_bytes);
        world.stdin = stdin;
        world.args = request.args.into_iter().map(String::into_bytes).collect();
        world.env =
            request.env.into_iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect();

        let memory_left = usize::try_from(request.memory_bytes).unwrap_or(usize::MAX);
        let mut store = Store::new(&self.engine, Guest { world, memory_left });
        store.limiter(|guest| guest);
        store.set_fuel(request.fuel)?;
        let ending = match self.start(&mut store) {
            Ok(()) => Ending::Exit(0),
            Err(error) => ending_of(&error).ok_or(error)?,
        };
        let left = if ending == Ending::OutOfFuel { 0 } else { store.get_fuel()? };
        Ok((ending, request.fuel - left.min(request.fuel), store.into_data().world))
    }

    fn start(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        let instance = self.ready.instantiate(&mut *store)?;
        instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(&mut *store, ())
    }
}

/// What the program did to end this way; `None` where it was not the program.
fn ending_of(error: &wasmtime::Error) -> Option<Ending> {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return Some(match stop {
            Stop::Exit(code) => Ending::Exit(*code),
            Stop::OutputTooLarge => Ending::OutputTooLarge,
            Stop::OutOfMemory => Ending::OutOfMemory,
        });
    }
    match error.downcast_ref::<Trap>()? {
        Trap::OutOfFuel => Some(Ending::OutOfFuel),
        trap => Some(Ending::Trap(trap.to_string())),
    }
}

fn reason(error: &wasmtime::Error) -> String {
    format!("{error:#}").chars().take(MAX_REASON).collect()
}
