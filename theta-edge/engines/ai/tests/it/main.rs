//! Models answer within their bounds, the same each time, and say what is wrong with a question.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "whatever fails here is a failed test")]

mod sentences;
mod upstream;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use theta_core::hash::Hash;
use theta_edge::blob::{BlobStore as _, MemBlobs};
use theta_edge::executor::{Attempt, Ending, Executor, Output, RunError};
use theta_edge::infer::{Ask, Finish, Generate, InferWork, ModelOffer, Prompt, Reply, Role, TOKEN, Turn};
use theta_edge::job::{Limits, Task, Work};
use theta_edge_ai::{Ai, ModelError, tiny};
use tokenizers::Tokenizer;

/// Models, and one that is asked.
struct Host {
    ai: Ai,
    blobs: Arc<MemBlobs>,
    model: ModelOffer,
    index: u32,
    wall_seconds: u64,
    fuel: u64,
}

impl Host {
    fn new(ai: Ai, name: &str) -> Self {
        let model = ai.models().into_iter().find(|model| model.name == name).expect("the model is offered");
        Self { ai, blobs: Arc::default(), model, index: 0, wall_seconds: 60, fuel: u64::MAX / 2 }
    }

    async fn task(&self, ask: &Ask) -> Task {
        let ask = self.blobs.add(serde_json::to_vec(ask).unwrap()).await.unwrap();
        let limits =
            Limits { fuel: self.fuel, memory_mib: 64, wall_seconds: self.wall_seconds, output_mib: 16 };
        let work = Work::Infer(InferWork { model: self.model.executor, ask });
        Task { job: Hash::ZERO, index: self.index, work, limits }
    }

    async fn run(&self, ask: &Ask) -> (Result<Output, RunError>, Vec<String>) {
        let frames: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = frames.clone();
        let attempt = Attempt {
            frames: Some(Arc::new(move |piece| seen.lock().unwrap().push(piece))),
            ..Attempt::new(self.blobs.clone())
        };
        let output = self.ai.run(&self.task(ask).await, attempt).await;
        let frames = frames.lock().unwrap().clone();
        (output, frames)
    }

    /// An answer, which fits its question, and the pieces that were shown.
    async fn ask(&self, ask: &Ask) -> (Reply, Output, Vec<String>) {
        let (output, frames) = self.run(ask).await;
        let output = output.unwrap();
        let bytes = self.blobs.read_all(&output.stdout).await.unwrap();
        let reply: Reply = serde_json::from_slice(&bytes).unwrap();
        reply.fits(ask, self.model.context, &output).unwrap();
        (reply, output, frames)
    }

