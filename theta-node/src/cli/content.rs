//! `theta content`: clips that edge nodes encode and deliver.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    demo::tokens,
    job::{At, Failed, Gateway},
};

/// Largest clip.
const MAX_CLIP: u64 = 256 << 20;
/// How often a publication is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Encode a clip on edge nodes and have them deliver it; wait until it can be played.
    #[command(
        after_help = "Example:\n  theta content publish clip.mp4 --title \"A clip\"\n  theta content publish clip.mp4 --ladder 240p,480p,source --segment-seconds 4\n\nPlay it at any edge node: http://127.0.0.1:17888/hls/<manifest>/master.m3u8, or on the page at http://127.0.0.1:17888/"
    )]
    Publish(PublishArgs),
    /// Clips that were published since the gateway began.
    #[command(after_help = "Example:\n  theta content list --json")]
    List(At),
}

#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// The clip.
    clip: PathBuf,
    /// What it is called; its file name when missing.
    #[arg(long)]
    title: Option<String>,
    /// Renditions: 160p, 240p, 360p, 480p, 720p, 1080p, and source for the pictures as they are. The three highest that fit
    /// when missing.
    #[arg(long, value_delimiter = ',')]
    ladder: Vec<String>,
    /// Length of a segment.
    #[arg(long, default_value_t = 2.0)]
    segment_seconds: f64,
    /// Equal results that each task needs.
    #[arg(long, default_value_t = 1)]
    quorum: u8,
    /// The most that one task may cost.
    #[arg(long, value_name = "AMOUNT")]
    max_tfuel_per_task: Option<String>,
    #[command(flatten)]
    at: At,
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Publish(args) => publish(args).await,
        Command::List(at) => list(at).await,
    }
}

async fn publish(args: PublishArgs) -> Result<()> {
    let gateway = Gateway::new(&args.at)?;
    let name = args.clip.display();
    let len = std::fs::metadata(&args.clip).with_context(|| format!("the clip {name} cannot be read"))?.len();
    ensure!(len <= MAX_CLIP, "the clip has {len} bytes, and {MAX_CLIP} are the most");
    let bytes = std::fs::read(&args.clip).with_context(|| format!("the clip {name} cannot be read"))?;
    let file_name = args.clip.file_stem().map(|name| name.to_string_lossy().into_owned());
    let wish = json!({
        "blob": gateway.put(bytes).await?,
        "title": args.title.or(file_name).unwrap_or_default(),
        "ladder": args.ladder,
        "segmentSeconds": args.segment_seconds,
        "quorum": args.quorum,
        "maxTfuelPerTask": args.max_tfuel_per_task,
    });
    let request = gateway.http.post(format!("{}/api/content", gateway.url)).json(&wish);
    let mut state: Value = gateway.send(request).await?.json().await?;
    let id = state["id"].as_str().context("the gateway gave no id")?.to_owned();
    let live = std::io::stderr().is_terminal();
    let mut shown = String::new();
    while state["state"] == "running" {
        let line = format!("encoding: {} of {} tasks", state["tasksDone"], state["tasks"]);
        if live && line != shown {
            eprint!("\r{line}\x1b[K");
        }
        shown = line;
        tokio::time::sleep(LOOK).await;
        state = gateway.call(Method::GET, &format!("content/{id}")).await?;
    }
    if live {
        eprintln!();
    }
    if args.at.json {
        say!("{state}")?;
    } else if let Some(manifest) = state["manifest"].as_str() {
        say!("Published {}.\n", state["title"])?;
        say!("  manifest   {manifest}")?;
        say!("  length     {:.1} s", state["ms"].as_f64().unwrap_or_default() / 1_000.0)?;
        let names: Vec<&str> =
            state["renditions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        say!("  pictures   {}", names.join(", "))?;
        say!("  paid       {} TFUEL for {} tasks", tokens(&text(&state["paidTfuelWei"])), state["tasks"])?;
        for (node, tasks) in state["nodes"].as_object().into_iter().flatten() {
            say!("             {node}   {tasks} tasks")?;
        }
        say!("\nPlay it: {}/hls/{manifest}/master.m3u8, or the same at an edge node", gateway.url)?;
    }
    if state["state"] == "published" {
        return Ok(());
    }
    if !args.at.json {
        eprintln!("error: the clip was not published: {}", text(&state["error"]));
    }
    Err(Failed.into())
}

async fn list(at: At) -> Result<()> {
    let all = Gateway::new(&at)?.call(Method::GET, "content").await?;
    if at.json {
        say!("{all}")?;
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.set_header(["TITLE", "STATE", "TASKS", "TFUEL", "MANIFEST"]);
    for one in all["content"].as_array().into_iter().flatten() {
        table.add_row([
            text(&one["title"]),
            text(&one["state"]),
            format!("{}/{}", one["tasksDone"], one["tasks"]),
            tokens(&text(&one["paidTfuelWei"])),
            text(&one["manifest"]),
        ]);
    }
    say!("{table}")?;
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
