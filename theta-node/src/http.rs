//! HTTP listeners: paths, status codes and limits around the JSON-RPC dispatcher.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody as _},
    extract::{DefaultBodyLimit, Request, State, WebSocketUpgrade},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get},
};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::rpc::{Dialect, answer, eth::EthApi, socket::Api, theta::ThetaApi};

/// Largest request body.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// Longest time for one request; a broadcast waits for up to 60 seconds.
const TIMEOUT: Duration = Duration::from_secs(65);

fn with_cors(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for name in ["access-control-allow-origin", "access-control-allow-headers"] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("*"));
    }
    response
}

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// One request's way through the envelope rules.
async fn serve<F>(dialect: Dialect, method: &Method, headers: &HeaderMap, respond: F) -> Response
where
    F: Future<Output = Option<serde_json::Value>>,
{
    if method == Method::OPTIONS {
        return with_cors(StatusCode::OK.into_response());
    }
    if method != Method::POST {
        // geth's server, which the reference's adaptor uses, answers a bare GET.
        let status = if dialect == Dialect::Ethereum && method == Method::GET {
            StatusCode::OK
        } else {
            StatusCode::METHOD_NOT_ALLOWED
        };
        return with_cors(status.into_response());
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        return with_cors(StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response());
    }
    with_cors(match tokio::time::timeout(TIMEOUT, respond).await {
        Ok(Some(body)) => json(body.to_string()),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => {
            let mut response = json(r#"{"error": {"message":"Timeout"}}"#.to_owned());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    })
}

async fn theta(State(api): State<ThetaApi>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let api = &api;
    let respond =
        answer(Dialect::Theta, &body, |method, params| async move { api.call(&method, params).await });
    serve(Dialect::Theta, &method, &headers, respond).await
}

async fn ethereum(State(api): State<EthApi>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let api = &api;
    let respond =
        answer(Dialect::Ethereum, &body, |method, params| async move { api.call(&method, params).await });
    serve(Dialect::Ethereum, &method, &headers, respond).await
}

/// A longer body has to wait for a place, of which there are so many.
const SHORT_BODY: u64 = 64 * 1024;
const LONG_BODIES: usize = 64;
/// How long a body may take to come, and a long one to find a place.
const BODY_WITHIN: Duration = Duration::from_secs(15);

/// Reads a body that is too large and keeps nothing of it, up to four times the most: a client that is still writing when its
/// connection closes learns of that alone.
async fn discard(body: Body) {
    let mut pieces = body.into_data_stream();
    let mut left = 4 * MAX_BODY;
    while let Some(Ok(piece)) = pieces.next().await {
        if piece.len() > left {
            return;
        }
        left -= piece.len();
    }
}

/// What is not read to its end, so that its connection ends; a client that is not told would send the next request there.
fn unread(status: StatusCode) -> Response {
    (status, [(header::CONNECTION, "close")]).into_response()
}

/// Reads requests whole before anything works on them: what all of them hold in memory is bounded, and who sends a byte now
/// and then is not waited for.
fn whole(routes: Router) -> Router {
    let places = Arc::new(Semaphore::new(LONG_BODIES));
    routes.layer(middleware::from_fn(move |request: Request, next: Next| {
        let places = places.clone();
        async move {
            let (parts, body) = request.into_parts();
            let size = body.size_hint();
            if size.lower() > MAX_BODY as u64 {
                let _ = tokio::time::timeout(BODY_WITHIN, discard(body)).await;
                return unread(StatusCode::PAYLOAD_TOO_LARGE);
            }
            let read = async {
                let is_long = size.upper().is_none_or(|size| size > SHORT_BODY);
                // The semaphore is never closed.
                let place = if is_long { places.acquire_owned().await.ok() } else { None };
                (axum::body::to_bytes(body, MAX_BODY).await, place)
            };
            match tokio::time::timeout(BODY_WITHIN, read).await {
                Ok((Ok(body), _place)) => next.run(Request::from_parts(parts, Body::from(body))).await,
                // Of another length than it said, or cut off: then nobody hears of it.
                Ok((Err(_), _)) => unread(StatusCode::PAYLOAD_TOO_LARGE),
                Err(_) => unread(StatusCode::REQUEST_TIMEOUT),
            }
        }
    }))
}

/// WebSockets of one server at once.
const MAX_SOCKETS: usize = 256;

/// The route of WebSockets, whose number is bounded.
fn sockets<S: Clone + Send + Sync + 'static>(api: Api) -> MethodRouter<S> {
    let places = Arc::new(Semaphore::new(MAX_SOCKETS));
    any(move |upgrade: WebSocketUpgrade| async move {
        match places.try_acquire_owned() {
            Ok(place) => upgrade
                .max_message_size(MAX_BODY)
                .on_upgrade(move |socket| crate::rpc::socket::serve(socket, api, place)),
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    })
}

/// The `theta.*` server: `/rpc`, `/ws` for WebSockets, and a line for people at `/`.
pub fn theta_routes(api: ThetaApi) -> Router {
    let routes = Router::new()
        .route("/", get(|| async { "Theta Node is up and running!" }))
        .route("/rpc", any(theta))
        .route("/ws", sockets(Api::Theta(api.clone())))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api);
    whole(routes)
}

/// The `eth_*` server: `/` and `/rpc`, `/ws` for WebSockets.
pub fn ethereum_routes(api: EthApi) -> Router {
    let routes = Router::new()
        .route("/", any(ethereum))
        .route("/rpc", any(ethereum))
        .route("/ws", sockets(Api::Ethereum(api.clone())))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api);
    whole(routes)
}

/// A request's place among those that are worked on at once. Whoever works on it after the response keeps it.
pub(crate) type Slot = Arc<OwnedSemaphorePermit>;

/// Lets so many requests be worked on at once, each no longer than this; more wait, their bodies unread.
pub(crate) fn limited(routes: Router, most: usize, longest: Duration) -> Router {
    let slots = Arc::new(Semaphore::new(most));
    routes.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let slots = slots.clone();
        async move {
            let work = async {
                // The semaphore is never closed.
                let slot = slots.acquire_owned().await.map(Slot::new);
                if let Ok(slot) = &slot {
                    request.extensions_mut().insert(slot.clone());
                }
                next.run(request).await
            };
            let done = tokio::time::timeout(longest, work).await;
            done.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
        }
    }))
}

