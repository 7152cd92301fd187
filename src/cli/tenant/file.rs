//! The tenants file, changed as a careful person would: what stands there stays as it is, two do not write at once,
//! and what would be refused is not written.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::super::failure::Failure;
use super::files::{beside, failed, sync};
use crate::base::TenantId;
use crate::config::{self, Problem, RESTORING, Settings};

/// The file, and the configuration that names it.
pub(super) struct TenantsFile {
    config: PathBuf,
    /// Without symbolic links: a file is replaced where it is, not a link to it.
    path: PathBuf,
}

impl TenantsFile {
    pub fn of(config: &Path, settings: &Settings) -> Result<Self, Failure> {
        let Some(file) = &settings.tenants_file else {
            return Err(Failure::said(format!(
                "{0} has no tenants_file, and pgward does not write {0} itself; put this line above its first [table], \
                 and make the file if there is none:\n\n    tenants_file = \"tenants.toml\"\n",
                config.display()
            )));
        };
        let path = fs::canonicalize(&file.path).map_err(failed("find", &file.path))?;
        Ok(Self { config: config.to_owned(), path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has(&self, id: &TenantId) -> Result<bool, Failure> {
        Ok(tenants(&mut self.read()?).is_some_and(|tenants| tenants.contains_key(id.as_str())))
    }

    /// The configuration that names it.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The configuration as a change would make it; nothing is written.
    pub fn proposed(&self, change: impl FnOnce(&mut DocumentMut)) -> Result<Settings, Failure> {
        let change = |document: &mut DocumentMut| {
            change(document);
            Ok(())
        };
        Ok(self.changed(change)?.1)
    }

    /// Changes the file, unless that is refused by what stands there, or the configuration would then have problems.
    pub fn edit(&self, change: impl FnOnce(&mut DocumentMut) -> Result<(), Failure>) -> Result<(), Failure> {
        let _alone = self.lock()?;
        let before = fs::read_to_string(&self.path).map_err(failed("read", &self.path))?;
        let (text, _) = self.changed(change)?;
        if text != before {
            replace(&self.path, &text).map_err(failed("write", &self.path))?;
        }
        Ok(())
    }

    fn read(&self) -> Result<DocumentMut, Failure> {
        // Not the parser's own words: they quote the line, which may hold a password.
        let text = fs::read_to_string(&self.path).map_err(failed("read", &self.path))?;
        text.parse().map_err(|error: toml_edit::TomlError| {
            let at = error.span().map_or(0, |span| span.start);
            Failure::said(format!("{} is not valid TOML at byte {at}: {}", self.path.display(), error.message()))
        })
    }

    fn changed(
        &self,
        change: impl FnOnce(&mut DocumentMut) -> Result<(), Failure>,
    ) -> Result<(String, Settings), Failure> {
        let mut document = self.read()?;
        change(&mut document)?;
        let text = document.to_string();
        let refused = |problems: Vec<Problem>| Failure::Config { path: self.path.clone(), problems };
        let settings = config::load_with_tenants(&self.config, &text).map_err(refused)?;
        Ok((text, settings))
    }

    /// Waits until nobody else is writing. The lock file stays: were it deleted, two could hold two of them.
    fn lock(&self) -> Result<File, Failure> {
        let path = beside(&self.path, "lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(failed("open", &path))?;
        file.lock().map_err(failed("lock", &path))?;
        Ok(file)
    }
}

/// Whoever reads the file reads the old one or the new one, even after a crash.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let old = fs::metadata(path)?;
    let next = beside(path, "next");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&next)?;
    let written = (|| {
        file.write_all(text.as_bytes())?;
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(old.permissions())?;
        file.sync_all()?;
        fs::rename(&next, path)
    })();
    if written.is_err() {
        // The error at hand is the one to tell.
        let _ = fs::remove_file(&next);
    }
    written?;
    sync(path.parent().unwrap_or_else(|| Path::new(".")))
}

fn tenants(document: &mut DocumentMut) -> Option<&mut dyn TableLike> {
    document.get_mut("tenants")?.as_table_like_mut()
}

/// An entry by itself, with all that is below it.
pub(in crate::cli) fn text(entry: &Table) -> String {
    DocumentMut::from(entry.clone()).to_string()
}

/// Puts a tenant at the end of the file, or in its own place if it is there.
pub(super) fn put(document: &mut DocumentMut, id: &TenantId, mut entry: Table) {
    // What stands at the end stays ahead of what comes now.
    let known = tenants(document).is_some_and(|tenants| tenants.contains_key(id.as_str()));
    if !known {
        let mut lead = document.trailing().as_str().unwrap_or_default().to_owned();
        if !document.as_table().is_empty() || !lead.is_empty() {
            lead.push('\n');
        }
        entry.decor_mut().set_prefix(lead);
        document.set_trailing("");
    }
    let empty = || {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    };
    let all = document.entry("tenants").or_insert_with(empty);
    if let (Some(all), false) = (all.as_table_like_mut(), known) {
        all.insert(id.as_str(), Item::Table(entry));
    }
}

/// Changes one tenant's entry, if it is there.
pub(super) fn amend(document: &mut DocumentMut, id: &TenantId, change: impl FnOnce(&mut dyn TableLike)) {
    if let Some(tenant) = tenants(document).and_then(|tenants| tenants.get_mut(id.as_str())?.as_table_like_mut()) {
        change(tenant);
    }
}

pub(super) fn suspend(tenant: &mut dyn TableLike, suspended: bool) {
    if suspended || tenant.contains_key("suspended") {
        set(tenant, "suspended", suspended.into());
    }
}

/// What somebody says of it meanwhile stands.
pub(super) fn restoring(tenant: &mut dyn TableLike, begun: bool) {
    let now = tenant.get("suspended");
    match begun {
        true if now.and_then(Item::as_bool) != Some(true) => set(tenant, "suspended", RESTORING.into()),
        false if now.and_then(Item::as_str) == Some(RESTORING) => set(tenant, "suspended", false.into()),
        _ => {}
    }
}

/// Why nothing of a tenant may be deleted, if there is a reason.
pub(super) fn held(document: &mut DocumentMut, id: &TenantId) -> Option<String> {
    tenants(document)?.get(id.as_str())?.as_table_like().and_then(reason)
}

/// The same of an entry by itself.
pub(super) fn reason(tenant: &dyn TableLike) -> Option<String> {
    tenant.get("legal_hold").map(|reason| reason.as_str().unwrap_or_default().to_owned())
}

/// `None`: there is no hold any more.
pub(super) fn hold(tenant: &mut dyn TableLike, reason: Option<&str>) {
    match reason {
        Some(reason) => set(tenant, "legal_hold", reason.into()),
        None => drop(tenant.remove("legal_hold")),
    }
}

fn set(tenant: &mut dyn TableLike, key: &str, new: Value) {
    match tenant.get_mut(key).and_then(Item::as_value_mut) {
        Some(value) => {
            let decor = value.decor().clone();
            *value = new;
            *value.decor_mut() = decor;
        }
        None => drop(tenant.insert(key, toml_edit::value(new))),
    }
}

/// Takes a tenant out. What is written above its heading stays, since it may be about more than this tenant.
pub(super) fn take_out(document: &mut DocumentMut, id: &TenantId) {
    let gone = tenants(document).and_then(|tenants| tenants.remove(id.as_str()));
    let Some(Item::Table(table)) = gone else { return };
    let lead = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned();
    if lead.trim().is_empty() {
        return;
    }
    let after = table.position().unwrap_or(isize::MAX);
    let next = next_position(document.as_table(), after);
    match next.and_then(|position| at_position(document.as_table_mut(), position)) {
        Some(table) => {
            let own = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned();
            table.decor_mut().set_prefix(lead + &own);
        }
        None => {
            let rest = document.trailing().as_str().unwrap_or_default().to_owned();
            // The line that kept it apart from the heading.
            let lead = if lead.ends_with("\n\n") { lead.trim_end_matches('\n').to_owned() + "\n" } else { lead };
            document.set_trailing(lead + &rest);
        }
    }
}

/// The place in the file of the first table behind another's.
fn next_position(table: &Table, after: isize) -> Option<isize> {
    let below = table.iter().filter_map(|(_, item)| next_position(item.as_table()?, after));
    let own = table.position().filter(|position| *position > after && !table.is_implicit());
    below.chain(own).min()
}

fn at_position(table: &mut Table, position: isize) -> Option<&mut Table> {
    if table.position() == Some(position) && !table.is_implicit() {
        return Some(table);
    }
    table.iter_mut().find_map(|(_, item)| at_position(item.as_table_mut()?, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# All of our tenants.\n[tenants.acme]  # the first\ncluster = \"main\"\n\n# Asked for by post.\n\
        [tenants.globex]\ncluster = \"main\"\nsuspended = false # not yet\n\n[tenants.kandy.roles]\napp = \"k\"\n\n# The end.\n";

    fn changed(change: impl FnOnce(&mut DocumentMut)) -> String {
        let mut document: DocumentMut = FILE.parse().unwrap();
        change(&mut document);
        document.to_string()
    }

    fn id(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn entry() -> Table {
        let mut entry = Table::new();
        entry.insert("cluster", toml_edit::value("main"));
        entry
    }

    #[test]
    fn what_is_added_comes_last_and_leaves_the_rest_as_it_is() {
        let added = changed(|document| put(document, &id("a.b@c:d-e"), entry()));
        assert_eq!(added, format!("{FILE}\n[tenants.\"a.b@c:d-e\"]\ncluster = \"main\"\n"));
        assert_eq!(changed(|document| put(document, &id("acme"), Table::new())), FILE, "who is there stays");
        let mut empty = DocumentMut::new();
        put(&mut empty, &id("one"), entry());
        assert_eq!(empty.to_string(), "[tenants.one]\ncluster = \"main\"\n");
    }

    #[test]
    fn what_is_written_above_a_tenant_that_goes_stays() {
        let gone = changed(|document| take_out(document, &id("acme")));
        let (_, rest) = FILE.split_once("cluster = \"main\"\n").unwrap();
        assert_eq!(gone, format!("# All of our tenants.\n{rest}"));
        let gone = changed(|document| {
            take_out(document, &id("kandy"));
            take_out(document, &id("globex"));
        });
        assert!(gone.ends_with("\n\n# Asked for by post.\n\n# The end.\n"), "{gone}");
        assert_eq!(changed(|document| take_out(document, &id("nobody"))), FILE);
    }

    #[test]
    fn suspending_changes_one_word_or_adds_one_line() {
        let twice = changed(|document| {
            amend(document, &id("globex"), |tenant| suspend(tenant, true));
            amend(document, &id("acme"), |tenant| suspend(tenant, true));
        });
        assert_eq!(
            twice,
            FILE.replace("suspended = false # not", "suspended = true # not").replacen(
                "\n\n# Asked",
                "\nsuspended = true\n\n# Asked",
                1
            )
        );
        let back = changed(|document| {
            amend(document, &id("globex"), |tenant| suspend(tenant, true));
            amend(document, &id("globex"), |tenant| suspend(tenant, false));
            amend(document, &id("acme"), |tenant| suspend(tenant, false));
        });
        assert_eq!(back, FILE);
    }

    #[test]
    fn a_restore_lifts_no_suspension_but_its_own() {
        let done = |before: Option<bool>, meanwhile: Option<bool>| {
            let mut entry = entry();
            before.into_iter().for_each(|before| suspend(&mut entry, before));
            restoring(&mut entry, true);
            let closed = entry.get("suspended").and_then(Item::as_bool) != Some(false);
            meanwhile.into_iter().for_each(|meanwhile| suspend(&mut entry, meanwhile));
            restoring(&mut entry, false);
            (closed, entry.get("suspended").and_then(Item::as_bool))
        };
        assert_eq!(done(None, None), (true, Some(false)));
        assert_eq!(done(Some(true), None), (true, Some(true)), "it was suspended before");
        assert_eq!(done(Some(false), Some(true)), (true, Some(true)), "somebody has suspended it meanwhile");
        assert_eq!(done(Some(true), Some(false)), (true, Some(false)));
    }

    #[test]
    fn a_hold_is_one_line_that_comes_and_goes() {
        let acme = |reason| changed(|document| amend(document, &id("acme"), |tenant| hold(tenant, reason)));
        assert_eq!(acme(Some("a \"b\"")), FILE.replacen("\n\n# Asked", "\nlegal_hold = 'a \"b\"'\n\n# Asked", 1));
        assert_eq!(acme(None), FILE);
        let twice = changed(|document| {
            amend(document, &id("acme"), |tenant| hold(tenant, Some("one")));
            amend(document, &id("acme"), |tenant| hold(tenant, Some("two")));
            amend(document, &id("nobody"), |tenant| hold(tenant, Some("three")));
        });
        assert_eq!(twice, FILE.replacen("\n\n# Asked", "\nlegal_hold = \"two\"\n\n# Asked", 1));
    }
}
