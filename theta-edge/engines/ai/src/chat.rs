//! Puts a conversation into the form that a model was made for: the template in its `tokenizer_config.json`.

use std::path::Path;

use minijinja::{Environment, ErrorKind, context};
use serde::Deserialize;
use theta_edge::infer::{Role, Turn};

use crate::folder::{ModelError, optional_json};

/// For models that have none.
const PLAIN: &str =
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:";
const NAME: &str = "chat";
/// Where a model's folder has it.
pub(crate) const FILE: &str = "tokenizer_config.json";
/// How deep macros of a template may call each other.
const MAX_DEPTH: usize = 64;

#[derive(Debug)]
pub(crate) struct Template(Environment<'static>, Marks);

#[derive(Debug, Default, Deserialize)]
struct Config {
    chat_template: Option<String>,
    #[serde(default)]
    bos_token: Mark,
    #[serde(default)]
    eos_token: Mark,
}

/// A special token: its text, or an object that has it.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Mark {
    Text(String),
    Object {
        content: String,
    },
    #[default]
    None,
}

impl Mark {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
            Self::None => String::new(),
        }
    }
}

#[derive(Debug)]
struct Marks {
    bos: String,
    eos: String,
}

impl Template {
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        let config: Config = optional_json(folder, FILE)?.unwrap_or_default();
        let wrong = |error: minijinja::Error| {
            ModelError::Use(folder.join(FILE), format!("its chat_template: {error:#}"))
        };
        let mut environment = Environment::new();
        environment.set_recursion_limit(MAX_DEPTH);
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.add_function("raise_exception", |text: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        let source = config.chat_template.unwrap_or_else(|| PLAIN.to_owned());
        environment.add_template_owned(NAME, source).map_err(wrong)?;
        let template =
            Self(environment, Marks { bos: config.bos_token.text(), eos: config.eos_token.text() });
        // What does not work is said now and not to the first who asks.
        template.render(&[Turn { role: Role::User, content: "?".to_owned() }]).map_err(wrong)?;
        Ok(template)
    }

    pub(crate) fn render(&self, turns: &[Turn]) -> Result<String, minijinja::Error> {
        let Self(environment, marks) = self;
        let values = context! {
            messages => turns, add_generation_prompt => true, bos_token => marks.bos, eos_token => marks.eos,
        };
        environment.get_template(NAME)?.render(values)
    }
}
