//! The main job from end to end on a fresh private devnet: both tokens, a stake, a contract, a paid job on edge nodes.
//!
//! Everything is written to the first validator and read back from the second. At the end the books are closed at one
//! settled height: what all parties hold has to be what they held, and what the blocks in between minted, less what they
//! burned, to the wei.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei, to_big},
    hash::{Address, Hash, U256, keccak},
    sign::SecretKey,
    spec::ChainSpec,
};
use theta_edge::{
    executor::Engines,
    identity::NodeId,
    job::{JobFile, KindTag},
    payment::{Price, split::BURN_ADDRESS},
    scheduler::Report,
};
use theta_edge_ai::Ai;
use theta_ledger::{
    tx::{Purpose, RawTx},
    vm::{ContractVm, VmCall},
};
use theta_sdk::{
    client::Client,
    rpc::{self, Text},
    wallet::{MINIMUM_GAS_PRICE, Wallet, minimum_fee},
};

use crate::{
    devnet::{Devnet, DevnetConfig, TEST_MNEMONIC, role_key},
    edge::{ContentTerms, Directory, EdgeConfig, EdgeNode, Funds, Job, JobClient, JobClientConfig},
};

/// Counts calls, logs each, returns the count. Init code, then `slot0 += 1; log(count); return count`.
fn counter_code() -> Vec<u8> {
    let mut code = hex::decode("603880600b6000396000f3600054600101806000556000527f").expect("hexadecimal");
    code.extend(keccak("Counted(uint256)"));
    code.extend(hex::decode("60206000a160206000f3").expect("hexadecimal"));
    code
}

/// Most that the demo's job may cost, and what is reserved for it, in whole TFUEL.
const JOB_CAP: &str = "5";
const FUND: u64 = 100;
/// Which edge node plays.
const PLAYER: usize = 2;
/// What a chunk of content costs, in wei: a tenth of a TFUEL, so that eight seconds are worth a settlement.
const CHUNK_PRICE: u64 = 100_000_000_000_000_000;

/// What a token of a model costs, in wei: a twentieth of a TFUEL, so that a short answer is worth a settlement.
const TOKEN_PRICE: u64 = 50_000_000_000_000_000;

/// One thing that was done.
#[derive(Clone, Debug)]
pub struct Done {
    /// What.
    pub what: String,
    /// The transaction.
    pub hash: Hash,
    /// The block it settled in.
    pub height: u64,
}

/// One party's coins.
#[derive(Clone, Debug)]
pub struct Party {
    /// Who.
    pub name: String,
    /// Where.
    pub address: Address,
    /// Free and reserved coins at the beginning.
    pub before: Coins,
    /// And at the end.
    pub after: Coins,
}

/// A question to a model on an edge node.
#[derive(Clone, Debug)]
pub struct Talk {
    /// What was asked.
    pub question: String,
    /// What it answered.
    pub answer: String,
    /// Tokens of the question, with the marks of a conversation, and of the answer.
    pub tokens: (u64, u64),
    /// What they cost, as it settled on the chain.
    pub paid: TFuelWei,
}

/// What came of the demo.
#[derive(Debug)]
pub struct DemoReport {
    /// Transactions, in order.
    pub done: Vec<Done>,
    /// Everybody who took part.
    pub parties: Vec<Party>,
    /// What the model was asked and answered.
    pub talk: Talk,
    /// How the job ended.
    pub job: Report,
    /// What the job printed.
    pub output: String,
    /// TFUEL that blocks paid as rewards.
    pub minted: TFuelWei,
    /// TFUEL that went up in fees.
    pub burned: TFuelWei,
    /// THETA that was staked.
    pub staked: ThetaWei,
    /// First and last height of the books.
    pub heights: (u64, u64),
}

/// Says what is going on.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

struct Demo<'a> {
    spec: ChainSpec,
    writer: Client,
    reader: Client,
    done: Vec<Done>,
    names: BTreeMap<Address, String>,
    say: Progress<'a>,
}

