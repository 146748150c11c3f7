//! `theta sim`: networks and fleets in virtual time, by the code that runs in earnest.

mod consensus;
mod edge;

use anyhow::Result;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Validators and guardians. Equal seeds give equal traces.
    #[command(
        after_help = "Example:\n  theta sim consensus --seeds 1000                        schedules with faults; fails if one breaks a rule\n  theta sim consensus --seed 4711 --json                  one of them again\n  theta sim consensus settling --svg settling.svg         delays at 4, 31 and 100 validators\n  theta sim consensus guardians --sizes 1000,4000         how long certificates take"
    )]
    Consensus(consensus::Args),
    /// Fleets, cheaters, overspenders and GPUs, each figure beside its target.
    #[command(
        after_help = "Example:\n  theta sim edge --seed 7\n  theta sim edge --scenario large.toml --json\n\nA scenario file has any of: nodes, tasks, tenants, churn-percent, slow-percent, cheater-percent, checked-tasks,\noverspenders, gpu-nodes."
    )]
    Edge(edge::Args),
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Consensus(args) => consensus::run(args).await,
        Command::Edge(args) => edge::run(&args),
    }
}
