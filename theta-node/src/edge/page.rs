//! The page that edge nodes and gateways show at `/`: a player, and what there is to see. It asks nobody but this machine.

use axum::{Router, http::header, response::Html, routing::get};

const PAGE: &str = include_str!("../../assets/page.html");
/// The player's library, as its makers publish it (Apache License 2.0, `assets/hls.LICENSE`).
const HLS: &str = include_str!("../../assets/hls.min.js");
/// Nothing that is loaded comes from elsewhere; chain nodes on this machine are asked for blocks.
const POLICY: &str = "default-src 'self'; script-src 'self' 'unsafe-inline' blob:; worker-src 'self' blob:; \
    style-src 'self' 'unsafe-inline'; media-src 'self' blob:; img-src 'self' data:; \
    connect-src 'self' http://127.0.0.1:* http://localhost:*; frame-ancestors 'none'";

/// `/`, and what the page needs.
pub(super) fn routes() -> Router {
    let page = || async { ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE)) };
    let script = || async {
        let headers = [(header::CONTENT_TYPE, "text/javascript"), (header::CACHE_CONTROL, "max-age=3600")];
        (headers, HLS)
    };
    Router::new().route("/", get(page)).route("/assets/hls.min.js", get(script))
}
