//! A clip that edge nodes encode and deliver. Without ffmpeg there is nothing to test: `THETA_NEED=ffmpeg` makes that a
//! failure.

use std::{path::Path, process::Command};

use serde_json::Value;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::Address,
};
use theta_edge::{executor::Engines, worker};
use theta_node::{
    devnet::{TEST_MNEMONIC, role_key},
    edge::{ContentTerms, Directory, EdgeConfig, EdgeNode},
};
use theta_sdk::{
    hd::{self, Path as HdPath},
    wallet::{Wallet, minimum_fee},
};

use super::gateway::{Network, SOON, program, until};

pub(crate) fn has_ffmpeg() -> bool {
    let found = Command::new("ffmpeg").arg("-version").output().is_ok_and(|said| said.status.success());
    let needed =
        std::env::var("THETA_NEED").is_ok_and(|need| need.split(',').any(|needed| needed == "ffmpeg"));
    assert!(found || !needed, "ffmpeg is not there");
    if !found {
        eprintln!("skipped: ffmpeg is not there");
    }
    found
}

pub(crate) fn clip(path: &Path, seconds: u32) {
    let (pictures, sound) =
        (format!("testsrc2=d={seconds}:s=640x360:r=30"), format!("sine=frequency=440:d={seconds}"));
    let done = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", &pictures, "-f", "lavfi", "-i", &sound])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"])
        .arg(path)
        .status()
        .unwrap();
    assert!(done.success());
}

/// `theta content …` in JSON, and how it ended.
pub(crate) async fn content(network: &Network, args: &[&str]) -> (i32, Value) {
    let output = tokio::process::Command::new(program())
        .arg("content")
        .args(args)
        .args(["--json", "--gateway", network.gateway()])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{said}")))
}

