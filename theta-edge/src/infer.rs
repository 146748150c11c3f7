//! Inference: texts become vectors, and conversations go on, by a model that a node has (edge.md 2.2, 5.6).
//!
//! A task names a model by the digest of the engine that runs it ([`InferWork::model`]), so that results of one task come
//! from one model and profile, and placement asks only nodes that have it. What is asked is a blob, [`Ask`]; what comes
//! back is the task's standard output, [`Reply`], with vectors as a file beside it.
//!
//! Fuel counts tokens: [`TOKEN`] units are one, so that a price for a million units is the price of a token, to the wei.

use serde::{Deserialize, Serialize};
use theta_core::codec::rlp::{Encode, encode_list};
use theta_core::hash::Hash;

use crate::blob::BlobRef;
use crate::executor::{Ending, Output};
use crate::job::JobError;
use crate::payment::Price;

/// Units of fuel that one token is.
pub const TOKEN: u64 = 1_000_000;
/// Texts in one request.
pub const MAX_TEXTS: usize = 2_048;
/// Bytes of what is asked.
pub const MAX_ASK: usize = 8 << 20;
/// Texts that end a generation.
pub const MAX_STOPS: usize = 4;
/// Longest text of a frame, in bytes.
pub const MAX_FRAME: usize = 64 << 10;
/// Name of the file with vectors: little-endian 32-bit floats, one vector after the other.
pub const VECTORS: &str = "vectors.f32";
/// Longest name of a model.
const MAX_NAME: usize = 128;

/// A step of inference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferWork {
    /// Digest of engine and model ([`ModelOffer::executor`]).
    pub model: Hash,
    /// An [`Ask`] in JSON.
    pub ask: BlobRef,
}

impl InferWork {
    pub(crate) const fn check(&self) -> Result<(), JobError> {
        if self.ask.len == 0 || self.ask.len > MAX_ASK as u64 {
            return Err(JobError::field("ask", "is empty or above 8 MiB"));
        }
        Ok(())
    }
}

impl Encode for InferWork {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            "infer".to_owned().encode(out);
            self.model.encode(out);
            self.ask.hash.0.encode(out);
            self.ask.len.encode(out);
        });
    }
}

/// What a model is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// A vector for each text.
    Embed(Vec<String>),
    /// How a text goes on.
    Generate(Generate),
}

/// A text to go on with, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// What there is.
    pub prompt: Prompt,
    /// Tokens at most; what is left of the context when missing.
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token each time; up to 2.
    pub temperature: f64,
    /// Only the likeliest tokens that have this probability together are drawn from; above 0, up to 1.
    pub top_p: f64,
    /// Where drawing begins; the same gives the same text on equal engines. One is made of the task's id when missing.
    pub seed: Option<u64>,
    /// Texts before which it ends.
    pub stop: Vec<String>,
}

/// What a generation begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// A text as it stands.
    Text(String),
    /// A conversation, put into the model's own form.
    Chat(Vec<Turn>),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sets the rules.
    System,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who says it.
    pub role: Role,
    /// What.
    pub content: String,
}

impl Ask {
    /// Whether it means anything, whatever the model.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Embed(texts) => {
                if texts.is_empty() || texts.len() > MAX_TEXTS {
                    return Err(Refusal::new("input", format!("needs 1 to {MAX_TEXTS} texts")));
                }
                match texts.iter().position(|text| text.trim().is_empty()) {
                    Some(at) if texts.len() == 1 && at == 0 => Err(Refusal::new("input", "is empty")),
                    Some(at) => Err(Refusal::new(format!("input[{at}]"), "is empty")),
                    None => Ok(()),
                }
            }
            Self::Generate(ask) => ask.check(),
        }
    }

    /// The most tokens that it can use with a model of this context.
    pub fn most_tokens(&self, context: u32) -> u64 {
        match self {
            // No tokenizer makes more of a text, normalised as it may be.
            Self::Embed(texts) => {
                texts.iter().map(|text| (4 * text.len() as u64 + 16).min(u64::from(context))).sum()
            }
            Self::Generate(_) => u64::from(context),
        }
    }
}