/// Runs the demo in a folder of its own.
pub async fn run(
    folder: &Path,
    vm: Arc<dyn ContractVm>,
    engines: Engines,
    say: Progress<'_>,
) -> Result<DemoReport> {
    say("starting four validators and two edge nodes");
    let spec = ChainSpec::devnet();
    let devnet = Devnet::start(DevnetConfig {
        spec: spec.clone(),
        validators: 4,
        guardians: 4,
        accounts: 4,
        mnemonic: TEST_MNEMONIC.to_owned(),
        data_dir: folder.to_owned(),
        rpc_port: 0,
        eth_rpc_port: 0,
        block_interval_ms: 1000,
        vm,
    })
    .await?;
    devnet.first_block().await?;
    let client = |index: usize| Client::http(devnet.nodes[index].theta_url());
    let mut demo = Demo {
        spec: spec.clone(),
        writer: client(0)?,
        reader: client(1)?,
        done: Vec::new(),
        names: BTreeMap::new(),
        say,
    };
    let result = tokio::select! {
        result = demo.play(&devnet, engines, folder) => result,
        reason = devnet.failure() => bail!(reason),
    };
    let (job, output, talk, from) = result?;
    demo.close(from, job, output, talk).await
}

/// An edge node with its own access to the chain, which offers itself to the requester.
async fn edge_node(
    devnet: &Devnet,
    jobs: &JobClient,
    index: usize,
    engines: Engines,
    folder: &Path,
) -> Result<EdgeNode> {
    let chain_node = devnet.nodes[(2 + index) % devnet.nodes.len()].theta_url();
    EdgeNode::start(EdgeConfig {
        chain: devnet.spec().chain.clone(),
        key: role_key(TEST_MNEMONIC, 2, index)?,
        folder: folder.join(format!("edge-{index}")),
        client: Client::http(chain_node.clone())?,
        rpc: chain_node,
        directory: Directory::default(),
        engines,
        port: 0,
        settle_at_once: true,
        offer: theta_edge::worker::Settings {
            token_price: Price { base: TFuelWei::ZERO, per_million_fuel: TFuelWei::wei(TOKEN_PRICE) },
            ..Default::default()
        },
        gateways: vec![jobs.url()],
        content: ContentTerms {
            price: TFuelWei::wei(CHUNK_PRICE),
            most: TFuelWei::wei(CHUNK_PRICE),
            fund: TFuelWei::whole(20),
        },
    })
    .await
}

