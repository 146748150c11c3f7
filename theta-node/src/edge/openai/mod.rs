//! The OpenAI protocol at a gateway, under `/v1/`: each request is one job, and its usage is what is paid (edge.md 2.2).
//!
//! A text goes to its client while it is made. Should the client go away, the job goes on and is paid: the node has no part
//! in it.

mod ask;
mod text;

use std::{convert::Infallible, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::Engine as _;
use serde_json::{Value, json};
use theta_core::{amount::TFuelWei, hash::Hash};
use theta_edge::{
    blob::BlobStore as _,
    executor::{Ending, Output},
    infer::{Ask, Finish, InferWork, ModelOffer, Refusal, Reply, TOKEN, VECTORS},
    job::{Limits, Quorum, Work},
    placement,
    scheduler::Report,
};
use tokio::sync::{mpsc, oneshot};

use self::{
    ask::{Encoding, Fields, Manner},
    text::{Step, Text},
};
use super::{
    asker::{AskerLoop, Refused},
    requester::{Jobs, Order},
};
use crate::{clock::now_millis, http::limited};

/// Largest request.
const MAX_BODY: usize = 8 << 20;
/// Requests that are worked on at once; more wait.
const MAX_REQUESTS: usize = 64;
/// Longest time until an answer begins.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Seconds that a model may take.
const WALL_SECONDS: u64 = 120;
/// Pieces of a text that wait for a client which is slow to read. What does not fit comes with the end.
const MAX_PIECES: usize = 64;
/// Models dearer than this for each token are not there, in wei: a tenth of a TFUEL.
const MAX_TOKEN_PRICE: u64 = 100_000_000_000_000_000;

#[derive(Clone)]
struct V1 {
    jobs: Jobs,
}

pub(super) fn routes(jobs: Jobs) -> Router {
    let routes = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(V1 { jobs });
    limited(routes, MAX_REQUESTS, TIMEOUT)
}

/// Why a request has no answer, in the protocol's form.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<String>,
}

impl Problem {
    fn malformed(message: impl Into<String>) -> Self {
        let (status, kind) = (StatusCode::BAD_REQUEST, "invalid_request_error");
        Self { status, kind, message: message.into(), param: None, code: None }
    }

    fn param(param: impl Into<String>, problem: &str) -> Self {
        let param = param.into();
        let message = format!("{param} {problem}");
        Self { param: Some(param), code: Some("invalid_value".to_owned()), ..Self::malformed(message) }
    }

    fn unsupported(param: &str) -> Self {
        let code = Some("unsupported_parameter".to_owned());
        Self { code, ..Self::param(param, "would change the answer, and is not supported") }
    }

    fn no_model(name: &str) -> Self {
        let message = format!("no node here has a model {name:?}; GET /v1/models lists those that there are");
        let (param, code) = (Some("model".to_owned()), Some("model_not_found".to_owned()));
        Self { status: StatusCode::NOT_FOUND, param, code, ..Self::malformed(message) }
    }

    fn server(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: "server_error",
            message: message.into(),
            param: None,
            code: Some(code.to_owned()),
        }
    }

    fn value(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        } })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.value())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        Self { param: Some(refusal.param), code: Some(refusal.code), ..Self::malformed(message) }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::server(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("{error:#}"))
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Job(job) => Self::malformed(job.to_string()),
            Refused::Budget(_) => Self::server(StatusCode::PAYMENT_REQUIRED, "budget_exceeded", message),
            Refused::Full | Refused::Placement(placement::Refusal::Busy { .. }) => {
                Self::server(StatusCode::TOO_MANY_REQUESTS, "busy", message)
            }
            Refused::Placement(_) => Self::server(StatusCode::SERVICE_UNAVAILABLE, "busy", message),
        }
    }
}

fn affordable(model: &ModelOffer) -> bool {
    let most = TFuelWei::wei(MAX_TOKEN_PRICE);
    model.price.base <= most && model.price.per_million_fuel <= most
}

