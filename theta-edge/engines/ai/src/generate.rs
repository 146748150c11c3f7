//! Text: a Llama model, drawn from token by token.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::generation::{LogitsProcessor, Sampling};
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig, LlamaEosToks};
use theta_edge::infer::{Finish, Generate, Prompt, Refusal, Reply};
use tokenizers::Tokenizer;

use crate::chat::Template;
use crate::folder::{Broken, ModelError, json};
use crate::{Answer, Halt, Watch};

/// Tokens of a frame (edge.md 5.6).
const FRAME_TOKENS: u32 = 32;
/// A frame with fewer leaves after so long: people read.
const FRAME_TIME: Duration = Duration::from_millis(100);

pub(crate) struct Generator {
    model: Llama,
    config: Config,
    tokenizer: Tokenizer,
    template: Template,
    ends: Vec<u32>,
    pub(crate) context: u32,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("context", &self.context).finish_non_exhaustive()
    }
}

impl Generator {
    pub(crate) fn open(
        folder: &Path,
        tokenizer: Tokenizer,
        template: Template,
        weights: VarBuilder<'_>,
    ) -> Result<Self, Broken> {
        let config: LlamaConfig = json(folder, "config.json")?;
        let ends = match &config.eos_token_id {
            Some(LlamaEosToks::Single(end)) => vec![*end],
            Some(LlamaEosToks::Multiple(ends)) => ends.clone(),
            None => Vec::new(),
        };
        if tokenizer.get_vocab_size(true) > config.vocab_size {
            let problem = "the tokenizer knows more tokens than the model".to_owned();
            return Err(ModelError::Use(folder.join("tokenizer.json"), problem).into());
        }
        let context = u32::try_from(config.max_position_embeddings).unwrap_or(u32::MAX);
        let config = config.into_config(false);
        let model = Llama::load(weights, &config)?;
        Ok(Self { model, config, tokenizer, template, ends, context })
    }

    pub(crate) fn answer(&self, ask: &Generate, seed: u64, watch: &Watch) -> Result<Answer, Halt> {
        let (param, text, special) = match &ask.prompt {
            Prompt::Text(text) => ("prompt", text.clone(), true),
            Prompt::Chat(turns) => {
                let text = self.template.render(turns);
                // A template may refuse, such as two messages of one side in a row.
                let text = text.map_err(|error| Halt::Asker(Refusal::new("messages", error.to_string())))?;
                // The template has put its special tokens in.
                ("messages", text, false)
            }
        };
        let prompt = self.tokenizer.encode(text, special);
        let prompt = prompt.map_err(|error| Halt::Asker(Refusal::new(param, error.to_string())))?;
        let prompt = prompt.get_ids();
        let room = u64::from(self.context).saturating_sub(prompt.len() as u64);
        let wanted = ask.max_tokens.map_or(1, u64::from);
        if prompt.is_empty() {
            return Err(Halt::Asker(Refusal::new(param, "has no tokens")));
        }
        if room < wanted {
            let all = prompt.len() as u64 + wanted;
            return Err(Halt::Asker(Refusal::too_long(param, all, self.context)));
        }
        let most = ask.max_tokens.map_or(room, u64::from);
        let temperature = ask.temperature;
        let sampling = match temperature {
            0.0 => Sampling::ArgMax,
            _ if ask.top_p < 1.0 => Sampling::TopP { p: ask.top_p, temperature },
            _ => Sampling::All { temperature },
        };
        let mut draw = LogitsProcessor::from_sampling(ask.seed.unwrap_or(seed), sampling);
        let mut cache = Cache::new(true, DType::F32, &self.config, &Device::Cpu)?;
        let mut decoder = self.tokenizer.decode_stream(true);
        let mut text = Text::new(&ask.stop);
        let (mut input, mut position, mut made) = (prompt.to_vec(), 0, 0_u64);
        let (mut since, mut shown_at) = (0, Instant::now());
        let finish = loop {
            watch.check()?;
            let ids = Tensor::new(&input[..], &Device::Cpu)?.unsqueeze(0)?;
            let logits = self.model.forward(&ids, position, &mut cache)?.squeeze(0)?;
            position += input.len();
            let next = draw.sample(&logits)?;
            made += 1;
            if self.ends.contains(&next) {
                break Finish::Stop;
            }
            // A token that is no text by itself waits for the next.
            let piece = decoder.step(next).map_err(|error| candle_core::Error::Msg(error.to_string()))?;
            if text.add(&piece.unwrap_or_default()) {
                break Finish::Stop;
            }
            since += 1;
            if since >= FRAME_TOKENS || made == 1 || shown_at.elapsed() >= FRAME_TIME {
                (since, shown_at) = (0, Instant::now());
                self.show(watch, text.take());
            }
            if made >= most {
                break Finish::Length;
            }
            input = vec![next];
        };
        let text = text.finish();
        let (prompt_tokens, completion_tokens) = (prompt.len() as u64, made);
        Ok((Reply::Generated { text, finish, prompt_tokens, completion_tokens }, None))
    }

