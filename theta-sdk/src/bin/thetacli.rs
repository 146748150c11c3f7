//! The wallet on the command line.

fn main() -> std::process::ExitCode {
    theta_sdk::cli::main()
}
