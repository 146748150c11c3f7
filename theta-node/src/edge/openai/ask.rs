//! Reads requests of the OpenAI protocol. What would change the answer is honoured or refused by name; what would not is
//! passed over (edge.md 2.2).

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use theta_edge::infer::{Ask, Generate, Prompt, Role, Turn};

use super::Problem;

/// Tokens of a completion that names no number, as the protocol has it.
const COMPLETION_TOKENS: u32 = 16;

/// Fields that would change the answer, and the values of them that do not.
const UNCHANGED: [(&str, &[&str]); 14] = [
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("logit_bias", &["{}"]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("n", &["1"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("presence_penalty", &["0", "0.0"]),
    ("modalities", &["[\"text\"]"]),
    ("audio", &[]),
    ("best_of", &["1"]),
    ("echo", &["false"]),
    ("suffix", &["\"\""]),
];

/// A request's fields, each taken out as it is read.
pub(super) struct Fields(Map<String, Value>);

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Numbers,
    Base64,
}

/// How a text is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// As it is made.
    pub(super) stream: bool,
    /// With a last event that counts tokens.
    pub(super) usage: bool,
}

impl Fields {
    pub(super) fn of(bytes: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Problem::malformed("the request is no JSON object")),
            Err(error) => Err(Problem::malformed(format!("the request is no JSON: {error}"))),
        }
    }

    fn any(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn get<T: DeserializeOwned>(&mut self, name: &str, problem: &str) -> Result<Option<T>, Problem> {
        let value = self.any(name).map(serde_json::from_value);
        value.transpose().map_err(|_| Problem::param(name, problem))
    }

    pub(super) fn model(&mut self) -> Result<String, Problem> {
        self.get("model", "is the name of a model")?.ok_or_else(|| Problem::param("model", "is missing"))
    }

    /// Nothing is left that would change the answer.
    fn unchanged(&mut self) -> Result<(), Problem> {
        for (name, neutral) in UNCHANGED {
            if let Some(value) = self.any(name)
                && !neutral.contains(&value.to_string().as_str())
            {
                return Err(Problem::unsupported(name));
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<String>, Problem> {
        match self.any("stop") {
            None => Ok(Vec::new()),
            Some(Value::String(stop)) => Ok(vec![stop]),
            Some(list) => serde_json::from_value(list)
                .map_err(|_| Problem::param("stop", "is a text or a list of texts")),
        }
    }

    /// What texts of both kinds have in common.
    fn generate(&mut self, prompt: Prompt, max_tokens: Option<u32>) -> Result<(Ask, Manner), Problem> {
        self.unchanged()?;
        let stream = self.get("stream", "is true or false")?.unwrap_or(false);
        let mut options = match self.any("stream_options") {
            None => Self(Map::new()),
            Some(Value::Object(options)) if stream => Self(options),
            Some(_) => return Err(Problem::param("stream_options", "is an object, and only with stream")),
        };
        let usage = options.get("include_usage", "is true or false")?.unwrap_or(false);
        let ask = Ask::Generate(Generate {
            prompt,
            max_tokens,
            temperature: self.get("temperature", "is a number from 0 to 2")?.unwrap_or(1.0),
            top_p: self.get("top_p", "is a number above 0 and up to 1")?.unwrap_or(1.0),
            seed: self.get::<i64>("seed", "is a whole number")?.map(i64::cast_unsigned),
            stop: self.stop()?,
        });
        ask.check().map_err(Problem::from)?;
        Ok((ask, Manner { stream, usage }))
    }

    pub(super) fn chat(mut self) -> Result<(Ask, Manner), Problem> {
        let messages: Vec<Value> = self
            .get("messages", "is a list of messages")?
            .ok_or_else(|| Problem::param("messages", "is missing"))?;
        let turns = messages.into_iter().enumerate().map(|(at, message)| turn(at, message));
        let turns = turns.collect::<Result<Vec<_>, _>>()?;
        for name in ["logprobs", "top_logprobs"] {
            if self.any(name).is_some_and(|value| value != Value::Bool(false)) {
                return Err(Problem::unsupported(name));
            }
        }
        let whole = "is a whole number above 0";
        let old = self.get("max_tokens", whole)?;
        let max_tokens = self.get("max_completion_tokens", whole)?.or(old);
        self.generate(Prompt::Chat(turns), max_tokens)
    }

    pub(super) fn completion(mut self) -> Result<(Ask, Manner), Problem> {
        let prompt = match self.any("prompt") {
            Some(Value::String(prompt)) => prompt,
            Some(Value::Array(mut list)) if list.len() == 1 && list[0].is_string() => {
                list.remove(0).as_str().unwrap_or_default().to_owned()
            }
            Some(Value::Array(_)) => {
                return Err(Problem::param(
                    "prompt",
                    "is one text here; ask for each by itself, and not by ids",
                ));
            }
            _ => return Err(Problem::param("prompt", "is missing, or is no text")),
        };
        match self.any("logprobs") {
            None => {}
            Some(Value::Number(_)) => return Err(Problem::unsupported("logprobs")),
            Some(_) => return Err(Problem::param("logprobs", "is a number from 0 to 5")),
        }
        let max_tokens = self.get("max_tokens", "is a whole number above 0")?.unwrap_or(COMPLETION_TOKENS);
        self.generate(Prompt::Text(prompt), Some(max_tokens))
    }

    /// `dimensions` of the model, as far as they are known.
    pub(super) fn embedding(mut self, dimensions: Option<u32>) -> Result<(Ask, Encoding), Problem> {
        let texts = match self.any("input") {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => {
                let text = |(at, value): (usize, Value)| match value {
                    Value::String(text) => Ok(text),
                    Value::Number(_) => Err(Problem::param("input", "is texts here, not ids of tokens")),
                    Value::Array(_) => {
                        Err(Problem::param(format!("input[{at}]"), "is a text here, not ids of tokens"))
                    }
                    _ => Err(Problem::param(format!("input[{at}]"), "is no text")),
                };
                list.into_iter().enumerate().map(text).collect::<Result<_, _>>()?
            }
            _ => return Err(Problem::param("input", "is missing, or is no text")),
        };
        let encoding = match self.get::<String>("encoding_format", "is float or base64")?.as_deref() {
            None | Some("float") => Encoding::Numbers,
            Some("base64") => Encoding::Base64,
            Some(_) => return Err(Problem::param("encoding_format", "is float or base64")),
        };
        let wanted = self.get::<u32>("dimensions", "is a whole number")?;
        if wanted.is_some_and(|wanted| dimensions != Some(wanted)) {
            return Err(Problem::param("dimensions", "is another than the model's, which are not cut"));
        }
        let ask = Ask::Embed(texts);
        ask.check().map_err(Problem::from)?;
        Ok((ask, encoding))
    }
}

/// One message of a conversation.
fn turn(at: usize, message: Value) -> Result<Turn, Problem> {
    let place = |name: &str| format!("messages[{at}]{name}");
    let Value::Object(fields) = message else { return Err(Problem::param(place(""), "is no object")) };
    let mut fields = Fields(fields);
    let role = match fields.any("role").as_ref().and_then(Value::as_str) {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => return Err(Problem::param(place(".role"), "is system, developer, user or assistant")),
    };
    for name in ["tool_calls", "function_call", "audio"] {
        if fields.any(name).is_some() {
            return Err(Problem::unsupported(&place(&format!(".{name}"))));
        }
    }
    let content = match fields.any("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let mut all = String::new();
            for part in parts {
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(text)) => all.push_str(text),
                    _ => return Err(Problem::param(place(".content"), "has a part that is no text")),
                }
            }
            all
        }
        _ => return Err(Problem::param(place(".content"), "is missing, or is no text")),
    };
    Ok(Turn { role, content })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use serde_json::json;

    use super::*;

    fn fields(mut body: Value, more: &Value) -> Fields {
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        Fields::of(body.to_string().as_bytes()).unwrap()
    }

    fn completion(more: Value) -> Result<(Ask, Manner), Problem> {
        let body = json!({ "model": "m", "prompt": "one two", "max_tokens": 4, "temperature": 0 });
        fields(body, &more).completion()
    }

    fn chat(more: Value) -> Result<(Ask, Manner), Problem> {
        fields(json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] }), &more).chat()
    }

    fn param<T>(read: Result<T, Problem>) -> String {
        match read {
            Ok(_) => "taken".to_owned(),
            Err(problem) => problem.param.unwrap_or_default(),
        }
    }

    #[test]
    fn what_would_change_the_text_is_honoured_or_refused_by_name() {
        for (more, name) in [
            (json!({ "n": 2 }), "n"),
            (json!({ "best_of": 2 }), "best_of"),
            (json!({ "echo": true }), "echo"),
            (json!({ "logprobs": 5 }), "logprobs"),
            (json!({ "logprobs": 0 }), "logprobs"),
            (json!({ "logprobs": true }), "logprobs"),
            (json!({ "suffix": "x" }), "suffix"),
            (json!({ "prompt": ["a", "b"] }), "prompt"),
            (json!({ "prompt": [1, 2, 3] }), "prompt"),
            (json!({ "prompt": "" }), "prompt"),
            (json!({ "max_tokens": 0 }), "max_tokens"),
            (json!({ "max_tokens": "4" }), "max_tokens"),
            (json!({ "temperature": 3 }), "temperature"),
            (json!({ "stop": 1 }), "stop"),
            (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
            (json!({ "seed": 7 }), "taken"),
            (json!({ "n": 1, "echo": false, "logprobs": null, "foo": 1, "user": "me" }), "taken"),
            (json!({ "stop": ["a", "b"] }), "taken"),
        ] {
            assert_eq!(param(completion(more.clone())), name, "{more}");
        }
        for (more, name) in [
            (json!({ "n": 2 }), "n"),
            (json!({ "logprobs": true, "top_logprobs": 3 }), "logprobs"),
            (json!({ "tools": [{ "type": "function" }] }), "tools"),
            (json!({ "response_format": { "type": "json_schema" } }), "response_format"),
            (json!({ "messages": [] }), "messages"),
            (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages[0].role"),
            (json!({ "messages": [{ "role": 7, "content": "x" }] }), "messages[0].role"),
            (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
            (
                json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
                "messages[0].content",
            ),
            (json!({ "frequency_penalty": 0.5 }), "frequency_penalty"),
            (json!({ "foo": 1, "logprobs": false, "response_format": { "type": "text" } }), "taken"),
            (
                json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "x" }] }] }),
                "taken",
            ),
        ] {
            assert_eq!(param(chat(more.clone())), name, "{more}");
        }
        let (ask, manner) = chat(json!({
            "max_tokens": 9, "max_completion_tokens": 3, "stream": true, "stream_options": { "include_usage": true },
            "stop": "x", "seed": -1,
        }))
        .unwrap_or_else(|_| panic!("it is taken"));
        let Ask::Generate(ask) = ask else { panic!("it asks for a text") };
        assert_eq!((ask.max_tokens, ask.stop, ask.seed), (Some(3), vec!["x".to_owned()], Some(u64::MAX)));
        assert_eq!(manner, Manner { stream: true, usage: true });
    }

    #[test]
    fn every_text_has_a_place_and_a_wrong_one_is_named() {
        let embed = |more: Value| fields(json!({ "model": "m" }), &more).embedding(Some(384));
        for (more, name) in [
            (json!({ "input": ["a", "", "b"] }), "input[1]"),
            (json!({ "input": [""] }), "input"),
            (json!({ "input": "" }), "input"),
            (json!({ "input": [] }), "input"),
            (json!({ "input": ["   "] }), "input"),
            (json!({ "input": ["a", null] }), "input[1]"),
            (json!({ "input": [[1, 2, 3], [4]] }), "input[0]"),
            (json!({ "input": [1, 2] }), "input"),
            (json!({}), "input"),
            (json!({ "input": "a", "encoding_format": "int8" }), "encoding_format"),
            (json!({ "input": "a", "dimensions": 10 }), "dimensions"),
            (json!({ "input": "a", "dimensions": 384 }), "taken"),
        ] {
            assert_eq!(param(embed(more.clone())), name, "{more}");
        }
        let encoding =
            |more| embed(more).map(|(_, encoding)| encoding).unwrap_or_else(|_| panic!("it is taken"));
        assert_eq!(encoding(json!({ "input": "a" })), Encoding::Numbers);
        assert_eq!(encoding(json!({ "input": "a", "encoding_format": "base64" })), Encoding::Base64);
    }
}
