//! `theta job`: jobs on edge nodes, through a gateway.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use theta_edge::job::{AnyFile, JobError, JobFile, MergeFile};

use super::{demo::tokens, interrupted};

/// Files that one job may name, and bytes of each.
const MAX_FILES: usize = 10_000;
const MAX_FILE: u64 = 256 << 20;
/// How often a job is looked at while it runs.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait for a gateway that answers.
const TIMEOUT: Duration = Duration::from_secs(150);
/// Longest wait for settlements.
const SETTLE: Duration = Duration::from_secs(60);
/// How long a cancelled job is waited for after Ctrl-C.
const LEAVE: Duration = Duration::from_secs(3);

/// The work failed, and everything about it was said.
#[derive(Debug, thiserror::Error)]
#[error("the job failed")]
pub(super) struct Failed;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Submit a job, wait for its end, fetch the result. Ctrl-C cancels it.
    #[command(
        after_help = "Example:\n  theta job run count.json --out result\n\nA job file: {\"kind\":\"wasm\",\"module\":\"count.wat\",\"stdin\":\"input.txt\",\"quorum\":2,\"maxTfuel\":\"5\"}\nor {\"kind\":\"map\",\"module\":\"map.wat\",\"input\":\"big.csv\",\"split\":{\"lines\":10000},\"merge\":\"concat\"}. Paths are relative to the file.\nA line ends at the byte 0x0a and nothing else."
    )]
    Run(RunArgs),
    /// Submit a job and print its id.
    #[command(after_help = "Example:\n  theta job submit count.json --json")]
    Submit(SubmitArgs),
    /// How a job stands.
    #[command(after_help = "Example:\n  theta job status 0x5f0c…")]
    Status(JobArgs),
    /// Fetch what a job left.
    #[command(after_help = "Example:\n  theta job result 0x5f0c… --out result")]
    Result(ResultArgs),
    /// The program's standard error.
    #[command(after_help = "Example:\n  theta job logs 0x5f0c…")]
    Logs(JobArgs),
    /// Cancel a job; what was proven so far is paid.
    #[command(after_help = "Example:\n  theta job cancel 0x5f0c…")]
    Cancel(JobArgs),
    /// Jobs of the gateway, the newest first.
    #[command(after_help = "Example:\n  theta job list --limit 10")]
    List(ListArgs),
    /// Why a job is where it is.
    #[command(after_help = "Example:\n  theta job explain 0x5f0c… --json")]
    Explain(JobArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// The gateway.
    #[arg(long, env = "THETA_GATEWAY", value_name = "URL", default_value = "http://127.0.0.1:8800")]
    gateway: String,
    /// Print one JSON value.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct SubmitArgs {
    /// The job file.
    file: PathBuf,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The job file.
    file: PathBuf,
    /// Folder for stdout, stderr and out/.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Wait until the payments have settled on the chain as well, a minute at most.
    #[arg(long)]
    settled: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub(super) struct JobArgs {
    /// The job's id.
    id: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResultArgs {
    /// The job's id.
    id: String,
    /// Folder for stdout, stderr and out/; without it stdout is printed.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// How many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    at: At,
}

/// What a gateway says instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Problem {
    code: String,
    message: String,
}

pub(super) struct Gateway {
    pub(super) url: String,
    pub(super) http: reqwest::Client,
}

impl Gateway {
    pub(super) fn new(at: &At) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        Ok(Self { url: at.gateway.trim_end_matches('/').to_owned(), http })
    }

    pub(super) async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let response = request.send().await.with_context(|| {
            format!(
                "no gateway answers at {}; name another with --gateway, or start `theta devnet`",
                self.url
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let said = |key: &str| body["error"][key].as_str().map(str::to_owned);
        let code = said("code").unwrap_or_else(|| status.as_u16().to_string());
        let message = said("message").unwrap_or_else(|| format!("the gateway answered {status}: {text}"));
        Err(Problem { code, message }.into())
    }

    pub(super) async fn call(&self, method: Method, path: &str) -> Result<Value> {
        let request = self.http.request(method, format!("{}/api/{path}", self.url));
        Ok(self.send(request).await?.json().await?)
    }

    async fn job(&self, method: Method, id: &str, what: &str) -> Result<Value> {
        // It becomes part of a path.
        ensure!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id} is no job id");
        self.call(method, &format!("jobs/{id}{what}")).await
    }

    pub(super) async fn put(&self, bytes: Vec<u8>) -> Result<String> {
        let request = self.http.put(format!("{}/api/blobs", self.url)).body(bytes);
        let kept: Value = self.send(request).await?.json().await?;
        Ok(kept["hash"].as_str().context("the gateway did not say how it calls a blob")?.to_owned())
    }

    async fn blob(&self, blob: &Value) -> Result<Vec<u8>> {
        let hash = blob["hash"].as_str().context("the result names no blob")?;
        if blob["bytes"] == 0 {
            return Ok(Vec::new());
        }
        let request = self.http.get(format!("{}/blob/{}", self.url, hash.trim_start_matches("0x")));
        let bytes = self.send(request).await?.bytes().await?.to_vec();
        let found = format!("0x{}", blake3::hash(&bytes).to_hex());
        ensure!(found == hash, "the gateway gave other bytes than {hash}");
        Ok(bytes)
    }

    /// Reads a job file and what it names, hands all of it over, and gives the job as it stands.
    async fn submit(&self, path: &Path) -> Result<Value> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the job file {} cannot be read", path.display()))?;
        let file = AnyFile::parse(&text).map_err(invalid)?;
        let job: Value = serde_json::from_str(&text)?;
        let files = named(&file, path.parent().unwrap_or(Path::new("")))?;
        let mut blobs = BTreeMap::new();
        for (name, path) in files {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            blobs.insert(name, self.put(bytes).await?);
        }
        let request = self.http.post(format!("{}/api/jobs", self.url));
        let request = request.json(&json!({ "job": job, "blobs": blobs }));
        Ok(self.send(request).await?.json().await?)
    }
}

