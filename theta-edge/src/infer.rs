//! Inference: a request to a model in the form of the OpenAI API, and what its answer is measured by (edge.md 2.2).

use serde::{Deserialize, Serialize};
use theta_core::codec::rlp::{Encode, encode_list};

use crate::blob::BlobRef;
use crate::job::JobError;

/// Units of fuel that a token counts for, so that tokens are paid by the price of fuel.
pub const UNITS_PER_TOKEN: u64 = 1_000_000;
/// Longest name of a model.
const MAX_MODEL: usize = 128;
/// Largest request.
const MAX_REQUEST: u64 = 4 << 20;

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// An answer to a conversation: `/v1/chat/completions`.
    Chat,
    /// What follows on a text: `/v1/completions`.
    Complete,
    /// Vectors of texts: `/v1/embeddings`.
    Embed,
}

/// A request to a model. The result's standard output is the answer's body in JSON, whose `usage` says the tokens that
/// are paid for: each is [`UNITS_PER_TOKEN`] of the result's fuel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferWork {
    /// The model's name.
    pub model: String,
    /// What is asked.
    pub asked: Asked,
    /// The request's body in JSON, checked by whoever took it.
    pub request: BlobRef,
}

impl InferWork {
    pub(crate) fn check(&self) -> Result<(), JobError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':');
        if self.model.is_empty() || self.model.len() > MAX_MODEL || !self.model.chars().all(plain) {
            return Err(JobError::field("model", "is not a model's name"));
        }
        if self.request.len > MAX_REQUEST {
            return Err(JobError::field("request", "is larger than 4 MiB"));
        }
        Ok(())
    }
}

impl Encode for InferWork {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            "infer".to_owned().encode(out);
            self.model.encode(out);
            match self.asked {
                Asked::Chat => 0_u8.encode(out),
                Asked::Complete => 1_u8.encode(out),
                Asked::Embed => 2_u8.encode(out),
            }
            self.request.hash.0.encode(out);
            self.request.len.encode(out);
        });
    }
}
