//! Reports and explanations as people read them.

use super::classified::ClassifiedDatabase;
use super::explain::{Choice, Explanation};
use super::finding::Severity;
use super::history::{Counted, Kind, Log};
use super::page::Page;
use super::report::{Place, Report, TenantReport};
use super::standing::Standing;

const SERVER: [&str; 6] = ["server", "region", "address", "role", "health", "lag (bytes)"];

impl Report {
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        page.heading(1, "Residency report");
        page.line(format!("Made by pgward {} at {}.", self.version, self.made));
        page.line(match &self.since {
            Some(since) => format!("What was served and refused: since {since}."),
            None => "What was served and refused: all that the audit logs have.".to_owned(),
        });
        let (dangers, warnings) = (self.count(Severity::Danger), self.count(Severity::Warning));
        page.line(format!("{dangers} dangers, {warnings} warnings."));
        page.heading(2, "Findings");
        let finding = |finding: &super::finding::Finding| {
            vec![finding.severity.as_str().to_owned(), finding.kind.to_owned(), finding.text.clone()]
        };
        let none = "None: nothing was served outside of its regions, and the logs are whole.";
        page.table(&["", "finding", "what"], self.findings.iter().map(finding).collect(), none);
        page.heading(2, "Audit logs");
        let log = |log: &Log| {
            let kind = match log.kind {
                Kind::Sessions => "sessions",
                Kind::Commands => "commands",
            };
            let nodes = log.nodes.iter().cloned().collect::<Vec<_>>().join(", ");
            let time = |time: &Option<String>| time.clone().unwrap_or_default();
            let (files, lines) = (log.files.to_string(), log.lines.to_string());
            let anchor = log.anchor.clone().unwrap_or_default();
            vec![log.file.clone(), kind.to_owned(), nodes, files, lines, time(&log.first), time(&log.last), anchor]
        };
        let head = ["log", "of", "node", "files", "good lines", "first", "last", "anchor"];
        page.table(&head, self.logs.iter().map(log).collect(), "None.");
        for note in self.logs.iter().flat_map(|log| &log.notes) {
            page.line(note.clone());
        }
        self.tenants.iter().for_each(|tenant| tenant.put(&mut page));
        if let Some(classified) = &self.classified {
            page.heading(2, "Classified columns");
            let head = ["cluster", "database", "column", "class", "hidden from", "holds"];
            page.table(&head, classified.iter().flat_map(ClassifiedDatabase::cells).collect(), "None.");
            page.heading(3, "Views that somebody vouches for");
            let head = ["cluster", "database", "view", "kind", "k", "quasi-identifiers"];
            page.table(&head, classified.iter().flat_map(ClassifiedDatabase::views).collect(), "None.");
        }
        page
    }
}

impl TenantReport {
    fn put(&self, page: &mut Page) {
        page.heading(2, format!("Tenant {}", self.tenant));
        match &self.place {
            Some(place) => place.put(page),
            None => page.line("It is not in the configuration, or not any more."),
        }
        page.heading(3, "Served");
        let served = |row: &super::report::ServedRow| {
            let (way, served) = (&row.way, &row.served);
            let (node, here) = (shown(&way.node), shown(&way.node_region));
            let (sessions, backends) = (served.sessions.to_string(), served.backends.to_string());
            let (first, last) = (served.first.clone(), served.last.clone());
            let (by, grant) = (shown(&way.came_by), shown(&way.grant));
            let ways = vec![way.server.clone(), way.region.clone(), node, here, by, grant];
            ways.into_iter().chain([sessions, backends, first, last, yes(row.allowed)]).collect()
        };
        let head = [
            "by server",
            "in",
            "through node",
            "in",
            "come by",
            "grant",
            "sessions",
            "backends",
            "first",
            "last",
            "allowed now",
        ];
        page.table(&head, self.served.iter().map(served).collect(), "Nothing.");
        if !self.forwarded.is_empty() {
            page.heading(3, "Forwarded");
            let passed = |row: &super::report::PassedRow| {
                let way = &row.passed;
                let ends = [&way.node, &way.node_region, &way.forwarded_to, &way.region].map(shown);
                let seen = if way.direct_tls { "nothing" } else { "all" };
                counted(ends.into_iter().chain([seen.to_owned()]).collect(), &row.counted)
            };
            let head = ["by node", "in", "to node", "in", "could read", "times", "first", "last"];
            page.table(&head, self.forwarded.iter().map(passed).collect(), "Nobody.");
        }
        page.heading(3, "Refused");
        let refused = |row: &super::report::RefusedRow| {
            let (of, reason) = (&row.refused, shown(&row.refused.reason));
            counted(vec![of.event.clone(), reason, shown(&of.server), shown(&of.region)], &row.counted)
        };
        let head = ["event", "reason", "server", "region", "times", "first", "last"];
        page.table(&head, self.refusals.iter().map(refused).collect(), "Nothing.");
        if !self.grants.is_empty() {
            page.heading(3, "Grants used");
            let grants =
                self.grants.iter().map(|row| counted(vec![shown(&row.grant), shown(&row.purpose)], &row.counted));
            page.table(&["grant", "purpose", "times", "first", "last"], grants.collect(), "None.");
        }
        if !self.break_glass.is_empty() {
            page.heading(3, "Entries in an emergency");
            let entries = self.break_glass.iter().map(|row| counted(vec![shown(&row.subject)], &row.counted));
            page.table(&["by", "times", "first", "last"], entries.collect(), "None.");
        }
        if !self.administration.is_empty() {
            page.heading(3, "Commands");
            let acts =
                self.administration.iter().map(|row| counted(vec![shown(&row.act), shown(&row.outcome)], &row.counted));
            page.table(&["act", "outcome", "times", "first", "last"], acts.collect(), "None.");
        }
    }
}

