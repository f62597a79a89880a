//! One process alone.

use std::collections::BTreeMap;

use crate::deadline::Deadline;
use crate::error::{Fault, Reason};
use crate::exchange::Exchange;
use crate::nodes::NodeMap;

/// A process that exchanges values with itself.
#[derive(Debug, Default)]
pub(crate) struct Single(BTreeMap<String, Vec<u8>>);

impl Exchange for Single {
    fn identity(&self) -> (u32, u32) {
        (0, 1)
    }

    fn put(&mut self, key: &str, value: &[u8], _deadline: Deadline) -> Result<(), Fault> {
        // As a launcher would.
        if self.0.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Reason::Refused("the key was put before".to_owned()).into());
        }
        Ok(())
    }

    fn get(&mut self, _rank: u32, key: &str, _deadline: Deadline) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.0.get(key).cloned())
    }

    fn fence(&mut self, _deadline: Deadline) -> Result<(), Fault> {
        Ok(())
    }

    fn nodes(&mut self, _deadline: Deadline) -> Result<Option<NodeMap>, Fault> {
        Ok(Some(NodeMap::one_node(1)))
    }

    fn abort(&mut self, _code: i32, _message: &str) {}

    fn finalize(&mut self, _deadline: Deadline) -> Result<(), Fault> {
        Ok(())
    }
}