impl V1 {
    async fn models(&self) -> Result<Vec<ModelOffer>, Problem> {
        let models = self.jobs.look(AskerLoop::models).await?;
        Ok(models.into_values().filter(affordable).collect())
    }

    async fn model(&self, name: &str) -> Result<ModelOffer, Problem> {
        let models = self.models().await?;
        models.into_iter().find(|model| model.name == name).ok_or_else(|| Problem::no_model(name))
    }

    /// Gives a question to nodes that have the model.
    async fn begin(&self, model: &ModelOffer, ask: &Ask) -> Result<(Hash, Text), Problem> {
        model.takes(ask)?;
        let bytes = serde_json::to_vec(ask).map_err(anyhow::Error::from)?;
        let ask_blob = self.jobs.blobs.add(bytes).await.map_err(anyhow::Error::from)?;
        let fuel = ask.most_tokens(model.context).saturating_mul(TOKEN);
        let numbers = match ask {
            Ask::Embed(texts) => texts.len() as u64 * u64::from(model.dimensions.unwrap_or(0)) * 4,
            Ask::Generate(_) => 0,
        };
        let limits = Limits {
            fuel,
            memory_mib: 64,
            wall_seconds: WALL_SECONDS,
            output_mib: u32::try_from(numbers.div_ceil(1 << 20)).unwrap_or(u32::MAX).saturating_add(4),
        };
        let cap = model.price.of(fuel).filter(|cap| !cap.is_zero()).unwrap_or(TFuelWei::wei(1_u64));
        let order = Order::Work {
            name: model.name.clone(),
            work: Box::new(Work::Infer(InferWork { model: model.executor, ask: ask_blob })),
            limits,
            quorum: Quorum::of(1),
            cap,
        };
        let ((pieces, shown), (done, ended)) = (mpsc::channel(MAX_PIECES), oneshot::channel());
        let job = self.jobs.submit_watched(order, Some(done), Some(pieces)).await??;
        Ok((job, Text::new(shown, ended)))
    }

    /// What came of a job.
    async fn reply(&self, report: Option<Box<Report>>) -> Result<(Reply, Output), Problem> {
        let report = report.ok_or_else(|| Problem::from(anyhow::anyhow!("the gateway has stopped")))?;
        let (code, why) = report.error.unwrap_or_default();
        let failed = |status| Problem::server(status, &code, why.clone());
        let Some(output) = report.output else {
            return Err(failed(StatusCode::SERVICE_UNAVAILABLE));
        };
        if output.ending == Ending::TimeLimit {
            return Err(failed(StatusCode::GATEWAY_TIMEOUT));
        }
        if !matches!(output.ending, Ending::Exit(_)) {
            return Err(failed(StatusCode::BAD_GATEWAY));
        }
        let bytes = self.jobs.blobs.read_all(&output.stdout).await.map_err(anyhow::Error::from)?;
        match serde_json::from_slice(&bytes).map_err(anyhow::Error::from)? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok((reply, output)),
        }
    }
}

fn row(model: &ModelOffer) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "theta-edge",
        "context_length": model.context,
        "dimensions": model.dimensions,
        "generates": model.generates,
        "tfuelWeiPerToken": model.price.per_million_fuel,
        "digest": model.executor,
    })
}

async fn models(State(v1): State<V1>) -> Result<Json<Value>, Problem> {
    let rows: Vec<Value> = v1.models().await?.iter().map(row).collect();
    Ok(Json(json!({ "object": "list", "data": rows })))
}

async fn model(State(v1): State<V1>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    Ok(Json(row(&v1.model(&name).await?)))
}

