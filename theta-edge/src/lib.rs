//! Jobs on edge nodes: what they are, who runs them, how results are believed, how they are paid.
//!
//! A [`requester::Requester`] takes a job to as many nodes as its quorum asks for; each node's [`provider::Provider`]
//! runs it by an [`executor::Executor`], binds itself to the result and shows it when all are bound. Equal results are
//! believed and paid by receipts that settle on the chain as service payments; whoever shows another one is not paid.
//!
//! Nothing here opens a socket, reads a clock or starts a task. Both sides are machines that are given time, envelopes
//! and answers, and that say what is to be done; a host carries it out. This is a whole job with the network left out:
//!
//! ```
//! use std::{collections::VecDeque, sync::Arc};
//! use theta_core::{amount::TFuelWei, journal::MemDisk, sign::SecretKey};
//! use theta_edge::{
//!     blob::BlobRef, chain::Fund, executor::{Ending, Output}, identity::NodeId, job::JobFile,
//!     payment::{purse::Purse, till::Till}, provider::{self, Provider}, requester::{self, Requester},
//!     scheduler::{Input, Settings}, worker,
//! };
//!
//! // The requester: a key, two journals, and a fund that it opened on the chain.
//! let key = Arc::new(SecretKey::from_bytes(&[1; 32])?);
//! let fund = Fund {
//!     payer: key.address(), reserve_sequence: 1, initial: TFuelWei::whole(100), used: TFuelWei::ZERO,
//!     resource_ids: vec!["edge1/any".into()], end_height: 1000, settled: Vec::new(),
//! };
//! let purses = vec![Purse::open("privatenet", key.clone(), MemDisk::default())?];
//! let (mut requester, _) =
//!     Requester::open("privatenet", key.clone(), Settings::default(), MemDisk::default(), purses, 0)?;
//! requester.adopt(&fund)?;
//!
//! // Two edge nodes, each with a key, a till, and a secret of its own.
//! let mut nodes = Vec::new();
//! for byte in [2, 3] {
//!     let key = Arc::new(SecretKey::from_bytes(&[byte; 32])?);
//!     let till = Till::open("privatenet", key.clone(), MemDisk::default())?;
//!     let node = Provider::new("privatenet", key.clone(), worker::Settings::default(), [byte; 32], till);
//!     nodes.push((NodeId::of(&*key), node));
//! }
//!
//! // The job: files become blobs, the job file says the rest.
//! let file = JobFile::parse(r#"{"kind":"wasm","module":"count.wasm","quorum":2,"maxTfuel":"5"}"#)?;
//! let pool = requester.pool(1).ok_or("no fund")?;
//! let spec = file.spec("privatenet", 0, pool, BlobRef::of(b"bytes of the module"), None, Vec::new())?;
//! let mut todo = VecDeque::from(requester.submit(0, spec)?);
//! for (node, _) in &nodes {
//!     todo.extend(requester.step(0, Input::Node { node: *node, up: true })?);
//! }
//!
//! // The host's loop. A real one sends envelopes, fetches blobs, asks the chain, and sleeps until `WakeAt`.
//! let mut report = None;
//! while let Some(next) = todo.pop_front() {
//!     match next {
//!         requester::Todo::Send { to, envelope } => {
//!             let (_, node) = nodes.iter_mut().find(|(id, _)| *id == to).ok_or("unknown node")?;
//!             let mut node_todo = VecDeque::from(node.receive(0, &envelope)?);
//!             while let Some(next) = node_todo.pop_front() {
//!                 match next {
//!                     provider::Todo::Send { envelope, .. } => todo.extend(requester.receive(0, &envelope)?),
//!                     provider::Todo::LookUp(ask) => node_todo.extend(node.looked_up(0, ask, Some(&fund), 10)?),
//!                     provider::Todo::Run { task, .. } => {
//!                         let output = Output::silent(Ending::Exit(0), 1234); // `executor.run(&task, attempt).await`
//!                         node_todo.extend(node.ran(0, task.id(), Ok(output))?);
//!                     }
//!                     _ => {}
//!                 }
//!             }
//!         }
//!         requester::Todo::Fetch { job, from, .. } => {
//!             todo.extend(requester.step(0, Input::Fetched { job, from, complete: true })?);
//!         }
//!         requester::Todo::Finished(finished) => report = Some(finished),
//!         _ => {}
//!     }
//! }
//! let report = report.ok_or("the job did not end")?;
//! assert_eq!((report.exit_code(), report.paid.len()), (Some(0), 2));
//!
//! // Later, each node turns its receipts into one transaction.
//! let fee = TFuelWei::wei(300_000_000_000_000_000_u64);
//! for (_, node) in &mut nodes {
//!     for due in node.due(10, fee, true) {
//!         let transaction = node.settle(&due, &fund, fee, 10)?; // `chain.submit(transaction.bytes).await`
//!         assert!(!transaction.bytes.is_empty());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Start at [`job`] for what a job is, at [`scheduler`] and [`worker`] for how it goes, at [`payment`] for the money, at
//! [`placement`] for who gets what among many nodes and tenants, at [`map`] for one program over many parts of an input, at
//! `sim` (feature `sim`) for all of it in virtual time. Not here yet: delivery of content, disputes.

pub mod blob;
pub mod chain;
pub mod content;
pub mod executor;
pub mod history;
pub mod identity;
pub mod infer;
pub mod job;
pub mod map;
pub mod message;
pub mod payment;
pub mod placement;
pub mod provider;
pub mod requester;
pub mod scheduler;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod split;
pub mod transcode;
pub mod trust;
pub mod verify;
pub mod worker;

/// Milliseconds since 1970, or since any instant that a host likes; only differences count.
pub type Millis = u64;
