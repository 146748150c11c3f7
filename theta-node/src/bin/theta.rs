//! The node on the command line.

fn main() -> std::process::ExitCode {
    // Never returns in a child process that runs a task.
    theta_edge_wasm::worker();
    theta_node::cli::main()
}