async fn embeddings(State(v1): State<V1>, body: Bytes) -> Result<Response, Problem> {
    let mut fields = Fields::of(&body)?;
    let model = v1.model(&fields.model()?).await?;
    let (ask, encoding) = fields.embedding(model.dimensions)?;
    let (job, mut text) = v1.begin(&model, &ask).await?;
    let report = loop {
        if let Step::Ended(report) = text.next().await {
            break report;
        }
    };
    let (reply, output) = v1.reply(report).await?;
    let Reply::Embedded { dimensions, tokens } = reply else {
        return Err(anyhow::anyhow!("the model made no vectors").into());
    };
    let file = output.files.iter().find(|file| file.path == VECTORS);
    let file = file.ok_or_else(|| anyhow::anyhow!("the model's vectors are missing"))?;
    let vectors = v1.jobs.blobs.read_all(&file.blob).await.map_err(anyhow::Error::from)?;
    let rows = vectors.chunks_exact(dimensions as usize * 4).enumerate().map(|(index, bytes)| {
        let embedding = match encoding {
            Encoding::Base64 => json!(base64::prelude::BASE64_STANDARD.encode(bytes)),
            Encoding::Numbers => {
                let numbers = bytes.chunks_exact(4);
                numbers.map(|number| f32::from_le_bytes(number.try_into().unwrap_or_default())).collect()
            }
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    let body = json!({
        "object": "list",
        "data": rows.collect::<Vec<_>>(),
        "model": model.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    Ok(with_job(job, Json(body).into_response()))
}

async fn chat(State(v1): State<V1>, body: Bytes) -> Result<Response, Problem> {
    let mut fields = Fields::of(&body)?;
    let model = v1.model(&fields.model()?).await?;
    let (ask, manner) = fields.chat()?;
    v1.generate(Form::Chat, model, ask, manner).await
}

async fn completions(State(v1): State<V1>, body: Bytes) -> Result<Response, Problem> {
    let mut fields = Fields::of(&body)?;
    let model = v1.model(&fields.model()?).await?;
    let (ask, manner) = fields.completion()?;
    v1.generate(Form::Completion, model, ask, manner).await
}

fn with_job(job: Hash, mut response: Response) -> Response {
    if let Ok(value) = job.to_string().parse() {
        response.headers_mut().insert("x-theta-job", value);
    }
    response
}

/// Which of the two calls for texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Chat,
    Completion,
}

/// What all answers of one request have in common.
struct Answer {
    form: Form,
    id: String,
    model: String,
    created: u64,
}

impl Answer {
    fn body(&self, chunk: bool, choices: Value, usage: Option<Value>) -> Value {
        let object = match (self.form, chunk) {
            (Form::Chat, true) => "chat.completion.chunk",
            (Form::Chat, false) => "chat.completion",
            (Form::Completion, _) => "text_completion",
        };
        let mut body = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        });
        if let Some(usage) = usage {
            body["usage"] = usage;
        }
        body
    }

    fn whole(&self, text: &str, finish: Finish, usage: Value) -> Value {
        let mut choice = json!({ "index": 0, "logprobs": null, "finish_reason": finish.name() });
        match self.form {
            Form::Chat => {
                choice["message"] = json!({ "role": "assistant", "content": text, "refusal": null })
            }
            Form::Completion => choice["text"] = json!(text),
        }
        self.body(false, json!([choice]), Some(usage))
    }

    /// An event of a stream; the first one of a conversation says who speaks.
    fn event(&self, first: bool, text: &str, finish: Option<Finish>) -> Value {
        let reason = finish.map(Finish::name);
        let mut choice = json!({ "index": 0, "logprobs": null, "finish_reason": reason });
        match self.form {
            Form::Chat => {
                let mut delta = json!({});
                if first {
                    delta["role"] = json!("assistant");
                }
                if first || !text.is_empty() {
                    delta["content"] = json!(text);
                }
                choice["delta"] = delta;
            }
            Form::Completion => choice["text"] = json!(text),
        }
        self.body(true, json!([choice]), None)
    }
}

fn usage(prompt: u64, completion: u64) -> Value {
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt.saturating_add(completion),
    })
}

