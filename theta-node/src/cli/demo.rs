//! `theta demo`.

use anyhow::Result;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};
use theta_core::amount::to_big;

use super::{contracts, devnet::Scratch, interrupted};
use crate::demo::{self, DemoReport};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON value.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let scratch = Scratch::new("demo");
    let engines = super::engines()?;
    let say = |what: &str| eprintln!("· {what}");
    let report = tokio::select! {
        report = demo::run(&scratch.0, contracts(), engines, &say) => report?,
        result = interrupted() => {
            result?;
            anyhow::bail!("stopped before the end");
        }
    };
    if args.json {
        say!("{}", as_json(&report))?;
    } else {
        print(&report)?;
    }
    Ok(())
}

/// Whole tokens with all digits that are not zero.
pub(super) fn tokens(wei: &impl ToString) -> String {
    let text = wei.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let padded = format!("{digits:0>19}");
    let (whole, fraction) = padded.split_at(padded.len() - 18);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// The change of an amount, with its sign.
fn change(before: theta_core::hash::U256, after: theta_core::hash::U256) -> String {
    if after >= before {
        format!("+{}", tokens(&(to_big(after) - to_big(before))))
    } else {
        format!("-{}", tokens(&(to_big(before) - to_big(after))))
    }
}

fn print(report: &DemoReport) -> std::io::Result<()> {
    let mut table = Table::new();
    table.set_header(["done", "block", "transaction"]);
    for done in &report.done {
        table.add_row([done.what.clone(), done.height.to_string(), format!("{:?}", done.hash)]);
    }
    say!("{table}\n")?;
    let mut table = Table::new();
    table.set_header(["party", "THETA before", "change", "TFUEL before", "change"]);
    for index in 1..5 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for party in &report.parties {
        let (before, after) = (party.before, party.after);
        table.add_row([
            party.name.clone(),
            tokens(&before.theta),
            change(before.theta.get(), after.theta.get()),
            tokens(&before.tfuel),
            change(before.tfuel.get(), after.tfuel.get()),
        ]);
    }
    say!("{table}\n")?;
    say!("The job counted {} lines ({}).", report.output.trim(), report.job.verification)?;
    for earned in &report.job.paid {
        say!(
            "  {} earned {} TFUEL by a receipt that settled on the chain",
            earned.node.0,
            tokens(&earned.amount)
        )?;
    }
    let talk = &report.talk;
    say!("\nA model on an edge node was asked {:?} and said {:?}:", talk.question, talk.answer.trim())?;
    let (asked, said) = talk.tokens;
    say!("  {asked} tokens of question and {said} of answer for {} TFUEL.", tokens(&talk.paid))?;
    say!(
        "\nBlocks {} to {}, read back from another validator than the one written to:",
        report.heights.0 + 1,
        report.heights.1
    )?;
    say!(
        "  {} TFUEL minted as rewards, {} burned as fees, {} THETA staked.",
        tokens(&report.minted),
        tokens(&report.burned),
        tokens(&report.staked)
    )?;
    say!(
        "  Before + minted = after + burned, and THETA + stakes are unchanged: the books balance to the wei."
    )?;
    Ok(())
}

fn as_json(report: &DemoReport) -> Value {
    let done: Vec<Value> = report
        .done
        .iter()
        .map(|done| json!({ "what": done.what, "hash": done.hash, "height": done.height }))
        .collect();
    let parties: Vec<Value> = report
        .parties
        .iter()
        .map(|party| {
            json!({
                "name": party.name,
                "address": party.address,
                "before": party.before,
                "after": party.after,
            })
        })
        .collect();
    let paid: Vec<Value> = report
        .job
        .paid
        .iter()
        .map(|earned| json!({ "node": earned.node.0, "tfuelWei": earned.amount }))
        .collect();
    json!({
        "transactions": done,
        "parties": parties,
        "job": { "id": report.job.job, "output": report.output, "paid": paid, "verification": report.job.verification.to_string() },
        "inference": {
            "question": report.talk.question,
            "answer": report.talk.answer,
            "promptTokens": report.talk.tokens.0,
            "completionTokens": report.talk.tokens.1,
            "paidTfuelWei": report.talk.paid,
        },
        "mintedTfuelWei": report.minted,
        "burnedTfuelWei": report.burned,
        "stakedThetaWei": report.staked,
        "firstHeight": report.heights.0 + 1,
        "lastHeight": report.heights.1,
        "balanced": true,
    })
}
