//! What the loop shows of itself.

use serde_json::{Value, json};
use theta_core::{amount::TFuelWei, hash::Hash};
use theta_edge::{
    payment::purse::{Purse, Statement},
    scheduler::State,
};

use super::AskerLoop;
use crate::{clock::now_millis, edge::funds::Open};

impl AskerLoop {
    /// A job as the command contract shows it.
    pub(in crate::edge) fn view(&self, id: &Hash) -> Option<Value> {
        let entry = self.book.get(id)?;
        let state = match self.maps.get(id) {
            Some(map) if map.progress().mapped + map.progress().running > 0 => State::Running,
            Some(_) => State::Queued,
            None => self.requester.scheduler().state(id).unwrap_or(State::Queued),
        };
        let settled = self.settled.get(&entry.fund).map(Vec::as_slice).unwrap_or_default();
        let mut view = self.book.view(id, state, settled)?;
        if let Some(map) = self.maps.get(id) {
            view["progress"] = serde_json::to_value(map.progress()).unwrap_or_default();
        }
        Some(view)
    }

    /// Why a job is where it is, as the schedulers have it on record.
    pub(in crate::edge) fn explain(&self, id: &Hash) -> Option<Value> {
        let of_map = self.parts.iter().filter(|(_, map)| *map == id).map(|(part, _)| *part);
        let tasks: Vec<Value> = [*id]
            .into_iter()
            .chain(of_map)
            .filter_map(|task| self.requester.scheduler().explain(&task))
            .filter_map(|explanation| serde_json::to_value(explanation).ok())
            .collect();
        let mut view = self.view(id)?;
        view["open"] = Value::Array(tasks);
        view["nodes"] = Value::Array(self.nodes_view());
        if let Some((problem, _)) = &self.trouble {
            view["fundTrouble"] = json!(problem);
        }
        Some(view)
    }

    pub(in crate::edge) fn nodes_view(&self) -> Vec<Value> {
        self.nodes.view(now_millis(), self.requester.scheduler())
    }

    /// Where the money is.
    pub(in crate::edge) fn fund_view(&self) -> Value {
        let row = |(sequence, open): (&u64, &Open)| {
            let all = self.requester.purse(*sequence).and_then(Purse::statement);
            let wei = |part: fn(&Statement) -> TFuelWei| all.as_ref().map(part);
            json!({
                "reserveSequence": sequence,
                "endHeight": open.fund.end_height,
                "initialTfuelWei": open.fund.initial,
                "freeTfuelWei": wei(|all| all.free),
                "promisedTfuelWei": wei(|all| all.promised),
                "exposedTfuelWei": wei(|all| all.exposed),
                "signedTfuelWei": wei(|all| all.signed),
                "settledTfuelWei": wei(|all| all.settled),
            })
        };
        json!({
            "payer": self.id.0.to_checksum(None),
            "funds": self.funds.open.iter().map(row).collect::<Vec<_>>(),
            "trouble": self.trouble.as_ref().map(|(problem, _)| problem),
        })
    }
}
