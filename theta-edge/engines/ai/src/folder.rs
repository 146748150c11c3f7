//! A model in a folder: what it is, its tokenizer and its weights.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;
use theta_edge::executor::RunError;
use theta_edge::infer::{Ask, ModelOffer};
use theta_edge::job::KindTag;
use theta_edge::payment::Price;
use tokenizers::Tokenizer;

use crate::chat::{self, Template};
use crate::embed::{self, Embedder};
use crate::generate::Generator;
use crate::{Answer, Halt, Watch, digest};

/// Largest weights in one file.
const MAX_WEIGHTS: u64 = 16 << 30;

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file is missing or cannot be read.
    #[error("{0} cannot be read; a model's folder has config.json, tokenizer.json and *.safetensors")]
    Read(PathBuf, #[source] std::io::Error),
    /// A file says what cannot be used.
    #[error("{0} cannot be used: {1}")]
    Use(PathBuf, String),
}

impl ModelError {
    fn of(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        |error| Self::Read(path.to_owned(), error)
    }
}

/// A model that is computed here.
#[derive(Debug)]
pub(crate) enum Local {
    Embeds(Box<Embedder>),
    Generates(Box<Generator>),
}

/// Folders in a folder with a `config.json` each, by name.
pub(crate) fn folders(folder: &Path) -> Result<Vec<(String, PathBuf)>, ModelError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(ModelError::of(folder))? {
        let path = entry.map_err(ModelError::of(folder))?.path();
        if !path.join("config.json").is_file() {
            continue;
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !ModelOffer::is_name(&name) {
            let problem = "a model's name has letters, digits and . _ : / @ -, up to 128".to_owned();
            return Err(ModelError::Use(path, problem));
        }
        found.push((name, path));
    }
    found.sort();
    Ok(found)
}

#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

/// A file, if it is there.
fn optional(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
    let path = folder.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ModelError::Read(path, error)),
    }
}

/// A file of JSON.
pub(crate) fn json<T: for<'a> Deserialize<'a>>(folder: &Path, name: &str) -> Result<T, ModelError> {
    let path = folder.join(name);
    parse(&std::fs::read(&path).map_err(ModelError::of(&path))?, path)
}

/// The same, if it is there.
pub(crate) fn optional_json<T: for<'a> Deserialize<'a>>(
    folder: &Path,
    name: &str,
) -> Result<Option<T>, ModelError> {
    optional(folder, name)?.map(|bytes| parse(&bytes, folder.join(name))).transpose()
}

fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8], path: PathBuf) -> Result<T, ModelError> {
    serde_json::from_slice(bytes).map_err(|error| ModelError::Use(path, error.to_string()))
}

impl Local {
    /// Reads a model, and says what it offers; its price is still to be set.
    pub(crate) fn open(name: String, folder: &Path) -> Result<(Self, ModelOffer), ModelError> {
        let kind: Kind = json(folder, "config.json")?;
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(ModelError::of(&path))?;
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|error| ModelError::Use(path, error.to_string()))?;
        // Nothing is cut in silence, and nothing is filled up.
        let plain = tokenizer.with_truncation(None).map(|tokenizer| tokenizer.with_padding(None));
        plain.map_err(|error| ModelError::Use(folder.join("tokenizer.json"), error.to_string()))?;
        let (weights, sums) = weights(folder)?;
        let broken = |error: candle_core::Error| ModelError::Use(folder.to_owned(), error.to_string());
        let mut parts = sums;
        for name in ["config.json", "tokenizer.json", chat::FILE, embed::LENGTH, embed::POOLING] {
            parts.push(blake3::hash(&optional(folder, name)?.unwrap_or_default()).as_bytes().to_vec());
        }
        parts.push(processor().into_bytes());
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let mut offer = ModelOffer {
            name,
            executor: digest(&parts),
            dimensions: None,
            generates: false,
            context: 0,
            price: Price::default(),
        };
        let local = match kind.model_type.as_str() {
            "bert" => {
                let embedder =
                    Embedder::open(folder, tokenizer, weights).map_err(|error| error.or(broken))?;
                (offer.dimensions, offer.context) = (Some(embedder.dimensions), embedder.context);
                Self::Embeds(Box::new(embedder))
            }
            "llama" => {
                let template = Template::open(folder)?;
                let generator = Generator::open(folder, tokenizer, template, weights)
                    .map_err(|error| error.or(broken))?;
                (offer.generates, offer.context) = (true, generator.context);
                Self::Generates(Box::new(generator))
            }
            other => {
                let problem = format!("model_type is {other}; bert and llama run here");
                return Err(ModelError::Use(folder.join("config.json"), problem));
            }
        };
        Ok((local, offer))
    }

    pub(crate) fn answer(&self, ask: &Ask, seed: u64, watch: &Watch) -> Result<Answer, Halt> {
        match (self, ask) {
            (Self::Embeds(model), Ask::Embed(texts)) => model.answer(texts, watch),
            (Self::Generates(model), Ask::Generate(ask)) => model.answer(ask, seed, watch),
            // Asked for what its offer does not say.
            _ => Err(Halt::Node(RunError::Kind(KindTag::Infer))),
        }
    }
}

/// What went wrong while a model was put together.
pub(crate) enum Broken {
    File(ModelError),
    Tensor(candle_core::Error),
}

impl Broken {
    fn or(self, tensor: impl Fn(candle_core::Error) -> ModelError) -> ModelError {
        match self {
            Self::File(error) => error,
            Self::Tensor(error) => tensor(error),
        }
    }
}

impl From<ModelError> for Broken {
    fn from(error: ModelError) -> Self {
        Self::File(error)
    }
}

impl From<candle_core::Error> for Broken {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error)
    }
}

/// Weights of all files, and the files' hashes in the order of their names.
fn weights(folder: &Path) -> Result<(VarBuilder<'static>, Vec<Vec<u8>>), ModelError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(ModelError::of(folder))? {
        let path = entry.map_err(ModelError::of(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(ModelError::Use(folder.to_owned(), "it has no *.safetensors".to_owned()));
    }
    let (mut tensors, mut sums) = (HashMap::<String, Tensor>::new(), Vec::new());
    for path in files {
        let len = std::fs::metadata(&path).map_err(ModelError::of(&path))?.len();
        if len > MAX_WEIGHTS {
            return Err(ModelError::Use(path, "weights of more than 16 GiB do not fit here".to_owned()));
        }
        let bytes = std::fs::read(&path).map_err(ModelError::of(&path))?;
        sums.push(blake3::hash(&bytes).as_bytes().to_vec());
        let loaded = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu);
        tensors.extend(loaded.map_err(|error| ModelError::Use(path, error.to_string()))?);
    }
    Ok((VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), sums))
}

/// The instructions that sums are made with: others add in another order, and differ in the last bits.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    let has = [
        std::is_x86_feature_detected!("avx2"),
        std::is_x86_feature_detected!("fma"),
        std::is_x86_feature_detected!("avx512f"),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let has = [false; 3];
    format!("{} {has:?}", std::env::consts::ARCH)
}
