//! The node on the command line.

fn main() -> std::process::ExitCode {
    theta_node::cli::main()
}
