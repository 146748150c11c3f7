//! A program that is nothing but a worker, for embedders whose own program cannot start as one.

fn main() {
    theta_edge_media::worker();
    eprintln!("theta-media-worker is started by an edge node, not by hand");
    std::process::exit(2);
}