/// Whether a host name, with or without a port, is this machine's own.
fn is_own(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Answers programs and pages of this machine alone: a page from elsewhere names where it comes from in `Origin`, and one
/// whose name was made to lead here names another `Host`.
pub(crate) fn local_only(routes: Router) -> Router {
    only(routes, |request| {
        let origin = text(request, header::ORIGIN);
        let same =
            |origin: &str| origin.strip_prefix("http://").is_some_and(|from| Some(from) == host(request));
        host(request).is_some_and(is_own) && origin.is_none_or(same)
    })
}

/// Answers pages of any server, under this machine's own names: what they get is public, and nobody's name is made to lead
/// here.
pub(crate) fn own_host(routes: Router) -> Router {
    only(routes, |request| host(request).is_some_and(is_own))
}

fn text(request: &Request, name: HeaderName) -> Option<&str> {
    request.headers().get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// The name by which a request came; HTTP/2 has it in the target.
fn host(request: &Request) -> Option<&str> {
    text(request, header::HOST).or_else(|| request.uri().authority().map(|host| host.as_str()))
}

fn only(routes: Router, may: fn(&Request) -> bool) -> Router {
    routes.layer(middleware::from_fn(move |request: Request, next: Next| {
        let may = may(&request);
        async move {
            match may {
                true => next.run(request).await,
                false => {
                    let problem = "only pages and programs of this machine are answered";
                    (StatusCode::FORBIDDEN, problem).into_response()
                }
            }
        }
    }))
}
