//! Runs models for edge jobs: vectors of sentences and text, on this machine's processors or by an OpenAI-compatible server
//! that the operator names.
//!
//! A model of one's own is a folder as the model hubs have them: `config.json`, `tokenizer.json`, weights in
//! `*.safetensors`. Models of type `bert` make vectors, models of type `llama` make text. Its digest covers all of these
//! files, this crate's profile, and the processor's instructions, so that equal digests give equal bits.
//!
//! Weights and tokenizers are the operator's own and are believed; prompts are strangers', and are bounded by the model's
//! context before anything is computed.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use theta_edge::executor::Executor as _;
//! let folder = std::env::temp_dir().join(format!("theta-models-{}", std::process::id()));
//! theta_edge_ai::tiny::write(&folder.join("theta-tiny"))?;
//! let models = theta_edge_ai::Ai::new().with_folder(&folder)?;
//! assert_eq!(models.models()[0].name, "theta-tiny");
//! # std::fs::remove_dir_all(folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! It needs a tokio runtime with time and I/O.

mod chat;
mod embed;
mod folder;
mod generate;
pub mod tiny;
mod upstream;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use theta_core::hash::Hash;
use theta_edge::executor::{Attempt, Ending, Executor, Frames, OutFile, Output, RunError};
use theta_edge::infer::{Ask, ModelOffer, Refusal, Reply, TOKEN, VECTORS};
use theta_edge::job::{KindTag, Task, Work};

pub use folder::ModelError;
pub use upstream::{Upstream, UpstreamError};

/// Names everything that can change a result but the model and the processor.
pub const PROFILE: &str = "theta-edge-ai/1 candle=0.11.1 f32";

/// The models of a host.
#[derive(Clone, Debug, Default)]
pub struct Ai {
    models: BTreeMap<Hash, Model>,
}

#[derive(Clone, Debug)]
struct Model {
    offer: ModelOffer,
    runs: Runs,
}

#[derive(Clone, Debug)]
enum Runs {
    Here(Arc<folder::Local>),
    There(Arc<Upstream>),
}

impl Ai {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one for each folder in a folder, each named as its folder is.
    pub fn with_folder(mut self, folder: &Path) -> Result<Self, ModelError> {
        for (name, path) in folder::folders(folder)? {
            let (local, offer) = folder::Local::open(name, &path)?;
            let runs = Runs::Here(Arc::new(local));
            self.models.insert(offer.executor, Model { offer, runs });
        }
        Ok(self)
    }

    /// These and those of another server.
    #[must_use]
    pub fn with_upstream(mut self, upstream: Upstream) -> Self {
        let upstream = Arc::new(upstream);
        for offer in upstream.offers() {
            self.models.insert(offer.executor, Model { offer, runs: Runs::There(upstream.clone()) });
        }
        self
    }
}

/// Names a model: what it is made of, under this profile.
fn digest(parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"theta-edge/model/v1");
    for part in [PROFILE.as_bytes()].iter().chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Hash::from(*hasher.finalize().as_bytes())
}

/// Tells a computation that nobody waits for it any more.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// How long a computation may go on, and whom it shows its text to.
struct Watch {
    wanted: Arc<AtomicBool>,
    until: Instant,
    frames: Option<Frames>,
}

impl Watch {
    /// Whether to go on.
    fn check(&self) -> Result<(), Halt> {
        if !self.wanted.load(Ordering::Relaxed) {
            return Err(Halt::Node(RunError::Lost("nobody wants it any more".to_owned())));
        }
        if Instant::now() >= self.until { Err(Halt::Late) } else { Ok(()) }
    }
}

/// Why a computation has no answer.
enum Halt {
    /// The asker's fault.
    Asker(Refusal),
    /// Its time is over.
    Late,
    /// This node's fault.
    Node(RunError),
}

impl From<candle_core::Error> for Halt {
    fn from(error: candle_core::Error) -> Self {
        Self::Node(RunError::Lost(format!("the model could not be computed: {error}")))
    }
}

/// An answer, and the bytes of its vectors.
type Answer = (Reply, Option<Vec<u8>>);

#[async_trait]
impl Executor for Ai {
    fn kind(&self) -> KindTag {
        KindTag::Infer
    }

    fn digest(&self) -> Hash {
        digest(&[])
    }

    fn models(&self) -> Vec<ModelOffer> {
        self.models.values().map(|model| model.offer.clone()).collect()
    }

    async fn run(&self, task: &Task, attempt: Attempt) -> Result<Output, RunError> {
        let Work::Infer(work) = &task.work else { return Err(RunError::Kind(task.work.kind())) };
        let Some(model) = self.models.get(&work.model).cloned() else {
            return Err(RunError::Lost("the model is not here any more".to_owned()));
        };
        let bytes = attempt.blobs.read_all(&work.ask).await?;
        let ask: Ask = match serde_json::from_slice(&bytes) {
            Ok(ask) => ask,
            Err(error) => {
                return Ok(Output::silent(Ending::InvalidModule(format!("the question: {error}")), 0));
            }
        };
        let until = Duration::from_secs(task.limits.wall_seconds);
        let seed = u64::from_le_bytes(task.id().0[..8].try_into().unwrap_or_default());
        let frames = attempt.frames.clone();
        let answer = match ask.check().and_then(|()| model.offer.takes(&ask)) {
            Err(refusal) => Err(Halt::Asker(refusal)),
            Ok(()) => match model.runs {
                Runs::Here(local) => {
                    let wanted = Wanted(Arc::new(AtomicBool::new(true)));
                    let watch = Watch { wanted: wanted.0.clone(), until: Instant::now() + until, frames };
                    let computed = tokio::task::spawn_blocking(move || local.answer(&ask, seed, &watch));
                    let answer = computed.await;
                    drop(wanted);
                    answer.unwrap_or_else(|error| {
                        Err(Halt::Node(RunError::Lost(format!("the model panicked: {error}"))))
                    })
                }
                Runs::There(upstream) => {
                    let asked = upstream.answer(&model.offer, &ask, frames);
                    tokio::time::timeout(until, asked).await.unwrap_or(Err(Halt::Late))
                }
            },
        };
        let (reply, vectors) = match answer {
            Ok(answer) => answer,
            Err(Halt::Asker(refusal)) => (Reply::Refused(refusal), None),
            Err(Halt::Late) => return Ok(Output::silent(Ending::TimeLimit, 0)),
            Err(Halt::Node(error)) => return Err(error),
        };
        let fuel_used = reply.tokens().saturating_mul(TOKEN);
        if fuel_used > task.limits.fuel {
            return Ok(Output::silent(Ending::OutOfFuel, 0));
        }
        let mut files = Vec::new();
        if let Some(vectors) = vectors {
            files.push(OutFile { path: VECTORS.to_owned(), blob: attempt.blobs.add(vectors).await? });
        }
        let text = serde_json::to_vec(&reply).map_err(|_| RunError::Protocol)?;
        let stdout = attempt.blobs.add(text).await?;
        let stderr = attempt.blobs.add(Vec::new()).await?;
        Ok(Output { ending: reply.ending(), fuel_used, stdout, stderr, files })
    }
}
