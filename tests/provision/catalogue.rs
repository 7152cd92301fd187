//! The tenants file as the catalogue: what is listed and shown, what is refused before anything is done.

use std::os::unix::fs::PermissionsExt;

use super::Place;
use crate::support::one;

#[tokio::test]
async fn what_would_be_refused_is_not_written_and_nothing_is_made() {
    let place = Place::new("refusing").await;
    let before = place.read("tenants.toml");
    let cases = [
        (
            "add x --home eu --isolation schema --cluster main --database refusing",
            "where this tenant's data may not be",
        ),
        ("add x --home lk --isolation schema --cluster none --database refusing", "is not among the clusters"),
        ("add x --home lk --isolation database --cluster main --database refusing", "is also tenant witness's"),
        ("add x --home lk --isolation schema --cluster main --database refusing --max-clients 0", "from 1 to"),
        (
            "add x --home lk --isolation schema --cluster main --database refusing --role app=refusing_app",
            "also a shared login",
        ),
        (
            "add x --home lk --isolation rows --cluster main --database refusing --setting a=b",
            "the logins are the cluster's",
        ),
        (
            "add x --home lk --isolation rows --cluster main --database refusing --role boss",
            "is not among clusters.main.logins",
        ),
        ("show nobody", "there is no tenant nobody"),
        ("suspend nobody", "there is no tenant nobody"),
    ];
    for (line, words) in cases {
        let said = place.fails(line).await;
        assert!(said.contains(words), "{line}: {said}");
    }
    let wrong = place.run("add a'b --home lk --isolation schema --cluster main --database refusing").await;
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(place.run("remove witness").await.status.code(), Some(2), "without --yes");
    assert_eq!(place.read("tenants.toml"), before);
    assert_eq!(one(&place.admin().await, "select count(*) from pg_roles where rolname = 'x'").await, "0");
}

#[tokio::test]
async fn without_a_tenants_file_the_line_to_add_is_told_and_what_the_main_file_has_is_not_touched() {
    let place = Place::new("fixed").await;
    let main = format!(
        "{}\n[tenants.old]\ncluster = \"main\"\ndatabase = \"fixed\"\nhome = \"lk\"\n",
        place.read("pgward.toml")
    );
    std::fs::write(place.path("pgward.toml"), &main).unwrap();
    let listed = place.done("list").await;
    let mut lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        lines.next().unwrap(),
        ["TENANT", "ISOLATION", "CLUSTER", "DATABASE", "HOME", "SUSPENDED", "LEGAL", "HOLD"]
    );
    assert_eq!(lines.next().unwrap(), ["old", "rows", "main", "fixed", "lk", "no", "no"]);
    assert_eq!(lines.next().unwrap()[0], "witness");
    let shown = place.done("show old").await;
    let has = |words: &[&str]| shown.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == words);
    assert!(has(&["in_tenants_file", "false"]) && has(&["max_clients", "1000"]), "{shown}");
    for line in [
        "suspend old",
        "resume old",
        "remove old --yes",
        "add old --home lk --isolation rows --cluster main --database fixed",
    ] {
        let said = place.fails(line).await;
        assert!(said.contains("which pgward does not write") && said.contains("tenants.toml"), "{line}: {said}");
    }
    assert_eq!(place.read("pgward.toml"), main);
    std::fs::write(place.path("pgward.toml"), main.replace("tenants_file = \"tenants.toml\"", "")).unwrap();
    let said = place.fails("suspend old").await;
    assert!(said.contains("    tenants_file = \"tenants.toml\""), "{said}");
    // A cluster that cannot be reached is told as that.
    let mut command = place.command("show old");
    command.env("PGWARD_INSTALL_URL", "postgresql://nobody:the-secret@127.0.0.1:1/");
    let output = super::output(command).await;
    let said = super::said(&output);
    assert!(output.status.success() && said.contains("was not looked at") && !said.contains("the-secret"), "{said}");
}

#[tokio::test]
async fn the_file_keeps_its_mode_and_what_cannot_be_written_stays_as_it_is() {
    let place = Place::new("moded").await;
    let path = place.path("tenants.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::write(place.path("tenants.toml.next"), "left by one that was killed").unwrap();
    place.done("suspend witness").await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(place.read("tenants.toml").contains("home = \"lk\"\nsuspended = true\n"), "{}", place.read("tenants.toml"));
    assert!(!super::exists(&place.path("tenants.toml.next")));
    place.done("resume witness").await;
    assert!(place.read("tenants.toml").contains("# no harm to it"));
    // A folder stands where the next version would be written.
    let before = place.read("tenants.toml");
    std::fs::create_dir(place.path("tenants.toml.next")).unwrap();
    place.fails("suspend witness").await;
    assert_eq!(place.read("tenants.toml"), before);
}

#[tokio::test]
async fn every_act_is_recorded_and_one_that_cannot_be_is_not_done() {
    let place = Place::with("recorded", "[audit]\nfile = \"log/pgward.jsonl\"\n").await;
    let stage = place.stage().await;
    place.done("add recorded_own --isolation schema --cluster main --database recorded --home lk").await;
    place.done("suspend recorded_own").await;
    let template = place.template("template", &[("1.sql", "select 1 / 0")]);
    place
        .fails(&format!(
            "add failing_own --isolation schema --cluster main --database recorded --home lk --template {template}"
        ))
        .await;
    let recorded = place.read("log/pgward.admin.jsonl");
    let acts: Vec<String> = recorded
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["event"] == "administration")
        .map(|line| format!("{} {} {}", line["act"], line["tenant"], line["outcome"]).replace('"', ""))
        .collect();
    assert_eq!(
        acts,
        [
            "tenant_add recorded_own begun",
            "tenant_add recorded_own done",
            "tenant_suspend recorded_own begun",
            "tenant_suspend recorded_own done",
            "tenant_add failing_own begun",
            "tenant_add failing_own failed",
        ]
    );
    assert!(!recorded.contains("SCRAM") && !recorded.contains(&place.url));
    // The running pgward goes on with its own.
    assert!(place.read("log/pgward.jsonl").contains("\"event\":\"start\""));
    drop(stage);
    let file = place.path("log/pgward.admin.jsonl");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let before = place.read("tenants.toml");
    let said = place.fails("resume recorded_own").await;
    assert!(said.contains("pgward.admin.jsonl cannot be written"), "{said}");
    assert_eq!(place.read("tenants.toml"), before);
}
