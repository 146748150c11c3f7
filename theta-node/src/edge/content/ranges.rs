//! Files over HTTP that never change, whole or in part (RFC 9110, section 14).

use std::{path::Path, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::mpsc,
};

use crate::http::Slot;

/// Bytes that are read at once.
const PIECE: u64 = 256 * 1024;
/// A client that takes nothing for so long is left.
const STALLED: Duration = Duration::from_secs(30);

/// What of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    /// From a byte up to another, which is not in it.
    Part(u64, u64),
    /// Nothing that there is.
    Nothing,
}

/// What a `Range` asks for. One that is no range of bytes, or more than one, is passed over, as the standard allows.
fn asked(range: &str, len: u64) -> Asked {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Asked::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => Asked::Whole,
        (Ok(first), _) if first >= len && (last.is_empty() || last.parse::<u64>().is_ok()) => Asked::Nothing,
        (Ok(first), Ok(last)) => Asked::Part(first, last.saturating_add(1).min(len)),
        (Ok(first), Err(_)) if last.is_empty() => Asked::Part(first, len),
        (Err(_), Ok(0)) if first.is_empty() => Asked::Nothing,
        (Err(_), Ok(count)) if first.is_empty() && len > 0 => Asked::Part(len.saturating_sub(count), len),
        _ => Asked::Whole,
    }
}

/// Lets pages of other servers read it, and its headers.
pub(in crate::edge) fn with_cors(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let expose = "Content-Range, Content-Length, ETag, Accept-Ranges";
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "range, if-range, if-none-match"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, expose),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Gives a file, whose `name` changes when its bytes do.
pub(in crate::edge) async fn give(
    path: &Path,
    (name, kind): (&str, &'static str),
    (method, headers): (&Method, &HeaderMap),
    slot: Slot,
) -> Response {
    let opened = async {
        let file = tokio::fs::File::open(path).await?;
        let len = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, len))
    };
    let Ok((mut file, len)) = opened.await else {
        return with_cors(StatusCode::NOT_FOUND.into_response());
    };
    let etag = format!("\"{name}\"");
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let same = |value: &str| value == "*" || value.split(',').any(|one| one.trim() == etag);
    let range = text(header::RANGE).filter(|_| text(header::IF_RANGE).is_none_or(|value| value == etag));
    let mut response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    if text(header::IF_NONE_MATCH).is_some_and(same) {
        let response = response.status(StatusCode::NOT_MODIFIED).body(Body::empty());
        return with_cors(response.unwrap_or_default());
    }
    let (start, end) = match range.map_or(Asked::Whole, |range| asked(range, len)) {
        Asked::Whole => (0, len),
        Asked::Part(start, end) => {
            let range = format!("bytes {start}-{}/{len}", end - 1);
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
            (start, end)
        }
        Asked::Nothing => {
            let response = response
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, format!("bytes */{len}"))
                .body(Body::empty());
            return with_cors(response.unwrap_or_default());
        }
    };
    response = response.header(header::CONTENT_TYPE, kind).header(header::CONTENT_LENGTH, end - start);
    if method == Method::HEAD {
        return with_cors(response.body(Body::empty()).unwrap_or_default());
    }
    let (pieces, body) = mpsc::channel::<std::io::Result<Vec<u8>>>(1);
    tokio::spawn(async move {
        // The request is worked on until its last byte is handed over, or nobody takes any more.
        let _slot = slot;
        if let Err(error) = file.seek(std::io::SeekFrom::Start(start)).await {
            let _gone = pieces.send(Err(error)).await;
            return;
        }
        let mut left = end - start;
        while left > 0 {
            let mut piece = Vec::with_capacity(PIECE as usize);
            let got = (&mut file).take(left.min(PIECE)).read_to_end(&mut piece).await;
            let ended = !matches!(got, Ok(got) if got > 0);
            left -= piece.len() as u64;
            let sent = tokio::time::timeout(STALLED, pieces.send(got.map(|_| piece))).await;
            if ended || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    });
    let body = futures::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    with_cors(response.body(Body::from_stream(body)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_at_the_edges() {
        const S: u64 = 1_000;
        for (range, expected) in [
            ("bytes=0-1", Asked::Part(0, 2)),
            ("bytes=1000-", Asked::Nothing),
            ("bytes=2000-3000", Asked::Nothing),
            ("bytes=999-", Asked::Part(999, S)),
            ("bytes=0-2000", Asked::Part(0, S)),
            ("bytes=-1", Asked::Part(999, S)),
            ("bytes=-5000", Asked::Part(0, S)),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-2", Asked::Whole),
            ("bytes=0-0,2-3", Asked::Whole),
            ("bytes=abc", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=1-b", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("lines=0-1", Asked::Whole),
            ("bytes=0-18446744073709551615", Asked::Part(0, S)),
            ("bytes=18446744073709551615-", Asked::Nothing),
        ] {
            assert_eq!(asked(range, S), expected, "{range}");
        }
        assert_eq!(asked("bytes=0-", 0), Asked::Nothing);
        assert_eq!(asked("bytes=-1", 0), Asked::Whole);
    }
}
