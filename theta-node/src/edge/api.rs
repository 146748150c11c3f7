//! The gateway's HTTP interface: jobs, blobs and nodes under `/api/`, described at `/api/openapi.json`.
//!
//! Files come first, each by `PUT /api/blobs`; then the job, whose `blobs` say which of them stands for which path of the
//! job file. Results name blobs, which `GET /blob/{hash}` gives.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Request, State, rejection::JsonRejection},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use theta_core::hash::Hash;
use theta_edge::{
    blob::{BlobHash, BlobStore as _},
    job::{AnyFile, JobError},
    placement::Refusal,
};
use tokio::sync::Semaphore;

use super::{
    asker::{AskerLoop, Refused},
    content::publish::{Publications, Wish},
    page,
    requester::{Files, Jobs},
    wire::MAX_BLOB,
};
use crate::http::limited;

/// Largest job, its file and the names of its blobs together.
const MAX_JOB: usize = 1 << 20;
/// Bytes of blobs that may lie on the gateway's disk before it takes no more.
const MAX_STORED: u64 = 16 << 30;
/// Blobs that come in at once; more are told to come later.
const MAX_UPLOADS: usize = 8;
/// Requests that are worked on at once; more wait.
const MAX_REQUESTS: usize = 64;
/// Longest time for a request. A job waits in it for a fund, and a large input to be cut.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Jobs in one list.
const MAX_LIST: usize = 1_000;
/// Bytes of a program's standard error that are shown.
const MAX_LOG: u64 = 1 << 20;

const OPENAPI: &str = include_str!("openapi.json");

#[derive(Clone)]
struct Api {
    jobs: Jobs,
    uploads: Arc<Semaphore>,
    publications: Publications,
}

/// Why a request is not answered as it was meant.
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn unknown(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_job", format!("there is no job {id}"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // What is left of the body is not read.
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast_ref::<JobError>() {
            Some(job) => Self::new(StatusCode::BAD_REQUEST, job.code(), job.to_string()),
            None => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("{error:#}")),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Job(job) => Self::new(StatusCode::BAD_REQUEST, job.code(), message),
            Refused::Full | Refused::Placement(Refusal::Busy { .. }) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
            }
            Refused::Placement(Refusal::Deadline) => Self::new(StatusCode::CONFLICT, "deadline", message),
            Refused::Placement(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message),
            Refused::Budget(_) => Self::new(StatusCode::PAYMENT_REQUIRED, "budget_exceeded", message),
        }
    }
}

