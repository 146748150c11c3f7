//! Models of another server that speaks the OpenAI protocol: vLLM, llama.cpp, Ollama, or a provider.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use theta_edge::executor::{Frames, RunError};
use theta_edge::infer::{Ask, Finish, Generate, ModelOffer, Prompt, Refusal, Reply};
use theta_edge::job::KindTag;
use theta_edge::payment::Price;
use zeroize::Zeroizing;

use crate::{Answer, Halt, digest};

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of one answer.
const MAX_ANSWER: usize = 32 << 20;
/// Bytes of a server's own words that are passed on.
const MAX_WORDS: usize = 500;

/// A server, and which of its models are offered.
#[derive(Clone)]
pub struct Upstream {
    client: reqwest::Client,
    base: String,
    key: Option<Arc<Zeroizing<String>>>,
    context: u32,
    chat: Vec<String>,
    embed: Vec<(String, u32)>,
    silence: Duration,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Why a server cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// Not a URL of HTTP.
    #[error("{0} is no address of a server; it is one such as http://127.0.0.1:11434/v1")]
    Url(String),
    /// A model's name cannot stand in a request.
    #[error("{0} is no name of a model: letters, digits and . _ : / @ -, up to 128")]
    Name(String),
    /// No client could be made.
    #[error("no connection can be made")]
    Client(#[source] reqwest::Error),
}

impl Upstream {
    /// A server by the address that its clients are given, such as `http://127.0.0.1:11434/v1`, the key it wants, and the
    /// tokens that its models have room for. None of its models is offered yet.
    pub fn new(base: &str, key: Option<String>, context: u32) -> Result<Self, UpstreamError> {
        let url: reqwest::Url = base.parse().map_err(|_| UpstreamError::Url(base.to_owned()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(UpstreamError::Url(base.to_owned()));
        }
        let builder =
            reqwest::Client::builder().connect_timeout(CONNECT).redirect(reqwest::redirect::Policy::none());
        let client = builder.build().map_err(UpstreamError::Client)?;
        Ok(Self {
            client,
            base: base.trim_end_matches('/').to_owned(),
            key: key.map(|key| Arc::new(Zeroizing::new(key))),
            context,
            chat: Vec::new(),
            embed: Vec::new(),
            silence: SILENCE,
        })
    }

    /// Offers a model that makes text.
    pub fn with_chat(mut self, name: &str) -> Result<Self, UpstreamError> {
        self.chat.push(checked(name)?);
        Ok(self)
    }

    /// Offers a model that makes vectors of so many numbers.
    pub fn with_embed(mut self, name: &str, dimensions: u32) -> Result<Self, UpstreamError> {
        self.embed.push((checked(name)?, dimensions));
        Ok(self)
    }

    /// Gives up a server that says nothing for so long; 30 s unless it is told.
    #[must_use]
    pub const fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    pub(crate) fn offers(&self) -> Vec<ModelOffer> {
        let offer = |name: &str, dimensions| ModelOffer {
            name: name.to_owned(),
            executor: digest(&[b"upstream", self.base.as_bytes(), name.as_bytes()]),
            dimensions,
            generates: dimensions.is_none(),
            context: self.context,
            price: Price::default(),
        };
        let embed = self.embed.iter().map(|(name, dimensions)| offer(name, Some(*dimensions)));
        self.chat.iter().map(|name| offer(name, None)).chain(embed).collect()
    }

    pub(crate) async fn answer(
        &self,
        model: &ModelOffer,
        ask: &Ask,
        frames: Option<Frames>,
    ) -> Result<Answer, Halt> {
        match (ask, model.dimensions) {
            (Ask::Embed(texts), Some(dimensions)) => self.embed(&model.name, dimensions, texts).await,
            (Ask::Generate(ask), None) => self.generate(&model.name, ask, frames).await,
            // Asked for what its offer does not say.
            _ => Err(Halt::Node(RunError::Kind(KindTag::Infer))),
        }
    }

    /// The answer to a request, once it begins; what it refuses is the asker's fault.
    async fn ask(&self, path: &str, body: &Value) -> Result<reqwest::Response, Halt> {
        let mut request = self.client.post(format!("{}/{path}", self.base)).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.as_str());
        }
        let response = self.in_time(request.send()).await?.map_err(lost)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.whole(response).await.unwrap_or_default();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let error = &said["error"];
        // What is wrong with its key or its load is no asker's doing.
        if matches!(status.as_u16(), 400 | 413 | 422) {
            let text = |name: &str, other: &str| error[name].as_str().unwrap_or(other).to_owned();
            let message: String =
                text("message", "was refused by the model's server").chars().take(MAX_WORDS).collect();
            return Err(Halt::Asker(Refusal {
                code: text("code", "invalid_value").chars().take(64).collect(),
                param: text("param", "messages").chars().take(64).collect(),
                message,
            }));
        }
        Err(gone(format!("it answered {status}")))
    }

    async fn in_time<T>(&self, next: impl Future<Output = T>) -> Result<T, Halt> {
        let silent = |_| gone(format!("it said nothing for {} s", self.silence.as_secs_f32()));
        tokio::time::timeout(self.silence, next).await.map_err(silent)
    }

