//! The child process: takes one request from stdin, compiles, runs, answers on stdout, ends.

use std::io::{self, Read, Write};

use theta_edge::executor::Ending;
use wasmtime::{Config, Engine, Linker, Module, Store, Trap};

use crate::frame::{Answer, MAX_BODY, MAX_HEAD, Request, VERSION, receive, send, send_head};
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
    module: Vec<u8>,
    stdin: Vec<u8>,
    files: Vec<Vec<u8>>,
}

fn read_job(input: &mut impl Read) -> io::Result<Job> {
    let head = receive(input, MAX_HEAD)?;
    let request: Request = theta_core::codec::record::decode(VERSION, &head).map_err(io::Error::other)?;
    bound_process(request.memory_bytes, request.wall_seconds)?;
    let module = receive(input, MAX_BODY)?;
    let stdin = receive(input, MAX_BODY)?;
    let files = request.files.iter().map(|_| receive(input, MAX_BODY)).collect::<io::Result<_>>()?;
    Ok(Job { request, module, stdin, files })
}

/// Serves one request and ends the process.
pub(crate) fn serve() -> ! {
    // Not in the `match`: the lock would be held through it, and the watcher below could never read.
    let job = read_job(&mut io::stdin().lock());
    let status = match job {
        Err(_) => NO_PARENT,
        Ok(job) => {
            // The parent keeps this pipe open while it wants the result; its death closes it, whatever killed it.
            std::thread::spawn(|| {
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
                std::process::exit(NO_PARENT);
            });
            let mut out = io::stdout().lock();
            match answer(job, &mut out).and_then(|()| out.flush()) {
                Ok(()) => 0,
                Err(_) => NO_PARENT,
            }
        }
    };
    std::process::exit(status)
}

fn answer(job: Job, out: &mut impl Write) -> io::Result<()> {
    let compiled =
        engine().and_then(|engine| Module::new(&engine, &job.module).map(|module| (engine, module)));
    let (engine, module) = match compiled {
        Ok(both) => both,
        Err(error) => {
            return done(out, Ending::InvalidModule(reason(&error)), 0, [Vec::new(), Vec::new()], Vec::new());
        }
    };
    send_head(out, &Answer::Compiled)?;
    out.flush()?;
    match run(&engine, &module, job) {
        Ok((ending, fuel_used, world)) => {
            let World { stdout, stderr, tree, .. } = world;
            done(out, ending, fuel_used, [stdout, stderr], tree.take_out())
        }
        Err(error) => send_head(out, &Answer::Failed(reason(&error))),
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

fn run(engine: &Engine, module: &Module, job: Job) -> wasmtime::Result<(Ending, u64, World)> {
    let Job { request, stdin, files, .. } = job;
    let mut tree = Tree::default();
    for (path, bytes) in request.files.iter().zip(files) {
        tree.add_file(path, bytes);
    }
    let mut world = World::new(tree, &request.folders, &request.seed, request.fuel, request.output_bytes);
    world.stdin = stdin;
    world.args = request.args.into_iter().map(String::into_bytes).collect();
    world.env = request.env.into_iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect();

    let memory_left = usize::try_from(request.memory_bytes).unwrap_or(usize::MAX);
    let mut store = Store::new(engine, Guest { world, memory_left });
    store.limiter(|guest| guest);
    store.set_fuel(request.fuel)?;
    let mut linker = Linker::new(engine);
    wasi::link(&mut linker)?;
    let ending = match start(&linker, &mut store, module) {
        Ok(ending) => ending,
        Err(error) => ending_of(&error).ok_or(error)?,
    };
    let left = if ending == Ending::OutOfFuel { 0 } else { store.get_fuel()? };
    Ok((ending, request.fuel - left.min(request.fuel), store.into_data().world))
}

fn start(linker: &Linker<Guest>, store: &mut Store<Guest>, module: &Module) -> wasmtime::Result<Ending> {
    for import in module.imports() {
        if linker.get_by_import(&mut *store, &import).is_none() {
            return Ok(Ending::Denied(format!("{}.{}", import.module(), import.name())));
        }
    }
    if module.get_export("memory").is_none_or(|export| export.memory().is_none()) {
        return Ok(Ending::InvalidModule("it exports no `memory`".into()));
    }
    if module
        .get_export("_start")
        .and_then(|export| export.func().cloned())
        .is_none_or(|f| f.params().len() + f.results().len() > 0)
    {
        return Ok(Ending::InvalidModule(
            "it exports no function `_start` without parameters and results".into(),
        ));
    }
    // A call of another form than ours is the module's fault and no machine's.
    let ready = match linker.instantiate_pre(module) {
        Ok(ready) => ready,
        Err(error) => return Ok(Ending::InvalidModule(reason(&error))),
    };
    let instance = ready.instantiate(&mut *store)?;
    instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(&mut *store, ())?;
    Ok(Ending::Exit(0))
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
