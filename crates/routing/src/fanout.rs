//! What goes to which node: one bundle a node for a whole batch. The append script does the same in Redis, and a
//! conformance test compares the two.

use std::collections::BTreeMap;

use protocol::bundle::Item;
use protocol::{Bundle, NodeId};

/// Joins the items of a batch, each with the nodes where its address is, to one bundle a node. A node that has several
/// locations of one address gets the item once; items keep their order.
pub fn bundles<'n>(items: impl IntoIterator<Item = (Item, Vec<&'n NodeId>)>) -> BTreeMap<NodeId, Bundle> {
    let mut bundles: BTreeMap<NodeId, Bundle> = BTreeMap::new();
    for (item, mut nodes) in items {
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            bundles.entry(node.clone()).or_default().items.push(item.clone());
        }
    }
    bundles
}
