//! A model of a few megabytes that is made by this code, so that a network has something to ask on any machine.
//!
//! It is a Llama of one layer whose weights are counted and not trained: a token's vector has a one in its own place, the
//! attention adds the average of all tokens before it, and the last matrix knows which token follows which in a few
//! sentences about Theta. So it goes on from the last word, leaning to what the conversation was about. It knows nothing;
//! it answers at once, and the same everywhere.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::folder::ModelError;

/// The name that it goes by in development networks.
pub const NAME: &str = "theta-tiny";
/// Tokens of prompt and answer together.
pub const CONTEXT: u32 = 1024;

const CORPUS: &str = include_str!("../assets/corpus.txt");
/// Tokens: every byte, four marks, and the commonest pieces of the sentences.
const TOKENS: usize = 512;
const HEADS: usize = 4;
const MARKS: [&str; 4] = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"];
const TEMPLATE: &str =
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}<|assistant|>";
/// How much the conversation weighs beside the last token.
const TOPIC: f32 = 1.5;
/// How sure it is of a follower that the sentences have.
const SURE: f32 = 6.0;

/// Writes the model's folder: `config.json`, `tokenizer.json`, `tokenizer_config.json`, `model.safetensors`.
pub fn write(folder: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).map_err(|error| ModelError::Read(folder.to_owned(), error))?;
    let made = make().map_err(|error| ModelError::Use(folder.to_owned(), error.to_string()))?;
    for (name, bytes) in made {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| ModelError::Read(path, error))?;
    }
    Ok(())
}

type Made = Result<Vec<(&'static str, Vec<u8>)>, Box<dyn std::error::Error + Send + Sync>>;

fn make() -> Made {
    let tokenizer = tokenizer()?;
    let size = TOKENS;
    let end = tokenizer.token_to_id(MARKS[0]).unwrap_or_default();
    let config = json!({
        "model_type": "llama",
        "hidden_size": size,
        "intermediate_size": 8,
        "vocab_size": size,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "eos_token_id": end,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": false,
    });
    let settings = json!({ "chat_template": TEMPLATE, "eos_token": MARKS[0] });
    let tensors = weights(&followers(&tokenizer)?)?;
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    let borrowed = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
    let bytes = safetensors(borrowed.collect())?;
    Ok(vec![
        ("config.json", serde_json::to_vec_pretty(&config)?),
        ("tokenizer.json", tokenizer.to_string(false)?.into_bytes()),
        ("tokenizer_config.json", serde_json::to_vec_pretty(&settings)?),
        ("model.safetensors", bytes),
    ])
}

/// The file form of tensors: a length, a header of JSON, and their bytes.
fn safetensors(mut tensors: Vec<(String, &Tensor)>) -> candle_core::Result<Vec<u8>> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let from = data.len();
        data.extend(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes));
        let entry = json!({ "dtype": "F32", "shape": tensor.dims(), "data_offsets": [from, data.len()] });
        header.insert(name, entry);
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    Ok(bytes)
}

fn tokenizer() -> tokenizers::Result<Tokenizer> {
    let marks: Vec<AddedToken> = MARKS.iter().map(|mark| AddedToken::from(*mark, true)).collect();
    let mut tokenizer = Tokenizer::new(BPE::default());
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(bytes));
    tokenizer.with_decoder(Some(bytes));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(TOKENS)
        .show_progress(false)
        .special_tokens(marks)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    tokenizer.train(&mut trainer, CORPUS.lines())?;
    Ok(tokenizer)
}

/// How often one token follows another, over the sentences: in an answer, each by itself, with a space between words that
/// begin and words that go on.
fn followers(tokenizer: &Tokenizer) -> tokenizers::Result<HashMap<(u32, u32), f32>> {
    let mut counts = HashMap::new();
    for line in CORPUS.lines() {
        let text = format!("<|assistant|>{line}<|end|>");
        let ids = tokenizer.encode(text, false)?;
        for pair in ids.get_ids().windows(2) {
            *counts.entry((pair[0], pair[1])).or_insert(0.0) += 1.0;
        }
    }
    Ok(counts)
}

fn weights(followers: &HashMap<(u32, u32), f32>) -> candle_core::Result<HashMap<String, Tensor>> {
    let (cpu, size) = (&Device::Cpu, TOKENS);
    let zeros = |rows: usize| Tensor::zeros((rows, size), candle_core::DType::F32, cpu);
    let ones = || Tensor::ones(size, candle_core::DType::F32, cpu);
    let identity = Tensor::eye(size, candle_core::DType::F32, cpu)?;
    // What comes out of the last norm is as long as the square root of its size.
    let unit = 1.0 / (size as f32).sqrt();
    let mut last = vec![-SURE * unit; size * size];
    let mut totals = vec![0.0_f32; size];
    for ((before, _), count) in followers {
        totals[*before as usize] += count;
    }
    for ((before, after), count) in followers {
        let likely = 1.0 + (count / totals[*before as usize]).ln() / SURE;
        last[*after as usize * size + *before as usize] = SURE * unit * likely;
    }
    let mut tensors = HashMap::new();
    let mut add = |name: &str, tensor: Tensor| tensors.insert(name.to_owned(), tensor);
    add("model.embed_tokens.weight", identity.clone());
    add("model.norm.weight", ones()?);
    add("lm_head.weight", Tensor::from_vec(last, (size, size), cpu)?);
    for norm in ["input_layernorm", "post_attention_layernorm"] {
        add(&format!("model.layers.0.{norm}.weight"), ones()?);
    }
    // Without questions and keys every token before counts the same.
    add("model.layers.0.self_attn.q_proj.weight", zeros(size)?);
    add("model.layers.0.self_attn.k_proj.weight", zeros(size)?);
    add("model.layers.0.self_attn.v_proj.weight", identity.clone());
    add("model.layers.0.self_attn.o_proj.weight", identity.affine(f64::from(TOPIC * unit), 0.0)?);
    add("model.layers.0.mlp.gate_proj.weight", zeros(8)?);
    add("model.layers.0.mlp.up_proj.weight", zeros(8)?);
    add("model.layers.0.mlp.down_proj.weight", zeros(8)?.t()?.contiguous()?);
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

    #[test]
    fn it_is_the_same_each_time() {
        let (one, two) = (super::make().unwrap(), super::make().unwrap());
        assert!(one == two);
        let bytes: usize = one.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes < 10 << 20, "{bytes} bytes");
    }
}