pub(super) fn routes(jobs: Jobs, publications: Publications) -> Router {
    let api = Api { jobs, uploads: Arc::new(Semaphore::new(MAX_UPLOADS)), publications };
    let routes = Router::new()
        .route("/status", get(about))
        .route("/content", get(clips))
        .route("/api/jobs", post(submit).get(list))
        .route("/api/jobs/{id}", get(status).delete(cancel))
        .route("/api/jobs/{id}/result", get(result))
        .route("/api/jobs/{id}/logs", get(logs))
        .route("/api/jobs/{id}/explain", get(explain))
        .route("/api/nodes", get(nodes))
        .route("/api/fund", get(fund))
        .route("/api/content", post(publish).get(contents))
        .route("/api/content/{id}", get(content))
        .route("/api/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }))
        .layer(DefaultBodyLimit::max(MAX_JOB))
        .route("/api/blobs", put(upload).layer(DefaultBodyLimit::disable()))
        .with_state(api)
        .merge(page::routes());
    limited(routes, MAX_REQUESTS, TIMEOUT)
}

fn id_of(text: &str) -> Result<Hash, Problem> {
    text.parse().map_err(|_| Problem::unknown(text))
}

/// Takes a blob, piece by piece, straight to the disk.
async fn upload(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a blob has {MAX_BLOB} bytes at most"),
        )
    };
    let storage = |error: std::io::Error| {
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, "storage", format!("the blob cannot be kept: {error}"))
    };
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    if declared.is_some_and(|len: u64| len > MAX_BLOB) {
        return Err(large());
    }
    let Ok(_place) = api.uploads.clone().try_acquire_owned() else {
        let message = format!("{MAX_UPLOADS} blobs are coming in; try again");
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", message));
    };
    let blobs = api.jobs.blobs.clone();
    let measured = blobs.clone();
    let stored = tokio::task::spawn_blocking(move || measured.size()).await.map_err(std::io::Error::other);
    if stored.map_err(storage)?.saturating_add(declared.unwrap_or(MAX_BLOB)) > MAX_STORED {
        let message = "the gateway's disk has no room for more blobs".to_owned();
        return Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, "storage", message));
    }
    let mut incoming = blobs.incoming().map_err(storage)?;
    let mut body: axum::body::BodyDataStream = Body::into_data_stream(request.into_body());
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "broken_off",
                format!("the blob did not come whole: {error}"),
            )
        })?;
        if incoming.push(&piece).map_err(storage)? > MAX_BLOB {
            return Err(large());
        }
    }
    let kept = tokio::task::spawn_blocking(move || incoming.keep()).await.map_err(std::io::Error::other);
    let blob = kept.and_then(|kept| kept).map_err(storage)?;
    Ok((StatusCode::CREATED, Json(json!({ "hash": blob.hash, "bytes": blob.len }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submission {
    /// The job file.
    job: Value,
    /// Path in the job file to hash of a blob.
    #[serde(default)]
    blobs: BTreeMap<String, BlobHash>,
}

async fn submit(
    State(api): State<Api>,
    body: Result<Json<Submission>, JsonRejection>,
) -> Result<Response, Problem> {
    let submission = read(body)?;
    let invalid = |error: JobError| Problem::new(StatusCode::BAD_REQUEST, error.code(), error.to_string());
    let file = AnyFile::parse(&submission.job.to_string()).map_err(invalid)?;
    let blobs = &api.jobs.blobs;
    let mut named = BTreeMap::new();
    for (path, hash) in submission.blobs {
        let Some(blob) = blobs.find(hash) else {
            let message = format!("the blob of {path} is not here; PUT it to /api/blobs first");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "unknown_blob", message));
        };
        named.insert(path, blob);
    }
    let order = Files { blobs, named }.order(file).await?;
    let id = api.jobs.submit(order, None).await??;
    let view = api.jobs.look(move |asker| asker.view(&id)).await?;
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    let Json(read) = body.map_err(|error| {
        let code = match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
            _ => "malformed",
        };
        let status = if code == "malformed" { StatusCode::BAD_REQUEST } else { error.status() };
        Problem::new(status, code, error.body_text())
    })?;
    Ok(read)
}

async fn publish(
    State(api): State<Api>,
    body: Result<Json<Wish>, JsonRejection>,
) -> Result<Response, Problem> {
    let wish = read(body)?;
    let Some(clip) = api.jobs.blobs.find(wish.blob) else {
        let message = "the clip is not here; PUT it to /api/blobs first";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "unknown_blob", message));
    };
    let begun = api.publications.begin(&api.jobs, wish, clip);
    let begun =
        begun.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.code(), error.to_string()))?;
    let Some(id) = begun else {
        let message = "enough clips are being published; try again when one has ended";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", message));
    };
    Ok((StatusCode::CREATED, Json(api.publications.get(&id))).into_response())
}

/// What the page shows of the gateway.
async fn about(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let view = |asker: &AskerLoop| json!({ "address": asker.id.0.to_checksum(None), "rpc": asker.rpc });
    Ok(Json(api.jobs.look(view).await?))
}

/// What can be played here.
async fn clips(State(api): State<Api>) -> Json<Value> {
    let all = api.publications.view();
    let clips: Vec<Value> = all.into_iter().filter(|one| !one["manifest"].is_null()).collect();
    Json(json!({ "clips": clips }))
}

async fn contents(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "content": api.publications.view() }))
}