impl Demo<'_> {
    fn wallet(&self, key: &SecretKey) -> Wallet {
        Wallet::new(self.spec.chain.clone(), key.clone())
    }

    /// Sends to the first validator, waits until the second has it too.
    async fn send(&mut self, what: &str, raw: RawTx) -> Result<u64> {
        (self.say)(what);
        let settled = self.writer.broadcast(&raw).await.with_context(|| what.to_owned())?;
        let height = settled.block.context("a settled transaction stands in a block")?.height;
        self.reached(height).await?;
        self.done.push(Done { what: what.to_owned(), hash: settled.hash, height });
        Ok(height)
    }

    async fn reached(&self, height: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.reader.call(&rpc::GetStatus::default()).await?.latest_finalized_block_height.0 < height {
            ensure!(Instant::now() < deadline, "the second validator does not reach height {height}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn play(
        &mut self,
        devnet: &Devnet,
        engines: Engines,
        folder: &Path,
    ) -> Result<(Report, String, Talk, u64)> {
        let [alice, bob, carol, payer] = [0, 1, 2, 3].map(|index| devnet.accounts[index].key.clone());
        let validators: Vec<Address> = devnet.handles().map(|handle| handle.address).collect();
        let named = [("alice", &alice), ("bob", &bob), ("carol", &carol), ("job payer", &payer)];
        self.names.extend(named.map(|(name, key)| (key.address(), name.to_owned())));
        for (index, address) in validators.iter().enumerate() {
            self.names.insert(*address, format!("validator {index}"));
        }
        for index in 0..2 {
            self.names.insert(role_key(TEST_MNEMONIC, 2, index)?.address(), format!("edge node {index}"));
        }
        self.names.insert(role_key(TEST_MNEMONIC, 2, PLAYER)?.address(), "player".to_owned());
        self.names.insert(BURN_ADDRESS, "nobody (burned share)".to_owned());
        let from = self.reader.call(&rpc::GetStatus::default()).await?.latest_finalized_block_height.0;

        let fee = minimum_fee();
        let wallet = self.wallet(&alice);
        let gift = Coins { theta: ThetaWei::whole(25), tfuel: TFuelWei::whole(40) };
        let raw = wallet.send(1, bob.address(), gift, fee).sign(wallet.signer())?;
        self.send("alice sends bob 25 THETA and 40 TFUEL", raw).await?;

        let wallet = self.wallet(&bob);
        let stake = Coins::theta(ThetaWei::whole(200_000));
        let raw = wallet.deposit(1, validators[1], Purpose::VALIDATOR, stake, fee).sign(wallet.signer())?;
        self.send("bob stakes 200,000 THETA with validator 1", raw).await?;

        self.contract(&carol).await?;
        let jobs = self.requester(&payer, engines.clone(), folder).await?;
        let models = folder.join("models");
        theta_edge_ai::tiny::write(&models.join(theta_edge_ai::tiny::NAME))?;
        let able = engines.clone().with(Arc::new(Ai::new().with_folder(&models)?));
        let mut edge_nodes = Vec::new();
        for index in 0..2 {
            edge_nodes.push(edge_node(devnet, &jobs, index, able.clone(), folder).await?);
        }
        let (report, output) = self.job(&jobs, &payer).await?;
        let talk = self.talk(&jobs, payer.address()).await?;
        match engines.get(KindTag::Transcode) {
            Ok(_) => self.film(devnet, &jobs, &alice, folder).await?,
            Err(_) => (self.say)("ffmpeg is not here, so no clip is encoded and played"),
        }
        Ok((report, output, talk, from))
    }

    /// A model on an edge node is asked something, as any client of the OpenAI protocol would, and the node is paid for
    /// each token.
    async fn talk(&mut self, jobs: &JobClient, payer: Address) -> Result<Talk> {
        (self.say)("an edge node's model answers a question");
        let http = reqwest::Client::builder().no_proxy().build()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let models = async || {
            let answer = http.get(format!("{}/v1/models", jobs.url())).send().await?.error_for_status()?;
            anyhow::Ok(answer.json::<Value>().await?)
        };
        while models().await?["data"].as_array().is_none_or(Vec::is_empty) {
            ensure!(Instant::now() < deadline, "no edge node has said that it has a model");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let before = self.settled(payer).await?;
        let question = "What is an edge node paid for?".to_owned();
        let body = json!({ "model": theta_edge_ai::tiny::NAME, "max_tokens": 48, "temperature": 0.6, "seed": 7,
            "messages": [{ "role": "user", "content": question }] });
        let url = format!("{}/v1/chat/completions", jobs.url());
        let answer: Value = http.post(url).json(&body).send().await?.json().await?;
        let text = answer["choices"][0]["message"]["content"].as_str();
        let text = text.with_context(|| format!("the model did not answer: {answer}"))?.to_owned();
        let count = |name: &str| answer["usage"][name].as_u64().unwrap_or_default();
        let tokens = (count("prompt_tokens"), count("completion_tokens"));
        let due = TFuelWei::wei(TOKEN_PRICE).checked_mul(tokens.0 + tokens.1).context("a price")?;
        loop {
            let paid = self.settled(payer).await?.checked_sub(before).unwrap_or_default();
            if !paid.is_zero() {
                ensure!(paid == due, "{paid} wei were paid for {tokens:?} tokens instead of {due}");
                return Ok(Talk { question, answer: text, tokens, paid });
            }
            ensure!(Instant::now() < deadline, "the answer was not paid within 60 seconds");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What was settled out of a payer's first fund.
    async fn settled(&self, payer: Address) -> Result<TFuelWei> {
        let account = self.reader.account(payer).await?.context("the payer has an account")?;
        let fund = account.reserved_funds.first().context("the payer has a fund")?;
        Ok(fund.used_fund.tfuel)
    }

    /// A clip is encoded on the edge nodes, played from a third one that did not have it, and paid for.
    async fn film(
        &mut self,
        devnet: &Devnet,
        jobs: &JobClient,
        alice: &SecretKey,
        folder: &Path,
    ) -> Result<()> {
        let player = role_key(TEST_MNEMONIC, 2, PLAYER)?.address();
        let wallet = self.wallet(alice);
        let money = Coins::tfuel(TFuelWei::whole(60));
        let raw = wallet.send(2, player, money, minimum_fee()).sign(wallet.signer())?;
        self.send("alice sends the player 60 TFUEL", raw).await?;
        (self.say)("two edge nodes encode a clip of eight seconds");
        let clip = folder.join("clip.mp4");
        let made = tokio::process::Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=d=8:s=640x360:r=30"])
            .args(["-f", "lavfi", "-i", "sine=frequency=440:d=8", "-c:v", "libx264", "-preset", "ultrafast"])
            .args(["-pix_fmt", "yuv420p", "-c:a", "aac"])
            .arg(&clip)
            .status()
            .await?;
        ensure!(made.success(), "ffmpeg made no clip");
        let manifest = jobs.publish(tokio::fs::read(&clip).await?, "A clip").await?;
        (self.say)("a third edge node plays it, chunk by chunk from the others");
        let node = edge_node(devnet, jobs, PLAYER, Engines::default(), folder).await?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let get = async |path: String| {
            let answer = http.get(format!("{}{path}", node.url())).send().await?.error_for_status()?;
            anyhow::Ok(answer.bytes().await?)
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let content =
            async || anyhow::Ok(serde_json::from_slice::<Value>(&get("/content".to_owned()).await?)?);
        while content().await?["connected"].as_u64().unwrap_or(0) < 2 {
            ensure!(Instant::now() < deadline, "the player does not find the other edge nodes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for name in ["360p", "sound"] {
            let playlist = get(format!("/hls/{manifest}/{name}/index.m3u8")).await?;
            let playlist = String::from_utf8(playlist.to_vec())?;
            for segment in playlist.lines().filter(|line| line.ends_with(".ts")) {
                get(format!("/hls/{manifest}/{name}/{segment}")).await?;
            }
        }
        let seen = content().await?;
        ensure!(seen["bytes"]["peers"].as_u64().unwrap_or(0) > 0, "nothing came from peers: {seen}");
        (self.say)("the edge nodes settle what the player owes them");
        loop {
            let account = self.reader.account(player).await?.context("the player has an account")?;
            if account.reserved_funds.iter().any(|fund| !fund.used_fund.tfuel.is_zero()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the player's payments did not settle within 60 seconds");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn contract(&mut self, key: &SecretKey) -> Result<()> {
        let wallet = self.wallet(key);
        let call = |to, data| VmCall {
            to,
            gas_limit: 200_000,
            gas_price: U256::from(MINIMUM_GAS_PRICE),
            data,
            ..VmCall::default()
        };
        let raw = wallet.contract(1, &call(None, counter_code())).sign(wallet.signer())?;
        self.send("carol deploys a counter", raw).await?;
        let deployed = self.receipt().await?;
        self.names.insert(deployed.contract_address, "counter".to_owned());
        let raw =
            wallet.contract(2, &call(Some(deployed.contract_address), Vec::new())).sign(wallet.signer())?;
        self.send("carol calls the counter", raw).await?;
        let called = self.receipt().await?;
        ensure!(called.logs.len() == 1, "the counter logs every call, and logged {}", called.logs.len());
        Ok(())
    }

    /// The receipt of what was done last, from the second validator.
    async fn receipt(&self) -> Result<rpc::Receipt> {
        let last = self.done.last().context("something was done")?;
        let found = self.reader.transaction(&last.hash).await?;
        let receipt = found.receipt.with_context(|| format!("{} has no receipt", last.what))?;
        ensure!(receipt.evm_err.is_empty(), "{}: {}", last.what, receipt.evm_err);
        Ok(receipt)
    }

    async fn requester(&mut self, payer: &SecretKey, engines: Engines, folder: &Path) -> Result<JobClient> {
        let wallet = self.wallet(payer);
        let (fund, collateral) = (TFuelWei::whole(FUND), TFuelWei::whole(FUND + 1));
        let resource = b"edge1/any".to_vec();
        let raw =
            wallet.reserve(1, fund, collateral, vec![resource], 1000, minimum_fee()).sign(wallet.signer())?;
        self.send("the job payer reserves 100 TFUEL", raw).await?;
        JobClient::start(JobClientConfig {
            rpc: String::new(),
            chain: self.spec.chain.clone(),
            key: payer.clone(),
            funds: Funds::Given(1),
            folder: folder.join("requester"),
            client: self.writer.clone(),
            directory: Directory::default(),
            port: 0,
            api: true,
            pools: Vec::new(),
            engines,
        })
        .await
    }

    async fn job(&mut self, jobs: &JobClient, payer: &SecretKey) -> Result<(Report, String)> {
        (self.say)("two edge nodes count the lines of a text");
        let file = json!({ "kind": "wasm", "module": "count.wat", "quorum": 2, "maxTfuel": JOB_CAP,
            "limits": { "fuel": 50_000_000, "memoryMiB": 16, "wallSeconds": 30, "outputMiB": 1 } });
        let text: String = (0..10_000).map(|line| format!("line {line}\n")).collect();
        let job = Job {
            file: JobFile::parse(&file.to_string())?,
            module: include_bytes!("demo.wat").to_vec(),
            stdin: Some(text.into_bytes()),
        };
        let report = tokio::time::timeout(Duration::from_secs(90), jobs.run(job))
            .await
            .context("the job did not end within 90 seconds")??;
        if let Some((code, message)) = &report.error {
            bail!("the job failed: {code}: {message}");
        }
        let stdout = &report.output.as_ref().context("a job that succeeded has a result")?.stdout;
        let output = String::from_utf8(jobs.read(stdout).await?)?;
        ensure!(output == "10000\n", "the job printed {output:?}");
        (self.say)("the edge nodes settle their receipts on the chain");
        self.settlements(payer.address(), &report).await?;
        Ok((report, output))
    }

    /// Waits until every payee of the job has been paid on the chain, as the second validator sees it.
    async fn settlements(&mut self, payer: Address, report: &Report) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let paid: BTreeMap<NodeId, TFuelWei> =
            report.paid.iter().map(|earned| (earned.node, earned.amount)).collect();
        ensure!(paid.len() == 2, "{} nodes were paid instead of 2", paid.len());
        loop {
            let account = self.reader.account(payer).await?.context("the payer has an account")?;
            let fund = account.reserved_funds.first().context("the payer has a fund")?;
            if fund.transfer_records.len() == paid.len() {
                for record in &fund.transfer_records {
                    let payment = &record["service_payment"];
                    let payee: Address = payment["target"]["address"].as_str().unwrap_or_default().parse()?;
                    let amount = payment["source"]["coins"]["tfuelwei"].as_str().unwrap_or_default();
                    ensure!(
                        paid.get(&NodeId(payee)).is_some_and(|due| due.to_string() == amount),
                        "{payee} was paid {amount} on the chain"
                    );
                }
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the edge nodes were not paid within 60 seconds");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Free and reserved coins of an account at a settled height.
    async fn holdings(&self, address: Address, height: u64) -> Result<Coins> {
        let method =
            rpc::GetAccount { address: format!("{address:?}"), height: Text(height), ..Default::default() };
        let account = match self.reader.call(&method).await {
            Ok(account) => account,
            Err(error) if error.to_string().contains("is not found") => return Ok(Coins::ZERO),
            Err(error) => return Err(error.into()),
        };
        account.reserved_funds.iter().try_fold(account.coins, |sum, fund| {
            let left = fund.initial_fund.checked_sub(fund.used_fund).context("an overdrawn fund")?;
            sum.checked_add(left)
                .and_then(|sum| sum.checked_add(fund.collateral))
                .context("more coins than there are")
        })
    }

    async fn staked(&self, height: u64) -> Result<ThetaWei> {
        let pools = self.reader.call(&rpc::GetVcpByHeight { height: Text(height) }).await?;
        let mut sum = ThetaWei::ZERO;
        let candidates = &pools["BlockHashVcpPairs"][0]["Vcp"]["SortedCandidates"];
        for stake in
            candidates.as_array().into_iter().flatten().flat_map(|one| one["Stakes"].as_array()).flatten()
        {
            let amount: ThetaWei = format!("{}wei", stake["amount"].as_str().unwrap_or_default()).parse()?;
            sum = sum.checked_add(amount).context("more stake than there is")?;
        }
        Ok(sum)
    }

    /// TFUEL that a block minted and burned.
    async fn flows(&mut self, height: u64) -> Result<(TFuelWei, TFuelWei)> {
        let method = rpc::GetBlockByHeight { height: Text(height), include_eth_tx_hashes: false };
        let block: rpc::Block = serde_json::from_value(self.reader.call(&method).await?)?;
        let wei = |value: &Value| -> Result<TFuelWei> {
            Ok(format!("{}wei", value.as_str().context("an amount is text")?).parse()?)
        };
        let (mut minted, mut burned) = (TFuelWei::ZERO, TFuelWei::ZERO);
        let add = |sum: &mut TFuelWei, amount: TFuelWei| -> Result<()> {
            *sum = sum.checked_add(amount).context("more TFUEL than there is")?;
            Ok(())
        };
        for transaction in block.transactions.unwrap_or_default() {
            let raw = &transaction.raw;
            match transaction.kind {
                0 => {
                    for output in raw["outputs"].as_array().into_iter().flatten() {
                        add(&mut minted, wei(&output["coins"]["tfuelwei"])?)?;
                    }
                }
                7 => {
                    let gas = transaction.receipt.context("a contract transaction has a receipt")?.gas_used;
                    let price = wei(&raw["gas_price"])?;
                    add(&mut burned, price.checked_mul(gas).context("more gas than there is")?)?;
                }
                kind => {
                    add(&mut burned, wei(&raw["fee"]["tfuelwei"])?)?;
                    if kind == 5 {
                        let payee: Address = raw["target"]["address"].as_str().unwrap_or_default().parse()?;
                        let name = self.names.get(&payee).cloned().unwrap_or_else(|| payee.to_string());
                        let what = format!("{name} settles its receipt");
                        self.done.push(Done { what, hash: transaction.hash, height });
                    }
                }
            }
        }
        Ok((minted, burned))
    }

    async fn close(mut self, from: u64, job: Report, output: String, talk: Talk) -> Result<DemoReport> {
        let to = self.reader.call(&rpc::GetStatus::default()).await?.latest_finalized_block_height.0;
        let (mut minted, mut burned) = (TFuelWei::ZERO, TFuelWei::ZERO);
        for height in from + 1..=to {
            let (more, less) = self.flows(height).await?;
            minted = minted.checked_add(more).context("more TFUEL than there is")?;
            burned = burned.checked_add(less).context("more TFUEL than there is")?;
        }
        let mut parties = Vec::new();
        let (mut before, mut after) = (Coins::ZERO, Coins::ZERO);
        for (address, name) in self.names.clone() {
            let party = Party {
                name,
                address,
                before: self.holdings(address, from).await?,
                after: self.holdings(address, to).await?,
            };
            before = before.checked_add(party.before).context("more coins than there are")?;
            after = after.checked_add(party.after).context("more coins than there are")?;
            parties.push(party);
        }
        parties.sort_by(|a, b| a.name.cmp(&b.name));
        let (stake_before, stake_after) = (self.staked(from).await?, self.staked(to).await?);
        let all = |theta: ThetaWei, stake: ThetaWei| to_big(theta.get()) + to_big(stake.get());
        ensure!(
            all(before.theta, stake_before) == all(after.theta, stake_after),
            "THETA does not balance: {} and {stake_before} staked became {} and {stake_after} staked",
            before.theta,
            after.theta
        );
        ensure!(
            to_big(before.tfuel.get()) + to_big(minted.get())
                == to_big(after.tfuel.get()) + to_big(burned.get()),
            "TFUEL does not balance: {} and {minted} minted became {} and {burned} burned",
            before.tfuel,
            after.tfuel
        );
        let staked = stake_after.checked_sub(stake_before).context("stake was only added")?;
        let heights = (from, to);
        Ok(DemoReport { done: self.done, parties, talk, job, output, minted, burned, staked, heights })
    }
}