impl Place {
    fn put(&self, page: &mut Page) {
        let Self { home, isolation, database, cluster, .. } = self;
        let suspended = if self.suspended { "; suspended" } else { "" };
        page.line(format!("Home {home}; its data may be in {}{suspended}.", self.regions.join(", ")));
        page.line(format!("Level {isolation}, database {database} of cluster {cluster}."));
        page.heading(3, "Servers");
        let servers = self.servers.iter().map(|holding| {
            let mut row = standing(&holding.standing);
            row.push(yes(holding.allowed));
            row
        });
        page.table(&with(&SERVER, "allowed"), servers.collect(), "None is known.");
        page.heading(3, "Nodes");
        let nodes = self.nodes.iter();
        let nodes =
            nodes.map(|node| vec![node.node.clone(), node.region.clone(), node.address.clone(), yes(node.allowed)]);
        page.table(&["node", "region", "address", "allowed"], nodes.collect(), "The configuration names none.");
        page.heading(3, "Backups");
        page.table(
            &["repository", "region", "allowed"],
            self.backups.iter().map(|of| vec![of.repository.clone(), of.region.clone(), yes(of.allowed)]).collect(),
            "The configuration names no repository (clusters.NAME.repositories).",
        );
    }
}

impl Explanation {
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        page.heading(1, format!("Tenant {} as {}", self.tenant, self.role));
        let Self { home, isolation, database, cluster, .. } = self;
        page.line(format!("Home {home}; its data may be in {}.", self.regions.join(", ")));
        page.line(format!("Level {isolation}, database {database} of cluster {cluster}."));
        page.line(match &self.here {
            Some(here) => format!("Asked at a pgward in region {here}."),
            None => "Asked at a pgward that is not known to be anywhere.".to_owned(),
        });
        if self.kept_to != self.regions {
            page.line(format!("Kept to {} by its token.", self.kept_to.join(", ")));
        }
        match &self.refused {
            Some(why) => page.line(format!("Nobody is let in: {why}.")),
            None => {
                page.line(format!("Writes: {}.", self.writes.as_deref().unwrap_or("nobody")));
                let reads = if self.reads.is_empty() { "nobody".to_owned() } else { self.reads.join(", ") };
                page.line(format!("Reads: {reads}."));
            }
        }
        self.notes.iter().for_each(|note| page.line(note.clone()));
        page.heading(2, "Servers");
        let row = |choice: &Choice| standing(&choice.standing);
        page.table(&SERVER, self.servers.iter().map(row).collect(), "None is known.");
        page.heading(2, "Why not");
        let server = |choice: &Choice| {
            let name = &choice.standing.server;
            let why = |what: &str, why: &Option<String>| {
                why.as_ref().map(|why| vec![format!("server {name}"), what.to_owned(), why.clone()])
            };
            [why("writes", &choice.no_writes), why("reads", &choice.no_reads)]
        };
        let nodes = self.nodes.iter().filter_map(|node| {
            let name = format!("node {}", node.standing.node);
            Some(vec![name, "sessions".to_owned(), node.refused.clone()?])
        });
        let rows = self.servers.iter().flat_map(server).flatten().chain(nodes).collect();
        page.table(&["who", "serves no", "because"], rows, "Everything serves it.");
        page
    }
}

fn standing(standing: &Standing) -> Vec<String> {
    let Standing { server, address, region, role, health, writes, lag_bytes, trouble } = standing;
    let role = match (role, writes) {
        (Some("primary"), false) => "primary, fenced",
        (Some(role), _) => role,
        (None, _) => "not known",
    };
    let health = trouble.as_ref().map_or_else(|| (*health).to_owned(), |trouble| format!("{health}: {trouble}"));
    let lag = lag_bytes.map(|lag| lag.to_string()).unwrap_or_default();
    vec![server.clone(), region.clone(), address.clone(), role.to_owned(), health, lag]
}

fn counted(mut cells: Vec<String>, counted: &Counted) -> Vec<String> {
    cells.extend([counted.count.to_string(), counted.first.clone(), counted.last.clone()]);
    cells
}

fn with(head: &[&'static str], more: &'static str) -> Vec<&'static str> {
    head.iter().copied().chain([more]).collect()
}

fn shown(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}