impl Generate {
    fn check(&self) -> Result<(), Refusal> {
        match &self.prompt {
            Prompt::Text(text) if text.is_empty() => return Err(Refusal::new("prompt", "is empty")),
            Prompt::Chat(turns) if turns.is_empty() => return Err(Refusal::new("messages", "is empty")),
            _ => {}
        }
        if self.max_tokens == Some(0) {
            return Err(Refusal::new("max_tokens", "is at least 1"));
        }
        if !(0.0..=2.0).contains(&self.temperature) {
            return Err(Refusal::new("temperature", "is a number from 0 to 2"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Refusal::new("top_p", "is a number above 0 and up to 1"));
        }
        if self.stop.len() > MAX_STOPS || self.stop.iter().any(String::is_empty) {
            return Err(Refusal::new("stop", "has up to 4 texts, none of them empty"));
        }
        Ok(())
    }
}

/// Why a model does not do what it is asked; the asker's fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{param} {message}")]
pub struct Refusal {
    /// Name of the reason for programs.
    pub code: String,
    /// Which field of the request, such as `input[3]`.
    pub param: String,
    /// What about it.
    pub message: String,
}

impl Refusal {
    /// A value that is out of range.
    pub fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: "invalid_value".to_owned(), param: param.into(), message: message.into() }
    }

    /// More tokens than the model has room for.
    pub fn too_long(param: impl Into<String>, tokens: u64, context: u32) -> Self {
        Self {
            code: "context_length_exceeded".to_owned(),
            param: param.into(),
            message: format!("has {tokens} tokens, and the model's context is {context}"),
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model or a stop text ended it.
    Stop,
    /// There was no room for more.
    Length,
}

impl Finish {
    /// Its name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What a model answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// A vector for each text, in the file [`VECTORS`].
    Embedded {
        /// Numbers in a vector.
        dimensions: u32,
        /// Tokens of all texts, with those that the model adds.
        tokens: u64,
    },
    /// A text.
    Generated {
        /// What follows the prompt.
        text: String,
        /// Why no more.
        finish: Finish,
        /// Tokens of the prompt, with those that the model adds.
        prompt_tokens: u64,
        /// Tokens that were made, the last one included.
        completion_tokens: u64,
    },
    /// None; nothing is paid.
    Refused(Refusal),
}

impl Reply {
    /// Tokens that are paid.
    pub const fn tokens(&self) -> u64 {
        match self {
            Self::Embedded { tokens, .. } => *tokens,
            Self::Generated { prompt_tokens, completion_tokens, .. } => {
                prompt_tokens.saturating_add(*completion_tokens)
            }
            Self::Refused(_) => 0,
        }
    }

    /// How a task with this reply ends.
    pub const fn ending(&self) -> Ending {
        Ending::Exit(matches!(self, Self::Refused(_)) as i32)
    }

    /// Whether it can be the answer to what was asked, with this output around it. Who paid for what cannot be would pay
    /// for nothing.
    pub fn fits(&self, ask: &Ask, context: u32, output: &Output) -> Result<(), &'static str> {
        if output.ending != self.ending() {
            return Err("its ending and its answer differ");
        }
        if self.tokens().checked_mul(TOKEN) != Some(output.fuel_used) {
            return Err("its usage and its fuel differ");
        }
        if self.tokens() > ask.most_tokens(context) {
            return Err("it counts more tokens than there can be");
        }
        match (self, ask) {
            (Self::Refused(_), _) => Ok(()),
            (Self::Embedded { dimensions, tokens }, Ask::Embed(texts)) => {
                let [file] = &output.files[..] else { return Err("its vectors are missing") };
                let bytes = u64::from(*dimensions) * 4 * texts.len() as u64;
                if file.path != VECTORS || file.blob.len != bytes || *dimensions == 0 {
                    return Err("it has not one vector for each text");
                }
                if *tokens < texts.len() as u64 {
                    return Err("it counts fewer tokens than texts");
                }
                Ok(())
            }
            (Self::Generated { completion_tokens, .. }, Ask::Generate(ask)) => {
                if ask.max_tokens.is_some_and(|most| *completion_tokens > u64::from(most)) {
                    return Err("it made more tokens than were asked for");
                }
                if !output.files.is_empty() {
                    return Err("it has files that nobody asked for");
                }
                Ok(())
            }
            _ => Err("it answers something else"),
        }
    }
}

/// A model that a node has, as it tells requesters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOffer {
    /// What people call it.
    pub name: String,
    /// Digest of engine and model: what a task names.
    pub executor: Hash,
    /// Numbers in its vectors, if it makes vectors.
    pub dimensions: Option<u32>,
    /// Whether it makes text.
    pub generates: bool,
    /// Tokens of prompt and answer together.
    pub context: u32,
    /// What it costs; a million units of fuel are one token.
    pub price: Price,
}

impl ModelOffer {
    /// Whether a name can stand in a request and on a page.
    pub fn is_name(name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
        !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(plain)
    }

    /// Whether it does what is asked.
    pub fn takes(&self, ask: &Ask) -> Result<(), Refusal> {
        match ask {
            Ask::Embed(_) if self.dimensions.is_none() => {
                Err(Refusal::new("model", "makes text, not vectors"))
            }
            Ask::Generate(_) if !self.generates => Err(Refusal::new("model", "makes vectors, not text")),
            _ => Ok(()),
        }
    }