    fn show(&self, watch: &Watch, piece: String) {
        if let Some(frames) = watch.frames.as_ref().filter(|_| !piece.is_empty()) {
            frames(piece);
        }
    }
}

/// A text that is being made, without what may turn out to be the beginning of a stop text.
pub(crate) struct Text<'a> {
    stops: &'a [String],
    all: String,
    shown: usize,
    ended: bool,
}

impl<'a> Text<'a> {
    pub(crate) const fn new(stops: &'a [String]) -> Self {
        Self { stops, all: String::new(), shown: 0, ended: false }
    }

    /// Adds a piece; whether a stop text ends it.
    pub(crate) fn add(&mut self, piece: &str) -> bool {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.all.len().saturating_sub(longest);
        while !self.all.is_char_boundary(from) {
            from -= 1;
        }
        self.all.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| self.all[from..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.all.truncate(from + at);
            self.ended = true;
        }
        self.ended
    }

    /// What can be shown and was not.
    pub(crate) fn take(&mut self) -> String {
        let held = if self.ended { 0 } else { self.held() };
        let piece = self.all.get(self.shown..self.all.len() - held).unwrap_or_default().to_owned();
        self.shown += piece.len();
        piece
    }

    /// All of it.
    pub(crate) fn finish(self) -> String {
        self.all
    }

    /// Bytes at the end that a stop text may begin with.
    fn held(&self) -> usize {
        let begins = |stop: &String, len: &usize| self.all.ends_with(stop.get(..*len).unwrap_or("\u{0}"));
        let held = |stop: &String| (1..stop.len()).rev().find(|len| begins(stop, len));
        self.stops.iter().filter_map(held).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut text = Text::new(&stops);
        let (mut shown, mut ended) = (Vec::new(), false);
        for piece in pieces {
            ended = text.add(piece);
            shown.push(text.take());
            if ended {
                break;
            }
        }
        (shown, text.finish(), ended)
    }

    #[test]
    fn a_stop_text_is_never_shown_in_part() {
        let (shown, all, ended) = pieces(&["END"], &["one E", "N", "D two", "three"]);
        assert_eq!((shown.concat(), all, ended), ("one ".into(), "one ".into(), true));
        let (shown, all, ended) = pieces(&["END"], &["one E", "N", "O"]);
        assert_eq!((shown.concat(), all, ended), ("one ENO".into(), "one ENO".into(), false));
        assert_eq!(shown[0], "one ");
        // The one that comes first, whichever is named first.
        assert_eq!(pieces(&["b", "a"], &["xab"]).1, "x");
        let (shown, all, _) = pieces(&["ß!"], &["größ", "er ß", "!"]);
        assert_eq!((shown.concat(), all), ("größer ".into(), "größer ".into()));
        assert_eq!(pieces(&[], &["a", "b"]).0, ["a", "b"]);
    }
}