    async fn text(&self, ask: Generate) -> (String, Finish, u64, u64) {
        match self.ask(&Ask::Generate(ask)).await.0 {
            Reply::Generated { text, finish, prompt_tokens, completion_tokens } => {
                (text, finish, prompt_tokens, completion_tokens)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&self, ask: Ask) -> (String, String) {
        let (reply, output, _) = self.ask(&ask).await;
        let Reply::Refused(refusal) = reply else { panic!("{reply:?}") };
        assert_eq!((output.ending, output.fuel_used), (Ending::Exit(1), 0), "nothing is paid");
        (refusal.code, refusal.param)
    }
}

fn tiny_host() -> (Host, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(&folder.path().join(tiny::NAME)).unwrap();
    (Host::new(Ai::new().with_folder(folder.path()).unwrap(), tiny::NAME), folder)
}

fn say(text: &str) -> Generate {
    let turn = Turn { role: Role::User, content: text.to_owned() };
    Generate {
        prompt: Prompt::Chat(vec![turn]),
        max_tokens: Some(40),
        temperature: 0.0,
        top_p: 1.0,
        seed: None,
        stop: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_small_model_says_sentences_of_its_own_and_the_same_each_time() {
    let (host, _folder) = tiny_host();
    let (text, finish, _, made) = host.text(say("What is an edge node paid for?")).await;
    assert!(text.is_ascii() && text.split_whitespace().count() >= 4, "{text:?}");
    assert!(made <= 40 && (finish == Finish::Length) == (made == 40), "{finish:?} {made}");
    assert_eq!(host.text(say("What is an edge node paid for?")).await.0, text);
    let warm = |seed| Generate { temperature: 1.0, seed: Some(seed), ..say("Hello") };
    let one = host.text(warm(7)).await.0;
    assert_eq!(host.text(warm(7)).await.0, one);
    assert_ne!(host.text(warm(8)).await.0, one);
    // Without a seed two tasks draw differently.
    let free = Generate { temperature: 1.0, ..say("Hello") };
    let (first, mut other) = (host.text(free.clone()).await.0, host);
    other.index = 1;
    assert_ne!(other.text(free).await.0, first);
    // What the conversation was about counts, not only its last token.
    let mut differ = 0;
    for seed in 0..8 {
        let about = |text: &str| Generate { temperature: 0.8, seed: Some(seed), ..say(text) };
        let (one, two) = (about("video segments"), about("guardians and blocks"));
        differ += u32::from(other.text(one).await.0 != other.text(two).await.0);
    }
    assert!(differ > 0, "it does not hear what it is asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_the_tokenizers_and_pieces_are_the_text() {
    let (host, folder) = tiny_host();
    let tokenizer = Tokenizer::from_file(folder.path().join(tiny::NAME).join("tokenizer.json")).unwrap();
    let count = |text: &str| tokenizer.encode(text, false).unwrap().len() as u64;
    let mut long = 0;
    for seed in 0..20 {
        let ask = Generate { max_tokens: None, temperature: 1.5, seed: Some(seed), ..say("Grüße, 世界") };
        let (reply, output, frames) = host.ask(&Ask::Generate(ask)).await;
        let Reply::Generated { text, prompt_tokens, completion_tokens, .. } = &reply else {
            panic!("{reply:?}")
        };
        assert_eq!(*prompt_tokens, count("<|user|>Grüße, 世界<|assistant|>"));
        assert_eq!(output.fuel_used, (prompt_tokens + completion_tokens) * TOKEN);
        assert!(text.starts_with(&frames.concat()), "{frames:?} {text:?}");
        // Pieces of 32 tokens at most.
        let least = completion_tokens.saturating_sub(2) / 32;
        assert!(frames.len() as u64 >= least, "{} pieces of {completion_tokens} tokens", frames.len());
        long += u64::from(frames.len() > 2);
    }
    assert!(long > 0, "none was long");
    let ask = Generate { prompt: Prompt::Text("An edge node".into()), max_tokens: Some(3), ..say("") };
    let (_, finish, prompt, made) = host.text(ask).await;
    assert_eq!((finish, prompt, made), (Finish::Length, count("An edge node"), 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_text_ends_it_and_is_not_shown() {
    let (host, _folder) = tiny_host();
    let whole = host.text(say("Tell me of blocks")).await.0;
    let at = whole.char_indices().nth(whole.chars().count() / 2).unwrap().0;
    let stop: String = whole[at..].chars().take(3).collect();
    let before = &whole[..whole.find(&stop).unwrap()];
    let ask = Ask::Generate(Generate { stop: vec![stop], ..say("Tell me of blocks") });
    let (reply, _, frames) = host.ask(&ask).await;
    let Reply::Generated { text, finish, .. } = reply else { panic!("{reply:?}") };
    assert_eq!((text.as_str(), finish), (before, Finish::Stop));
    assert!(before.starts_with(&frames.concat()), "{frames:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_by_name_and_costs_nothing() {
    let (host, _folder) = tiny_host();
    let context = "context_length_exceeded".to_owned();
    let long = || say(&"x ".repeat(4000));
    assert_eq!(host.refused(Ask::Generate(long())).await, (context.clone(), "messages".into()));
    let ask = Generate { prompt: Prompt::Text("y ".repeat(4000)), ..say("") };
    assert_eq!(host.refused(Ask::Generate(ask)).await, (context.clone(), "prompt".into()));
    // Prompt and answer together.
    let ask = Generate { max_tokens: Some(host.model.context), ..say("x") };
    assert_eq!(host.refused(Ask::Generate(ask)).await, (context, "messages".into()));
    let ask = Generate { temperature: -1.0, ..say("x") };
    assert_eq!(host.refused(Ask::Generate(ask)).await.1, "temperature");
    assert_eq!(host.refused(Ask::Embed(vec!["x".into()])).await.1, "model");
    // A whole context without a number is used up, and no more.
    let (_, _, prompt, made) = host.text(Generate { max_tokens: None, ..say("x") }).await;
    assert!(prompt + made <= u64::from(host.model.context));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_task_hold() {
    let (mut host, _folder) = tiny_host();
    host.fuel = 10 * TOKEN;
    let output = host.run(&Ask::Generate(say("one two three four five six"))).await.0.unwrap();
    assert_eq!((output.ending, output.fuel_used), (Ending::OutOfFuel, 0));
    host.wall_seconds = 0;
    let output = host.run(&Ask::Generate(say("one"))).await.0.unwrap();
    assert_eq!((output.ending, output.fuel_used), (Ending::TimeLimit, 0));
    // A question that is none is its asker's fault.
    let ask = host.blobs.add(b"{\"embed\":7}".to_vec()).await.unwrap();
    let mut task = host.task(&Ask::Generate(say("x"))).await;
    task.work = Work::Infer(InferWork { model: host.model.executor, ask });
    let output = host.ai.run(&task, Attempt::new(host.blobs.clone())).await.unwrap();
    assert!(matches!(output.ending, Ending::InvalidModule(_)), "{output:?}");
    // A model that is not here is the node's.
    task.work = Work::Infer(InferWork { model: Hash::ZERO, ask });
    assert!(matches!(host.ai.run(&task, Attempt::new(host.blobs.clone())).await, Err(RunError::Lost(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_dropped_computes_no_more() {
    let (host, _folder) = tiny_host();
    let (shown, pieces): (Arc<Mutex<u64>>, _) = (Arc::default(), tokio::sync::Notify::new());
    let (seen, pieces) = (shown.clone(), Arc::new(pieces));
    let told = pieces.clone();
    let frames: theta_edge::executor::Frames = Arc::new(move |_| {
        *seen.lock().unwrap() += 1;
        told.notify_one();
    });
    let ask = Ask::Generate(Generate { max_tokens: None, temperature: 2.0, ..say("go on") });
    let (task, attempt) =
        (host.task(&ask).await, Attempt { frames: Some(frames), ..Attempt::new(host.blobs.clone()) });
    let run = tokio::spawn({
        let ai = host.ai.clone();
        async move { ai.run(&task, attempt).await }
    });
    pieces.notified().await;
    run.abort();
    let _ = run.await;
    // Whatever was under way ends with its token; then nothing comes any more.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = *shown.lock().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(*shown.lock().unwrap(), before);
}

#[test]
fn a_models_name_stands_for_every_byte_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(tiny::NAME);
    tiny::write(&model).unwrap();
    let digest = || Ai::new().with_folder(folder.path()).unwrap().models()[0].executor;
    let first = digest();
    assert_eq!(digest(), first);
    for name in ["tokenizer_config.json", "config.json", "model.safetensors"] {
        let path = model.join(name);
        let kept = std::fs::read(&path).unwrap();
        let mut changed = kept.clone();
        // A space more in JSON, another last number in the weights.
        if name == "model.safetensors" {
            *changed.last_mut().unwrap() ^= 1;
        } else {
            changed.push(b' ');
        }
        std::fs::write(&path, changed).unwrap();
        assert_ne!(digest(), first, "{name}");
        std::fs::write(&path, kept).unwrap();
    }
    assert_eq!(digest(), first);
}

#[test]
fn a_folder_that_is_no_model_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(tiny::NAME);
    let open = || Ai::new().with_folder(folder.path()).map(|ai| ai.models().len());
    assert_eq!(open().unwrap(), 0);
    let broken = |name: &str, bytes: &[u8]| {
        tiny::write(&model).unwrap();
        std::fs::write(model.join(name), bytes).unwrap();
        let error = open().unwrap_err();
        assert!(matches!(error, ModelError::Use(..)), "{error:?}");
        error.to_string()
    };
    assert!(broken("config.json", b"{\"model_type\":\"gpt2\"}").contains("gpt2; bert and llama"));
    assert!(broken("config.json", b"{").contains("config.json"));
    assert!(broken("tokenizer.json", b"{}").contains("tokenizer.json"));
    assert!(broken("model.safetensors", &[0xff; 64]).contains("model.safetensors"));
    assert!(broken("tokenizer_config.json", b"{\"chat_template\":\"{% for\"}").contains("chat_template"));
    tiny::write(&model).unwrap();
    std::fs::remove_file(model.join("model.safetensors")).unwrap();
    assert!(open().unwrap_err().to_string().contains("no *.safetensors"));
    tiny::write(&model).unwrap();
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    assert!(matches!(open().unwrap_err(), ModelError::Read(..)));
}
