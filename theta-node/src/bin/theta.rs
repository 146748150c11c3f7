//! The node on the command line.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Never returns in a child process that runs a task.
    theta_edge_wasm::worker();
    theta_edge_media::worker();
    theta_node::cli::main()
}