fn event(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

impl V1 {
    async fn generate(
        self,
        form: Form,
        model: ModelOffer,
        ask: Ask,
        manner: Manner,
    ) -> Result<Response, Problem> {
        let (job, mut text) = self.begin(&model, &ask).await?;
        let id = format!("{}{}", if form == Form::Chat { "chatcmpl-" } else { "cmpl-" }, hex::encode(job));
        let answer = Answer { form, id, model: model.name, created: now_millis() / 1000 };
        // What goes wrong before the text begins has a status of its own.
        let first = text.next().await;
        let begun = match first {
            Step::Ended(report) => Begun::Whole(self.reply(report).await?.0),
            Step::More(piece) => Begun::Piece(piece),
        };
        if manner.stream {
            let stream = Stream { v1: self, answer, text, usage: manner.usage, next: Next::Begin(begun) };
            let body = Body::from_stream(futures::stream::unfold(stream, Stream::step));
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            return Ok(with_job(job, (headers, body).into_response()));
        }
        let reply = match begun {
            Begun::Whole(reply) => reply,
            Begun::Piece(_) => loop {
                if let Step::Ended(report) = text.next().await {
                    break self.reply(report).await?.0;
                }
            },
        };
        let Reply::Generated { text, finish, prompt_tokens, completion_tokens } = reply else {
            return Err(anyhow::anyhow!("the model made no text").into());
        };
        let body = answer.whole(&text, finish, usage(prompt_tokens, completion_tokens));
        Ok(with_job(job, Json(body).into_response()))
    }
}

enum Begun {
    Piece(String),
    Whole(Reply),
}

enum Next {
    Begin(Begun),
    Go,
    Over,
}

/// A text on its way to a client.
struct Stream {
    v1: V1,
    answer: Answer,
    text: Text,
    usage: bool,
    next: Next,
}

impl Stream {
    /// The next bytes; nothing is read from the node's side before the client has taken those before.
    async fn step(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let bytes = match std::mem::replace(&mut self.next, Next::Go) {
            Next::Over => return None,
            Next::Begin(Begun::Piece(piece)) => event(&self.answer.event(true, &piece, None)),
            Next::Begin(Begun::Whole(reply)) => {
                let mut bytes = event(&self.answer.event(true, "", None)).to_vec();
                bytes.extend(self.end(Ok(reply)));
                bytes.into()
            }
            Next::Go => match self.text.next().await {
                Step::More(piece) => event(&self.answer.event(false, &piece, None)),
                Step::Ended(report) => {
                    let reply = self.v1.reply(report).await.map(|(reply, _)| reply);
                    self.end(reply).into()
                }
            },
        };
        Some((Ok(bytes), self))
    }

    /// The last events.
    fn end(&mut self, reply: Result<Reply, Problem>) -> Vec<u8> {
        self.next = Next::Over;
        let problem = match reply {
            Ok(Reply::Generated { text, finish, prompt_tokens, completion_tokens }) => {
                if let Some(rest) = self.text.rest(&text) {
                    let mut bytes = Vec::new();
                    if !rest.is_empty() {
                        bytes.extend(event(&self.answer.event(false, rest, None)));
                    }
                    bytes.extend(event(&self.answer.event(false, "", Some(finish))));
                    if self.usage {
                        let usage = usage(prompt_tokens, completion_tokens);
                        bytes.extend(event(&self.answer.body(true, json!([]), Some(usage))));
                    }
                    bytes.extend(b"data: [DONE]\n\n");
                    return bytes;
                }
                let message =
                    "the node that began the text failed, and another one went on differently; ask again";
                Problem::server(StatusCode::BAD_GATEWAY, "interrupted", message)
            }
            Ok(_) => Problem::from(anyhow::anyhow!("the model made no text")),
            Err(problem) => problem,
        };
        event(&problem.value()).to_vec()
    }
}