fn invalid(error: JobError) -> Problem {
    Problem { code: error.code().to_owned(), message: error.to_string() }
}

/// Files that a job names, by the path in the file, with where they are.
fn named(file: &AnyFile, folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let (job, input, reducer): (&JobFile, _, _) = match file {
        AnyFile::Wasm(job) => (job, None, None),
        AnyFile::Map(map) => match &map.merge {
            MergeFile::Concat => (&map.job, Some(&map.input), None),
            MergeFile::Reduce { module, .. } => (&map.job, Some(&map.input), Some(module)),
        },
    };
    let mut files = BTreeMap::new();
    let wanted = [
        ("module", Some(&job.module)),
        ("stdin", job.stdin.as_ref()),
        ("input", input),
        ("merge.module", reducer),
    ];
    for (field, name) in wanted {
        let Some(name) = name else { continue };
        let path = folder.join(name);
        let problem = match std::fs::metadata(&path) {
            Err(error) => Some(error.to_string()),
            Ok(data) if !data.is_file() => Some("it is not a file".to_owned()),
            Ok(data) if data.len() > MAX_FILE => Some(format!("it has more than {MAX_FILE} bytes")),
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            bail!(Problem {
                code: "invalid_spec".to_owned(),
                message: format!("{field}: {} cannot be read: {problem}", path.display()),
            });
        }
        files.insert(name.clone(), path);
    }
    for (granted, from) in &job.inputs {
        let begin = folder.join(from);
        let problem = |what: String| Problem {
            code: "invalid_spec".to_owned(),
            message: format!("inputs.{granted}: {what}"),
        };
        let mut open = vec![begin.clone()];
        while let Some(here) = open.pop() {
            let entries = std::fs::read_dir(&here)
                .map_err(|error| problem(format!("{} cannot be read: {error}", here.display())))?;
            for entry in entries {
                let entry = entry.map_err(|error| problem(error.to_string()))?;
                let (kind, path) =
                    (entry.file_type().map_err(|error| problem(error.to_string()))?, entry.path());
                if kind.is_dir() {
                    open.push(path);
                } else if kind.is_file() {
                    let below = path.strip_prefix(&begin).ok().and_then(Path::to_str);
                    let below = below.ok_or_else(|| problem(format!("{} is no text", path.display())))?;
                    files.insert(format!("{}/{below}", from.trim_end_matches('/')), path.clone());
                } else {
                    return Err(problem(format!("{} is neither file nor folder", path.display())).into());
                }
                if files.len() > MAX_FILES {
                    return Err(problem(format!("has more than {MAX_FILES} files")).into());
                }
            }
        }
    }
    Ok(files)
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run_job(args).await,
        Command::Submit(args) => {
            let gateway = Gateway::new(&args.at)?;
            match gateway.submit(&args.file).await {
                Ok(view) => show(&args.at, &view),
                Err(error) => refused(&args.at, error),
            }
        }
        Command::Status(args) => {
            let view = Gateway::new(&args.at)?.job(Method::GET, &args.id, "").await?;
            show(&args.at, &view)
        }
        Command::Cancel(args) => {
            let view = Gateway::new(&args.at)?.job(Method::DELETE, &args.id, "").await?;
            show(&args.at, &view)
        }
        Command::Logs(args) => logs(args).await,
        Command::Result(args) => {
            let gateway = Gateway::new(&args.at)?;
            let mut view = gateway.job(Method::GET, &args.id, "/result").await?;
            if args.out.is_none() && !args.at.json {
                if view["stdout"].is_object() {
                    use std::io::Write as _;
                    let bytes = gateway.blob(&view["stdout"]).await?;
                    std::io::stdout().write_all(&bytes)?;
                }
                return ending(&view);
            }
            if let Some(out) = &args.out {
                fetch(&gateway, &mut view, out).await?;
            }
            show(&args.at, &view)?;
            ending(&view)
        }
        Command::List(args) => list(args).await,
        Command::Explain(args) => {
            let view = Gateway::new(&args.at)?.job(Method::GET, &args.id, "/explain").await?;
            if args.at.json { Ok(say!("{view}")?) } else { explain(&view) }
        }
    }
}

