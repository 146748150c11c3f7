//! A full edge, and the machines of a provider pool beside it.

use theta_edge::{
    payment::Price,
    placement::{Pool, Spill},
};

use super::*;

/// An engine that takes its time; counts what it ran.
#[derive(Clone, Default)]
struct Slow(Arc<AtomicUsize>);

const RUN: Duration = Duration::from_millis(150);

#[async_trait]
impl Executor for Slow {
    fn kind(&self) -> KindTag {
        KindTag::Wasm
    }
    fn digest(&self) -> Hash {
        Hash::ZERO
    }
    async fn run(&self, _task: &Task, _attempt: Attempt) -> Result<Output, RunError> {
        tokio::time::sleep(RUN).await;
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Output::silent(Ending::Exit(0), 1))
    }
}

/// A job that may cost a hundredth of a TFUEL and take two seconds.
fn cheap(more: &str) -> Job {
    let file = format!(
        r#"{{"kind":"wasm","module":"m.wasm","quorum":1,"maxTfuel":"0.01","limits":{{"wallSeconds":2}}{more}}}"#
    );
    Job { file: JobFile::parse(&file).unwrap(), module: b"m".to_vec(), stdin: None }
}

async fn slow_node(folder: &Path, byte: u8, gateway: &str, engine: Slow) -> EdgeNode {
    EdgeNode::start(EdgeConfig {
        chain: CHAIN.to_owned(),
        key: key(byte),
        folder: folder.join(format!("node-{byte}")),
        client: Client::new(Bank::default()),
        directory: Directory::default(),
        engines: Engines::of(Arc::new(engine)),
        port: 0,
        settle_at_once: true,
        offer: worker::Settings {
            slots: 1,
            price: Price { base: TFuelWei::ZERO, per_million_fuel: TFuelWei::wei(1) },
            ..worker::Settings::default()
        },
        gateways: vec![gateway.to_owned()],
        content: ContentTerms::default(),
        rpc: String::new(),
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_edge_spills_to_two_pool_machines_within_the_budget_and_drains_back() {
    let folder = tempfile::tempdir().unwrap();
    let machines = [key(3), key(4)].map(|key| NodeId(key.address()));
    // A little dearer than what is bid, less the hysteresis: its price is no reason to go there.
    let pool = Pool { name: "cloud".into(), slots: 2, price: 18_500_000, startup_ms: 0, speed: 100, tier: 3 };
    let jobs = JobClient::start(JobClientConfig {
        pools: vec![ProviderPool { pool, machines: machines.to_vec() }],
        api: true,
        ..asks(folder.path(), Bank::default(), &Directory::default(), Engine::default())
    })
    .await
    .unwrap();
    let (edge, cloud) = (Slow::default(), Slow::default());
    let _edge = slow_node(folder.path(), 2, &jobs.url(), edge.clone()).await;
    let _one = slow_node(folder.path(), 3, &jobs.url(), cloud.clone()).await;
    let _two = slow_node(folder.path(), 4, &jobs.url(), cloud.clone()).await;
    let jobs = Arc::new(jobs);
    let run = async |jobs: &Arc<JobClient>, more: String, count: usize| {
        let mut runs = JoinSet::new();
        let more_is_timed = more.contains("deadlineMs");
        for _ in 0..count {
            let (jobs, job) = (jobs.clone(), cheap(&more));
            runs.spawn(async move { jobs.run(job).await.unwrap() });
        }
        let reports = tokio::time::timeout(3 * SOON, runs.join_all()).await.expect("in time");
        // On a slow machine some come late, and say so; nothing else may go wrong.
        let late = |report: &theta_edge::scheduler::Report| {
            report.error.as_ref().is_some_and(|(code, _)| code == "deadline") && more_is_timed
        };
        let good = reports.iter().filter(|report| report.state == State::Succeeded).count();
        assert!(reports.iter().all(|report| report.state == State::Succeeded || late(report)), "{reports:?}");
        assert!(good > count / 2, "{reports:?}");
        reports
    };
    let spilled = |reports: &[theta_edge::scheduler::Report]| {
        let all = reports.iter().flat_map(|report| report.spilled.iter().copied());
        all.collect::<Vec<(NodeId, Spill)>>()
    };
    // How fast the edge is becomes known; without a budget nothing goes anywhere else.
    let calm = run(&jobs, String::new(), 10).await;
    assert_eq!((spilled(&calm), cloud.0.load(Ordering::SeqCst)), (Vec::new(), 0));
    // More than the edge can do in time: what would be late goes to the pool, each once.
    let deadline = format!(r#","spill":1,"deadlineMs":{}"#, crate::clock::now_millis() + 3_000);
    let busy = run(&jobs, deadline, 30).await;
    let went = spilled(&busy);
    assert!(!went.is_empty() && went.len() < 30, "{} went to the pool", went.len());
    assert!(went.iter().all(|(node, why)| machines.contains(node) && *why == Spill::Deadline), "{went:?}");
    let late = busy.iter().filter(|report| report.state != State::Succeeded).count();
    let (there, here) = (cloud.0.load(Ordering::SeqCst), edge.0.load(Ordering::SeqCst));
    assert!(there <= went.len() && there + late >= went.len(), "{there} of {} ran there", went.len());
    assert!(here + there + late >= 40 && here + there <= 40, "{here} here, {there} there, {late} late");
    assert!(busy.iter().all(|report| report.spilled.len() <= 1), "within its budget");
    // Each is told why.
    let moved = busy.iter().find(|report| !report.spilled.is_empty()).unwrap().job;
    let view = jobs.jobs.look(move |asker| asker.explain(&moved)).await.unwrap().unwrap();
    assert_eq!(view["spilled"][0]["why"], "deadline");
    // The edge is quick again: the same kind of job stays there.
    let deadline = format!(r#","spill":1,"deadlineMs":{}"#, crate::clock::now_millis() + 3_000);
    assert_eq!(spilled(&run(&jobs, deadline, 2).await), Vec::new());
}
