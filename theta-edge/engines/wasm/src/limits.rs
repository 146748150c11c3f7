//! What bounds a program while it runs: memory and tables together, inside the child; and the child itself.

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmtime::ResourceLimiter;

use crate::wasi::{Stop, World};

/// What the compiler and the runtime may use on top of the program's memory, in bytes.
const OVERHEAD: u64 = 1 << 30;
/// Bytes that one table element costs.
const ELEMENT: usize = 16;

/// A running program: its world and what memory it has left.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) world: World,
    pub(crate) memory_left: usize,
}

impl Guest {
    /// Takes growth from the budget. Growth beyond what the module itself declares fails in the program as usual;
    /// growth beyond the job's limit ends it, so that every node tells the same reason.
    fn grow(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
        unit: usize,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = desired.saturating_sub(current).saturating_mul(unit);
        self.memory_left =
            self.memory_left.checked_sub(more).ok_or(wasmtime::Error::new(Stop::OutOfMemory))?;
        Ok(true)
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, 1)
    }

    // The budget allowed it and this machine did not: not something to answer the program with, because on
    // another machine it would go on.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, ELEMENT)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn instances(&self) -> usize {
        1
    }
}

/// Bounds this process before it looks at a module: no files written, no core dumps, few descriptors, memory, and
/// processor time as a last resort should the parent be gone.
pub(crate) fn bound_process(memory: u64, seconds: u64) -> rustix::io::Result<()> {
    let bounds = [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 32),
        (Resource::Data, memory.saturating_add(OVERHEAD)),
        (Resource::Cpu, seconds.saturating_add(5)),
    ];
    for (resource, bound) in bounds {
        setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })?;
    }
    Ok(())
}
