//! Questions to models: nodes that lie are not paid, nodes that fail are gone on from.

use theta_edge::{
    infer::{Ask, Finish, ModelOffer, Reply, TOKEN},
    payment::Price,
};

use super::*;

/// What a node does with a question.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Answers.
    Right,
    /// Counts more tokens than were asked for.
    Greedy,
    /// Says other things than it is asked.
    Vectors,
    /// Fails once it has begun.
    Fails,
    /// Never ends.
    Hangs,
}

struct Model {
    manner: Manner,
    text: &'static str,
    /// Whether it has failed since this was last unset.
    failed: Arc<AtomicBool>,
}

const MODEL: Hash = Hash::repeat_byte(7);
const CONTEXT: u32 = 100;

#[async_trait]
impl Executor for Model {
    fn kind(&self) -> KindTag {
        KindTag::Infer
    }
    fn digest(&self) -> Hash {
        Hash::ZERO
    }
    fn models(&self) -> Vec<ModelOffer> {
        let (name, price) = ("m".to_owned(), Price::default());
        let (dimensions, generates, context) = (None, true, CONTEXT);
        vec![ModelOffer { name, executor: MODEL, dimensions, generates, context, price }]
    }
    async fn run(&self, task: &Task, attempt: Attempt) -> Result<Output, RunError> {
        let theta_edge::job::Work::Infer(work) = &task.work else {
            return Err(RunError::Kind(KindTag::Wasm));
        };
        let ask: Ask = serde_json::from_slice(&attempt.blobs.read_all(&work.ask).await?).unwrap();
        assert!(matches!(ask, Ask::Generate(_)));
        let show = attempt.frames.clone().expect("somebody watches");
        let (first, rest) = self.text.split_at(4);
        show(first.to_owned());
        match self.manner {
            Manner::Fails => {
                // The piece is on its way before the failure is.
                tokio::time::sleep(Duration::from_millis(300)).await;
                self.failed.store(true, Ordering::SeqCst);
                return Err(RunError::Lost("it fell over".to_owned()));
            }
            Manner::Hangs => std::future::pending().await,
            _ => show(rest.to_owned()),
        }
        let completion_tokens = if self.manner == Manner::Greedy { 11 } else { 3 };
        let reply = match self.manner {
            Manner::Vectors => Reply::Embedded { dimensions: 1, tokens: 8 },
            _ => Reply::Generated {
                text: self.text.to_owned(),
                finish: Finish::Stop,
                prompt_tokens: 5,
                completion_tokens,
            },
        };
        let stdout = attempt.blobs.add(serde_json::to_vec(&reply).unwrap()).await?;
        Ok(Output { stdout, ..Output::silent(reply.ending(), reply.tokens() * TOKEN) })
    }
}

/// A gateway and nodes that have the model.
struct Net {
    _folder: tempfile::TempDir,
    jobs: JobClient,
    nodes: Vec<EdgeNode>,
    http: reqwest::Client,
}

