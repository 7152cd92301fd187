//! The report of a drill for people, in Markdown.

use std::fmt::Write;

use super::{ClusterDrill, Drilled, Fate, Rehearsal};

impl Drilled {
    pub fn page(&self) -> String {
        let mut page = format!("# Drill: region {} is lost\n\n", self.region);
        let verdict = match self.sound {
            true => "Everything can be had back.",
            false => "**Not everything can be had back**; see the findings.",
        };
        let _ = writeln!(page, "Begun {}, took {:.1} s. {verdict}\n", self.at, self.took.as_secs_f64());
        if !(self.lost_nodes.is_empty() && self.nodes_left.is_empty()) {
            let (lost, left) = (listed(&self.lost_nodes), listed(&self.nodes_left));
            let _ = writeln!(page, "Nodes lost: {lost}. Nodes left: {left}.\n");
        }
        self.clusters.iter().for_each(|cluster| put_cluster(&mut page, cluster));
        page.push_str("## Findings\n\n");
        if self.findings.is_empty() {
            page.push_str("None.\n");
        }
        for finding in &self.findings {
            let _ = writeln!(page, "- **{}** `{}`: {}", finding.severity.as_str(), finding.kind, finding.text);
        }
        page
    }
}

fn put_cluster(page: &mut String, cluster: &ClusterDrill) {
    let fate = match cluster.fate {
        Fate::Stays => "Its primary is elsewhere.",
        Fate::FailsOver => "A replica elsewhere takes over.",
        Fate::Restored => "It has to come back from a backup.",
    };
    let _ = writeln!(page, "## Cluster {}\n\n{fate}\n", cluster.cluster);
    let _ = writeln!(page, "| | lost | left |\n|---|---|---|");
    let servers = (listed(&cluster.lost_servers), listed(&cluster.servers_left));
    let repositories = (listed(&cluster.lost_repositories), listed(&cluster.repositories_left));
    let _ = writeln!(page, "| servers | {} | {} |", servers.0, servers.1);
    let _ = writeln!(page, "| repositories | {} | {} |\n", repositories.0, repositories.1);
    if let Some(rehearsal) = &cluster.rehearsal {
        put_rehearsal(page, rehearsal);
    }
    if cluster.tenants.is_empty() {
        return;
    }
    let _ = writeln!(page, "| tenant | comes back by | RTO | RPO |\n|---|---|---|---|");
    for tenant in &cluster.tenants {
        let by = tenant.by.as_deref().unwrap_or("**nothing**");
        let (rto, rpo) = (seconds(tenant.rto_seconds), seconds(tenant.rpo_seconds));
        let _ = writeln!(page, "| {} | {by} | {rto} | {rpo} |", tenant.tenant);
    }
    page.push('\n');
}

fn put_rehearsal(page: &mut String, rehearsal: &Rehearsal) {
    let Rehearsal { repository, region, backup, rto, newest_commit, .. } = rehearsal;
    let [restore, replay, total] = [rto.restore, rto.replay, rto.total].map(|took| took.as_secs_f64());
    let newest = newest_commit.as_deref().unwrap_or("none since the backup");
    let _ = writeln!(
        page,
        "Rehearsed: backup {backup} of repository {repository} (region {region}) was back in {total:.1} s (restored in \
         {restore:.1} s, replayed in {replay:.1} s). Newest commit: {newest}. Lost, at most: {}.",
        seconds(rehearsal.rpo_seconds)
    );
    let compared = match &rehearsal.verified {
        None => "Not compared with any baseline.".to_owned(),
        Some(verified) => match (&verified.comparison, &verified.baseline) {
            (Some(found), Some(baseline)) => format!(
                "Compared with the baseline of {}: {} tables with {} rows are the same.",
                baseline.taken, found.equal, found.rows
            ),
            _ => "It could not be compared with the recorded baseline.".to_owned(),
        },
    };
    let _ = writeln!(page, "{compared}\n");
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"))
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