async fn get(url: String) -> Value {
    reqwest::get(url).await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

async fn bytes(url: String) -> Vec<u8> {
    reqwest::get(url).await.unwrap().error_for_status().unwrap().bytes().await.unwrap().to_vec()
}

/// A node of somebody's who plays: 100 TFUEL in its account, acquainted with the others.
async fn player(network: &Network, index: usize, folder: &Path) -> EdgeNode {
    let key = role_key(TEST_MNEMONIC, 2, index).unwrap();
    let client = network.rpc(0);
    let rich = Wallet::new("privatenet", hd::derive(TEST_MNEMONIC, HdPath::Ethereum(0)).unwrap());
    let coins = Coins { theta: ThetaWei::ZERO, tfuel: TFuelWei::whole(100) };
    client.send(&rich, key.address(), coins, minimum_fee()).await.unwrap();
    let node = EdgeNode::start(EdgeConfig {
        chain: "privatenet".to_owned(),
        key,
        folder: folder.join(format!("player-{index}")),
        client,
        rpc: String::new(),
        directory: Directory::default(),
        engines: Engines::default(),
        port: 0,
        settle_at_once: true,
        offer: worker::Settings::default(),
        gateways: vec![network.gateway().to_owned()],
        content: ContentTerms {
            price: TFuelWei::wei(10_000_000_000_000_000_u64),
            most: TFuelWei::whole(1),
            fund: TFuelWei::whole(20),
        },
    })
    .await
    .unwrap();
    until("the player knows others", SOON, async || {
        (get(format!("{}/content", node.url())).await["connected"].as_u64().unwrap() >= 2).then_some(())
    })
    .await;
    node
}

/// All segments of a clip, as a player fetches them: URLs below a server.
async fn segments(server: &str, manifest: &str) -> Vec<String> {
    let base = format!("{server}/hls/{manifest}");
    let master = String::from_utf8(bytes(format!("{base}/master.m3u8")).await).unwrap();
    let mut lists: Vec<&str> = master.lines().filter(|line| line.ends_with("index.m3u8")).collect();
    let sound = master.lines().find_map(|line| line.split("URI=\"").nth(1)?.split('"').next());
    lists.extend(sound);
    let mut all = Vec::new();
    for list in lists {
        let playlist = String::from_utf8(bytes(format!("{base}/{list}")).await).unwrap();
        let folder = list.trim_end_matches("index.m3u8");
        all.extend(
            playlist
                .lines()
                .filter(|line| line.ends_with(".ts"))
                .map(|name| format!("/hls/{manifest}/{folder}{name}")),
        );
    }
    all
}

fn wei(value: &Value) -> TFuelWei {
    format!("{}wei", value.as_str().unwrap()).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clip_is_encoded_delivered_from_peers_and_paid_and_a_poisoner_is_banned() {
    if !has_ffmpeg() {
        return;
    }
    let network = Network::start(&["--validators", "1", "--edge-nodes", "2"]).await;
    let scratch = tempfile::tempdir().unwrap();
    network.nodes(2).await;
    let path = network.folder.join("clip.mp4");
    clip(&path, 12);
    let (code, published) =
        content(&network, &["publish", path.to_str().unwrap(), "--segment-seconds", "1"]).await;
    assert_eq!(code, 0, "{published}");
    let manifest = published["manifest"].as_str().unwrap();
    assert_eq!(published["renditions"], serde_json::json!(["160p", "240p", "360p"]));
    assert_eq!(published["ms"], 12_000);
    // Three groups of four segments for each of three renditions, the sound, and the look before.
    assert_eq!((published["tasks"].as_u64(), published["tasksDone"].as_u64()), (Some(11), Some(11)));
    assert!(published["nodes"].as_object().unwrap().len() == 2, "both have worked: {published}");

    let relays: Vec<String> = network.ready["edgeNodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["gateway"].as_str().unwrap().to_owned())
        .collect();
    for relay in &relays {
        until("it is held", SOON, async || {
            (get(format!("{relay}/content")).await["held"] == 1).then_some(())
        })
        .await;
    }
    let first = player(&network, 7, scratch.path()).await;
    let all = segments(&first.url(), manifest).await;
    assert_eq!(all.len(), 48);
    let gateway = network.gateway();
    for path in &all {
        let played = bytes(format!("{}{path}", first.url())).await;
        assert_eq!(played, bytes(format!("{gateway}{path}")).await, "{path}");
        assert_eq!(played.len() % 188, 0, "whole packets of a transport stream");
    }
    let view = get(format!("{}/content", first.url())).await;
    let from_peers = view["bytes"]["peers"].as_u64().unwrap();
    assert!(from_peers > 100_000, "{view}");
    // The manifest's length is not known before, so it comes whole.
    assert!(view["bytes"]["origin"].as_u64().unwrap() < 20_000, "{view}");
    let chunks = view["chunks"]["verified"].as_u64().unwrap();
    assert_eq!(
        (view["chunks"]["refused"].as_u64(), view["paid"]["chunks"].as_u64()),
        (Some(0), Some(chunks))
    );

    // Both sides and the chain say the same: a chunk costs 200 TFUEL for 4096 of them.
    let price = TFuelWei::whole(200).get() / theta_core::hash::U256::from(4096);
    let spent = TFuelWei::from_u256(price * theta_core::hash::U256::from(chunks));
    assert_eq!(wei(&view["paid"]["tfuelWei"]), spent);
    let payer: Address = first.id.0;
    let sum = |amounts: Vec<TFuelWei>| {
        amounts.into_iter().fold(TFuelWei::ZERO, |sum, amount| sum.checked_add(amount).unwrap())
    };
    until("the relays have it all, and all that is worth a fee has settled", SOON, async || {
        let account = network.rpc(0).account(payer).await.unwrap().unwrap();
        let used = sum(account.reserved_funds.iter().map(|fund| fund.used_fund.tfuel).collect());
        let (mut settled, mut accrued) = (Vec::new(), Vec::new());
        for relay in &relays {
            let status = get(format!("{relay}/status")).await;
            let funds = status["funds"].as_array().unwrap().clone();
            for fund in funds.iter().filter(|fund| fund["payer"] == payer.to_checksum(None)) {
                settled.push(wei(&fund["settledTfuelWei"]));
                accrued.push(wei(&fund["accruedTfuelWei"]));
            }
        }
        let all = accrued.iter().all(|claim| *claim <= minimum_fee())
            && sum(settled.clone()) == used
            && sum(settled.into_iter().chain(accrued).collect()) == spent
            && !used.is_zero();
        all.then_some(())
    })
    .await;

    // The first player's copy goes bad. Another one who asks it among others is given nothing of that.
    let blobs = scratch.path().join("player-7/blobs");
    for file in std::fs::read_dir(blobs).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(byte) = bytes.get_mut(100) {
            *byte ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let second = player(&network, 8, scratch.path()).await;
    until("the second knows three", SOON, async || {
        (get(format!("{}/content", second.url())).await["connected"].as_u64().unwrap() >= 3).then_some(())
    })
    .await;
    for path in &all {
        let played = bytes(format!("{}{path}", second.url())).await;
        assert_eq!(played, bytes(format!("{gateway}{path}")).await, "{path}");
    }
    let view = get(format!("{}/content", second.url())).await;
    assert_eq!(view["chunks"]["refused"], 1, "{view}");
    let rows = view["peers"].as_array().unwrap();
    let banned: Vec<&Value> = rows.iter().filter(|row| row["banned"] == true).collect();
    assert_eq!(banned.len(), 1, "{view}");
    assert_eq!(banned[0]["node"], first.id.0.to_checksum(None));
    assert_eq!(view["paid"]["chunks"], view["chunks"]["verified"], "what was refused is not paid");
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_played_is_refused_with_a_reason() {
    if !has_ffmpeg() {
        return;
    }
    let network = Network::start(&["--validators", "1", "--edge-nodes", "1"]).await;
    network.nodes(1).await;
    let noise = network.write("noise.mp4", vec![7; 50_000]);
    let (code, failed) = content(&network, &["publish", noise.to_str().unwrap()]).await;
    assert_eq!((code, failed["state"].as_str()), (1, Some("failed")));
    assert!(failed["error"].as_str().unwrap().contains("Invalid data"), "{failed}");
    let path = network.folder.join("clip.mp4");
    clip(&path, 2);
    let (code, published) =
        content(&network, &["publish", path.to_str().unwrap(), "--ladder", "160p,source"]).await;
    assert_eq!((code, &published["renditions"]), (0, &serde_json::json!(["160p", "source"])), "{published}");
    let manifest = published["manifest"].as_str().unwrap();
    let edge = network.ready["edgeNodes"][0]["gateway"].as_str().unwrap().to_owned();
    let http = reqwest::Client::new();
    let status = async |path: &str| http.get(format!("{edge}{path}")).send().await.unwrap().status().as_u16();
    for (path, expected) in [
        (format!("/hls/{manifest}/160p/0.ts"), 200),
        (format!("/hls/{manifest}/160p/9.ts"), 404),
        (format!("/hls/{manifest}/160p/-1.ts"), 404),
        (format!("/hls/{manifest}/360p/0.ts"), 404),
        (format!("/hls/{manifest}/..%2f..%2f/0.ts"), 404),
        (format!("/hls/{}/master.m3u8", "0x".to_owned() + &"11".repeat(32)), 404),
        ("/hls/..%2f..%2fetc/master.m3u8".to_owned(), 400),
        ("/hls/zz/master.m3u8".to_owned(), 400),
    ] {
        assert_eq!(status(&path).await, expected, "{path}");
    }
    // Pages of other servers may play, and no other may see what the node earns.
    let url = format!("{edge}/hls/{manifest}/160p/0.ts");
    let from = "http://example.org";
    let preflight = http.request(reqwest::Method::OPTIONS, &url).header("origin", from);
    let preflight = preflight
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "range");
    let preflight = preflight.send().await.unwrap();
    assert!(preflight.status().is_success());
    assert!(preflight.headers()["access-control-allow-headers"].to_str().unwrap().contains("range"));
    let whole = http.get(&url).header("origin", from).send().await.unwrap();
    assert_eq!(whole.headers()["access-control-allow-origin"], "*");
    let (etag, len) = (whole.headers()["etag"].clone(), whole.content_length().unwrap());
    assert_eq!(http.get(format!("{edge}/status")).header("origin", from).send().await.unwrap().status(), 403);
    assert_eq!(http.get(&url).header("host", "example.org").send().await.unwrap().status(), 403);
    let part = async |range: String, if_range: Option<&str>| {
        let mut request = http.get(&url).header("range", range);
        if let Some(value) = if_range {
            request = request.header("if-range", value);
        }
        let answer = request.send().await.unwrap();
        let said = answer.headers().get("content-range").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), said, answer.bytes().await.unwrap().len() as u64)
    };
    assert_eq!(part("bytes=0-1".into(), None).await, (206, Some(format!("bytes 0-1/{len}")), 2));
    assert_eq!(part(format!("bytes={len}-"), None).await, (416, Some(format!("bytes */{len}")), 0));
    let cut = format!("bytes 0-{}/{len}", len - 1);
    assert_eq!(part(format!("bytes=0-{}", len + 1000), None).await, (206, Some(cut), len));
    assert_eq!(
        part("bytes=-1".into(), None).await,
        (206, Some(format!("bytes {}-{}/{len}", len - 1, len - 1)), 1)
    );
    assert_eq!(part("bytes=5-2".into(), None).await, (200, None, len));
    assert_eq!(part("bytes=0-1".into(), Some("\"other\"")).await, (200, None, len));
    assert_eq!(part("bytes=0-1".into(), Some(etag.to_str().unwrap())).await.0, 206);
    let head = http.head(&url).send().await.unwrap();
    assert_eq!(
        (head.headers()["content-length"].to_str().unwrap(), &head.headers()["etag"]),
        (&*len.to_string(), &etag)
    );
    assert_eq!(http.get(&url).header("if-none-match", etag).send().await.unwrap().status(), 304);
    // What was published outlives the gateway.
    let network = network.kill_and_start(&["--validators", "1", "--edge-nodes", "1"]).await;
    let again = network.get("content").await;
    let titles: Vec<&str> =
        again["content"].as_array().unwrap().iter().filter_map(|one| one["title"].as_str()).collect();
    assert_eq!(titles, ["clip"], "{again}");
    let played = bytes(format!("{}/hls/{manifest}/160p/0.ts", network.gateway())).await;
    assert_eq!(played.len() as u64, len);
    network.stop().await;
}