impl Net {
    async fn new(models: Vec<Model>) -> Self {
        let (folder, directory) = (tempfile::tempdir().unwrap(), Directory::default());
        let config = JobClientConfig {
            api: true,
            ..asks(folder.path(), Bank::default(), &directory, Engine::default())
        };
        let jobs = JobClient::start(config).await.unwrap();
        let mut nodes = Vec::new();
        for (index, model) in models.into_iter().enumerate() {
            let byte = 2 + index as u8;
            let config = EdgeConfig {
                chain: CHAIN.to_owned(),
                key: key(byte),
                folder: folder.path().join(format!("node-{byte}")),
                client: Client::new(Bank::default()),
                directory: Directory::default(),
                engines: Engines::of(Arc::new(model)),
                port: 0,
                settle_at_once: true,
                offer: worker::Settings::default(),
                gateways: vec![jobs.url()],
                content: ContentTerms::default(),
                rpc: String::new(),
            };
            nodes.push(EdgeNode::start(config).await.unwrap());
            // They are known in the order in which they are named.
            let begin = Instant::now();
            while jobs.jobs.look(AskerLoop::nodes_view).await.unwrap().len() < nodes.len() {
                assert!(begin.elapsed() < SOON, "the node is not known");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Self { _folder: folder, jobs, nodes, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    async fn chat(&self, stream: bool) -> (u16, String) {
        let body = json!({ "model": "m", "max_tokens": 10, "stream": stream,
            "messages": [{ "role": "user", "content": "hi" }] });
        let url = format!("{}/v1/chat/completions", self.jobs.url());
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// What jobs have cost.
    async fn paid(&self) -> u64 {
        let view = self.http.get(format!("{}/api/jobs", self.jobs.url())).send().await.unwrap();
        let jobs: Value = view.json().await.unwrap();
        let paid = jobs["jobs"].as_array().unwrap().iter();
        paid.map(|job| job["paidTfuelWei"].as_str().unwrap().parse::<u64>().unwrap()).sum()
    }
}

fn model(manner: Manner, text: &'static str) -> Model {
    Model { manner, text, failed: Arc::default() }
}

/// The texts of a stream's events, and its last line.
fn pieces(stream: &str) -> (String, String) {
    let data: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let text = data.iter().filter_map(|data| {
        let event: Value = serde_json::from_str(data).ok()?;
        event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
    });
    (text.collect(), data.last().unwrap().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_paid_by_its_tokens_and_one_that_cannot_be_is_not() {
    let net = Net::new(vec![model(Manner::Right, "one two")]).await;
    let (status, text) = net.chat(false).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("one two")), "{text}");
    assert_eq!(answer["usage"]["total_tokens"], 8);
    let token: u64 = worker::Settings::default().token_price.per_million_fuel.to_string().parse().unwrap();
    assert_eq!(net.paid().await, 8 * token);
    let (status, stream) = net.chat(true).await;
    assert_eq!((status, pieces(&stream)), (200, ("one two".into(), "[DONE]".into())), "{stream}");
    assert_eq!(net.paid().await, 16 * token);
    assert_eq!(net.nodes.len(), 1);
    for manner in [Manner::Greedy, Manner::Vectors] {
        let net = Net::new(vec![model(manner, "one two")]).await;
        let (status, text) = net.chat(false).await;
        assert_eq!(status, 503, "{text}");
        assert!(text.contains("server_error"), "{text}");
        assert_eq!(net.paid().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_at_another_node_and_never_begins_again() {
    // Which node is asked first is placement's; the one that fails makes the other go on.
    let net = Net::new(vec![model(Manner::Fails, "one ...."), model(Manner::Right, "one two")]).await;
    for _ in 0..4 {
        let (status, stream) = net.chat(true).await;
        assert_eq!((status, pieces(&stream)), (200, ("one two".into(), "[DONE]".into())), "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_another_node_does_not_go_on_with_ends_with_a_reason() {
    let failing = model(Manner::Fails, "1, 2....");
    let failed = failing.failed.clone();
    let net = Net::new(vec![failing, model(Manner::Right, "one two")]).await;
    let mut interrupted = 0;
    for _ in 0..8 {
        failed.store(false, Ordering::SeqCst);
        let (status, stream) = net.chat(true).await;
        let (text, last) = pieces(&stream);
        assert_eq!(status, 200, "{stream}");
        // What was shown is never contradicted in silence.
        match failed.load(Ordering::SeqCst) {
            true => {
                assert!(text == "1, 2" && last.contains("interrupted"), "{stream}");
                interrupted += 1;
            }
            false => assert_eq!((text.as_str(), last.as_str()), ("one two", "[DONE]")),
        }
    }
    assert!(interrupted > 0, "the failing node was never asked first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_holds_up_nobody() {
    let net = Net::new(vec![model(Manner::Hangs, "one two")]).await;
    let url = format!("{}/v1/chat/completions", net.jobs.url());
    let body = json!({ "model": "m", "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
    let mut answer = net.http.post(&url).json(&body).send().await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    drop(answer);
    // The gateway answers others, though the model never ends.
    let names = net.http.get(format!("{}/v1/models", net.jobs.url())).send().await.unwrap();
    let names: Value = tokio::time::timeout(SOON, names.json()).await.expect("in time").unwrap();
    assert_eq!(names["data"][0]["id"], "m");
}