/// A job that was not even taken, as the command contract shows one that failed.
fn refused(at: &At, error: anyhow::Error) -> Result<()> {
    let Some(problem) = error.downcast_ref::<Problem>().filter(|_| at.json) else { return Err(error) };
    say!(
        "{}",
        json!({ "jobId": null, "state": "failed", "tasks": 0, "attempts": 0, "output": null, "outputHash": null,
            "exitCode": null, "paidTfuelWei": "0", "burnedTfuelWei": "0", "workers": [], "verification": "none",
            "settlement": [], "error": { "code": problem.code, "message": problem.message } })
    )?;
    Err(Failed.into())
}

fn ending(view: &Value) -> Result<()> {
    if view["state"] == "succeeded" { Ok(()) } else { Err(Failed.into()) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn show(at: &At, view: &Value) -> Result<()> {
    if at.json {
        say!("{view}")?;
        return Ok(());
    }
    say!("Job {} {}.", text(&view["jobId"]), text(&view["state"]))?;
    if let Some(progress) = view["progress"].as_object() {
        say!("  {} of {} parts done", progress["mapped"], progress["chunks"])?;
    }
    if view["error"].is_object() {
        say!("  {}: {}", text(&view["error"]["code"]), text(&view["error"]["message"]))?;
    }
    if let Some(output) = view["output"].as_str() {
        say!("  output    {output}")?;
    }
    say!(
        "  paid      {} TFUEL, of which {} are burned",
        tokens(&text(&view["paidTfuelWei"])),
        tokens(&text(&view["burnedTfuelWei"]))
    )?;
    for worker in view["workers"].as_array().into_iter().flatten() {
        let amount = tokens(&text(&worker["paidTfuelWei"]));
        say!("  {}   {} tasks, {amount} TFUEL", text(&worker["node"]), worker["tasks"])?;
    }
    Ok(())
}

async fn run_job(args: RunArgs) -> Result<()> {
    let gateway = Gateway::new(&args.at)?;
    let view = match gateway.submit(&args.file).await {
        Ok(view) => view,
        Err(error) => return refused(&args.at, error),
    };
    let id = text(&view["jobId"]).to_owned();
    eprintln!("job {id}");
    let mut view = tokio::select! {
        view = follow(&gateway, &id) => view?,
        signal = interrupted() => {
            signal?;
            eprintln!("cancelling {id}");
            let cancelled = tokio::time::timeout(LEAVE, async {
                gateway.job(Method::DELETE, &id, "").await?;
                follow(&gateway, &id).await
            });
            let view = match cancelled.await {
                Ok(view) => view?,
                Err(_) => tokio::time::timeout(LEAVE / 3, gateway.job(Method::GET, &id, "")).await??,
            };
            show(&args.at, &view)?;
            return ending(&view);
        }
    };
    if args.settled {
        let until = tokio::time::Instant::now() + SETTLE;
        while view["settled"] != true && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            view = gateway.job(Method::GET, &id, "").await?;
        }
    }
    let mut result = gateway.job(Method::GET, &id, "/result").await?;
    match &args.out {
        Some(out) => fetch(&gateway, &mut result, out).await?,
        None => result["output"] = Value::Null,
    }
    if args.out.is_none() && !args.at.json && result["stdout"].is_object() {
        use std::io::Write as _;
        std::io::stdout().write_all(&gateway.blob(&result["stdout"]).await?)?;
    }
    show(&args.at, &result)?;
    ending(&result)
}

/// Waits until a job has ended, and says how far it is.
async fn follow(gateway: &Gateway, id: &str) -> Result<Value> {
    let mut said = String::new();
    loop {
        let view = gateway.job(Method::GET, id, "").await?;
        let progress = &view["progress"];
        let now = match progress.is_object() {
            true => format!("{} of {} parts", progress["mapped"], progress["chunks"]),
            false => text(&view["state"]).to_owned(),
        };
        if now != said {
            eprintln!("{now}");
            said = now;
        }
        if !matches!(text(&view["state"]), "queued" | "running") {
            return Ok(view);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes stdout, stderr and out/ to a folder, and says there in the view.
async fn fetch(gateway: &Gateway, view: &mut Value, out: &Path) -> Result<()> {
    let named = |path: PathBuf| move || path.display().to_string();
    std::fs::create_dir_all(out).with_context(named(out.to_owned()))?;
    for name in ["stdout", "stderr"] {
        let bytes = if view[name].is_object() { gateway.blob(&view[name]).await? } else { Vec::new() };
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(named(path))?;
    }
    for file in view["files"].as_array().into_iter().flatten() {
        let below = Path::new(text(&file["path"]));
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(
            plain && below.components().next().is_some(),
            "the result has a file called {}",
            below.display()
        );
        let path = out.join("out").join(below);
        std::fs::create_dir_all(path.parent().unwrap_or(out)).with_context(named(path.clone()))?;
        std::fs::write(&path, gateway.blob(file).await?).with_context(named(path))?;
    }
    view["output"] = json!(out.join("stdout"));
    Ok(())
}

async fn logs(args: JobArgs) -> Result<()> {
    let gateway = Gateway::new(&args.at)?;
    ensure!(args.id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{} is no job id", args.id);
    let request = gateway.http.get(format!("{}/api/jobs/{}/logs", gateway.url, args.id));
    let response = gateway.send(request).await?;
    ensure!(response.status() == StatusCode::OK, "the gateway answered {}", response.status());
    let bytes = response.bytes().await?;
    if args.at.json {
        say!("{}", json!({ "jobId": args.id, "stderr": String::from_utf8_lossy(&bytes) }))?;
        return Ok(());
    }
    use std::io::Write as _;
    Ok(std::io::stdout().write_all(&bytes)?)
}

async fn list(args: ListArgs) -> Result<()> {
    let view = Gateway::new(&args.at)?.call(Method::GET, &format!("jobs?limit={}", args.limit)).await?;
    if args.at.json {
        say!("{view}")?;
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.set_header(["job", "kind", "module", "state", "TFUEL paid"]);
    for job in view["jobs"].as_array().into_iter().flatten() {
        let cell = |key: &str| text(&job[key]).to_owned();
        let paid = tokens(&text(&job["paidTfuelWei"]));
        table.add_row([cell("jobId"), cell("kind"), cell("name"), cell("state"), paid]);
    }
    Ok(say!("{table}")?)
}

/// What placement says of one attempt.
fn explain_part(part: &Value) -> Result<()> {
    let waits = match part["waiting"].as_u64() {
        Some(0) | None => String::new(),
        Some(waiting) => format!("; {waiting} like it wait, about {} ms", part["wait_ms"]),
    };
    say!("    result {}: {}{waits}", part["index"], text(&part["state"]))?;
    let unfit = part["unfit"].as_object().into_iter().flatten();
    let unfit: Vec<String> = unfit.map(|(why, count)| format!("{count} {why}")).collect();
    if !unfit.is_empty() {
        say!("      {} nodes suit; unfit: {}", part["fit"], unfit.join(", "))?;
    }
    for node in part["considered"].as_array().into_iter().flatten() {
        let verdict = match node["score"].as_f64() {
            Some(score) => {
                format!("score {score:.3}{}", if node["chosen"] == true { ", chosen" } else { "" })
            }
            None => text(&node["unfit"]).to_owned(),
        };
        say!("      {}   {verdict}", text(&node["node"]))?;
    }
    Ok(())
}

fn explain(view: &Value) -> Result<()> {
    say!("Job {} {}.", text(&view["jobId"]), text(&view["state"]))?;
    if view["error"].is_object() {
        say!("  {}: {}", text(&view["error"]["code"]), text(&view["error"]["message"]))?;
    }
    for task in view["open"].as_array().into_iter().flatten() {
        say!(
            "  task {} waits for {}; {} offers, {} faults, {} jobs before it",
            text(&task["job"]),
            text(&task["waits_for"]),
            task["offers"],
            task["faults"],
            task["ahead"]
        )?;
        if let Some(refusal) = task["refusal"].as_str() {
            say!("    the last one that refused: {refusal}")?;
        }
        for place in task["places"].as_array().into_iter().flatten() {
            let pool = match (place["pool"].as_str(), place["spilled"].as_str()) {
                (Some(pool), Some(why)) => format!(", of the pool {pool}, where it went for its {why}"),
                (Some(pool), None) => format!(", of the pool {pool}"),
                _ => String::new(),
            };
            say!("    {}   {}{pool}", text(&place["node"]), text(&place["standing"]))?;
        }
        for part in task["tasks"].as_array().into_iter().flatten() {
            explain_part(part)?;
        }
    }
    for spill in view["spilled"].as_array().into_iter().flatten() {
        say!("  it went to {} of a provider pool for its {}", text(&spill["node"]), text(&spill["why"]))?;
    }
    for node in view["wrong"].as_array().into_iter().flatten() {
        say!("  {} showed another result and was not paid", text(node))?;
    }
    if let Some(trouble) = view["fundTrouble"].as_str() {
        say!("  {trouble}")?;
    }
    say!("Nodes:")?;
    for node in view["nodes"].as_array().into_iter().flatten() {
        say!("  {}   {}, heard of {} ms ago", text(&node["node"]), text(&node["status"]), node["silentMs"])?;
    }
    Ok(())
}
