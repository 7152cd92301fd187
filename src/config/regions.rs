//! `[regions]`, `[nodes]`, `node` and `region`: where things are, and what is kept together.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Problem;
use super::places::Node;
use super::reader::{FromToml, Reader, Section, map, name_of, table};
use crate::base::{NodeName, Region, Secret};

/// Names that stand for several regions.
#[derive(Default)]
pub(super) struct Groups(BTreeMap<Region, Vec<Region>>);

impl Groups {
    pub fn read(reader: &mut Reader, root: &mut Section) -> Self {
        let entries = root.entries(reader, "regions");
        let groups = map(reader, entries, |reader, at, _: &Region, value| {
            let names = Vec::<String>::from_toml(reader, at, value)?;
            if names.is_empty() {
                reader.problem(Problem::new(at, "is a group of no regions").example("[\"lk\", \"in\"]"));
            }
            Some(names.into_iter().filter_map(|name| name_of(reader, at, name)).collect())
        });
        let groups = Self(groups);
        for (name, regions) in &groups.0 {
            for region in regions.iter().filter(|region| groups.has(region)) {
                let what = "is a group itself; a group is made of regions";
                reader.problem(Problem::new(format!("regions.{name}"), what).value(region));
            }
        }
        groups
    }

    pub fn has(&self, name: &Region) -> bool {
        self.0.contains_key(name)
    }

    /// A list of regions and groups, if there is one.
    pub fn optional(&self, reader: &mut Reader, section: &mut Section, key: &'static str) -> Option<Vec<Region>> {
        let at = section.at(key);
        let names: Vec<String> = section.optional(reader, key)?;
        Some(self.expand(names.into_iter().filter_map(|name| name_of(reader, &at, name))))
    }

    /// The regions that these names stand for, each once.
    pub fn expand(&self, names: impl IntoIterator<Item = Region>) -> Vec<Region> {
        let mut regions: Vec<Region> = Vec::new();
        for name in names {
            match self.0.get(&name) {
                Some(group) => regions.extend(group.iter().cloned()),
                None => regions.push(name),
            }
        }
        // In an order of their own: who writes them in another one has changed nothing.
        regions.sort();
        regions.dedup();
        regions
    }

    /// What is somewhere is in one region.
    pub fn is_one(&self, reader: &mut Reader, at: &str, region: &Region) {
        if self.has(region) {
            reader.problem(Problem::new(at, "is a group of regions; this is in one of them").value(region));
        }
    }
}

/// All nodes, and the one that this is.
pub(super) struct Nodes {
    pub all: BTreeMap<NodeName, Arc<Node>>,
    pub own: Option<NodeName>,
    /// Where this is.
    pub region: Option<Region>,
}

impl Nodes {
    pub fn read(reader: &mut Reader, root: &mut Section, groups: &Groups) -> Self {
        let entries = root.entries(reader, "nodes");
        let all = map(reader, entries, |reader, at, name: &NodeName, value| {
            let mut section = table(reader, at, value)?;
            let region: Option<Region> = section.required(reader, "region", "\"lk\"");
            region.iter().for_each(|region| groups.is_one(reader, &section.at("region"), region));
            let address: Option<String> = section.required(reader, "address", "\"pg.lk.example.com:6432\"");
            if let Some(address) = address.as_ref().filter(|address| !is_address(address)) {
                let problem = Problem::new(section.at("address"), "must be a host and a port, as clients write them");
                reader.problem(problem.value(address).example("\"pg.lk.example.com:6432\""));
            }
            let peer_address: Option<String> = section.optional(reader, "peer_address");
            if let Some(address) = peer_address.as_ref().filter(|address| !is_address(address)) {
                let problem = Problem::new(section.at("peer_address"), "must be a host and a port");
                reader.problem(problem.value(address).example("\"10.1.0.4:6433\""));
            }
            section.finish(reader);
            Some(Arc::new(Node { name: name.clone(), region: region?, address: address?, peer_address }))
        });
        let said: Option<Secret> = root.optional(reader, "node");
        let said = said.map(|name| String::from_utf8_lossy(name.expose()).into_owned());
        let own: Option<NodeName> = said.and_then(|name| name_of(reader, "node", name));
        let region: Option<Region> = root.optional(reader, "region");
        region.iter().for_each(|region| groups.is_one(reader, "region", region));
        let node = own.as_ref().and_then(|own| all.get(own));
        if let Some(own) = own.as_ref().filter(|_| node.is_none()) {
            reader.problem(Problem::new("node", "is not among the nodes").value(own));
        }
        if let (Some(region), Some(node)) = (&region, node)
            && *region != node.region
        {
            let what = format!("is not the region of node {}, which is {}; leave it out", node.name, node.region);
            reader.problem(Problem::new("region", what).value(region));
        }
        let region = node.map(|node| node.region.clone()).or(region);
        if region.is_none() && own.is_none() && !all.is_empty() {
            let what = "is missing, and so is region: nobody knows which of the nodes this is, and whom it may serve";
            reader.problem(Problem::new("node", what).example("node = { env = \"PGWARD_NODE\" }"));
        }
        Self { all, own, region }
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