async fn content(State(api): State<Api>, Path(text): Path<String>) -> Result<Json<Value>, Problem> {
    let unknown =
        || Problem::new(StatusCode::NOT_FOUND, "unknown_content", format!("there is no publication {text}"));
    let id = text.parse().map_err(|_| unknown())?;
    api.publications.get(&id).map(Json).ok_or_else(unknown)
}

async fn list(State(api): State<Api>, uri: Uri) -> Result<Json<Value>, Problem> {
    let asked = uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("limit=")));
    let asked = asked.map(str::parse::<usize>).transpose();
    let asked = asked.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "malformed", "limit is a number"))?;
    let limit = asked.unwrap_or(100).min(MAX_LIST);
    let newest = move |asker: &AskerLoop| {
        let ids = asker.book.iter().rev().take(limit).map(|(id, _)| *id);
        ids.filter_map(|id| asker.view(&id)).collect::<Vec<_>>()
    };
    Ok(Json(json!({ "jobs": api.jobs.look(newest).await? })))
}

async fn status(State(api): State<Api>, Path(text): Path<String>) -> Result<Json<Value>, Problem> {
    let id = id_of(&text)?;
    let view = api.jobs.look(move |asker| asker.view(&id)).await?;
    view.map(Json).ok_or_else(|| Problem::unknown(&text))
}

async fn cancel(State(api): State<Api>, Path(text): Path<String>) -> Result<Json<Value>, Problem> {
    let view = api.jobs.cancel(id_of(&text)?).await?;
    view.map(Json).ok_or_else(|| Problem::unknown(&text))
}

async fn explain(State(api): State<Api>, Path(text): Path<String>) -> Result<Json<Value>, Problem> {
    let id = id_of(&text)?;
    let view = api.jobs.look(move |asker| asker.explain(&id)).await?;
    view.map(Json).ok_or_else(|| Problem::unknown(&text))
}

async fn result(State(api): State<Api>, Path(text): Path<String>) -> Result<Json<Value>, Problem> {
    let id = id_of(&text)?;
    let look = move |asker: &AskerLoop| Some((asker.book.get(&id)?.ended.clone(), asker.view(&id)?));
    let (ended, mut view) = api.jobs.look(look).await?.ok_or_else(|| Problem::unknown(&text))?;
    let Some(ended) = ended else {
        return Err(Problem::new(StatusCode::CONFLICT, "not_ended", "the job has not ended yet"));
    };
    let blob = |blob: &theta_edge::blob::BlobRef| json!({ "hash": blob.hash, "bytes": blob.len });
    view["stdout"] = json!(ended.stdout.as_ref().map(blob));
    view["stderr"] = json!(ended.stderr.as_ref().map(blob));
    let file = |file: &theta_edge::executor::OutFile| json!({ "path": file.path, "hash": file.blob.hash, "bytes": file.blob.len });
    view["files"] = ended.files.iter().map(file).collect();
    Ok(Json(view))
}

/// The program's standard error; of a map job that of its parts, in the order in which they ended.
async fn logs(State(api): State<Api>, Path(text): Path<String>) -> Result<Response, Problem> {
    let id = id_of(&text)?;
    let look = move |asker: &AskerLoop| Some(asker.book.get(&id)?.ended.as_ref().map(|ended| ended.stderr));
    let stderr = match api.jobs.look(look).await?.ok_or_else(|| Problem::unknown(&text))? {
        None => return Err(Problem::new(StatusCode::CONFLICT, "not_ended", "the job has not ended yet")),
        Some(stderr) => stderr,
    };
    let bytes = match stderr.filter(|stderr| stderr.len > 0) {
        Some(stderr) => {
            let end = stderr.len.min(MAX_LOG);
            api.jobs.blobs.read(stderr.hash, 0..end).await.map_err(anyhow::Error::from)?
        }
        None => Vec::new(),
    };
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], bytes).into_response())
}

async fn nodes(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "nodes": api.jobs.look(AskerLoop::nodes_view).await? })))
}

async fn fund(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    Ok(Json(api.jobs.look(AskerLoop::fund_view).await?))
}
