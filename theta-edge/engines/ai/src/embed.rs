//! Vectors of sentences: a BERT model, its outputs averaged and brought to length one.

use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde::Deserialize;
use theta_edge::infer::{Refusal, Reply};
use tokenizers::Tokenizer;

use crate::folder::{Broken, ModelError, json, optional_json};
use crate::{Answer, Halt, Watch};

/// Says how many tokens it was made for.
pub(crate) const LENGTH: &str = "sentence_bert_config.json";
/// Says how its vectors are made of its tokens'.
pub(crate) const POOLING: &str = "1_Pooling/config.json";

pub(crate) struct Embedder {
    model: BertModel,
    tokenizer: Tokenizer,
    pub(crate) dimensions: u32,
    pub(crate) context: u32,
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder").field("dimensions", &self.dimensions).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Length {
    max_seq_length: usize,
}

#[derive(Deserialize)]
struct Pooling {
    pooling_mode_mean_tokens: bool,
}

impl Embedder {
    pub(crate) fn open(folder: &Path, tokenizer: Tokenizer, weights: VarBuilder<'_>) -> Result<Self, Broken> {
        let config: Config = json(folder, "config.json")?;
        let mut context = config.max_position_embeddings;
        if let Some(length) = optional_json::<Length>(folder, LENGTH)? {
            context = context.min(length.max_seq_length);
        }
        if optional_json::<Pooling>(folder, POOLING)?.is_some_and(|pooling| !pooling.pooling_mode_mean_tokens)
        {
            let problem = "its vectors are not averages of its tokens'; no other kind is made here";
            return Err(ModelError::Use(folder.join(POOLING), problem.to_owned()).into());
        }
        let dimensions = u32::try_from(config.hidden_size).unwrap_or(u32::MAX);
        let model = BertModel::load(weights, &config)?;
        Ok(Self { model, tokenizer, dimensions, context: u32::try_from(context).unwrap_or(u32::MAX) })
    }

    pub(crate) fn answer(&self, texts: &[String], watch: &Watch) -> Result<Answer, Halt> {
        let (mut encoded, mut tokens) = (Vec::with_capacity(texts.len()), 0_u64);
        // All are looked at before any is computed.
        for (at, text) in texts.iter().enumerate() {
            watch.check()?;
            let ids = self.tokenizer.encode(text.as_str(), true);
            let ids = ids.map_err(|error| Halt::Asker(Refusal::new(place(at), error.to_string())))?;
            let count = ids.len() as u64;
            if count > u64::from(self.context) {
                return Err(Halt::Asker(Refusal::too_long(place(at), count, self.context)));
            }
            tokens += count;
            encoded.push(ids.get_ids().to_vec());
        }
        let mut vectors = Vec::with_capacity(texts.len() * self.dimensions as usize * 4);
        for ids in encoded {
            watch.check()?;
            vectors.extend(self.vector(&ids)?.into_iter().flat_map(f32::to_le_bytes));
        }
        Ok((Reply::Embedded { dimensions: self.dimensions, tokens }, Some(vectors)))
    }

    /// One text at a time: beside others, filled up to one length, its last bits would depend on them.
    fn vector(&self, ids: &[u32]) -> Result<Vec<f32>, candle_core::Error> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        let mean = hidden.mean(1)?.squeeze(0)?;
        let length = mean.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        mean.affine(1.0 / f64::from(length.max(f32::MIN_POSITIVE)), 0.0)?.to_vec1()
    }
}

fn place(at: usize) -> String {
    format!("input[{at}]")
}