    /// Whether it can be believed at all.
    pub fn is_sane(&self) -> bool {
        Self::is_name(&self.name)
            && (1..=1 << 24).contains(&self.context)
            && self.dimensions.is_none_or(|dimensions| (1..=1 << 16).contains(&dimensions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::OutFile;

    fn chat(max_tokens: u32) -> Ask {
        Ask::Generate(Generate {
            prompt: Prompt::Text("x".into()),
            max_tokens: Some(max_tokens),
            temperature: 0.0,
            top_p: 1.0,
            seed: None,
            stop: Vec::new(),
        })
    }

    fn output(reply: &Reply, files: Vec<OutFile>) -> Output {
        Output { files, ..Output::silent(reply.ending(), reply.tokens() * TOKEN) }
    }

    #[test]
    fn what_cannot_be_an_answer_is_none() {
        let said = |prompt_tokens, completion_tokens| Reply::Generated {
            text: "y".into(),
            finish: Finish::Length,
            prompt_tokens,
            completion_tokens,
        };
        let fits = |reply: &Reply, ask: &Ask| reply.fits(ask, 64, &output(reply, Vec::new()));
        assert_eq!(fits(&said(1, 8), &chat(8)), Ok(()));
        assert_eq!(fits(&said(1, 9), &chat(8)), Err("it made more tokens than were asked for"));
        assert_eq!(fits(&said(60, 5), &chat(8)), Err("it counts more tokens than there can be"));
        let dear = Output { fuel_used: 10 * TOKEN, ..output(&said(1, 8), Vec::new()) };
        assert_eq!(said(1, 8).fits(&chat(8), 64, &dear), Err("its usage and its fuel differ"));
        let failed = Output { ending: Ending::Exit(1), ..output(&said(1, 8), Vec::new()) };
        assert_eq!(said(1, 8).fits(&chat(8), 64, &failed), Err("its ending and its answer differ"));
        assert_eq!(fits(&said(1, 8), &Ask::Embed(vec!["a".into()])), Err("it answers something else"));

        let vectors = Reply::Embedded { dimensions: 2, tokens: 6 };
        let file =
            |path: &str, bytes: usize| OutFile { path: path.into(), blob: BlobRef::of(&vec![0; bytes]) };
        let two = Ask::Embed(vec!["a".into(), "b".into()]);
        let fits = |files| vectors.fits(&two, 64, &output(&vectors, files));
        assert_eq!(fits(vec![file(VECTORS, 16)]), Ok(()));
        assert_eq!(fits(vec![file(VECTORS, 8)]), Err("it has not one vector for each text"));
        assert_eq!(fits(vec![file("other", 16)]), Err("it has not one vector for each text"));
        assert_eq!(fits(Vec::new()), Err("its vectors are missing"));
        let refused = Reply::Refused(Refusal::too_long("input[1]", 70, 64));
        assert_eq!(refused.fits(&two, 64, &output(&refused, Vec::new())), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        let embed = |texts: &[&str]| Ask::Embed(texts.iter().map(|text| (*text).to_owned()).collect());
        let param = |ask: Ask| ask.check().map_err(|refusal| refusal.param);
        assert_eq!(param(embed(&["a", "", "b"])), Err("input[1]".into()));
        for texts in [&[""][..], &["  "], &[]] {
            assert_eq!(param(embed(texts)), Err("input".into()));
        }
        assert_eq!(param(embed(&["a"])), Ok(()));
        let ask = |change: fn(&mut Generate)| {
            let Ask::Generate(mut ask) = chat(1) else { panic!("a generation") };
            change(&mut ask);
            Ask::Generate(ask).check().map_err(|refusal| refusal.param)
        };
        assert_eq!(ask(|_| ()), Ok(()));
        assert_eq!(ask(|ask| ask.temperature = f64::NAN), Err("temperature".into()));
        assert_eq!(ask(|ask| ask.temperature = 2.1), Err("temperature".into()));
        assert_eq!(ask(|ask| ask.top_p = 0.0), Err("top_p".into()));
        assert_eq!(ask(|ask| ask.max_tokens = Some(0)), Err("max_tokens".into()));
        assert_eq!(ask(|ask| ask.stop = vec![String::new()]), Err("stop".into()));
        assert_eq!(ask(|ask| ask.prompt = Prompt::Chat(Vec::new())), Err("messages".into()));
        assert!(
            ModelOffer::is_name("org/model-1:q4") && !ModelOffer::is_name("a b") && !ModelOffer::is_name("")
        );
    }
}
