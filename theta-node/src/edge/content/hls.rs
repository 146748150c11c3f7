//! Players' side: playlists and segments over HTTP (edge.md 6.8).

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use theta_edge::{
    blob::{BlobHash, BlobRef, BlobStore as _},
    content::manifest::{MAX_BYTES, Manifest},
};

use super::{
    fetch::{Content, manifest_hash},
    ranges,
};
use crate::{
    edge::DiskBlobs,
    http::{Slot, limited},
};

/// Requests of players at once; more wait.
const MAX_REQUESTS: usize = 64;
/// Longest time until the first byte.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where what is played comes from.
#[derive(Clone, Debug)]
pub(in crate::edge) enum Source {
    /// From here, or from other edge nodes.
    Fetched(Content),
    /// From here alone.
    Own(DiskBlobs),
}

impl Source {
    fn blobs(&self) -> &DiskBlobs {
        match self {
            Self::Fetched(content) => content.blobs(),
            Self::Own(blobs) => blobs,
        }
    }

    async fn manifest(&self, hash: BlobHash) -> anyhow::Result<Arc<Manifest>> {
        match self {
            Self::Fetched(content) => content.manifest(hash).await,
            Self::Own(blobs) => {
                let blob = blobs.find(hash).filter(|blob| blob.len <= MAX_BYTES as u64);
                let blob = blob.ok_or_else(|| anyhow::anyhow!("there is no manifest {}", hash.0))?;
                Ok(Arc::new(Manifest::parse(&blobs.read_all(&blob).await?)?))
            }
        }
    }

    async fn bring(&self, manifest: BlobHash, blob: &BlobRef) -> anyhow::Result<()> {
        match self {
            Self::Fetched(content) => content.bring(manifest, blob).await,
            Self::Own(_) => anyhow::bail!("blob {} is not here", blob.hash.0),
        }
    }
}

/// `/hls/<manifest>/…`, for any page and program of this machine.
pub(in crate::edge) fn routes(source: Source) -> Router {
    let preflight = || async { ranges::with_cors(StatusCode::NO_CONTENT.into_response()) };
    let routes = Router::new()
        .route("/hls/{manifest}/master.m3u8", get(master).options(preflight))
        .route("/hls/{manifest}/{rendition}/{file}", get(file).options(preflight))
        .with_state(source);
    limited(routes, MAX_REQUESTS, TIMEOUT)
}

fn problem(status: StatusCode, why: String) -> Response {
    let mut response = (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], why).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        // Not a 404: what is not here yet may come.
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    ranges::with_cors(response)
}

fn playlist(hash: BlobHash, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/vnd.apple.mpegurl".to_owned()),
        (header::ETAG, format!("\"{}\"", hash.0)),
    ];
    ranges::with_cors((headers, text).into_response())
}

async fn known(source: &Source, text: &str) -> Result<(BlobHash, Arc<Manifest>), Response> {
    let Some(hash) = manifest_hash(text) else {
        return Err(problem(
            StatusCode::BAD_REQUEST,
            "a manifest is named by 64 digits of its hash".to_owned(),
        ));
    };
    match source.manifest(hash).await {
        Ok(manifest) => Ok((hash, manifest)),
        Err(error) => Err(problem(StatusCode::NOT_FOUND, format!("{error:#}"))),
    }
}

async fn master(State(source): State<Source>, Path(manifest): Path<String>) -> Response {
    match known(&source, &manifest).await {
        Ok((hash, manifest)) => playlist(hash, manifest.master()),
        Err(response) => response,
    }
}

async fn file(
    State(source): State<Source>,
    Extension(slot): Extension<Slot>,
    Path((manifest, rendition, file)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let (hash, manifest) = match known(&source, &manifest).await {
        Ok(known) => known,
        Err(response) => return response,
    };
    let Some(of) = manifest.rendition(&rendition) else {
        return problem(StatusCode::NOT_FOUND, format!("there is no rendition {rendition}"));
    };
    if file == "index.m3u8" {
        return playlist(hash, manifest.playlist(&rendition).unwrap_or_default());
    }
    let number = file.strip_suffix(".ts").and_then(|number| number.parse::<usize>().ok());
    let Some(segment) = number.and_then(|number| of.segments.get(number)) else {
        return problem(StatusCode::NOT_FOUND, format!("there is no segment {file}"));
    };
    if !source.blobs().has(segment.blob.hash).await
        && let Err(error) = source.bring(hash, &segment.blob).await
    {
        return problem(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"));
    }
    let path = source.blobs().path(&segment.blob.hash);
    let name = segment.blob.hash.0.to_string();
    ranges::give(&path, (&name, "video/mp2t"), (&method, &headers), slot).await
}
