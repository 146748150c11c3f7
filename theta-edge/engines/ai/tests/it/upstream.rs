//! Models of another server: what it says is passed on, what it does wrong is the node's fault, and it is not waited for
//! without end.

use std::time::Duration;

use axum::{
    Json, Router, body::Body, extract::State, http::StatusCode, response::IntoResponse, routing::post,
};
use serde_json::{Value, json};
use theta_edge::executor::{Executor as _, RunError};
use theta_edge::infer::{Ask, Finish, Reply};
use theta_edge_ai::{Ai, Upstream};

use super::{Host, say};

/// What the server does.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Right,
    Hangs,
    Stalls,
    Breaks,
    NoUsage,
    Refuses,
    Fails,
    Garbage,
    Endless,
}

async fn chat(State(manner): State<Manner>, Json(body): Json<Value>) -> axum::response::Response {
    assert_eq!((&body["model"], &body["stream"]), (&json!("llama"), &json!(true)));
    assert_eq!(body["messages"], json!([{ "role": "user", "content": "hi" }]));
    let piece =
        |text: &str| format!("data: {}\n\n", json!({ "choices": [{ "delta": { "content": text } }] }));
    let end = format!("data: {}\n\n", json!({ "choices": [{ "delta": {}, "finish_reason": "length" }] }));
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 5, "completion_tokens": 2 } });
    let usage = format!("data: {usage}\n\ndata: [DONE]\n\n");
    match manner {
        Manner::Right => [piece("one "), piece("two"), end, usage].concat().into_response(),
        Manner::NoUsage => [piece("one"), end, "data: [DONE]\n\n".to_owned()].concat().into_response(),
        Manner::Breaks => piece("one").into_response(),
        Manner::Garbage => "data: {\n\n".into_response(),
        Manner::Hangs => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            StatusCode::OK.into_response()
        }
        Manner::Stalls => {
            let never = futures::stream::once(async move { Ok::<_, std::io::Error>(piece("one")) });
            Body::from_stream(futures::StreamExt::chain(never, futures::stream::pending())).into_response()
        }
        Manner::Endless => {
            let piece = Ok::<_, std::io::Error>(piece(&"x".repeat(100_000)));
            Body::from_stream(futures::stream::repeat_with(move || match &piece {
                Ok(piece) => Ok::<_, std::io::Error>(piece.clone()),
                Err(_) => Ok(String::new()),
            }))
            .into_response()
        }
        Manner::Refuses => {
            let error = json!({ "error": { "message": "too long", "code": "context_length_exceeded", "param": "messages" } });
            (StatusCode::BAD_REQUEST, Json(error)).into_response()
        }
        Manner::Fails => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn embeddings(State(manner): State<Manner>, Json(body): Json<Value>) -> Json<Value> {
    let count = body["input"].as_array().unwrap().len();
    let count = if manner == Manner::Right { count } else { count - 1 };
    let rows: Vec<Value> =
        (0..count).map(|at| json!({ "index": at, "embedding": [at, 0.5] })).rev().collect();
    Json(json!({ "data": rows, "usage": { "prompt_tokens": 9, "total_tokens": 9 } }))
}

async fn host(manner: Manner, model: &str) -> Host {
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/embeddings", post(embeddings))
        .with_state(manner);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let upstream = Upstream::new(&url, Some("key".to_owned()), 100).unwrap();
    let upstream = upstream.with_chat("llama").unwrap().with_embed("nomic", 2).unwrap();
    Host::new(Ai::new().with_upstream(upstream.with_silence(Duration::from_millis(500))), model)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_is_passed_on_and_counted() {
    let (reply, _, frames) = host(Manner::Right, "llama").await.ask(&Ask::Generate(say("hi"))).await;
    let text = "one two".to_owned();
    let wanted = Reply::Generated { text, finish: Finish::Length, prompt_tokens: 5, completion_tokens: 2 };
    assert_eq!((reply, frames.concat().as_str()), (wanted, "one two"));
    let (reply, output, _) =
        host(Manner::Right, "nomic").await.ask(&Ask::Embed(vec!["a".into(), "b".into()])).await;
    assert_eq!(reply, Reply::Embedded { dimensions: 2, tokens: 9 });
    assert_eq!(output.files[0].blob.len, 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_does_wrong_is_the_nodes_fault_and_ends_in_time() {
    for (manner, why) in [
        (Manner::Hangs, "said nothing"),
        (Manner::Stalls, "said nothing"),
        (Manner::Breaks, "broke off"),
        (Manner::NoUsage, "counts no tokens"),
        (Manner::Garbage, "is none"),
        (Manner::Fails, "401"),
        (Manner::Endless, "no end"),
    ] {
        match host(manner, "llama").await.run(&Ask::Generate(say("hi"))).await.0 {
            Err(RunError::Upstream(said)) => assert!(said.contains(why), "{said}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    let few = host(Manner::Breaks, "nomic").await.run(&Ask::Embed(vec!["a".into(), "b".into()])).await.0;
    assert!(matches!(few, Err(RunError::Upstream(_))), "{few:?}");
    // Nobody is there.
    let upstream = Upstream::new("http://127.0.0.1:1/v1", None, 100).unwrap().with_chat("llama").unwrap();
    let gone = Host::new(Ai::new().with_upstream(upstream), "llama").run(&Ask::Generate(say("hi"))).await.0;
    assert!(matches!(gone, Err(RunError::Upstream(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_refuses_is_the_askers_fault() {
    let host = host(Manner::Refuses, "llama").await;
    let (code, param) = host.refused(Ask::Generate(say("hi"))).await;
    assert_eq!((code.as_str(), param.as_str()), ("context_length_exceeded", "messages"));
    assert_eq!(host.refused(Ask::Embed(vec!["a".into()])).await.1, "model");
}

#[test]
fn an_address_or_a_name_that_cannot_be_is_said() {
    for url in ["", "ftp://x", "not a url", "file:///etc/passwd"] {
        assert!(Upstream::new(url, None, 1).is_err(), "{url}");
    }
    let upstream = Upstream::new("http://127.0.0.1:1", None, 1).unwrap();
    assert!(upstream.clone().with_chat("a b").is_err() && upstream.clone().with_embed("", 1).is_err());
    let (one, two) = (upstream.clone().with_chat("a").unwrap(), upstream.with_chat("b").unwrap());
    let models = Ai::new().with_upstream(one).with_upstream(two).models();
    assert!(models.len() == 2 && models[0].executor != models[1].executor);
}
