//! Writes the small generator's folder: `cargo run -p theta-edge-ai --example tiny_model -- models/theta-tiny`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: tiny_model FOLDER")?;
    theta_edge_ai::tiny::write(std::path::Path::new(&folder))?;
    println!("{}", std::path::Path::new(&folder).display());
    Ok(())
}
