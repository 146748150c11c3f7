//! The child's side: bounds itself, then becomes the program it was started for.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, exit},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

/// What a child that could not bound itself ends with: nothing was read.
pub(crate) const UNBOUNDED: i32 = 125;
/// What one that could not start the program ends with.
pub(crate) const NOT_STARTED: i32 = 126;

/// Where programs and their libraries are.
const PROGRAMS: [&str; 8] =
    ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/dev/null", "/dev/urandom"];

/// Bounds of a child: memory and output in bytes, and seconds of processor time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) memory: u64,
    pub(crate) output: u64,
    pub(crate) seconds: u64,
}

impl Bounds {
    pub(crate) fn args(self) -> [OsString; 3] {
        [self.memory, self.output, self.seconds].map(|bound| bound.to_string().into())
    }

    fn read(args: &mut impl Iterator<Item = OsString>) -> Option<Self> {
        let mut number = || args.next()?.to_str()?.parse().ok();
        Some(Self { memory: number()?, output: number()?, seconds: number()? })
    }

    fn apply(self) -> rustix::io::Result<()> {
        // Gone with the parent: it holds the folder that this one writes into.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let bounds = [
            (Resource::Core, 0),
            (Resource::Fsize, self.output),
            (Resource::Nofile, 64),
            (Resource::Data, self.memory),
            (Resource::Cpu, self.seconds),
        ];
        for (resource, bound) in bounds {
            setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })?;
        }
        Ok(())
    }
}

/// Only its own folder may be written, only programs may be read besides, and no connection be opened. A kernel without
/// Landlock, or with an older one, forbids what it can.
fn confine() -> Result<(), landlock::RulesetError> {
    let abi = ABI::V5;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(PROGRAMS, AccessFs::from_read(abi)))?
        .add_rules(path_beneath_rules(["."], AccessFs::from_all(abi)))?
        .restrict_self()?;
    Ok(())
}

/// Never returns.
pub(crate) fn become_program(mut args: impl Iterator<Item = OsString>) -> ! {
    let Some((bounds, program)) = Bounds::read(&mut args).zip(args.next()) else {
        eprintln!("a media worker is started by an edge node, not by hand");
        exit(2)
    };
    if let Err(error) = bounds.apply() {
        eprintln!("the worker cannot bound itself: {error}");
        exit(UNBOUNDED)
    }
    if let Err(error) = confine() {
        eprintln!("the worker cannot confine itself: {error}");
        exit(UNBOUNDED)
    }
    let error = Command::new(&program).args(args).exec();
    eprintln!("{} cannot be started: {error}", program.display());
    exit(NOT_STARTED)
}