    async fn whole(&self, response: reqwest::Response) -> Result<Vec<u8>, Halt> {
        let (mut body, mut bytes) = (response.bytes_stream(), Vec::new());
        while let Some(piece) = self.in_time(body.next()).await? {
            bytes.extend_from_slice(&piece.map_err(lost)?);
            if bytes.len() > MAX_ANSWER {
                return Err(gone("its answer has no end".to_owned()));
            }
        }
        Ok(bytes)
    }

    async fn embed(&self, model: &str, dimensions: u32, texts: &[String]) -> Result<Answer, Halt> {
        #[derive(Deserialize)]
        struct Row {
            index: usize,
            embedding: Vec<f32>,
        }
        #[derive(Deserialize)]
        struct Usage {
            prompt_tokens: u64,
        }
        #[derive(Deserialize)]
        struct Said {
            data: Vec<Row>,
            usage: Usage,
        }
        let body = json!({ "model": model, "input": texts, "encoding_format": "float" });
        let response = self.ask("embeddings", &body).await?;
        let said: Said = serde_json::from_slice(&self.whole(response).await?)
            .map_err(|error| gone(format!("its answer is none: {error}")))?;
        let mut rows = said.data;
        rows.sort_by_key(|row| row.index);
        let whole = rows.len() == texts.len()
            && rows.iter().enumerate().all(|(at, row)| {
                row.index == at
                    && row.embedding.len() == dimensions as usize
                    && row.embedding.iter().all(|number| number.is_finite())
            });
        if !whole {
            return Err(gone("its answer has not one vector for each text".to_owned()));
        }
        let vectors = rows.into_iter().flat_map(|row| row.embedding).flat_map(f32::to_le_bytes).collect();
        Ok((Reply::Embedded { dimensions, tokens: said.usage.prompt_tokens }, Some(vectors)))
    }

    async fn generate(&self, model: &str, ask: &Generate, frames: Option<Frames>) -> Result<Answer, Halt> {
        let mut body = json!({
            "model": model,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        if let Some(most) = ask.max_tokens {
            body["max_tokens"] = json!(most);
        }
        if let Some(seed) = ask.seed {
            body["seed"] = json!(seed);
        }
        if !ask.stop.is_empty() {
            body["stop"] = json!(ask.stop);
        }
        let path = match &ask.prompt {
            Prompt::Text(text) => {
                body["prompt"] = json!(text);
                "completions"
            }
            Prompt::Chat(turns) => {
                body["messages"] = json!(turns);
                "chat/completions"
            }
        };
        let mut pieces = self.ask(path, &body).await?.bytes_stream();
        let (mut events, mut said, mut all) = (Events::default(), Said::default(), 0);
        while !said.done
            && let Some(piece) = self.in_time(pieces.next()).await?
        {
            let piece = piece.map_err(lost)?;
            all += piece.len();
            if all > MAX_ANSWER {
                return Err(gone("its answer has no end".to_owned()));
            }
            events.0.extend_from_slice(&piece);
            while let Some(data) = events.next() {
                let piece = said.take(&data)?;
                if let Some(frames) = frames.as_ref().filter(|_| !piece.is_empty()) {
                    frames(piece);
                }
            }
        }
        let (Some((prompt_tokens, completion_tokens)), Some(finish)) = (said.usage, said.finish) else {
            return Err(gone("its answer broke off, or counts no tokens".to_owned()));
        };
        Ok((Reply::Generated { text: said.text, finish, prompt_tokens, completion_tokens }, None))
    }
}

fn checked(name: &str) -> Result<String, UpstreamError> {
    match ModelOffer::is_name(name) {
        true => Ok(name.to_owned()),
        false => Err(UpstreamError::Name(name.to_owned())),
    }
}

fn gone(why: String) -> Halt {
    Halt::Node(RunError::Upstream(why))
}

fn lost(error: reqwest::Error) -> Halt {
    // Its address may hold a key.
    gone(error.without_url().to_string())
}

/// Data of server-sent events, as the bytes come.
#[derive(Default)]
struct Events(Vec<u8>);

impl Events {
    /// The next line of data that is here whole.
    fn next(&mut self) -> Option<String> {
        loop {
            let end = self.0.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = self.0.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                return Some(data.trim_start().to_owned());
            }
        }
    }
}

/// What was said so far.
#[derive(Default)]
struct Said {
    text: String,
    finish: Option<Finish>,
    usage: Option<(u64, u64)>,
    done: bool,
}

impl Said {
    /// Takes an event, and gives the text in it.
    fn take(&mut self, data: &str) -> Result<String, Halt> {
        if data == "[DONE]" {
            self.done = true;
            return Ok(String::new());
        }
        let event: Value =
            serde_json::from_str(data).map_err(|error| gone(format!("its answer is none: {error}")))?;
        if let Some(message) = event["error"]["message"].as_str() {
            return Err(gone(message.chars().take(MAX_WORDS).collect()));
        }
        let usage = &event["usage"];
        if let (Some(prompt), Some(completion)) =
            (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64())
        {
            self.usage = Some((prompt, completion));
        }
        let choice = &event["choices"][0];
        match choice["finish_reason"].as_str() {
            Some("length") => self.finish = Some(Finish::Length),
            Some(_) => self.finish = Some(Finish::Stop),
            None => {}
        }
        let text =
            choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str()).unwrap_or_default();
        self.text.push_str(text);
        Ok(text.to_owned())
    }
}
