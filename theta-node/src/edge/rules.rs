//! Split rules as a node last saw them: one look-up for each resource and height, however many receipts ask for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use theta_edge::chain::{Chain as _, ChainError};
use theta_ledger::state::account::SplitRule;
use theta_sdk::client::Client;

/// Resources that are remembered; they are forgotten together.
const MAX_RULES: usize = 1_024;

/// A rule, if there is one, and the height at which it was seen.
type Seen = (u64, Option<SplitRule>);

/// Rules by resource, with the height at which each was seen. A rule that is replaced is seen with the next block.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(Arc<Mutex<BTreeMap<String, Seen>>>);

impl Rules {
    /// The rule of a resource at a height.
    pub(super) async fn get(
        &self,
        client: &Client,
        resource: &str,
        height: u64,
    ) -> Result<Option<SplitRule>, ChainError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(resource).cloned();
        if let Some((_, rule)) = known.filter(|(seen, _)| *seen == height) {
            return Ok(rule);
        }
        let rule = client.split_rule(resource).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_RULES {
            all.clear();
        }
        all.insert(resource.to_owned(), (height, rule.clone()));
        Ok(rule)
    }
}
